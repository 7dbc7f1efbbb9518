"""The command: a folder in, lists out, failures in one line."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modules.audio.io import write
from modules.corpus.recognition import Recognizer
from modules.corpus.whisper_device import Attempt
from modules.data.manifest import Utterance, read_manifest, write_manifest
from modules.training.events import read_events
from tools import transcribe


class Parrot:
    """Stands for a WhisperModel that always hears the same."""

    def transcribe(self, wav: np.ndarray, language: str | None, **_: Any) -> tuple[list[Any], Any]:
        segment = SimpleNamespace(text=" 你好，世界。", tokens=[1], avg_logprob=-0.2, no_speech_prob=0.0)
        return [segment], SimpleNamespace(language="zh")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder of the right names; what is loaded from it is the parrot."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"w" * 5000)
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        (folder / name).write_text("{}")
    attempts = [Attempt("cpu", "int8")]
    monkeypatch.setattr(
        transcribe, "Recognizer", lambda *given: Recognizer(*given, attempts=attempts, load=lambda *_: Parrot())
    )
    return folder


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "Ada Lovelace"
    for i in range(3):
        tone = 0.3 * np.sin(np.arange(8000) * (0.05 + 0.01 * i)).astype(np.float32)
        write(folder / "sub" / f"{i}.wav", tone, 16000)
    (folder / "broken.wav").write_text("no")
    return folder


def run(clips: Path, output: Path, model: Path, *more: str) -> int:
    flags = ["--input", str(clips), "--output", str(output), "--model", str(model), "--no-find-speech", *more]
    return transcribe.main(flags)


def test_a_folder_becomes_a_dataset(
    clips: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, job = tmp_path / "out", tmp_path / "job"
    assert run(clips, output, model, "--job", str(job)) == 0
    rows = read_manifest(output / "manifest.jsonl")
    assert [row.text for row in rows] == ["你好，世界。"] * 3 and {row.speaker for row in rows} == {"Ada Lovelace"}
    lines = (output / "Ada Lovelace.list").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"{clips / 'sub' / '0.wav'}|Ada Lovelace|ZH|你好，世界。"
    assert json.loads((output / "rejected.jsonl").read_text())["file"] == str(clips / "broken.wav")
    result = json.loads((job / "result.json").read_text(encoding="utf-8"))
    assert result["clips"] == 3 and result["languages"] == {"ZH": 3} and result["rejected"] == {"unreadable": 1}
    kinds = [event["kind"] for event in read_events(job)]
    assert kinds[-1] == "end" and "rejected" in kinds and "step" in kinds
    assert "3 clips" in capsys.readouterr().out


def test_what_the_slicer_told_of_its_clips_is_kept(clips: Path, model: Path, tmp_path: Path) -> None:
    told = [Utterance(str(clips / "sub" / "1.wav"), "Byron", "", "", source="long.mp3")]
    write_manifest(clips / "clips.jsonl", told)
    assert run(clips, tmp_path / "a", model) == 0
    rows = read_manifest(tmp_path / "a" / "manifest.jsonl")
    assert [(row.speaker, row.source) for row in rows] == [("Byron", "long.mp3")], "others are of an earlier cut"
    assert run(clips / "clips.jsonl", tmp_path / "b", model, "--speaker", "me", "--name", "mine") == 0
    assert (tmp_path / "b" / "mine.list").read_text(encoding="utf-8").split("|")[1] == "me"


def test_mistakes_are_told_in_one_line(
    clips: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for source, more, word in (
        (tmp_path / "nowhere", (), "nowhere"),
        (tmp_path / "empty", (), "no recordings"),
        (clips, ("--min-confidence", "2"), "min_confidence"),
        (clips, ("--model", "huge"), "huge"),
    ):
        assert run(source, tmp_path / "out", model, *more) == 2
        told = capsys.readouterr().err
        assert word in told and told.startswith("error: ") and told.count("\n") == 1


def test_a_list_is_not_replaced_by_what_is_read_from_it(
    clips: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "anna.list").write_text(f"{clips / 'sub' / '0.wav'}|anna|EN|my own careful text\n")
    before = (data / "anna.list").read_bytes()
    assert run(data / "anna.list", data, model) == 2
    assert "--name" in capsys.readouterr().err
    assert {path.name for path in data.iterdir()} == {"anna.list"} and (data / "anna.list").read_bytes() == before
    assert run(data / "anna.list", data, model, "--name", "heard") == 0
    assert (data / "anna.list").read_bytes() == before and (data / "heard.list").is_file()


def test_an_edited_list_is_kept_and_told(
    clips: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, job = tmp_path / "out", tmp_path / "job"
    assert run(clips, output, model) == 0
    target = output / "Ada Lovelace.list"
    target.write_text("by hand")
    capsys.readouterr()
    assert run(clips, output, model, "--job", str(job)) == 0
    assert target.with_name(target.name + ".bak").read_text() == "by hand" != target.read_text()
    result = json.loads((job / "result.json").read_text())
    assert result["kept"] == [str(target) + ".bak"] and result["kept"][0] in capsys.readouterr().out


@pytest.mark.parametrize("name", ["journal.jsonl", ".slices.jsonl"])
def test_the_folder_of_another_step_is_refused(
    name: str, clips: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    content = '{"step": "denoise", "key": "a.wav", "result": {}}\n'
    (output / name).write_text(content)
    for more in ((), ("--fresh",)):
        assert run(clips, output, model, *more) == 2
    assert "another output folder" in capsys.readouterr().err
    assert {path.name for path in output.iterdir()} == {name} and (output / name).read_text() == content


def test_a_stop_file_ends_the_run_cleanly(clips: Path, model: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    (job / "stop").touch()
    assert run(clips, tmp_path / "out", model, "--job", str(job)) == 3
    assert read_events(job)[-1]["stopped_by"] == "stop" and not (tmp_path / "out" / "manifest.jsonl").exists()
