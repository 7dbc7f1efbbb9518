"""Clips for the tokenizer's training: what is drawn by chance depends on the generator alone, and labels keep time."""

from pathlib import Path

import numpy as np
import pytest

from modules.audio.augmentation import AugmentOptions
from modules.data.store import FeatureStore, StoreWriter
from modules.speech.dataset import IGNORE, LABEL_RATE_HZ, RecognitionDataset, collate

RATE = 22050
CLICKS_SECONDS = (0.3, 0.8, 1.3)
LABELS = ("a", "b", "c")
PLAIN = AugmentOptions().scaled(0)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Clips of a soft noise with a loud click at the start of each of their labels but the first, `_`."""
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store") as writer:
        for number in range(12):
            wav = 30 * rng.standard_normal(int(1.8 * RATE))
            for seconds in CLICKS_SECONDS:
                wav[int(seconds * RATE) : int(seconds * RATE) + 60] = 20000
            ends = [int(s * RATE) for s in (*CLICKS_SECONDS, 1.8)]
            timed = number % 2 == 0
            writer.add(
                f"key{number}", speaker=f"s{number}", language="en", split="train", text="a b c", seconds=1.8,
                source="synthetic" if timed else "recorded", sample_rate=RATE, audio=wav.astype(np.int16),
                phones="_ a b c", phone_ends=np.array(ends if timed else [], np.int32),
            )  # fmt: skip
    return FeatureStore(tmp_path / "store")


def _dataset(store: FeatureStore, augment: bool | AugmentOptions) -> RecognitionDataset:
    return RecognitionDataset([store], LABELS, "train", augment=augment)


def _get(dataset: RecognitionDataset, index: int, seed: int = 0) -> dict[str, np.ndarray]:
    return dataset.get(index, np.random.default_rng(seed))


def test_a_clip_depends_on_its_index_and_generator_alone(store: FeatureStore) -> None:
    dataset = _dataset(store, True)
    first = [_get(dataset, i, i)["wav"] for i in range(12)]
    again = [_get(dataset, i, i)["wav"] for i in reversed(range(12))][::-1]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    other = _get(dataset, 0, 99)["wav"]
    assert len(other) != len(first[0]) or not np.array_equal(other, first[0])


def test_without_augmentation_nothing_is_drawn(store: FeatureStore) -> None:
    for plain in (False, PLAIN):
        wavs = [_get(_dataset(store, plain), 3, seed)["wav"] for seed in range(5)]
        assert all(np.array_equal(wav, wavs[0]) for wav in wavs)


@pytest.mark.parametrize("effect", ["degraded", "speed"])
def test_labels_keep_the_time_of_what_they_name(store: FeatureStore, effect: str) -> None:
    options = AugmentOptions(**{"faint_noise": 0, "degraded": 0, "speed": 0, effect: 1, "level": 0, "codec": 0})
    dataset = _dataset(store, options.without(("noise", "babble", "reverberation", "clipping")))
    lengths = set()
    for seed in range(12):
        item = _get(dataset, 0, seed)
        lengths.add(len(item["wav"]))
        frames, level = item["frames"], np.abs(item["wav"])
        for label in (1, 2, 3):
            start = int(np.flatnonzero(frames == label)[0]) / LABEL_RATE_HZ
            near = level[int((start - 0.06) * 16000) : int((start + 0.06) * 16000)]
            assert abs(near.argmax() / 16000 - 0.06) < 0.025
    assert (len(lengths) > 1) == (effect == "speed")


def test_untimed_clips_have_labels_and_no_frames(store: FeatureStore) -> None:
    item = _get(_dataset(store, True), 1)
    assert (item["frames"] == IGNORE).all() and item["labels"].tolist() == [1, 2, 3]
    batch = collate([_get(_dataset(store, True), i, i) for i in range(4)])
    assert batch.wav.shape[1] % 5120 == 0 and bool(batch.wav.isfinite().all())


def test_babble_is_other_clips_of_the_store(store: FeatureStore) -> None:
    options = PLAIN.without(("noise", "reverberation", "band", "codec", "level", "clipping", "formants", "pitch"))
    loud = AugmentOptions(
        **{**vars(options), "degraded": 1.0, "babble": 1.0, "lowest_snr_db": 0.0, "highest_snr_db": 0.0}
    )
    plain, mixed = (_get(_dataset(store, o), 0, 5)["wav"] for o in (PLAIN, loud))
    added = mixed - plain
    peaks = np.abs(added) > 0.5 * np.abs(added).max()
    assert abs(10 * np.log10(np.mean(plain**2) / np.mean(added**2)) - 4) < 0.5
    assert 0 < peaks.sum() < 0.02 * len(added)


def test_dropped_clips_are_left_out(store: FeatureStore) -> None:
    dataset = RecognitionDataset([store], LABELS, "train", drop={"key3", "key5", "other"})
    assert sorted({store.row(row, ("key",))["key"] for _, row in dataset.rows}) == sorted(
        {f"key{n}" for n in range(12)} - {"key3", "key5"}
    )
