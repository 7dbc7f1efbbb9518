"""The decoder's text: by a learned table, by features of an encoder outside, by both, or none at all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights

from modules.checkpoint import Lineage, load_weights, save_weights
from modules.config import AudioConfig, TextConfig, load_preset
from modules.data.store import FeatureStore, StoreWriter
from modules.errors import UserError
from modules.vits2.building import build_vits2
from modules.vits2.dataset import DecoderDataset
from modules.vits2.model import VITS2, load_vits2, save_vits2
from modules.vits2.train import VITS2Stage, VITS2TrainConfig, warm_start
from tests.tiny import tiny_preset

WIDTH = 24
AUDIO = AudioConfig(n_mels=20, n_fft=1280)
LINEAGE = Lineage("tiny", "vits2", 1, 1)
SOURCES = ("embedding", "features", "both")


def _text(source: str) -> TextConfig:
    return TextConfig(vocab_size=300, features=source, feature_dim=WIDTH)


def _model(source: str, **changes) -> VITS2:
    torch.manual_seed(4)
    preset = tiny_preset()
    vits2 = replace(preset.vits2, **changes)
    model = build_vits2(replace(preset, audio=AUDIO, text=_text(source), vits2=vits2), 300)
    with torch.no_grad():  # the text part enters through a small gate
        model.prior.text.gate.fill_(1.0)
        model.prior.out.weight.mul_(20)
    return model.eval()


def _speak(model: VITS2, units: int = 5, **changes) -> torch.Tensor:
    draw = torch.Generator().manual_seed(6)
    codes = torch.stack((torch.randint(0, 16, (1, 8), generator=draw), torch.full((1, 8), 32)), -1)
    ids = torch.randint(1, 300, (1, units), generator=draw)
    features = torch.randn(1, units, WIDTH, generator=draw)
    given = {"text_ids": ids, "style": torch.zeros(1, 16), "text_features": features} | changes
    return model.infer(codes, f0_median_hz=150.0, generator=torch.Generator().manual_seed(1), **given)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Two speakers; the features of unit i of row n are all n + i / 10."""
    folder = tmp_path_factory.mktemp("decoder_text")
    with StoreWriter(folder) as writer:
        for number in range(4):
            units, rng = 3 + number, np.random.default_rng(number)
            features = np.repeat(number + np.arange(units) / 10, WIDTH).astype(np.float16)
            writer.add(
                str(number), speaker="ab"[number % 2], split="train", text="x", source="recorded", codebooks=2,
                text_ids=np.arange(1, 1 + units, dtype=np.int32), text_features=features,
                codes=np.tile(np.array([number, 32], np.int16), 30),
                audio=(3000 * rng.standard_normal(30 * 1280)).astype(np.int16), f0=np.full(120, 140.0, np.float32),
            )  # fmt: skip
    return FeatureStore(folder)


def _dataset(store: FeatureStore, source: str, width: int = WIDTH) -> DecoderDataset:
    text = replace(_text(source), feature_dim=width)
    return DecoderDataset([store], AUDIO, "train", 0.4, (0.3, 0.5), text=text)


def _batch(dataset: DecoderDataset):
    return dataset.collate([dataset.get(i, np.random.default_rng(i)) for i in range(len(dataset))])


@pytest.mark.parametrize("source", SOURCES)
def test_the_source_of_text_is_what_the_config_says(source: str):
    model = _model(source)
    usual = _speak(model)
    other_ids, other_features = torch.full((1, 5), 7), torch.ones(1, 5, WIDTH)
    assert torch.equal(_speak(model, text_ids=other_ids), usual) == (source == "features")
    assert torch.equal(_speak(model, text_features=other_features), usual) == (source == "embedding")
    names = {name.split(".")[3] for name in model.state_dict() if name.startswith("prior.text.text.")}
    assert ("embed" in names, "project" in names) == (source != "features", source != "embedding")
    assert model.reads_text_features == (source != "embedding")


@pytest.mark.parametrize("source", SOURCES)
def test_text_may_be_left_out(source: str):
    model = _model(source)
    silent = _speak(model, 0, text_features=None)
    assert silent.isfinite().all() and not torch.equal(silent, _speak(model))
    assert torch.equal(_speak(model, 0), silent)


@pytest.mark.parametrize("source", ["features", "both"])
def test_missing_features_are_no_silence(source: str):
    with pytest.raises(ValueError, match="text features"):
        _speak(_model(source), text_features=None)


def test_padding_of_features_does_not_matter():
    model = _model("both")
    codes = torch.full((2, 8, 2), 3)
    ids, features = torch.randint(1, 300, (2, 9)), torch.randn(2, 9, WIDTH)
    common = {"style": torch.zeros(2, 16), "f0_median_hz": torch.tensor([150.0, 150.0]), "noise_scale": 0.0}
    lengths = torch.tensor([9, 4])

    def speak(features: torch.Tensor) -> torch.Tensor:
        draws = [torch.Generator().manual_seed(i) for i in range(2)]
        given = {"text_features": features, "text_lengths": lengths, "generators": draws}
        return model.infer_batch(codes, ids, **common, **given)[0]

    padded = features.clone()
    padded[1, 4:] = 99.0
    assert torch.equal(speak(features), speak(padded))
    changed = features.clone()
    changed[1, 3] = 99.0
    assert not torch.allclose(speak(features)[1], speak(changed)[1])


