"""A run's events become curves: once each, newest last, whatever was killed, redone or cut short."""

import json
from pathlib import Path
from typing import Any

import pytest

from modules.training import curves
from modules.training.curves import Points
from modules.training.events import EventLog
from modules.training.history import HistoryReader, RunHistory, read_run
from modules.training.runs import set_aside


def told(folder: Path, *events: dict[str, Any]) -> RunHistory:
    """The history after these events were appended."""
    with EventLog(folder) as log:
        for event in events:
            log.write(**event)
    return read_run(folder)


def step(number: int, loss: float = 1.0, **more: Any) -> dict[str, Any]:
    losses = {"mel": loss, "_prior": 2 * loss}
    return {"kind": "step", "step": number, "total": 100, "losses": losses, "seconds": 2.0 * number, **more}


def test_no_folder_is_an_empty_history(tmp_path: Path) -> None:
    history = read_run(tmp_path / "none")
    assert history.revision == "" and history.training == {} and history.samples == () and history.progress.step == 0


def test_events_become_curves_and_progress(tmp_path: Path) -> None:
    start = {"kind": "start", "step": 0, "total": 100}
    events = [step(10 * n, 1 / n, learning_rate=0.1, epoch=n, eta_seconds=-1.0, skipped=n) for n in range(1, 4)]
    held_out = {"kind": "validation", "step": 30, "losses": {"mel": 0.5}}
    saved = {"kind": "weights", "step": 30, "files": ["a.safetensors", "b.safetensors"]}
    history = told(tmp_path, start, *events, held_out, saved, {"kind": "note", "code": "smaller", "message": "Less."})
    assert history.training["mel"] == curves.Curve((10, 20, 30), (1.0, 0.5, 1 / 3))
    assert history.validation == {"mel": curves.Curve((30,), (0.5,))} and history.learning_rate.values == (0.1,) * 3
    progress = history.progress
    assert (progress.step, progress.total, progress.epoch, progress.skipped) == (30, 100, 3, 3)
    assert progress.eta_seconds == 0.0 and progress.seconds == 60.0 and progress.seconds_per_step == pytest.approx(2.0)
    assert history.weights == ("b.safetensors", "a.safetensors")
    assert history.notes[0].code == "smaller" and history.last_kind == "note" and history.error == ""


def test_steps_that_were_done_again_are_drawn_once(tmp_path: Path) -> None:
    told(tmp_path, {"kind": "start", "step": 0, "total": 100}, *(step(n, 5.0) for n in (10, 20, 30)))
    told(tmp_path, {"kind": "validation", "step": 30, "losses": {"mel": 9.0}}, {"kind": "error", "error": "It broke."})
    broken = told(tmp_path, {"kind": "samples", "step": 30, "epoch": 1, "items": [{"file": "old.wav"}]})
    assert broken.error == "It broke." and broken.samples[0].step == 30
    resumed = told(tmp_path, {"kind": "resume", "step": 10, "total": 100})
    assert resumed.training["mel"].steps == (10,) and resumed.samples == () and resumed.validation == {}
    assert resumed.error == "" and resumed.progress.step == 10 and resumed.progress.seconds_per_step is None
    history = told(tmp_path, step(20, 1.0), step(40, 1.0))
    assert history.training["mel"] == curves.Curve((10, 20, 40), (5.0, 1.0, 1.0))


def test_a_failure_before_the_first_step_hides_nothing(tmp_path: Path) -> None:
    told(tmp_path, {"kind": "start", "step": 0, "total": 100}, step(40, epoch=3))
    failed = told(tmp_path, {"kind": "error", "step": 0, "total": 0, "epoch": 0, "error": "No memory."})
    progress = failed.progress
    assert (progress.step, progress.total, progress.epoch) == (40, 100, 3) and failed.error == "No memory."
    later = told(tmp_path, {"kind": "error", "step": 41, "total": 100, "error": "Again."})
    assert later.progress.step == 41 and later.last_kind == "error"


