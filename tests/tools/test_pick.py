"""The command that picks: its table, its files, its progress, and how it fails."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from modules.data.store import StoreWriter
from modules.evaluation.picking import lines as picking_lines
from modules.experiment import Experiment
from modules.training.events import read_events
from tests.tiny import build_tiny_model_folder, synthetic_speech
from tools import pick as tool


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An experiment "me" with one pair of weights and three lines, none of them held out."""
    places = {"logs": tmp_path / "logs", "gpt_weights": tmp_path / "g", "vits2_weights": tmp_path / "s"}
    monkeypatch.setattr(tool, "Experiment", functools.partial(Experiment, **places))
    monkeypatch.setattr(picking_lines, "FEWEST_OUTPUTS", 1)
    experiment = Experiment("me", **places)
    models = build_tiny_model_folder(tmp_path / "tiny")
    for source, target in (("vits2", experiment.vits2_file(8, 2)), ("gpt", experiment.gpt_file(8, 2))):
        target.parent.mkdir()
        shutil.copyfile(models / f"{source}.safetensors", target)
    with StoreWriter(experiment.features) as writer:
        for number in range(3):
            pcm = (synthetic_speech(0.7, seed=number) * 32767).astype(np.int16)
            same = {"speaker": "a", "language": "en", "split": "train", "text": "the lazy dog", "seconds": 0.7}
            writer.add(str(number), audio=pcm, **same)
    return experiment


def run(tmp_path: Path, *more: str, name: str = "me") -> int:
    place = ["--logs", str(tmp_path / "logs"), "--models", str(tmp_path / "tiny")]
    return tool.main(["--experiment", name, *place, "--device", "cpu", *more])


def test_the_best_is_marked_and_told(place: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place.gpt_weights / "me-e9.safetensors").write_bytes(b"damaged")
    assert run(tmp_path, "--lines", "1", "--job", str(tmp_path / "job"), "--threads", "1") == 0
    said = capsys.readouterr().out
    table = [line for line in said.splitlines() if " vits2 " in line or " gpt " in line]
    assert [line.startswith("*") for line in table] == [True, False, True, False, False]
    assert "me_e2_s8.safetensors" in said and "best: built-in (decoder), built-in (language model)" in said
    assert "lines of the training were heard" in said and "left out me-e9.safetensors" in said
    found = json.loads((place.folder / "pick.json").read_text(encoding="utf-8"))
    assert found["held_out"] is False and found["lines"] == 1 and found["best"] == {"vits2": "", "gpt": ""}
    assert all(Path(sample["file"]).is_file() for row in found["rows"] for sample in row["samples"])
    result = json.loads((tmp_path / "job" / "result.json").read_text(encoding="utf-8"))
    assert Path(result["pick"]) == place.folder / "pick.json" and result["best"] == found["best"]
    events = read_events(tmp_path / "job")
    steps = [event for event in events if event["kind"] == "step"]
    assert steps[-1]["step"] == steps[-1]["total"] == 5
    made = [file for event in steps for file in event.get("samples") or ()]
    assert len(made) == 4 and all(Path(file).parent == place.folder / "pick" / "1" for file in made)
    assert [event["file"] for event in events if event["kind"] == "rejected"] == ["me-e9.safetensors"]


def test_mistakes_are_told_with_their_remedy(
    place: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, name="you") == 2
    assert "train it first" in capsys.readouterr().err
    assert run(tmp_path, name="../me") == 2
    assert run(tmp_path, "--lines", "0") == 2
    assert "--lines is 0" in capsys.readouterr().err
    shutil.rmtree(place.features)
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "format the dataset first" in error and error.count("\n") == 1
    assert not (place.folder / "pick.json").exists()


def test_a_wish_to_stop_ends_it_cleanly(place: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "stop").touch()
    assert run(tmp_path, "--job", str(tmp_path / "job")) == 3
    assert "the earlier result stays" in capsys.readouterr().err
    assert not any((place.folder / "pick").iterdir()) and not (place.folder / "pick.json").exists()
