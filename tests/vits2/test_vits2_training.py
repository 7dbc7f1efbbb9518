"""The decoder's data and its training stage."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from modules.audio.augmentation import AugmentOptions
from modules.config import AudioConfig, SpeechTokenizerConfig, VITS2Config
from modules.data.batching import Loader
from modules.data.store import FeatureStore, StoreWriter
from modules.errors import UserError
from modules.speech.s3 import SemanticTokenizer
from modules.training.loop import LoopConfig, train
from modules.vits2.content import ContentDistance
from modules.vits2.dataset import BalancedSampler, DecoderDataset, clip_probabilities, draw
from modules.vits2.model import VITS2, load_vits2
from modules.vits2.speaker import SpeakerEncoder
from modules.vits2.train import VITS2Stage, VITS2TrainConfig, warm_start

TINY = VITS2Config(
    hidden=16, heads=2, filter=32, encoder_layers=1, text_layers=1, posterior_layers=2, flow_couplings=2,
    flow_layers=1, style_dim=12, latent=8, head_hidden=24, head_layers=1, upsample_channels=32, dropout=0.0,
)  # fmt: skip
AUDIO = AudioConfig(n_mels=20, n_fft=1280)
SIZES = (16, 64)


def _voice(seconds: float, f0_hz: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int16 [S], f0 [T100] and codes [T25, 2] of a buzz whose timbre follows its content codes."""
    rng = np.random.default_rng(seed)
    tokens = int(seconds * 25)
    content = np.repeat(rng.integers(0, 16, tokens // 5 + 1), 5)[:tokens]
    times = np.arange(tokens * 1280) / 32000
    tilt = np.repeat(1.0 + content / 8.0, 1280)
    wav = sum(np.sin(2 * np.pi * f0_hz * n * times) / n**tilt for n in range(1, 20))
    wav = 0.1 * wav + 0.002 * rng.standard_normal(len(times))
    codes = np.stack((content, np.full(tokens, 32)), axis=1)
    return (wav * 32767).clip(-32768, 32767).astype(np.int16), np.full(tokens * 4, f0_hz, np.float32), codes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Two speakers with three clips, one with a single clip, one held out; one speaker is synthetic."""
    folder = tmp_path_factory.mktemp("decoder_store")
    rows = [("a", 120.0, "recorded", "train")] * 3 + [("b", 210.0, "synthetic", "train")] * 3
    rows += [("c", 160.0, "recorded", "train"), ("d", 140.0, "recorded", "dev")]
    with StoreWriter(folder) as writer:
        for number, (speaker, f0_hz, source, split) in enumerate(rows):
            audio, f0, codes = _voice(1.6 + 0.2 * number, f0_hz, number)
            writer.add(
                str(number), speaker=speaker, language="en", split=split, text="x", seconds=len(audio) / 32000,
                source=source, text_ids=np.arange(1, 4 + number, dtype=np.int32), codebooks=2,
                codes=codes.reshape(-1).astype(np.int16), audio=audio, f0=f0,
            )  # fmt: skip
    return FeatureStore(folder)


@pytest.fixture
def dataset(store: FeatureStore) -> DecoderDataset:
    return DecoderDataset([store], AUDIO, "train", window_seconds=0.8, style_seconds=(0.5, 1.0))


def _batch(dataset: DecoderDataset, count: int = 4):
    return dataset.collate([dataset.get(i, np.random.default_rng(i)) for i in range(count)])


def _stage(dataset: DecoderDataset, head: str = "istft", **changes) -> VITS2Stage:
    model = VITS2(replace(TINY, head=head), AUDIO, SIZES, text_vocab=40)
    config = VITS2TrainConfig(segment_seconds=0.3, period_width=2, spectrum_width=2, **changes)
    return VITS2Stage(model, config, [_batch(dataset, 2)], "tiny")


def test_windows_stay_aligned(dataset):
    for index in range(len(dataset)):
        example = dataset.get(index, np.random.default_rng(index))
        tokens = len(example.codes)
        assert len(example.wav) == tokens * 1280 and len(example.f0) == tokens * 4
        number, row = dataset.rows[index]
        whole = dataset.stores[number][row]
        place = whole["audio"].astype(np.float32) / 32768
        starts = [t for t in range(len(place) // 1280) if np.array_equal(place[t * 1280 :][:1280], example.wav[:1280])]
        content = whole["codes"].reshape(-1, 2)
        assert any(np.array_equal(content[t : t + tokens], example.codes) for t in starts)


def test_style_is_other_sound_of_the_same_speaker(dataset):
    lonely = dataset.speakers.index("recorded:c")
    for index in (0, lonely):
        example = dataset.get(index, np.random.default_rng(1))
        pieces = {example.wav[i : i + 640].tobytes() for i in range(0, len(example.wav), 640)}
        assert len(example.style_wav) >= 0.4 * 32000
        style = [example.style_wav[i : i + 640].tobytes() for i in range(0, len(example.style_wav) - 640)]
        assert not any(piece in pieces for piece in style)


def test_an_example_depends_on_its_generator_alone(dataset):
    first, again = (dataset.get(1, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first.wav, again.wav) and np.array_equal(first.style_wav, again.style_wav)


def test_a_poor_reference_is_heard_by_the_style_alone(store, dataset):
    options = AugmentOptions.of_references(1.0)
    poor = DecoderDataset([store], AUDIO, "train", window_seconds=0.8, style_seconds=(0.5, 1.0), degrade_style=options)
    changed = 0
    for index in range(len(dataset)):
        clean, degraded = (d.get(index, np.random.default_rng(index)) for d in (dataset, poor))
        for name in ("wav", "codes", "f0", "median_f0_hz", "text_ids"):
            np.testing.assert_array_equal(getattr(clean, name), getattr(degraded, name))
        assert clean.style_wav.shape == degraded.style_wav.shape and degraded.style_wav.dtype == np.float32
        powers = [np.mean(np.square(e.style_wav, dtype=np.float64)) for e in (clean, degraded)]
        assert powers[1] == pytest.approx(powers[0], rel=1e-3)
        changed += not np.allclose(clean.style_wav, degraded.style_wav, atol=1e-4)
    assert changed >= len(dataset) - 2


def test_no_poor_references_are_the_same_as_before(store, dataset):
    options = AugmentOptions.of_references(0.0)
    same = DecoderDataset([store], AUDIO, "train", window_seconds=0.8, style_seconds=(0.5, 1.0), degrade_style=options)
    for index in range(len(dataset)):
        before, after = (d.get(index, np.random.default_rng(index)) for d in (dataset, same))
        np.testing.assert_allclose(after.style_wav, before.style_wav, rtol=1e-6)


def test_missing_split_is_told(store):
    with pytest.raises(UserError) as caught:
        DecoderDataset([store], AUDIO, "test")
    assert caught.value.code == "no_audio_rows"


def test_big_speakers_and_synthetic_speech_do_not_dominate():
    speakers = ["big"] * 900 + ["small"] * 9 + ["robot"] * 91
    chances = clip_probabilities(speakers, [False] * 909 + [True] * 91, synthetic_share=0.25)
    assert chances[909:].sum() == pytest.approx(0.25)
    assert chances[:900].sum() / chances[900:909].sum() == pytest.approx(10.0)
    assert clip_probabilities(speakers, [False] * 1000, 0.25).sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("items", "count", "replace"), [(5, 4, False), (40, 8, False), (500, 3, False), (3, 8, True)])
def test_draws_are_those_of_numpy(items: int, count: int, replace: bool):
    chances = np.random.default_rng(items).random(items) ** 4
    chances /= chances.sum()
    ours, theirs = np.random.default_rng(0), np.random.default_rng(0)
    edges = np.cumsum(chances) / np.cumsum(chances)[-1]
    for _ in range(200):
        expected = theirs.choice(items, count, replace=replace, p=chances)
        assert draw(ours, chances, edges, count, replace).tolist() == expected.tolist()


@pytest.mark.parametrize("head", ["istft", "hifigan"])
def test_gradient_reaches_every_parameter(dataset, head):
    stage = _stage(dataset, head, adversarial_from=0)
    batch = _batch(dataset)
    assert stage.phases(0) == ("discriminator", "generator")
    for phase, module in (("discriminator", stage.discriminators), ("generator", stage.model)):
        losses = stage.losses(phase, batch)
        sum(loss for name, loss in losses.items() if not name.startswith("_")).backward()
        missing = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert missing == []


def test_discriminators_wait_for_their_step(dataset):
    stage = _stage(dataset, adversarial_from=5)
    assert stage.phases(4) == ("generator",)
    assert set(stage.losses("generator", _batch(dataset))) >= {"mel", "kl"}
    assert "adversarial" not in stage.losses("generator", _batch(dataset))


def test_training_lowers_the_loss_resumes_and_saves(dataset, tmp_path: Path):
    stage = _stage(dataset, learning_rate=4e-3)
    loader = Loader(dataset, BalancedSampler(dataset, 4), dataset.collate, prefetch_threads=0)
    with torch.no_grad():
        stage.phases(0)
        before = stage.validate()
    common = {"resume": True, "device": torch.device("cpu"), "run_config": {}}
    train(stage, loader, LoopConfig(max_steps=20, log_every_steps=10), tmp_path, **common)
    result = train(stage, loader, LoopConfig(max_steps=40, log_every_steps=10), tmp_path, **common)
    assert result.step == 40 and result.skipped == 0
    assert result.validation["mel_posterior"] < 0.8 * before["mel_posterior"]
    assert result.validation["mel_prior"] < 0.8 * before["mel_prior"]
    assert result.validation["pitch_error_semitones"] < 0.3
    model = load_vits2(tmp_path / "vits2.safetensors")
    assert model.posterior is not None
    fresh = VITS2(TINY, AUDIO, SIZES, text_vocab=41)
    missing, differing = warm_start(fresh, tmp_path / "vits2.safetensors")
    assert missing == [] and differing == ["prior.text.text.embed.weight"]


def test_base_sizes_run_one_step():
    """One training step of the full-size decoder on a third of a second."""
    config = VITS2Config(hidden=256, heads=4, filter=1024, encoder_layers=6, head="hifigan", upsample_channels=512)
    audio = AudioConfig()
    model = VITS2(config, audio, (4096, 64), 300)
    style = model.style_of(torch.randn(1, 16000) * 0.1)
    out = model.decode_for_training(
        torch.randn(1, 8 * 1280) * 0.1, torch.tensor([16]), torch.zeros(1, 8, 2, dtype=torch.long),
        torch.full((1, 32), 150.0), torch.ones(1, 3, dtype=torch.long), torch.tensor([3]), style,
        torch.tensor([False]), torch.ones(1),
    )  # fmt: skip
    (out.wav.square().mean() + out.kl).backward()
    torch.optim.SGD(model.parameters(), 1e-4).step()
    assert out.wav.shape == (1, 8 * 1280)
    assert all(p.isfinite().all() for p in model.parameters())


def speaker_ears() -> SpeakerEncoder:
    return SpeakerEncoder(AUDIO.sample_rate, width=8, hidden=16, layers=1).eval().requires_grad_(False)


def content_ears() -> ContentDistance:
    sizes = SpeechTokenizerConfig(hidden=16, heads=2, encoder_layers=1, decoder_layers=1)
    return ContentDistance(SemanticTokenizer(sizes, ("a", "b")), AUDIO.sample_rate)


@pytest.mark.parametrize(("name", "make"), [("speaker", speaker_ears), ("content", content_ears)])
def test_ears_judge_what_is_decoded_and_do_not_learn(dataset: DecoderDataset, name: str, make: Callable[[], nn.Module]):
    torch.manual_seed(0)
    model, ears = VITS2(TINY, AUDIO, SIZES, 16), make()
    batch = dataset.collate([dataset.get(i, np.random.default_rng(i)) for i in range(3)])
    config = replace(VITS2TrainConfig(posterior_share=0.34), **{f"{name}_weight": 2.0})
    stage = VITS2Stage(model, config, [batch], "tiny", **{name: ears})
    assert stage.weights[name] == 2.0
    stage.phases(0)
    losses = stage.losses("generator", batch)
    assert 0 < losses[name].item() < 2 and f"_{name}_prior" in losses
    losses[name].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    assert all(p.grad is None for p in ears.parameters())
    with torch.inference_mode():
        found = stage.validate()
    assert {f"{name}_posterior", f"{name}_prior"} <= set(found)
    assert name not in VITS2Stage(model, VITS2TrainConfig(), [], "tiny").losses("generator", batch)
    assert not any(part.startswith(name) for part in stage.modules)