@pytest.mark.parametrize("source", SOURCES)
def test_a_file_tells_how_text_enters(source: str, tmp_path: Path):
    model = _model(source)
    again = load_vits2(save_vits2(tmp_path / "a.safetensors", model, LINEAGE, include_posterior=True))
    assert again.text_config == model.text_config
    assert torch.equal(_speak(again), _speak(model))


def test_files_of_before_have_a_table(tmp_path: Path):
    model = _model("embedding")
    path = save_vits2(tmp_path / "a.safetensors", model, LINEAGE, include_posterior=False)
    weights = load_weights(path)
    old = {key: value for key, value in weights.config.items() if key != "text"}
    save_weights(tmp_path / "old.safetensors", weights.state, old, weights.lineage)
    again = load_vits2(tmp_path / "old.safetensors")
    assert again.text_config.features == "embedding" and torch.equal(_speak(again), _speak(model))


def test_a_table_is_not_lost_when_features_join(tmp_path: Path):
    table = _model("embedding")
    path = save_vits2(tmp_path / "a.safetensors", table, LINEAGE, include_posterior=True)
    both = _model("both")
    missing, differing = warm_start(both, path)
    assert missing == ["prior.text.text.project.bias", "prior.text.text.project.weight"] and differing == []
    assert torch.equal(both.prior.text.text.embed.weight, table.prior.text.text.embed.weight)


def test_batches_carry_the_features_of_their_texts(store: FeatureStore):
    batch = _batch(_dataset(store, "features"))
    assert batch.text_features.shape == (4, 16, WIDTH) and batch.text_features.dtype == torch.float16
    for row in range(4):
        units = int(batch.text_lengths[row])
        expected = (row + torch.arange(units) / 10).half()[:, None].expand(-1, WIDTH)
        assert torch.equal(batch.text_features[row, :units], expected)
        assert not batch.text_features[row, units:].any()
    assert batch.to(torch.device("cpu")).text_features.shape == batch.text_features.shape


def test_features_that_nobody_reads_stay_on_the_disk(store: FeatureStore, monkeypatch: pytest.MonkeyPatch):
    asked: set[str] = set()
    row = FeatureStore.row

    def watched(self, index, columns=None):
        asked.update(self.columns if columns is None else columns)
        return row(self, index, columns)

    monkeypatch.setattr(FeatureStore, "row", watched)
    assert _batch(_dataset(store, "embedding")).text_features is None
    assert "text_features" not in asked
    _batch(_dataset(store, "both"))
    assert "text_features" in asked


@pytest.mark.parametrize("width", [WIDTH + 1, WIDTH])
def test_a_store_without_the_right_features_is_named(store: FeatureStore, tmp_path: Path, width: int):
    if width == WIDTH:
        with StoreWriter(tmp_path) as writer:
            values = {k: v for k, v in store[0].items() if k not in ("key", "text_features")}
            writer.add("0", **values)
        store = FeatureStore(tmp_path)
    with pytest.raises(UserError) as caught:
        _dataset(store, "features", width)
    assert caught.value.code == "no_text_features" and str(store.folder) in str(caught.value)


@pytest.mark.parametrize("source", ["features", "both"])
def test_training_reaches_the_features(store: FeatureStore, source: str):
    batch = _batch(_dataset(store, source))
    config = VITS2TrainConfig(segment_seconds=0.2, period_width=2, spectrum_width=2)
    stage = VITS2Stage(_model(source), config, [batch], "tiny")
    stage.phases(0)
    stage.model.train()
    losses = stage.losses("generator", batch)
    sum(loss for name, loss in losses.items() if not name.startswith("_")).backward()
    assert [n for n, p in stage.model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert stage.model.prior.text.text.project.weight.grad.any()
    with torch.no_grad():
        assert stage.validate()["mel_prior"] > 0


def test_speaking_weights_are_folded_and_sound_the_same(tmp_path: Path):
    model = _model("embedding", head="hifigan", upsample_channels=32)
    path = save_vits2(tmp_path / "a.safetensors", model, LINEAGE, include_posterior=False)
    plain, folded = load_vits2(path), load_vits2(path, speaking=True)
    assert any("parametrizations" in name for name in plain.state_dict())
    assert not any("parametrizations" in name for name in folded.state_dict()) and not folded.training
    torch.testing.assert_close(_speak(folded), _speak(plain), atol=1e-5, rtol=0)
    missing, differing = warm_start(_model("embedding", head="hifigan", upsample_channels=32), path)
    assert not differing and all(name.startswith("posterior.") for name in missing)


@pytest.mark.parametrize("name", ["base", "base-wide"])
def test_full_size_presets_have_no_table_of_a_quarter_million_pieces(name: str):
    preset = load_preset(name)
    assert preset.text.features == "features"
    with init_empty_weights(include_buffers=False):
        model = build_vits2(preset, preset.text.vocab_size, posterior=False)
    text = sum(p.numel() for p in model.prior.text.parameters())
    assert text < preset.text.vocab_size * preset.vits2.hidden / 2
    assert model.prior.text.text.project.weight.shape == (preset.vits2.hidden, 1024)
