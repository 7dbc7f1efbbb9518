"""The report's command line: what it prints and writes, and how it ends."""

import json
from pathlib import Path

import pytest

from tests.tiny import synthetic_speech, write_wav
from tools import report


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write_wav(tmp_path / "in" / "a.wav", synthetic_speech(1.2))
    lines = ["a.wav|安|ZH|你好", "gone.wav|Bob|en|Hi", "broken line"]
    (tmp_path / "in" / "m.list").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "in" / "m.list"


def test_table_and_json(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target, job = tmp_path / "out" / "report.json", tmp_path / "job"
    arguments = ["--input", f'"{manifest}" ', "--json", str(target), "--job", str(job), "--sample-clips", "5"]
    assert report.main(arguments) == 0
    found = json.loads(target.read_text(encoding="utf-8"))
    assert (found["lines"], found["clips"], found["missing"]["count"], found["bad_lines"]["count"]) == (3, 1, 1, 1)
    assert json.loads((job / "result.json").read_text(encoding="utf-8")) == found
    printed = capsys.readouterr().out
    for words in ("1 clips", "安", "zh", "audio files missing: 1", "line 3:", "1.0 to  2.0 s       1 ###"):
        assert words in printed


def test_a_mistake_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for wrong in ([str(tmp_path / "none.list")], [str(tmp_path)], [str(tmp_path), "--low-confidence", "2"]):
        assert report.main(["--input", *wrong]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1


def test_a_folder_of_an_earlier_step_and_a_stop(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (manifest.parent / "clips.jsonl").write_text('{"audio": "a.wav"}\n')
    assert report.main(["--input", str(manifest.parent), "--no-duplicates"]) == 0
    assert "clips.jsonl: 1 clips" in capsys.readouterr().out
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "stop").touch()
    assert report.main(["--input", str(manifest), "--job", str(tmp_path / "job")]) == 3
    assert not (tmp_path / "job" / "result.json").exists()
