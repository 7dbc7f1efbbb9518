"""Clips on disk: names, levels, the manifest, and what a second run does not do again."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modules.audio.io import write
from modules.audio.loudness import integrated_lufs, true_peak_db
from modules.audio.slicing import Cut, SliceOptions
from modules.data.clips import (
    SAMPLE_RATE,
    SliceJournal,
    SliceRecord,
    Source,
    name_sources,
    preview,
    slice_source,
    write_results,
)
from modules.data.manifest import read_manifest
from modules.data.sources import list_audio
from modules.errors import UserError

OPTIONS = SliceOptions(min_length=300, min_seconds=0)


def recording(path: Path, *levels: float) -> Path:
    """One second of noise per level (dB), with silence of 0.4 s after each."""
    noise = np.random.default_rng(0)
    parts = [
        part for level in levels for part in (10 ** (level / 20) * noise.standard_normal(SAMPLE_RATE), np.zeros(12800))
    ]
    write(path, np.concatenate(parts).astype(np.float32), SAMPLE_RATE)
    return path


def test_clips_have_the_level_and_the_length_of_their_name(tmp_path: Path) -> None:
    source = Source(recording(tmp_path / "声音 a.wav", -30, -14, -3), "声音 a")
    record = slice_source(source, tmp_path / "out", OPTIONS)
    assert record.reason == "" and len(record.cuts) == 3 and record.seconds == pytest.approx(4.2)
    for cut, name in zip(record.cuts, record.clip_names()):
        assert name == f"声音 a_{cut.start:010d}_{cut.end:010d}.wav"
        samples, rate = soundfile.read(tmp_path / "out" / name, dtype="float32")
        assert rate == SAMPLE_RATE == 32000 and samples.shape == (cut.end - cut.start,)
        wav = torch.from_numpy(samples)
        assert integrated_lufs(wav, rate) == pytest.approx(-23, abs=0.2) and true_peak_db(wav, rate) <= -0.9


def test_without_normalising_the_peaks_are_blended(tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, normalize=False, alpha=1.0, max=0.5)
    record = slice_source(Source(recording(tmp_path / "a.wav", -40 + 10, -14), "a"), tmp_path / "out", options)
    for name in record.clip_names():
        samples, _ = soundfile.read(tmp_path / "out" / name)
        assert np.abs(samples).max() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("method", ["silence", "voice"])
def test_silence_gives_no_clip_and_is_told(tmp_path: Path, method: str) -> None:
    write(tmp_path / "a.wav", np.zeros(SAMPLE_RATE, dtype=np.float32), SAMPLE_RATE)
    record = slice_source(Source(tmp_path / "a.wav", "a"), tmp_path / "out", SliceOptions(method=method))
    assert record.cuts == () and "no speech" in record.reason and not (tmp_path / "out").exists()


def test_a_bad_file_is_a_record_with_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.wav").write_text("no sound at all")
    assert "bad.wav" in slice_source(Source(tmp_path / "bad.wav", "bad"), tmp_path, OPTIONS).reason
    assert "gone.wav" in slice_source(Source(tmp_path / "gone.wav", "gone"), tmp_path, OPTIONS).reason

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("modules.data.clips.find_cuts", fail)
    record = slice_source(Source(recording(tmp_path / "big.wav", -14), "big"), tmp_path, OPTIONS)
    assert "memory" in record.reason


def test_shared_names_are_told_apart_whatever_else_is_there(tmp_path: Path) -> None:
    names = ["a/take.wav", "b/take.wav", "take.mp3", "Other.wav", "b/other.flac", "odd|name.wav", "alone.wav"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    origins = {s.path.relative_to(tmp_path).as_posix(): s.origin for s in name_sources(list_audio(tmp_path), tmp_path)}
    assert len(set(map(str.lower, origins.values()))) == len(names)
    assert origins["alone.wav"] == "alone" and origins["odd|name.wav"] == "odd_name"
    assert all(origins[name].startswith("take-") for name in names[:3])
    (tmp_path / "a/take.wav").unlink()
    fewer = {s.path.relative_to(tmp_path).as_posix(): s.origin for s in name_sources(list_audio(tmp_path), tmp_path)}
    assert fewer == {name: origin for name, origin in origins.items() if name != "a/take.wav"}


def test_a_name_too_long_for_a_clip_is_shortened(tmp_path: Path) -> None:
    paths = [tmp_path / ("長" * 80 + letter + ".wav") for letter in "ab"]
    origins = [source.origin for source in name_sources(paths, tmp_path)]
    assert origins[0] != origins[1] and all(len(o.encode()) < 200 and o.startswith("長長") for o in origins)


def run(folder: Path, output: Path, options: SliceOptions, clean: bool = False) -> list[str]:
    """What the tool does, in one process; returns the origins that were worked on."""
    journal = SliceJournal(output)
    sources = journal.name(name_sources(list_audio(folder), folder))
    records, worked = [], []
    for source in sources:
        record = journal.known(source, options)
        if record is None or not journal.is_complete(record):
            if record is None:
                journal.begin(source)
            record = slice_source(source, output, options, record.cuts if record else None)
            journal.add(record)
            worked.append(source.origin)
        records.append(record)
    write_results(output, records, "ann", clean)
    journal.close()
    return worked


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recording(tmp_path / "in/a.wav", -30, -14)
    recording(tmp_path / "in/b.wav", -14, -20, -14)
    (tmp_path / "in/bad.wav").write_text("no sound")
    return tmp_path / "in"


def test_the_manifest_and_the_rejects_tell_all(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run(folder, output, OPTIONS) == ["a", "b", "bad"]
    rows = read_manifest(output / "clips.jsonl")
    assert [Path(row.audio).name for row in rows] == sorted(p.name for p in output.glob("*.wav")) and len(rows) == 5
    assert all(Path(row.audio).is_file() for row in rows)
    first = rows[0]
    assert (first.speaker, first.language, first.text, first.source) == ("ann", "", "", str(folder / "a.wav"))
    assert first.seconds == pytest.approx(soundfile.info(first.audio).duration)
    (refused,) = (json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines())
    assert refused["file"] == str(folder / "bad.wav") and "cannot be read" in refused["reason"]
    assert set(refused) == {"file", "reason"}


def test_a_second_run_makes_only_what_is_missing(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(folder, output, OPTIONS)
    whole = contents(output)
    missing, short = sorted(output.glob("b_*.wav"))[:2]
    kept = sorted(output.glob("b_*.wav"))[2].stat().st_mtime_ns
    missing.unlink()
    short.write_bytes(short.read_bytes()[:-2])
    (output / "clips.jsonl").unlink()
    assert run(folder, output, OPTIONS) == ["b", "bad"]  # a bad file may have been repaired
    assert contents(output) == whole
    assert sorted(output.glob("b_*.wav"))[2].stat().st_mtime_ns == kept


def test_a_kill_costs_the_recording_in_work_only(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(folder, output, OPTIONS)
    whole = contents(output)
    lines = (output / ".slices.jsonl").read_text().splitlines(keepends=True)
    (output / ".slices.jsonl").write_text(lines[0] + lines[1][:40])
    sorted(output.glob("b_*.wav"))[0].write_bytes(b"half")
    assert run(folder, output, OPTIONS) == ["b", "bad"]
    assert contents(output) == whole


def test_other_options_and_changed_recordings_are_done_again(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(folder, output, OPTIONS)
    recording(folder / "a.wav", -14)
    assert run(folder, output, OPTIONS) == ["a", "bad"]
    assert len([row for row in read_manifest(output / "clips.jsonl") if row.source.endswith("a.wav")]) == 1
    before = {path.name for path in output.glob("*.wav")}
    longer = dataclasses.replace(OPTIONS, min_length=2000)
    assert run(folder, output, longer) == ["a", "b", "bad"]
    listed = {Path(row.audio).name for row in read_manifest(output / "clips.jsonl")}
    assert {path.name for path in output.glob("*.wav")} == listed | before, "lists may name the old ones"
    assert {path.name for path in list_audio(output)} == listed < listed | before
    (output / "my own.wav").write_bytes(b"kept")
    assert run(folder, output, longer, clean=True) == ["bad"]
    (output / "my own.wav").unlink()
    assert {path.name for path in output.glob("*.wav")} == listed
    fresh = tmp_path / "fresh"
    run(folder, fresh, longer)
    assert contents(fresh) == contents(output)


def test_recordings_of_one_name_from_two_folders_keep_their_clips(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for place, level in (("one", -14), ("two", -30)):
        wav = 10 ** (level / 20) * np.random.default_rng(level + 99).standard_normal(SAMPLE_RATE)
        write(tmp_path / place / "t.wav", wav.astype(np.float32), SAMPLE_RATE)
    assert run(tmp_path / "one", output, OPTIONS) == ["t"]
    (first,) = (Path(row.audio) for row in read_manifest(output / "clips.jsonl"))
    sound = first.read_bytes()
    (other,) = run(tmp_path / "two", output, OPTIONS)
    assert other.startswith("t-") and first.read_bytes() == sound
    assert run(tmp_path / "one", output, OPTIONS) == [] and run(tmp_path / "two", output, OPTIONS) == []
    assert first.read_bytes() == sound
    recording(tmp_path / "one/deep/t.wav", -20)
    assert len(run(tmp_path / "one", output, OPTIONS)) == 1, "one that is there already keeps its name"


def test_an_edited_manifest_is_kept(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for options in (OPTIONS, dataclasses.replace(OPTIONS, min_length=2000)):
        run(folder, output, options)
    assert not list(output.glob("*.bak*")), "nobody edited it"
    text = (output / "clips.jsonl").read_text() + "\n"
    (output / "clips.jsonl").write_text(text)
    run(folder, output, OPTIONS)
    assert (output / "clips.jsonl.bak").read_text() == text != (output / "clips.jsonl").read_text()


def test_a_recording_that_was_begun_anew_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    """Killed while other options overwrote its clips, then started with the first options again."""
    output = tmp_path / "out"
    run(folder, output, OPTIONS)
    journal = SliceJournal(output)
    source = name_sources(list_audio(folder), folder)[0]
    assert journal.known(source, OPTIONS) is not None
    journal.begin(source)
    assert SliceJournal(output).known(source, OPTIONS) is None


def test_the_preview_shows_the_same_cuts_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    shown = preview(folder / "b.wav", OPTIONS, bins=100)
    assert sorted(tmp_path.rglob("*")) == before
    assert shown.cuts == slice_source(Source(folder / "b.wav", "b"), tmp_path / "out", OPTIONS).cuts
    assert shown.seconds == pytest.approx(4.2) and shown.sample_rate == SAMPLE_RATE
    assert shown.envelope.shape == (2, 100) and shown.envelope.dtype == np.float32
    assert (shown.envelope[0] <= shown.envelope[1]).all() and shown.envelope[:, 30].tolist() == [0, 0]
    write(tmp_path / "tiny.wav", np.full(3, 0.5, dtype=np.float32), SAMPLE_RATE)
    assert preview(tmp_path / "tiny.wav", OPTIONS, bins=10).envelope.tolist() == [[0.5] * 10] * 2
    with pytest.raises(UserError):
        preview(tmp_path / "none.wav", OPTIONS)


SILENT = {"silence_3s.wav", "room_noise_3s.wav", "one_sample.wav", "ps_awful.wav"}
UNREADABLE = {
    "corrupt_header.wav", "header_only.wav", "ps_bad.wav", "ps_evil.wav", "ps_null.wav", "text_named.wav",
    "video_no_audio.mp4", "zero_length.wav",
}  # fmt: skip


@pytest.mark.parametrize("method", ["silence", "voice"])
def test_odd_recordings_give_clips_or_a_cause(speech_dir: Path | None, tmp_path: Path, method: str) -> None:
    if speech_dir is None:
        pytest.skip("needs --speech")
    shutil.copytree(speech_dir / "odd", tmp_path / "in")
    output = tmp_path / "out"
    run(tmp_path / "in", output, SliceOptions(method=method))
    rows = read_manifest(output / "clips.jsonl")
    with_clips = {Path(row.source).name for row in rows}
    lines = (output / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    refused = {Path(row["file"]).name: row["reason"] for row in map(json.loads, lines)}
    everything = {path.name for path in list_audio(tmp_path / "in")}
    assert set(refused) == SILENT | UNREADABLE
    assert all(name in refused[name] for name in UNREADABLE)
    assert all("no speech" in refused[name] for name in SILENT)
    assert with_clips == everything - set(refused) and "名字 with spaces & é (1).WAV" in with_clips
    assert len({row.audio for row in rows}) == len(rows) == len(list(output.glob("*.wav")))
    for row in rows:
        samples, rate = soundfile.read(row.audio)
        assert len(samples) / rate == pytest.approx(row.seconds) and np.abs(samples).max() > 0.01


def test_a_record_knows_its_file_names() -> None:
    record = SliceRecord("/x/a.wav", "a", 1, 2, "", cuts=(Cut(0, 32000), Cut(40000, 123456)))
    assert record.clip_names() == ["a_0000000000_0000032000.wav", "a_0000040000_0000123456.wav"]
