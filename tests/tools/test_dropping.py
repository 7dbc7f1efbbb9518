"""What a report of the corpus's cleaning lists is left out by the extraction, and counted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.checkpoint import Lineage
from modules.data.features import open_store
from modules.data.store import StoreWriter
from modules.evaluation.recognizer import PhoneRecognizer, RecognizerConfig, save_recognizer
from tests.tiny import synthetic_speech
from tools import corpus as corpus_tool
from tools import extract


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    with StoreWriter(tmp_path / "corpus") as writer:
        for number in range(5):
            wav = synthetic_speech(1.0, 16000, 110 + number, number)
            writer.add(
                f"key{number}", speaker="a", language="en", split="train", text=f"text {number}", seconds=1.0,
                source="recorded", sample_rate=16000, audio=(wav * 32767).astype(np.int16), phones="a b",
                phone_ends=np.zeros(0, np.int32),
            )  # fmt: skip
    return tmp_path / "corpus"


def test_listed_clips_are_left_out_and_counted(
    corpus: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--input", str(corpus), "--output", str(tmp_path / "out"), "--models", str(models), "--no-audio"]
    assert extract.main(flags) == 0 and len(open_store(tmp_path / "out")) == 5
    for name, keys in (("one", ["key1"]), ("two", ["key3", "other"])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"dropped": [{"key": key} for key in keys]}))
    flags += ["--limit", "2", "--drop", str(tmp_path / "one.json"), "--drop", str(tmp_path / "two.json")]
    assert extract.main(flags) == 0
    assert sorted(open_store(tmp_path / "out").column("text")) == ["text 0", "text 2"]
    assert "'to be dropped': 1" in capsys.readouterr().out
    assert extract.main([*flags[:-6], *flags[-4:]]) == 0
    assert sorted(open_store(tmp_path / "out").column("text")) == ["text 0", "text 2", "text 4"]
    assert "'to be dropped': 2" in capsys.readouterr().out
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert len(reasons) == 2 and all("dropped" in reason for reason in reasons)


def test_a_report_that_is_none_is_refused(corpus: Path, models: Path, tmp_path: Path) -> None:
    flags = ["--input", str(corpus), "--output", str(tmp_path / "out"), "--models", str(models)]
    assert extract.main([*flags, "--drop", str(tmp_path / "gone.json")]) == 2
    (tmp_path / "list.tsv").write_text("")
    with pytest.raises(SystemExit):
        extract.main(["--input", str(tmp_path / "list.tsv"), *flags[2:], "--drop", str(tmp_path / "gone.json")])


def test_the_command_that_lists_them(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    small = RecognizerConfig(bands=8, lags=4, stem=8, hidden=8, bottleneck=4, layers=2, recurrent=4)
    weights = save_recognizer(
        tmp_path / "ears.safetensors", PhoneRecognizer(small, ["a", "b"]), Lineage("nano", "recognizer", 0, 0)
    )
    report, job = tmp_path / "out/report.json", tmp_path / "job"
    flags = ["clean", "--corpus", str(corpus), "--recognizer", str(weights), "--output", str(report)]
    flags += ["--least-clips", "3", "--device", "cpu", "--job", str(job)]
    assert corpus_tool.main(flags) == 0
    found = json.loads(report.read_text())
    assert found["counts"] == {"clips": 5, "judged": 0, "dropped": 0, "not_judged": 5}
    assert found["languages"]["en"]["why"] and found["options"]["least_clips"] == 3
    assert "5 not judged" in capsys.readouterr().out
    assert json.loads((job / "result.json").read_text())["not_judged"] == 5
    assert corpus_tool.main([*flags[:4], str(tmp_path / "gone.safetensors"), *flags[5:]]) == 2
