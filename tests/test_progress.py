"""A step's report: what is told can be read back, the last word is never lost, and every end has its name."""

import json
import os
import time
from pathlib import Path

import pytest

from modules.errors import Stopped, UserError
from modules.progress import EVENT_SECONDS, MOST_FILES, ProgressReader, StepProgress
from modules.training.events import read_events


def kinds(folder: Path) -> list[str]:
    return [event["kind"] for event in read_events(folder)]


def test_progress_and_result_are_read_back(tmp_path: Path) -> None:
    with StepProgress(tmp_path / "job", total=2) as progress:
        progress.update(1, message="音.wav", files=[tmp_path / "a b.wav"])
        progress.finish({"clips": 2, "folder": tmp_path})
    start, step, end = read_events(tmp_path / "job")
    assert (start["kind"], start["total"]) == ("start", 2)
    assert (step["step"], step["total"], step["message"]) == (1, 2, "音.wav")
    assert step["samples"] == [str(tmp_path / "a b.wav")]
    assert (end["kind"], end["stopped_by"]) == ("end", "done")
    assert json.loads((tmp_path / "job/result.json").read_text("utf-8")) == {"clips": 2, "folder": str(tmp_path)}


def test_many_updates_are_few_lines_but_the_last_one_and_all_files_are_there(tmp_path: Path) -> None:
    with StepProgress(tmp_path, total=5000) as progress:
        for done in range(1, 5001):
            progress.update(done, files=[f"{done}.wav"])
        progress.finish({})
    steps = [event for event in read_events(tmp_path) if event["kind"] == "step"]
    assert len(steps) < 100
    assert steps[-1]["step"] == 5000
    assert [file for step in steps for file in step["samples"]] == [f"{n}.wav" for n in range(1, 5001)]


def test_a_held_back_update_is_written_while_the_step_is_silent(tmp_path: Path) -> None:
    with StepProgress(tmp_path, total=9) as progress:
        progress.update(1)
        progress.update(2)
        deadline = time.monotonic() + 40 * EVENT_SECONDS
        while read_events(tmp_path)[-1].get("step") != 2 and time.monotonic() < deadline:
            time.sleep(EVENT_SECONDS / 5)
        assert read_events(tmp_path)[-1]["step"] == 2


def test_time_left_follows_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with StepProgress(tmp_path, total=10) as progress:
        progress.update(4)  # a resumed step begins here: what was done before says nothing about the speed
        clock[0] += 6
        progress.update(6)
        clock[0] += 12
        progress.update(10)
    assert [e.get("eta_seconds") for e in read_events(tmp_path) if e["kind"] == "step"] == [None, 12.0, 0.0]


def test_left_out_files_are_told_with_their_reason(tmp_path: Path) -> None:
    said: list[str] = []
    with StepProgress(tmp_path, say=said.append) as progress:
        progress.reject("broken.wav", "no audio inside")
        progress.finish({})
    rejected = read_events(tmp_path)[1]
    assert (rejected["file"], rejected["reason"]) == ("broken.wav", "no audio inside")
    assert said == ["left out broken.wav: no audio inside"]


def test_a_stop_is_seen_and_is_not_an_error(tmp_path: Path) -> None:
    with pytest.raises(Stopped), StepProgress(tmp_path) as progress:
        assert not progress.should_stop()
        (tmp_path / "stop").touch()
        assert progress.should_stop()
        raise Stopped
    assert read_events(tmp_path)[-1]["stopped_by"] == "stop"
    assert not (tmp_path / "result.json").exists()


def test_a_training_is_told_in_its_own_words_but_for_its_start_and_end(tmp_path: Path) -> None:
    said: list[str] = []
    step = {"kind": "step", "time": 1.0, "step": 10, "total": 40, "losses": {"fit": 0.5, "_odd": None}, "seconds": 2.0}
    with StepProgress(tmp_path, say=said.append) as progress:
        for event in (
            {"kind": "start", "time": 0.0, "step": 0, "total": 0},
            {**step, "eta_seconds": 6.0},
            {**step, "step": 20},
            {"kind": "validation", "time": 2.0, "step": 20, "total": 40, "losses": {"_size": 0.0}},
            {"kind": "weights", "time": 2.0, "step": 20, "total": 40, "files": ["a.safetensors"]},
            {"kind": "error", "time": 3.0, "error": "odd"},
            {"kind": "end", "time": 4.0, "step": 20, "total": 40},
        ):
            progress.pass_on(event)
        seen = ProgressReader(tmp_path / "events.jsonl").read()
        assert (seen.percent, seen.losses) == (50.0, {"fit": 0.5}) and seen.error is None
        progress.finish({})
    assert kinds(tmp_path) == ["start", "step", "step", "validation", "weights", "end"]
    events = read_events(tmp_path)
    assert events[1]["time"] > 1.0 and {**events[1], "time": 1.0} == {**step, "eta_seconds": 6.0}
    assert said == ["10/40, fit 0.5, 6 s left", "20/40, validation, size 0"]


