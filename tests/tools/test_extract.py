"""The command that extracts: a list in, a store out; what is left out is told; shares make up the whole."""

import json
from pathlib import Path

import pytest

from modules.data.store import FeatureStore
from tests.tiny import build_tiny_model_folder, synthetic_speech, write_wav
from tools import extract

CLIPS = 10


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    build_tiny_model_folder(folder)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    lines = []
    for number in range(CLIPS):
        write_wav(tmp_path / "my clips" / f"{number}.wav", synthetic_speech(1.0, 32000, 110 + number, number), 32000)
        lines.append(f"my clips/{number}.wav|ada|en|text number {number}")
    lines += ["gone.wav|ada|en|text", "my clips/0.wav|ada|en|", "no line"]
    (tmp_path / "me.list").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "me.list"


def run(dataset: Path, output: Path, models: Path, *more: str) -> int:
    return extract.main(["--input", f'"{dataset}"', "--output", str(output), "--models", str(models), *more])


def test_a_list_becomes_a_store_and_what_is_left_out_is_told(
    dataset: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, job = tmp_path / "features", tmp_path / "job"
    assert run(dataset, output, models, "--job", str(job)) == 0
    store = FeatureStore(output)
    assert len(store) == CLIPS and sorted(store.column("split")) == ["dev"] * 2 + ["train"] * (CLIPS - 2)
    assert set(store.column("speaker")) == {"ada"} and set(store.column("source")) == {"recorded"}
    reasons = [json.loads(line)["reason"] for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert (
        len(reasons) == 3 and any("gone.wav" in reason for reason in reasons) and any("no text" in r for r in reasons)
    )
    result = json.loads((job / "result.json").read_text())
    assert (result["clips"], result["rejected"]) == (CLIPS, 3)

    held = {t for t, split in zip(store.column("text"), store.column("split"), strict=True) if split == "dev"}
    assert run(dataset, output, models) == 0
    assert f"0 clips, 0.00 h, {CLIPS} already there" in capsys.readouterr().out
    dataset.write_text("\n".join(dataset.read_text(encoding="utf-8").splitlines()[1:9]), encoding="utf-8")
    assert run(dataset, output, models) == 0
    fewer = FeatureStore(output)
    assert len(fewer) == 8
    now = {t for t, split in zip(fewer.column("text"), fewer.column("split"), strict=True) if split == "dev"}
    assert now <= held, "who was trained on is never held out later"


def test_the_shares_of_several_processes_are_the_whole(dataset: Path, models: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "whole", models)
    for rank in ("0", "1", "2"):
        assert run(dataset, tmp_path / "shared", models, "--rank", rank, "--world", "3") == 0
    whole, shared = FeatureStore(tmp_path / "whole"), FeatureStore(tmp_path / "shared")
    assert sorted(whole.keys()) == sorted(shared.keys()) and whole.fingerprint() == shared.fingerprint()
    assert run(dataset, tmp_path / "shared", models) == 0
    assert FeatureStore(tmp_path / "shared").fingerprint() == whole.fingerprint()
    assert len(list((tmp_path / "shared").glob("current-*"))) == 1


def test_a_list_of_nothing_is_refused(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "me.list").write_text("gone.wav|ada|en|text\n")
    assert run(tmp_path / "me.list", tmp_path / "out", models) == 2
    said = capsys.readouterr().err
    assert "me.list" in said and "rejected.jsonl" in said and "Traceback" not in said
    assert run(tmp_path / "none.list", tmp_path / "out", models) == 2
