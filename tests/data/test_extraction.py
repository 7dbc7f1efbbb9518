"""Laws of feature extraction with small stand-in encoders that are handed in."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modules.audio.loudness import integrated_lufs
from modules.config import AudioConfig
from modules.data.extraction import Encoders, ExtractOptions, extract
from modules.data.store import FeatureStore, StoreWriter
from modules.errors import Stopped

RATE = 22050


def _speech(wav: torch.Tensor, lengths: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
    tokens = wav.shape[1] // 640
    level = wav[:, : tokens * 640].reshape(len(wav), tokens, 640).abs().mean(-1)
    return torch.stack([(level * 100).long(), (level > 0).long()], dim=-1)


ENCODERS = Encoders(
    text=lambda t: [ord(c) for c in t], speech=_speech, sample_rate=16000, samples_per_token=640, hash="a"
)


@pytest.fixture
def corpus(tmp_path) -> FeatureStore:
    generator = np.random.default_rng(0)
    with StoreWriter(tmp_path / "corpus") as writer:
        for n, seconds in enumerate((1.0, 2.5, 0.2, 1.7, 1.0)):
            time = np.arange(int(seconds * RATE)) / RATE
            tone = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 8))
            audio = (tone * 3000 + generator.standard_normal(len(time)) * 20).astype(np.int16)
            writer.add(
                f"clip{n}", speaker=f"s{n % 2}", language="en", split="train", text=f"text {n}", seconds=seconds,
                source="synthetic", licence="", sample_rate=RATE, audio=audio, phones="a",
                phone_ends=np.zeros(0, np.int32),
            )  # fmt: skip
    return FeatureStore(tmp_path / "corpus")


def _run(corpus: FeatureStore, folder, options: ExtractOptions = ExtractOptions(), encoders: Encoders = ENCODERS):
    with StoreWriter(folder) as writer:
        report = extract(corpus, writer, encoders, AudioConfig(), options)
    return report, FeatureStore(folder)


def test_every_column_has_its_shape(corpus, tmp_path) -> None:
    report, store = _run(corpus, tmp_path / "features")
    assert report.done == len(store) == 4 and report.skipped["too short or too long"] == 1
    for row in (store[i] for i in range(len(store))):
        tokens = int(row["seconds"] * 16000) // 640
        assert row["codebooks"] == 2 and len(row["codes"]) == 2 * tokens
        assert abs(len(row["f0"]) - row["seconds"] * 100) <= 1
        assert abs(len(row["audio"]) / 32000 - row["seconds"]) < 0.001
        assert "".join(map(chr, row["text_ids"])) == row["text"]
        assert np.median(row["f0"][row["f0"] > 0]) == pytest.approx(130, rel=0.02)


def test_audio_is_loudness_normalised(corpus, tmp_path) -> None:
    _, store = _run(corpus, tmp_path / "features")
    wav = torch.from_numpy(store[0]["audio"].astype(np.float32) / 32768)
    assert integrated_lufs(wav, 32000) == pytest.approx(-23.0, abs=0.3)


def test_a_second_run_does_nothing_and_another_encoder_does_all(corpus, tmp_path) -> None:
    _run(corpus, tmp_path / "features")
    again, _ = _run(corpus, tmp_path / "features")
    assert (again.done, again.already) == (0, 4)
    other, store = _run(corpus, tmp_path / "features", encoders=replace(ENCODERS, hash="b"))
    assert other.done == 4 and len(store) == 8


def test_shards_of_two_processes_are_the_whole(corpus, tmp_path) -> None:
    _, whole = _run(corpus, tmp_path / "whole")
    keys = set()
    for rank in range(2):
        _, part = _run(corpus, tmp_path / f"part{rank}", ExtractOptions(rank=rank, world=2))
        assert not keys & set(part.keys())
        keys |= set(part.keys())
    assert keys == set(whole.keys())


def test_batching_does_not_change_codes(corpus, tmp_path) -> None:
    _, together = _run(corpus, tmp_path / "together")
    _, alone = _run(corpus, tmp_path / "alone", ExtractOptions(batch_seconds=0.1))
    keys = together.keys()
    for key in keys:
        a, b = together[together.index(key)], alone[alone.index(key)]
        assert np.array_equal(a["codes"], b["codes"])


def test_audio_can_be_left_out_and_a_limit_holds(corpus, tmp_path) -> None:
    report, store = _run(corpus, tmp_path / "features", ExtractOptions(keep_audio=False, limit=2))
    assert report.done == 2 and all(len(store[i]["audio"]) == 0 for i in range(2))


def test_a_stop_ends_it(corpus, tmp_path) -> None:
    with pytest.raises(Stopped), StoreWriter(tmp_path / "features") as writer:
        extract(corpus, writer, ENCODERS, AudioConfig(), ExtractOptions(), should_stop=lambda: True)
