"""The decoder's model: shapes, invariances and determinism."""

from dataclasses import replace

import pytest
import torch

from modules.checkpoint import Lineage
from modules.config import AudioConfig, VITS2Config
from modules.errors import UserError
from modules.vits2.flow import Flow
from modules.vits2.model import VITS2, load_vits2, save_vits2

TINY = VITS2Config(
    hidden=16, heads=2, filter=32, encoder_layers=2, text_layers=1, posterior_layers=2, flow_couplings=3,
    flow_layers=1, style_dim=12, latent=8, head_hidden=16, head_layers=2, upsample_channels=32, dropout=0.0,
)  # fmt: skip
AUDIO = AudioConfig(n_mels=20, n_fft=1280)
SIZES = (40, 64)


def _model(head: str = "istft", **changes) -> VITS2:
    model = VITS2(replace(TINY, head=head, **changes), AUDIO, SIZES, text_vocab=30)
    _shake(model)
    return model.eval()


def _shake(module: torch.nn.Module) -> None:
    """Fill what starts at zero, so that every path of a fresh network matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1 and parameter.std() < 0.05:
                parameter.add_(torch.randn_like(parameter) * 0.05)


def _inputs(batch: int = 1, tokens: int = 12, units: int = 7) -> dict[str, torch.Tensor]:
    content = torch.randint(0, SIZES[0], (batch, tokens))
    prosody = torch.randint(28, 36, (batch, tokens))
    return {
        "codes": torch.stack((content, prosody), dim=-1),
        "text_ids": torch.randint(1, 30, (batch, units)),
        "style": torch.randn(batch, TINY.style_dim),
    }


def _one(model: VITS2, seed: int = 3, **changes) -> torch.Tensor:
    torch.manual_seed(1)
    inputs = _inputs() | changes
    return model.infer(
        inputs["codes"], inputs["text_ids"], inputs["style"], 150.0, generator=torch.Generator().manual_seed(seed)
    )


def test_flow_is_inverted_exactly():
    flow = Flow(TINY)
    _shake(flow)
    z, style, lengths = torch.randn(2, 8, 30), torch.randn(2, 12), torch.tensor([30, 17])
    there = flow(z, lengths, style)
    back = flow(there, lengths, style, inverse=True)
    valid = torch.arange(30) < lengths[:, None]
    assert (there - z)[0].abs().max() > 0.05
    assert torch.allclose(back.transpose(1, 2)[valid], z.transpose(1, 2)[valid], atol=1e-5)


def test_flow_keeps_volume():
    flow = Flow(TINY).double()
    _shake(flow)
    style = torch.randn(1, 12, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda z: flow(z.view(1, 8, 2), torch.tensor([2]), style).flatten(),
        torch.randn(16, dtype=torch.float64),
        vectorize=False,
    )
    # Halves trade places after each coupling, which may flip the sign of the determinant but not its size.
    assert torch.linalg.det(jacobian).abs().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("head", ["istft", "hifigan"])
def test_sound_is_as_long_as_its_tokens(head):
    wav = _one(_model(head))
    assert wav.shape == (12 * 2 * 640,)
    assert wav.isfinite().all() and wav.std() > 1e-4


@pytest.mark.parametrize("head", ["istft", "hifigan"])
def test_padding_of_the_batch_changes_nothing(head):
    model = _model(head)
    short, long = _inputs(1, 9, 5), _inputs(1, 14, 11)
    alone = model.infer(*short.values(), 140.0, generator=torch.Generator().manual_seed(5))
    codes, text = torch.full((2, 14, 2), 39), torch.full((2, 11), 29)
    codes[0, :9], text[0, :5] = short["codes"][0], short["text_ids"][0]
    codes[1], text[1] = long["codes"][0], long["text_ids"][0]
    wav, samples = model.infer_batch(
        codes, text, torch.cat((short["style"], long["style"])), torch.tensor([140.0, 200.0]),
        lengths=torch.tensor([9, 14]), text_lengths=torch.tensor([5, 11]),
        generators=[torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)],
    )  # fmt: skip
    assert samples.tolist() == [9 * 1280, 14 * 1280]
    assert torch.allclose(wav[0, : 9 * 1280], alone, atol=1e-4)
    assert wav[0, 9 * 1280 :].abs().max() == 0


@pytest.mark.parametrize("head", ["istft", "hifigan"])
def test_same_seed_same_samples_other_seed_other_samples(head):
    model = _model(head)
    assert torch.equal(_one(model), _one(model))
    assert not torch.equal(_one(model), _one(model, seed=4))


def test_text_may_be_absent():
    model = _model()
    wav = _one(model, text_ids=torch.zeros(1, 0, dtype=torch.long))
    assert wav.shape == (12 * 1280,) and wav.isfinite().all()
    assert not torch.allclose(wav, _one(model))


def test_style_mixed_with_weight_one_is_that_style():
    model = _model()
    styles = model.style(torch.randn(2, 20, 50) - 5)
    mixed = (torch.tensor([1.0, 0.0])[:, None] * styles).sum(dim=0, keepdim=True)
    assert torch.equal(_one(model, style=mixed), _one(model, style=styles[:1]))
    assert not torch.allclose(_one(model, style=styles[1:]), _one(model, style=styles[:1]))


def test_style_ignores_padding():
    model = _model()
    mel = torch.randn(1, 20, 41) - 5
    padded = torch.cat((mel, torch.full((1, 20, 30), 7.0)), dim=2)
    assert torch.allclose(model.style(mel), model.style(padded, torch.tensor([41])), atol=1e-5)


def test_speed_changes_length_and_not_pitch():
    model = _model()
    inputs = _inputs(1, 25)
    inputs["codes"][..., 1] = 32
    heard = {}
    for speed in (0.7, 1.0, 1.5):
        wav = model.infer(*inputs.values(), 160.0, speed=speed, generator=torch.Generator().manual_seed(0))
        assert len(wav) == round(50 / speed) * 640
        lags = torch.arange(120, 300)
        middle = wav[2000:-2000] if speed < 1.2 else wav[1000:-1000]
        middle = middle - middle.mean()
        similarity = torch.stack([(middle[lag:] * middle[:-lag]).mean() for lag in lags])
        heard[speed] = 32000 / lags[similarity.argmax()].item()
    assert heard == pytest.approx({0.7: 160.0, 1.0: 160.0, 1.5: 160.0}, rel=0.01)


def test_copy_synthesis_needs_the_posterior_encoder(tmp_path):
    model = _model()
    lineage = Lineage("tiny", "vits2", 1, 0)
    whole = load_vits2(save_vits2(tmp_path / "a.safetensors", model, lineage, include_posterior=True))
    small = load_vits2(save_vits2(tmp_path / "b.safetensors", model, lineage, include_posterior=False))
    mel, f0, style = torch.randn(1, 20, 10) - 5, torch.full((1, 20), 120.0), torch.randn(1, 12)
    assert torch.equal(whole.reconstruct(mel, f0, style), model.reconstruct(mel, f0, style))
    assert torch.equal(_one(small), _one(model))
    with pytest.raises(UserError) as caught:
        small.reconstruct(mel, f0, style)
    assert caught.value.code == "posterior_missing"
    assert (tmp_path / "b.safetensors").stat().st_size < (tmp_path / "a.safetensors").stat().st_size


def test_folding_weight_norm_keeps_the_sound():
    model = _model("hifigan")
    before = _one(model)
    model.fold()
    assert not any("parametrizations" in name for name in model.state_dict())
    assert torch.allclose(_one(model), before, atol=1e-5)
