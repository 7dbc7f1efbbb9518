"""Laws of feature extraction with small stand-in encoders that are handed in."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.audio.loudness import integrated_lufs
from modules.config import AudioConfig
from modules.data.encoders import Encoders
from modules.data.extraction import ExtractOptions, ExtractReport, extract
from modules.data.features import STEPS, LineStore, LineWriter, open_store
from modules.data.recordings import CorpusRows, Sound, Source
from modules.data.store import FeatureStore, StoreWriter
from modules.errors import Stopped, UserError

RATE = 22050


def _speech(wav: torch.Tensor, lengths: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
    tokens = wav.shape[1] // 640
    level = wav[:, : tokens * 640].reshape(len(wav), tokens, 640).abs().mean(-1)
    return torch.stack([(level * 100).long(), (level > 0).long()], dim=-1)


ENCODERS = Encoders(
    text=lambda t: [ord(c) for c in t], speech=_speech, sample_rate=16000, samples_per_token=640,
    text_hash="t", speech_hash="s",
)  # fmt: skip


def run_extract(
    source: Source,
    folder: Path,
    options: ExtractOptions = ExtractOptions(),
    encoders: Encoders = ENCODERS,
    steps: tuple[str, ...] = STEPS,
    keep_audio: bool = True,
    audio: AudioConfig = AudioConfig(),
    **hooks: Callable,
) -> ExtractReport:
    """Extract `source` into `folder`; `hooks` are on_progress, should_stop and on_reject."""
    with LineWriter(folder, encoders.hashes(audio, keep_audio), steps, options.rank, options.world) as writer:
        return extract(source, writer, encoders, audio, options, **hooks)


def counts(report: ExtractReport) -> dict[str, tuple[int, int]]:
    """Step -> lines done and already there."""
    return {step: (count.done, count.already) for step, count in report.steps.items()}


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusRows:
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
    return CorpusRows(FeatureStore(tmp_path / "corpus"))


def test_every_column_has_its_shape(corpus, tmp_path) -> None:
    report = run_extract(corpus, tmp_path / "features")
    store = open_store(tmp_path / "features")
    assert report.done == len(store) == 4 and report.skipped["too short or too long"] == 1
    assert counts(report) == dict.fromkeys(STEPS, (4, 0))
    for row in (store[i] for i in range(len(store))):
        tokens = int(row["seconds"] * 16000) // 640
        assert row["codebooks"] == 2 and len(row["codes"]) == 2 * tokens
        assert abs(len(row["f0"]) - row["seconds"] * 100) <= 1
        assert abs(len(row["audio"]) / 32000 - row["seconds"]) < 0.001
        assert "".join(map(chr, row["text_ids"])) == row["text"]
        assert np.median(row["f0"][row["f0"] > 0]) == pytest.approx(130, rel=0.02)
        assert (row["language"], row["split"], row["source"]) == ("en", "train", "synthetic")


def test_audio_is_loudness_normalised(corpus, tmp_path) -> None:
    run_extract(corpus, tmp_path / "features")
    wav = torch.from_numpy(open_store(tmp_path / "features")[0]["audio"].astype(np.float32) / 32768)
    assert integrated_lufs(wav, 32000) == pytest.approx(-23.0, abs=0.3)


def test_each_step_is_redone_for_its_own_reason_alone(corpus, tmp_path) -> None:
    folder = tmp_path / "features"
    run_extract(corpus, folder)
    again = run_extract(corpus, folder)
    assert (again.done, again.already, again.seconds) == (0, 4, 0) and counts(again) == dict.fromkeys(STEPS, (0, 4))
    text = replace(ENCODERS, text=lambda t: [7], text_hash="other")
    assert counts(run_extract(corpus, folder, encoders=text)) == {"text": (4, 0), "audio": (0, 4), "speech": (0, 4)}
    assert [ids.tolist() for ids in open_store(folder).column("text_ids")] == [[7]] * 4
    speech = replace(ENCODERS, speech=lambda w, n, f: _speech(w, n, f)[..., :1], speech_hash="other")
    report = run_extract(corpus, folder, encoders=speech)
    assert counts(report) == {"text": (0, 4), "audio": (0, 4), "speech": (4, 0)}
    store = open_store(folder)
    assert len(store) == 4 and set(store.column("codebooks")) == {1} and len(store[0]["text_ids"]) == 6
    quiet = run_extract(corpus, folder, audio=AudioConfig(loudness_lufs=-30.0))
    assert counts(quiet) == {"text": (0, 4), "audio": (4, 0), "speech": (0, 4)}
    assert counts(run_extract(corpus, folder)) == dict.fromkeys(STEPS, (0, 4)), "the way back costs nothing"


def test_steps_can_be_done_one_by_one_in_any_order(corpus, tmp_path) -> None:
    run_extract(corpus, tmp_path / "whole")
    folder = tmp_path / "features"
    for step, missing in (("speech", {"text": 4, "audio": 4}), ("text", {"audio": 4}), ("audio", {})):
        encoders = replace(
            ENCODERS, **{name: getattr(ENCODERS, name) if name == step else None for name in ("text", "speech")}
        )
        assert counts(run_extract(corpus, folder, encoders=encoders, steps=(step,))) == {step: (4, 0)}
        assert LineStore(folder).missing == missing
        if missing:
            with pytest.raises(UserError, match=", ".join(missing)) as caught:
                open_store(folder)
            assert caught.value.code == "features_incomplete"
    store, whole = open_store(folder), open_store(tmp_path / "whole")
    assert store.keys() == whole.keys() and store.fingerprint() == whole.fingerprint()
    for i in range(len(whole)):
        assert all(np.array_equal(store[i][name], value) for name, value in whole[i].items())


def test_shards_of_two_processes_are_the_whole(corpus, tmp_path) -> None:
    run_extract(corpus, tmp_path / "whole")
    whole, sizes = LineStore(tmp_path / "whole"), []
    for rank in range(2):
        run_extract(corpus, tmp_path / "parts", ExtractOptions(rank=rank, world=2))
        sizes.append(len(LineStore(tmp_path / "parts")))
    parts = LineStore(tmp_path / "parts")
    assert 0 < sizes[0] < sizes[1] == len(whole)
    assert sorted(parts.keys()) == sorted(whole.keys()) and parts.fingerprint() == whole.fingerprint()
    for key in sorted(whole.keys()):
        assert np.array_equal(parts[parts.index(key)]["codes"], whole[whole.index(key)]["codes"])
    assert run_extract(corpus, tmp_path / "parts").done == 0, "one process finds what two made"
    assert len(list((tmp_path / "parts").glob("lines-*"))) == 1


def test_batching_does_not_change_codes(corpus, tmp_path) -> None:
    run_extract(corpus, tmp_path / "together")
    run_extract(corpus, tmp_path / "alone", ExtractOptions(batch_seconds=0.1))
    together, alone = (open_store(tmp_path / name) for name in ("together", "alone"))
    for a, b in zip(together.column("codes"), alone.column("codes"), strict=True):
        assert np.array_equal(a, b)


def test_audio_can_be_left_out_and_a_limit_holds(corpus, tmp_path) -> None:
    report = run_extract(corpus, tmp_path / "features", ExtractOptions(limit=2), keep_audio=False)
    store = open_store(tmp_path / "features")
    assert report.done == len(store) == 2 and counts(report) == {"text": (2, 0), "speech": (2, 0)}
    assert all(len(store[i]["audio"]) == 0 for i in range(2)) and store.lengths("audio").tolist() == [0, 0]
    assert store.row(0, ("audio", "speaker"))["audio"].dtype == np.int16
    assert counts(run_extract(corpus, tmp_path / "features"))["audio"] == (4, 0)
    assert open_store(tmp_path / "features").lengths("audio").min() > 0


def test_a_stop_ends_it_and_the_next_run_goes_on(corpus, tmp_path) -> None:
    folder, seen = tmp_path / "features", []
    with pytest.raises(Stopped):
        run_extract(corpus, folder, should_stop=lambda: True)
    with pytest.raises(Stopped):
        run_extract(
            corpus, folder, ExtractOptions(batch_seconds=0.1),
            on_progress=lambda done, total, what: seen.append((what, done)), should_stop=lambda: ("sound", 1) in seen,
        )  # fmt: skip
    done = len(open_store(folder))
    assert 0 < done < 4, "what was made before the stop can be trained on"
    report = run_extract(corpus, folder)
    assert counts(report)["text"] == (0, 4) and counts(report)["speech"] == (4 - done, done)


class Counted:
    """A source that counts how many of its sounds are alive at a time."""

    def __init__(self, count: int, seconds: float = 1.0):
        self.count, self.length, self.alive, self.most = count, seconds, 0, 0

    def __len__(self) -> int:
        return self.count

    def column(self, name: str) -> list[str]:
        return ["train" if name == "split" else "x"] * self.count

    def seconds(self, row: int) -> float:
        return self.length

    def content(self, row: int) -> str:
        return str(row)

    def read(self, row: int) -> Sound:
        wav = np.full(int(self.length * 16000), 0.1, np.float32)
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(wav, self._gone)
        return Sound(wav, 16000, self.length)

    def _gone(self) -> None:
        self.alive -= 1


@pytest.mark.parametrize("count", [12, 60])
def test_no_more_than_a_batch_of_sounds_is_held(count: int, tmp_path: Path) -> None:
    source = Counted(count)
    gc.collect()
    quick = replace(ENCODERS, speech=lambda w, n, f: torch.zeros(len(w), w.shape[1] // 640, 1, dtype=torch.long))
    report = run_extract(source, tmp_path / "out", ExtractOptions(batch_seconds=4.0), quick, keep_audio=False)
    assert report.done == count and source.most <= 4


def test_sounds_of_unknown_length_are_batched_as_if_they_were_long(tmp_path: Path) -> None:
    source = Counted(6)
    source.seconds = lambda row: 0.0
    report = run_extract(source, tmp_path / "out", ExtractOptions(batch_seconds=4.0, max_seconds=2.0), keep_audio=False)
    assert report.done == 6 and source.most <= 2
    told = Counted(2, 5.0)
    told.seconds = lambda row: 1.0
    report = run_extract(told, tmp_path / "told", ExtractOptions(max_seconds=2.0))
    assert report.done == 0 and report.skipped == {"too short or too long": 2}, "a list may be wrong about a length"
