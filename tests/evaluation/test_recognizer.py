"""Laws of the judge's recogniser on a toy language of tones."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modules.checkpoint import Lineage
from modules.data.store import FeatureStore, StoreWriter
from modules.errors import UserError
from modules.evaluation.recognizer import (
    Ears,
    PhoneRecognizer,
    RecognizerConfig,
    best_paths,
    load_recognizer,
    save_recognizer,
)
from modules.evaluation.recognizer_training import (
    IGNORE,
    LabelledSpeech,
    RecognizerStage,
    collate,
    draw_weights,
    held_out,
    vary,
)

TINY = RecognizerConfig(bands=16, lags=8, stem=24, hidden=32, bottleneck=12, layers=2, recurrent=16, dropout=0.0)
TONES = {"_": 0.0, "a": 300.0, "b": 900.0, "c": 2400.0}


def _clip(names: str, rng: np.random.Generator, rate: int = 16000) -> tuple[np.ndarray, np.ndarray]:
    """int16 samples of a sequence of tones of 160 ms, and the end of each."""
    parts = []
    for name in names:
        time = np.arange(int(0.16 * rate)) / rate
        parts.append(0.3 * np.sin(2 * np.pi * TONES[name] * time + rng.random() * 6) * (TONES[name] > 0))
    wav = np.concatenate(parts) + 0.003 * rng.standard_normal(sum(map(len, parts)))
    return (wav * 32767).astype(np.int16), np.cumsum([len(p) for p in parts]).astype(np.int32)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "toy") as writer:
        for number in range(16):
            names = "".join(rng.permutation(list("abca"))) + "_"
            rate = 16000 if number % 2 else 22050
            audio, ends = _clip(names, rng, rate)
            recorded = number % 4 == 0
            writer.add(
                f"{number:032d}", speaker="s", language="zh-CN" if recorded else "en", text=names,
                split="dev" if number % 6 == 5 else "train", seconds=len(audio) / rate, licence="",
                source="recorded" if recorded else "synthetic", sample_rate=rate, audio=audio,
                phones=" ".join(names), phone_ends=np.zeros(0, np.int32) if recorded else ends,
            )  # fmt: skip
    return FeatureStore(tmp_path / "toy")


def test_ears_give_a_frame_per_ten_milliseconds_and_do_not_depend_on_level() -> None:
    ears = Ears(RecognizerConfig())
    wav = torch.randn(2, 16000) * 0.1
    bands, lags = ears(wav)
    assert bands.shape == (2, 100, 40) and lags.shape == (2, 100, 24)
    louder = ears(wav * 4)[1]
    assert torch.allclose(lags, louder, atol=1e-3)


def test_a_higher_tone_moves_the_bands_up_and_the_lag_peak_follows_the_pitch() -> None:
    ears = Ears(RecognizerConfig())
    time = torch.arange(16000) / 16000
    low, high = (torch.sin(2 * torch.pi * hz * time)[None] for hz in (300.0, 2400.0))
    assert ears(low)[0].mean(1).argmax() < ears(high)[0].mean(1).argmax()
    voices = [sum(torch.sin(2 * torch.pi * hz * k * time) for k in range(1, 9))[None] for hz in (100.0, 200.0)]
    # Lags run from short to long periods, from the second on to leave out the flank of lag zero.
    short, long = (ears(voice)[1].mean(1)[0, 4:].argmax() for voice in reversed(voices))
    assert short < long


def test_batch_equals_single_and_padding_is_not_heard() -> None:
    model = PhoneRecognizer(TINY, "_abc").eval()
    rng = np.random.default_rng(1)
    long, short = (rng.standard_normal(size).astype(np.float32) * 0.1 for size in (16000, 9600))
    wav = torch.zeros(2, 16000)
    wav[0], wav[1, :9600] = torch.from_numpy(long), torch.from_numpy(short)
    with torch.no_grad():
        together = model(wav, torch.tensor([16000, 9600]))
        alone = model(torch.from_numpy(short)[None], torch.tensor([9600]))
    assert together.lengths.tolist() == [50, 30]
    assert torch.allclose(together.logits[1, :28], alone.logits[0, :28], atol=1e-4)
    assert model.hear([long, short])[0] == model.hear([long])[0]
    assert model.hear([np.zeros(10, np.float32)]) is not None


def test_best_paths_merge_repeats_and_drop_blanks() -> None:
    ids = torch.tensor([[0, 1, 1, 0, 1, 2, 2, 0]])
    assert best_paths(torch.nn.functional.one_hot(ids, 3).float(), torch.tensor([8])) == [[1, 1, 2]]
    assert best_paths(torch.nn.functional.one_hot(ids, 3).float(), torch.tensor([3])) == [[1]]


def test_variations_keep_length_and_are_seeded() -> None:
    wav = np.sin(np.arange(8000) / 20).astype(np.float32)
    for seed in range(6):
        varied = vary(wav, 16000, np.random.default_rng(seed))
        assert varied.shape == wav.shape and varied.dtype == np.float32 and np.isfinite(varied).all()
        assert np.array_equal(varied, vary(wav, 16000, np.random.default_rng(seed)))


def test_rows_are_chosen_by_split_and_language_and_frames_follow_the_timing(store: FeatureStore) -> None:
    plain = LabelledSpeech([store], "_abc", "train", augment=False)
    assert set(plain.groups) == {("synthetic", "en"), ("recorded", "zh")}
    assert all(group[1] == "en" for group in LabelledSpeech([store], "_abc", "train", ("en",)).groups)
    index = plain.groups.index(("synthetic", "en"))
    item = plain.get(index, np.random.default_rng(0))
    assert len(item["labels"]) == 5 and set(item["frames"][:40]) == set(item["labels"])
    untimed = plain.get(plain.groups.index(("recorded", "zh")), np.random.default_rng(0))
    assert (untimed["frames"] == IGNORE).all()
    weights = draw_weights(plain, 0.25)
    recorded = np.array([source == "recorded" for source, _ in plain.groups])
    assert weights[recorded].sum() == pytest.approx(0.25) and weights.sum() == pytest.approx(1)


def test_a_favoured_language_is_drawn_so_many_times_as_often() -> None:
    spoken = SimpleNamespace(groups=[("synthetic", "en")] * 4 + [("synthetic", "zh")])
    before, after = draw_weights(spoken, 0.25), draw_weights(spoken, 0.25, {"zh": 3.0})
    assert after[4] / after[0] == pytest.approx(3 * before[4] / before[0]) and after.sum() == pytest.approx(1)


def test_it_learns_the_toy_language(store: FeatureStore, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dataset = LabelledSpeech([store], "_abc", "train", augment=False)
    model = PhoneRecognizer(TINY, "_abc")
    development = held_out(LabelledSpeech([store], "_abc", "dev", augment=False))
    stage = RecognizerStage(model, development, 3e-2)
    batch = collate([dataset.get(i, np.random.default_rng(i)) for i in range(len(dataset))])
    optimizer = stage.optimizers["recognize"]
    for _ in range(45):
        losses = stage.losses("recognize", batch)
        optimizer.zero_grad()
        sum(stage.weights[name] * loss for name, loss in losses.items()).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        report = stage.validate()
    assert set(report) == {"error_synthetic_en"} or "error_recorded_zh" in report
    assert max(report.values()) < 0.15, report
    model.languages = ("en",)
    path = save_recognizer(tmp_path / "ears.safetensors", model, Lineage("judge", "recognizer", 60, 0))
    again = load_recognizer(path)
    wav = dataset.get(0, np.random.default_rng(0))["wav"]
    assert again.languages == ("en",)
    assert again.labels == ("_", "a", "b", "c") and again.hear([wav]) == model.hear([wav])


def test_other_weights_are_refused(tmp_path: Path) -> None:
    from modules.checkpoint import save_weights

    path = save_weights(tmp_path / "x.safetensors", {"w": torch.zeros(1)}, {}, Lineage("nano", "gpt", 0, 0))
    with pytest.raises(UserError) as caught:
        load_recognizer(path)
    assert caught.value.code == "weights_wrong_stage"
