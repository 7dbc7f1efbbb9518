"""The command that slices: flags, exit codes, progress, several processes."""

import json
import os
from collections import deque
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from modules.audio.io import write
from modules.data.manifest import read_manifest
from modules.training.events import read_events
from tools import slice as tool


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "my voice"
    noise = np.random.default_rng(0).standard_normal(32000).astype(np.float32)
    for name, seconds in (("一 1", 1), ("two", 2), ("b/two", 3)):
        write(folder / f"{name}.wav", 0.1 * np.tile(noise, seconds), 32000)
    (folder / "bad.mp3").write_text("no sound")
    return folder


def run(*argv: object, processes: int = 1) -> int:
    return tool.main([*map(str, argv), "--processes", str(processes)])


def rows(output: Path) -> list[tuple[str, str, float]]:
    return [(Path(row.audio).name, row.speaker, row.seconds) for row in read_manifest(output / "clips.jsonl")]


def test_a_folder_becomes_clips_a_manifest_and_a_report(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, job = tmp_path / "out", tmp_path / "job"
    assert run("--input", f'"{recordings}/"', "--output", output, "--job", job) == 0
    found = rows(output)
    assert [(speaker, seconds) for _, speaker, seconds in found] == [("my voice", s) for s in (3, 2, 1)]
    assert found[2][0] == "一 1_0000000000_0000032000.wav"
    assert found[0][0].startswith("two-") and found[1][0].startswith("two-")
    result = json.loads((job / "result.json").read_text())
    assert (result["files"], result["files_rejected"], result["clips"], result["clip_seconds"]) == (4, 1, 3, 6.0)
    assert Path(result["manifest"]) == output / "clips.jsonl"
    events = read_events(job)
    assert [Path(event["file"]).name for event in events if event["kind"] == "rejected"] == ["bad.mp3"]
    assert events[-1]["kind"] == "end" and events[-1]["stopped_by"] == "done"
    assert [event for event in events if event["kind"] == "step"][-1]["step"] == 4
    said = capsys.readouterr().out
    assert "times real time" in said and "bad.mp3" in said

    assert run("--input", recordings, "--output", output) == 0
    assert "3 of 4 recordings are sliced already" in capsys.readouterr().out
    assert rows(output) == found


def test_one_file_names_its_speaker(recordings: Path, tmp_path: Path) -> None:
    assert run("--input", recordings / "two.wav", "--output", tmp_path / "out") == 0
    assert rows(tmp_path / "out") == [("two_0000000000_0000064000.wav", "two", 2.0)]
    assert run("--input", recordings / "two.wav", "--output", tmp_path / "out", "--speaker", "Ann") == 0
    assert rows(tmp_path / "out")[0][1] == "Ann"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--input", "nowhere"], "nowhere"),
        (["--input", "{empty}"], "no audio or video file"),
        (["--input", "{in}", "--output", "{in}"], "another output folder"),
        (["--input", "{in}", "--min-length", "100"], "min_length"),
        (["--input", "{in}", "--alpha", "1.5"], "alpha"),
        (["--input", " "], "No file or folder"),
        (["--input", "{in}", "--output", "{in}/two.wav/x"], "Nothing can be written"),
    ],
)
def test_mistakes_are_told_in_a_line(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    flags = [flag.format(empty=tmp_path / "empty", **{"in": recordings}) for flag in flags]
    if "--output" not in flags:
        flags += ["--output", str(tmp_path / "out")]
    assert run(*flags) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == 1


def test_clips_inside_of_the_input_folder_are_no_recordings(recordings: Path) -> None:
    for _ in range(2):
        assert run("--input", recordings, "--output", recordings / "clips") == 0
        assert len(rows(recordings / "clips")) == 3


def test_another_cut_leaves_the_clips_that_a_list_names(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, job = tmp_path / "out", tmp_path / "job"
    flags = ["--input", recordings, "--output", output]
    assert run(*flags) == 0
    named = [output / name for name, _, _ in rows(output)]
    assert run(*flags, "--max-seconds", "1", "--min-seconds", "0", "--job", job) == 0
    assert all(path.is_file() for path in named) and not set(named) & {output / name for name, _, _ in rows(output)[:4]}
    result = json.loads((job / "result.json").read_text())
    assert result["earlier_clips"] == 2 and "--clean" in result["notes"][0] and "--clean" in capsys.readouterr().out
    assert run(*flags, "--max-seconds", "1", "--min-seconds", "0", "--clean") == 0
    assert {path.name for path in output.glob("*.wav")} == {name for name, _, _ in rows(output)}


def test_a_stopped_run_goes_on_where_it_was(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, job = tmp_path / "out", tmp_path / "job"
    original = tool.slice_source

    def stop_after_the_first(*arguments: object) -> object:
        job.mkdir(exist_ok=True)
        (job / "stop").touch()
        return original(*arguments)

    monkeypatch.setattr(tool, "slice_source", stop_after_the_first)
    assert run("--input", recordings, "--output", output, "--job", job) == 3
    assert len(list(output.glob("*.wav"))) == 1 and not (output / "clips.jsonl").exists()
    assert read_events(job)[-1]["stopped_by"] == "stop"
    monkeypatch.setattr(tool, "slice_source", original)
    (job / "stop").unlink()
    assert run("--input", recordings, "--output", output) == 0
    assert "1 of 4 recordings are sliced already" in capsys.readouterr().out
    assert run("--input", recordings, "--output", tmp_path / "unbroken") == 0
    assert (output / "clips.jsonl").read_bytes() == (tmp_path / "unbroken/clips.jsonl").read_bytes()


class Threads:
    """Stands in for the process pool: the same order of calls, and recordings named "two" kill their process."""

    def __init__(self, *_: object, **__: object):
        self.broken = False

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, task: object) -> tool.Future:
        future: tool.Future = tool.Future()
        self.broken = self.broken or task.__self__.source.origin.startswith("two-")
        if self.broken:
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(task())
        return future


def test_a_file_that_kills_its_process_is_left_out_and_the_others_are_done(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "ProcessPoolExecutor", Threads)
    assert run("--input", recordings, "--output", tmp_path / "out", processes=3) == 0
    assert [name for name, _, _ in rows(tmp_path / "out")] == ["一 1_0000000000_0000032000.wav"]
    refused = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert ["ended from outside" in row["reason"] for row in refused] == [True, False, True]


def test_a_stop_lets_running_recordings_finish_and_starts_no_other(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "ProcessPoolExecutor", Threads)

    class Progress:
        asked = 0

        def should_stop(self) -> bool:
            self.asked += 1
            return self.asked > 1

    paths = [recordings / "一 1.wav"] * 3
    tasks = deque(tool._Task(tool.Source(path, f"o{n}"), tmp_path, tool.SliceOptions()) for n, path in enumerate(paths))
    done = []
    with pytest.raises(tool.Stopped):
        for task, _ in tool._pooled(tasks, 1, tool.SliceJournal(tmp_path), Progress(), []):
            done.append(task.source.origin)
    assert done == ["o0"] and len(tasks) == 2


@pytest.mark.slow
def test_several_processes_make_the_same_as_one(recordings: Path, tmp_path: Path) -> None:
    assert run("--input", recordings, "--output", tmp_path / "one") == 0
    assert run("--input", recordings, "--output", tmp_path / "two", processes=2) == 0
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).glob("*.wav")} for name in ("one", "two"))
    assert one == two and (tmp_path / "one/clips.jsonl").read_bytes() == (tmp_path / "two/clips.jsonl").read_bytes()
    assert os.path.getsize(tmp_path / "two/rejected.jsonl") > 0
