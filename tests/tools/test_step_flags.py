"""Steps that a job may start: what they tell in its folder, and how they end."""

import json
from pathlib import Path

import numpy as np
import pytest

from modules.data.store import StoreWriter
from modules.progress import ProgressReader
from modules.training.events import read_events
from tools import corpus, extract, train_tokenizer, train_vits2


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with StoreWriter(tmp_path / "store") as writer:
        for number in range(6):
            writer.add(
                f"key{number}", speaker="a", language="en", split="train", text=f"The old river, {number}.",
                seconds=1.0, source="recorded", sample_rate=16000, audio=np.zeros(16000, np.int16),
            )  # fmt: skip
    return tmp_path / "store"


def test_a_text_tokenizer_is_told_by_name(store: Path, tmp_path: Path) -> None:
    job, out = tmp_path / "job", tmp_path / "tokenizer.json"
    flags = ["text", "--corpus", str(store), "--corpus", str(store), "--output", str(out), "--job", str(job)]
    assert train_tokenizer.main(flags) == 0
    result = json.loads((job / "result.json").read_text())
    assert (result["weights"], result["sentences"]) == ([str(out)], 12)
    seen = ProgressReader(job / "events.jsonl").read()
    assert (seen.done, seen.total, seen.stopped_by) == (3, 3, "done")
    (job / "stop").touch()
    assert train_tokenizer.main(flags) == 3
    assert read_events(job)[-1]["stopped_by"] == "stop" and not (job / "result.json").exists()


def test_texts_are_counted_into_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "texts.txt"
    lines.write_text("The old river waits here.\nA new garden sleeps.\n")
    flags = ["texts", "--language", "xx", "--text-file", f"xx={lines}", "--job", str(tmp_path / "job")]
    assert corpus.main(flags) == 0
    assert "xx: 2 phrases" in capsys.readouterr().out
    assert json.loads((tmp_path / "job/result.json").read_text()) == {"phrases": {"xx": 2}}


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (corpus.main, ["recorded", "--manifest", "no.tsv", "--output", "out"]),
        (extract.main, ["--input", "no", "--output", "out", "--models", "no"]),
        (train_vits2.main, ["--store", "no", "--output", "out"]),
        (train_tokenizer.main, ["speech", "--corpus", "no", "--output", "out"]),
    ],
)
def test_a_mistake_is_told_with_its_code(
    main, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*flags, "--job", "job"]) == 2
    error = ProgressReader(tmp_path / "job/events.jsonl").read().error
    assert error is not None and error["code"] and not (tmp_path / "job/result.json").exists()
    assert not (tmp_path / "out").exists()
