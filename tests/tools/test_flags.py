"""What the command lines of all steps have in common: flags of an options class, exit codes, closing words."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from modules.config import field
from modules.errors import ConfigError, Stopped, UserError
from modules.progress import ProgressReader, StepProgress
from tools.flags import add_options, options_from
from tools.running import error_line, run_step


@dataclass(frozen=True)
class Options:
    """One field of every kind."""

    kind: Literal["round", "square"] = field("round", "its shape")
    is_wet: bool = field(True, "whether it drips")
    most_percent: int = field(50, "at most so much, 0 to 100 %", 0, 100)
    weight: float = field(0.5, "how heavy", 0, 10)
    name: str = field("", "what it is called")


def parsed(*flags: str) -> Options:
    parser = argparse.ArgumentParser()
    add_options(parser.add_argument_group("options"), Options)
    return options_from(parser.parse_args(flags), Options)


def test_without_flags_the_options_are_those_of_the_class() -> None:
    assert parsed() == Options()


def test_every_kind_of_field_has_its_flag() -> None:
    flags = ["--kind", "square", "--no-is-wet", "--most-percent", "7", "--weight", "2", "--name", "a b"]
    assert parsed(*flags) == Options("square", False, 7, 2.0, "a b")
    with pytest.raises(ConfigError, match="most_percent"):
        parsed("--most-percent", "101")
    with pytest.raises(SystemExit):
        parsed("--kind", "flat")


def test_help_tells_the_defaults_where_they_are_asked_for() -> None:
    texts = []
    for shown in (True, False):
        parser = argparse.ArgumentParser()
        add_options(parser, Options, show_defaults=shown, metavar="N")
        texts.append(" ".join(parser.format_help().split()))
    assert "0 to 100 % (default 50)" in texts[0] and "--weight N" in texts[0] and "--is-wet, --no-is-wet" in texts[0]
    assert "0 to 100 %" in texts[1] and "(default" not in texts[1]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("path_missing", "There is\nno {path}.", path="x"), 2, "error: There is no x.\n"),
        (Stopped(), 3, "stopped; come again\n"),
        (KeyboardInterrupt(), 3, "stopped; come again\n"),
    ],
)
def test_how_a_step_ends_is_told_by_code_word_and_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    def work(progress: StepProgress) -> None:
        raise error

    assert run_step(work, tmp_path, stopped="stopped; come again", error_text=error_line) == code
    assert capsys.readouterr() == ("", said)
    seen = ProgressReader(tmp_path / "events.jsonl").read()
    assert (seen.stopped_by, seen.error is None) == (("stop", True) if code == 3 else ("", False))
    assert not (tmp_path / "result.json").exists()


def test_a_step_that_is_done_leaves_its_result(tmp_path: Path) -> None:
    assert run_step(lambda progress: progress.finish({"clips": 3}), tmp_path, stopped="") == 0
    assert json.loads((tmp_path / "result.json").read_text()) == {"clips": 3}
    with pytest.raises(ZeroDivisionError):
        run_step(lambda progress: 1 / 0, tmp_path, stopped="")
    assert not (tmp_path / "result.json").exists()
