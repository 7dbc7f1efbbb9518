"""Laws of the semantic tokenizer on tiny seeded networks."""

import pytest
import torch

from modules.checkpoint import Lineage
from modules.config import SpeechTokenizerConfig
from modules.errors import UserError
from modules.speech.dataset import RecognitionBatch, mask_bands_and_frames, warp_bands
from modules.speech.s3 import SemanticTokenizer
from modules.speech.train import (
    edit_distance,
    greedy_labels,
    load_tokenizer,
    recognition_losses,
    save_tokenizer,
    strip_recogniser,
)

TINY = {"hidden": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "n_mels": 40, "dropout": 0.0}


def _model(labels: tuple[str, ...] = ("a", "b", "c"), **changes) -> SemanticTokenizer:
    torch.manual_seed(0)
    return SemanticTokenizer(SpeechTokenizerConfig(**{**TINY, **changes}), labels).eval()


def _wavs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    time = torch.arange(24000) / 16000
    tone = sum(torch.sin(2 * torch.pi * 140 * k * time) / k for k in range(1, 12))
    wav = torch.stack([tone, torch.randn(24000, generator=generator)]) * 0.1
    lengths = torch.tensor([24000, 16000])
    wav[1, 16000:] = 0
    return wav, lengths


@pytest.mark.parametrize(("rate", "quantizer"), [(25, "fsq"), (50, "fsq"), (25, "vq")])
def test_shapes_and_ranges(rate: int, quantizer: str) -> None:
    model = _model(frame_rate=rate, quantizer=quantizer)
    wav, lengths = _wavs()
    with torch.no_grad():
        codes = model.encode(wav, lengths)
    assert codes.shape == (2, 24000 * rate // 16000, 2)
    assert model.codebook_sizes == (4096, 64)
    assert codes.min() >= 0 and codes[..., 0].max() < 4096 and codes[..., 1].max() < 64
    assert not codes[1, 16000 * rate // 16000 :].any()


def test_batch_equals_single() -> None:
    model = _model()
    wav, lengths = _wavs()
    with torch.no_grad():
        together = model.encode(wav, lengths)
        alone = model.encode(wav[1:, :16000])
    assert (together[1, :25, 0] == alone[0, :, 0]).float().mean() > 0.95


def test_a_voiced_tone_has_prosody_and_noise_has_none() -> None:
    wav, lengths = _wavs()
    with torch.no_grad():
        prosody = _model().encode(wav, lengths)[..., 1]
    assert (prosody[0] > 0).float().mean() > 0.8
    assert (prosody[1, :25] > 0).float().mean() < 0.3


def test_level_and_channel_do_not_change_the_mels() -> None:
    model = _model()
    wav, lengths = _wavs()
    quiet, loud = model.mels(wav, lengths)[0], model.mels(wav * 4, lengths)[0]
    torch.testing.assert_close(quiet, loud, atol=0.05, rtol=0)


def test_without_prosody_there_is_one_stream() -> None:
    wav, lengths = _wavs()
    model = _model(prosody_levels=0)
    with torch.no_grad():
        assert model.encode(wav, lengths).shape == (2, 37, 1)


def test_save_and_load_keeps_every_code(tmp_path) -> None:
    model = _model()
    wav, lengths = _wavs()
    path = tmp_path / "s3.safetensors"
    save_tokenizer(path, strip_recogniser(model), Lineage("nano", "tokenizer", 3, 1))
    again = load_tokenizer(path)
    assert again.recogniser is None
    with torch.no_grad():
        assert torch.equal(model.encode(wav, lengths), again.encode(wav, lengths))


def test_a_file_of_another_stage_is_refused(tmp_path) -> None:
    from modules.checkpoint import save_weights

    path = tmp_path / "gpt.safetensors"
    save_weights(path, {"x": torch.zeros(1)}, {"gpt": {}}, Lineage("nano", "gpt", 0, 0))
    with pytest.raises(UserError, match=r"gpt\.safetensors"):
        load_tokenizer(path)


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
def test_it_learns_two_tones_through_the_bottleneck(quantizer: str) -> None:
    model = _model(labels=("low", "high"), quantizer=quantizer).train()
    time = torch.arange(12800) / 16000
    wav = torch.stack([torch.sin(2 * torch.pi * hz * time) for hz in (200, 3000)] * 2)
    wav = wav + 0.01 * torch.randn(wav.shape, generator=torch.Generator().manual_seed(2))
    wav[:, 6400:] = wav[:, 6400:].flip(0)
    labels = torch.tensor([[1, 2], [2, 1]] * 2)
    batch = RecognitionBatch(wav, torch.full((4,), 12800), labels, torch.full((4,), 2), labels.repeat_interleave(20, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    mel, tokens = model.mels(batch.wav, batch.lengths)
    for _ in range(80):
        losses = recognition_losses(model, mel, tokens, batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    model.eval()
    result = model(mel, tokens)
    assert (result.frame_logits.argmax(-1) == batch.frames).float().mean() > 0.9


def test_gradient_reaches_every_weight() -> None:
    model = _model().train()
    wav, lengths = _wavs()
    mel, tokens = model.mels(wav, lengths)
    result = model(mel, tokens)
    (result.logits.square().mean() + result.frame_logits.square().mean()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_a_warp_of_one_changes_nothing_and_masks_only_remove() -> None:
    mel = torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(warp_bands(mel, torch.ones(3)), mel)
    masked = mask_bands_and_frames(mel)
    assert ((masked == mel) | (masked == 0)).all() and (masked == 0).any()


def test_best_path_drops_blanks_and_repeats() -> None:
    path = torch.tensor([[0, 1, 1, 0, 1, 2, 2, 0, 2]])
    logits = torch.nn.functional.one_hot(path, 3).float()
    assert greedy_labels(logits, torch.tensor([8])) == [[1, 1, 2]]


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([], [1, 2]) == 2 and edit_distance([1], [1]) == 0
