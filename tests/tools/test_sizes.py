"""The command line that tells sizes: what it prints and writes, and how it ends."""

import json
from pathlib import Path

import pytest

from modules.config import to_dict
from tests.tiny import tiny_preset
from tools import sizes


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A preset of one's own, in a file."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(to_dict(tiny_preset())), encoding="utf-8")
    return str(path)


def test_tables_and_json(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target, job = tmp_path / "out" / "sizes.json", tmp_path / "job"
    shape = ["--gpt-rows", "1", "--vits2-items", "2", "--window-seconds", "0.4", "--style-seconds", "0.4"]
    arguments = ["--preset", tiny, "--steps", "1", "--device", "cpu", *shape, "--json", str(target), "--job", str(job)]
    assert sizes.main(arguments) == 0
    printed = capsys.readouterr().out
    for words in ("backbone", "posterior", "style", "float16 MiB", "vits2 with discriminators", "2 items of 0.4 s"):
        assert words in printed
    found = json.loads(target.read_text(encoding="utf-8"))
    assert json.loads((job / "result.json").read_text(encoding="utf-8")) == found
    assert found["preset"] == "tiny" and found["shape"]["gpt_rows"] == 1 and found["matmul_tflops"] is None
    assert [row["stage"] for row in found["steps"]] == ["gpt", "vits2", "vits2 with discriminators"]
    assert found["parts"][-1]["model"] == "all"


def test_counting_alone_trains_nothing(tiny: str, capsys: pytest.CaptureFixture) -> None:
    assert sizes.main(["--preset", tiny]) == 0
    assert "training steps" not in capsys.readouterr().out


def test_mistakes_are_told_in_one_line(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").touch()
    wrong = (
        ["--preset", "giant"],
        ["--preset", str(tmp_path / "none.json")],
        ["--preset", tiny, "--gpt-rows", "0"],
        ["--preset", tiny, "--steps", "1", "--device", "cuda:99"],
        ["--preset", tiny, "--json", str(tmp_path / "file" / "x.json")],
    )
    for arguments in wrong:
        assert sizes.main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1


def test_a_stop_is_heard(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    assert sizes.main(["--preset", tiny, "--steps", "1", "--device", "cpu", "--job", str(tmp_path)]) == 3
    assert not (tmp_path / "result.json").exists()