def test_what_has_no_finite_value_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(
        '{"kind": "step", "step": 1, "losses": {"mel": NaN, "kl": 1e999, "fit": 2, "odd": "x", "on": true}}\n'
        '{"kind": "step", "step": ' + "9" * 400 + ', "losses": 3, "seconds": null}\n'
        '[1]\n{"kind": 7}\nnonsense\n\xff\n{"kind": "weights", "step": 1, "files": 7}\n'
        '{"kind": "samples", "step": 1, "items": ["x", {}, {"file": "a.wav", "f0_hz": "high"}], "measures": [1]}\n',
        encoding="latin-1",
    )
    history = read_run(tmp_path)
    assert list(history.training) == ["fit"] and history.samples[0].items[0].f0_hz is None
    assert len(history.samples[0].items) == 1


def test_samples_are_newest_first_and_a_save_done_again_replaces_the_older(tmp_path: Path) -> None:
    items = [{"file": "1.wav", "truth": "t.wav", "text": "Hello", "seconds": 1.5, "true_f0_hz": 100}]
    saves = [{"kind": "samples", "step": n, "epoch": n, "items": items, "measures": {"f0_ratio": n}} for n in (1, 2, 2)]
    history = told(tmp_path, *saves, {"kind": "samples", "step": 3, "samples": ["only.wav"]})
    assert [save.step for save in history.samples] == [3, 2, 1]
    assert history.samples[0].items[0].file == "only.wav" and history.samples[1].measures == {"f0_ratio": 2.0}
    line = history.samples[2].items[0]
    assert (line.text, line.truth, line.seconds, line.true_seconds, line.true_f0_hz) == (
        "Hello",
        "t.wav",
        1.5,
        None,
        100,
    )


def test_only_what_was_appended_is_read(tmp_path: Path) -> None:
    reader = HistoryReader(tmp_path)
    assert reader.read().revision == ""
    told(tmp_path, *(step(number) for number in range(1, 21)))
    first = reader.read()
    assert len(first.training["mel"].steps) == 20 and reader.read() is first
    with open(tmp_path / "events.jsonl", "rb+") as file:
        file.seek(-300, 2)
        file.write(b"x" * 299 + b"\n")  # nobody looks at it again
        line = json.dumps(step(21)).encode()
        file.write(line[:20])
        file.flush()
        assert reader.read() is first  # half a line
        file.write(line[20:] + b"\n")
    second = reader.read()
    assert second.training["mel"].steps[-1] == 21 and second.revision != first.revision
    told(tmp_path, step(22))
    assert reader.read().training["mel"].steps == tuple(range(1, 23))


def test_a_run_that_begins_anew_is_read_anew(tmp_path: Path) -> None:
    run = tmp_path / "vits2"
    reader = HistoryReader(run)
    told(run, {"kind": "start", "step": 0, "total": 9}, *(step(n) for n in range(1, 9)))
    before = reader.read()
    assert len(before.training["mel"].steps) == 8
    set_aside(run)
    assert reader.read().revision == ""
    told(run, {"kind": "start", "step": 0, "total": 9, "seconds": 1e9}, *(step(n) for n in range(1, 30)))
    assert len(reader.read().training["mel"].steps) == 29


def test_a_long_curve_keeps_its_shape_in_few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "MOST_POINTS", 50)
    points = Points()
    for number in range(1, 10_001):
        points.add(number, float(number))
    curve = points.curve()
    assert 50 <= len(curve.steps) <= 101 and curve.steps[-1] == 10_000
    assert list(curve.steps) == sorted(set(curve.steps))
    spread = max(abs(step - value) for step, value in zip(curve.steps, curve.values))
    assert spread < 2 * 10_000 / 50  # each value is the mean of a stretch that ends at its step
    points.cut(5000)
    points.add(5001, 0.0)
    assert points.curve().steps[-1] == 5001 and points.curve().steps[-2] <= 5000
