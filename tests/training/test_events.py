"""Events are whole JSON lines, whatever happens to the writer."""

import json

from modules.training.events import EventLog, read_events


def test_events_are_read_while_they_are_written(tmp_path):
    with EventLog(tmp_path / "run") as log:
        log.write("step", step=1, total=2, losses={"fit": 0.5}, error=None)
        assert [e["step"] for e in read_events(tmp_path / "run")] == [1]
        log.write("step", step=2, samples=[tmp_path / "ü.wav"])
    events = read_events(log.path)
    assert [e["kind"] for e in events] == ["step", "step"]
    assert "error" not in events[0] and events[1]["samples"] == [str(tmp_path / "ü.wav")]


def test_nan_becomes_null(tmp_path):
    with EventLog(tmp_path) as log:
        log.write("step", losses={"fit": float("nan"), "more": [float("inf"), 1.0]})

    def refuse(name):
        raise AssertionError(name)

    event = json.loads(log.path.read_text(), parse_constant=refuse)
    assert event["losses"] == {"fit": None, "more": [None, 1.0]}


def test_a_line_cut_by_a_kill_costs_that_line_only(tmp_path):
    with EventLog(tmp_path) as log:
        log.write("step", step=1)
    with open(log.path, "a", encoding="utf-8") as file:
        file.write('{"kind": "step", "st')
    assert len(read_events(tmp_path)) == 1
    with EventLog(tmp_path) as log:
        log.write("resume", step=1)
    assert [e["kind"] for e in read_events(tmp_path)] == ["step", "resume"]


def test_no_file_is_no_events(tmp_path):
    assert read_events(tmp_path) == [] and read_events(tmp_path / "none.jsonl") == []