def test_an_error_is_told_with_code_and_fields(tmp_path: Path) -> None:
    with pytest.raises(UserError), StepProgress(tmp_path) as progress:
        progress.update(0, 3)
        progress.update(1)
        raise UserError("path_missing", "There is no {path}.", path=Path("x.wav"))
    assert kinds(tmp_path) == ["start", "step", "step", "error"]
    last = read_events(tmp_path)[-1]
    assert (last["code"], last["fields"], last["error"]) == ("path_missing", {"path": "x.wav"}, "There is no x.wav.")


def test_another_exception_is_an_error_with_its_text_or_name(tmp_path: Path) -> None:
    for error, text in ((ValueError("too odd"), "too odd"), (MemoryError(), "MemoryError")):
        with pytest.raises(type(error)), StepProgress(tmp_path):
            raise error
        assert read_events(tmp_path)[-1]["error"] == text


def test_a_new_run_takes_the_old_result_away(tmp_path: Path) -> None:
    with StepProgress(tmp_path) as progress:
        progress.finish({})
    with pytest.raises(ValueError), StepProgress(tmp_path):
        raise ValueError
    assert not (tmp_path / "result.json").exists()


def test_names_that_are_not_utf8_are_told(tmp_path: Path) -> None:
    with StepProgress(tmp_path) as progress:
        progress.update(1, files=["a\udcff.wav"])
        progress.reject("b\udcff.wav", "bad")
        progress.finish({"file": "c\udcff.wav"})
    assert kinds(tmp_path) == ["start", "step", "rejected", "end"]
    assert json.loads((tmp_path / "result.json").read_text("utf-8")) == {"file": "c\udcff.wav"}


def test_without_a_folder_only_lines_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    with StepProgress(None, total=2, say=said.append) as progress:
        progress.update(1, message="a.wav")
        progress.update(2, message="b.wav")
        assert not progress.should_stop()
        progress.finish({"clips": 2})
    assert said == ["1/2, a.wav", "2/2, b.wav"]
    assert list(tmp_path.iterdir()) == []


def test_a_reader_follows_a_growing_file_and_takes_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = ProgressReader(path)
    assert (reader.read().percent, reader.read().done) == (None, 0)
    line = json.dumps({"kind": "step", "time": time.time(), "step": 1, "total": 4, "samples": ["a"], "eta_seconds": 9})
    path.write_text(line[:20])
    assert reader.read().total == 0
    path.write_text(f"{line}\nnot JSON\n[1]\n")
    seen = reader.read()
    assert reader.read().files == seen.files == ("a",)
    assert seen.percent == 25 and seen.eta_seconds is not None and 0 < seen.eta_seconds <= 9


def test_a_reader_begins_anew_with_each_run(tmp_path: Path) -> None:
    reader = ProgressReader(tmp_path / "events.jsonl")
    with pytest.raises(ValueError), StepProgress(tmp_path, 3) as progress:
        progress.update(2, files=["old"])
        raise ValueError("odd")
    first = reader.read()
    assert first.error is not None and first.error["error"] == "odd"
    with StepProgress(tmp_path, 3) as progress:
        progress.update(1)
        progress.finish({})
    seen = reader.read()
    assert (seen.error, seen.files, seen.done, seen.percent, seen.stopped_by) == (None, (), 1, 100.0, "done")


def test_a_reader_counts_all_files_and_keeps_the_newest(tmp_path: Path) -> None:
    with StepProgress(tmp_path) as progress:
        progress.update(1, files=[str(n) for n in range(MOST_FILES + 5)])
        seen = ProgressReader(tmp_path / "events.jsonl").read()
    assert (seen.file_count, len(seen.files), seen.files[-1]) == (MOST_FILES + 5, MOST_FILES, str(MOST_FILES + 4))


def test_a_wish_to_stop_that_is_older_than_the_process_is_not_for_it(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    with StepProgress(tmp_path) as progress:
        assert progress.should_stop(), "it may have come while the libraries were loading"
        progress.finish({})
    os.utime(stop, (1000, 1000))
    with StepProgress(tmp_path) as progress:
        assert not progress.should_stop() and not stop.exists()
        stop.touch()
        assert progress.should_stop()
        progress.finish({})
