"""The command line of the benchmark: what it prints and writes, how it ends, and how it measures the page's start."""

import json
from pathlib import Path

import psutil
import pytest
import torch

from modules.config import to_dict
from modules.errors import Stopped
from modules.evaluation.bench import run
from modules.evaluation.bench.effort import QUICK
from modules.evaluation.bench.measured import Measured
from modules.evaluation.bench.workshop import Workshop
from modules.evaluation.results import Table
from tests.tiny import build_tiny_model_folder, tiny_preset
from tools import bench

PAGE = """
import http.server, sys
assert "--no-browser" in sys.argv and "--job" not in sys.argv
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response({status})
        self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Page).serve_forever()
"""


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Flags for tiny models."""
    build_tiny_model_folder(tmp_path / "models" / "nano")
    preset = tmp_path / "tiny.json"
    preset.write_text(json.dumps(to_dict(tiny_preset())), encoding="utf-8")
    return ["--models", str(tmp_path / "models"), "--preset", str(preset), "--device", "cpu", "--quick"]


@pytest.fixture
def workshop() -> Workshop:
    return Workshop(torch.device("cpu"), tiny_preset(), QUICK)


def test_tables_and_json(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "out" / "bench.json"
    assert bench.main([*tiny, "--parts", "growth,nano", "--seed", "5", "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    for words in ("a quick look", "Nano from end to end", "first sound, ms", "Growth of a step"):
        assert words in printed
    found = json.loads(target.read_text(encoding="utf-8"))
    assert set(run.HEADLINES) <= set(found) and list(found["parts"]) == ["nano", "growth"]
    assert found["nano_rtf"] > 0 and found["step_cost_growth"] is not None and found["page_start_seconds"] is None
    assert found["seed"] == 5 and found["quick"] and found["base_preset"] == "tiny" and found["errors"] == {}
    assert {"load_average_at_start", "load_average_at_end", "torch_threads", "date_utc"} <= set(found["machine"])


def test_a_failed_part_is_told_and_the_others_stay(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Workshop) -> Measured:
        raise RuntimeError("no such kernel")

    good = Measured({"x_ms": 1.0}, (Table("Good", ("x",), ((1,),)),), {"base_rtf": 2.0})
    monkeypatch.setattr(run, "MEASURES", {"nano": broken, "base": lambda _: good})
    target = tmp_path / "bench.json"
    assert bench.main([*tiny, "--parts", "nano,base", "--json", str(target)]) == 1
    assert "FAILED nano: RuntimeError: no such kernel" in capsys.readouterr().out
    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["errors"]["nano"] and found["base_rtf"] == 2.0 and found["nano_rtf"] is None


def test_a_stop_loses_nothing_that_was_measured(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: Workshop) -> Measured:
        raise Stopped

    good = Measured({"x_ms": 1.0}, (Table("Good", ("x",), ((1,),)),), {"base_rtf": 2.0})
    monkeypatch.setattr(run, "MEASURES", {"base": lambda _: good, "growth": stop})
    target = tmp_path / "found.json"
    assert bench.main([*tiny, "--parts", "base,growth", "--json", str(target)]) == 3
    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["base_rtf"] == 2.0 and found["step_cost_growth"] is None


def test_every_part_can_be_named() -> None:
    assert set(bench.PARTS) == {"start", *run.MEASURES}
    assert list(bench.PARTS)[1:] == list(run.MEASURES)
    assert bench.part_list("") == tuple(bench.PARTS) and bench.part_list(" gpt, nano,") == ("gpt", "nano")


def test_mistakes_are_told(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["--parts", "nano,speed"])
    assert ended.value.code == 2 and "there is no part speed" in capsys.readouterr().err
    assert bench.main(["--preset", "giant"]) == 2
    (tmp_path / "file").touch()
    assert bench.main([*tiny, "--parts", "growth", "--json", str(tmp_path / "file" / "x.json")]) == 2


def test_columns_stand_below_each_other() -> None:
    lines = bench.aligned(Table("Title", ("a", "long name"), (("value", 1), ("x", 22)), "A note."))
    assert lines[0] == "### Title" and lines[-1] == "A note."
    assert len({len(line) for line in lines[2:-2]}) == 1 and lines[2] == "| a     | long name |"


def test_the_start_of_a_page_is_measured_and_the_page_is_gone(workshop: Workshop, tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    program = tmp_path / "page.py"
    program.write_text(PAGE.format(status=200), encoding="utf-8")
    found = bench.measure_start(workshop, program)
    assert 0 < found.headlines["page_start_seconds"] < 60 and found.values["page_start_cpu_seconds"] > 0
    assert found.values["starts"] == 1
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before


def test_a_page_that_ends_is_a_failure(workshop: Workshop, tmp_path: Path) -> None:
    program = tmp_path / "page.py"
    program.write_text("raise SystemExit('no room')", encoding="utf-8")
    with pytest.raises(RuntimeError, match="no room"):
        bench.measure_start(workshop, program)


def test_a_page_that_does_not_answer_is_a_failure(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PATIENCE_SECONDS", 1.0)
    program = tmp_path / "page.py"
    program.write_text(PAGE.format(status=503), encoding="utf-8")
    with pytest.raises(RuntimeError, match="has not answered"):
        bench.measure_start(workshop, program)
