"""The command that extracts: a list in, a store out; what is left out is told; shares make up the whole."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modules.config import AudioConfig
from modules.data import recordings
from modules.data.features import LineWriter, open_store
from modules.errors import UserError
from modules.gpt.dataset import MixOptions, PromptDataset
from modules.vits2.dataset import DecoderDataset
from tests.tiny import synthetic_speech, write_wav
from tools import extract

CLIPS = 10


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


def told(job: Path) -> dict:
    return json.loads((job / "result.json").read_text())


def test_a_list_becomes_a_store_and_what_is_left_out_is_told(
    dataset: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, job = tmp_path / "features", tmp_path / "job"
    assert run(dataset, output, models, "--job", str(job)) == 0
    store = open_store(output)
    assert len(store) == CLIPS and sorted(store.column("split")) == ["dev"] * 2 + ["train"] * (CLIPS - 2)
    assert set(store.column("speaker")) == {"ada"} and set(store.column("source")) == {"recorded"}
    reasons = [json.loads(line)["reason"] for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert (
        len(reasons) == 3 and any("gone.wav" in reason for reason in reasons) and any("no text" in r for r in reasons)
    )
    result = told(job)
    assert (result["clips"], result["rejected"], result["lines"], result["complete"]) == (CLIPS, 3, CLIPS, CLIPS)
    assert result["steps"] == {step: {"done": CLIPS, "already": 0} for step in ("text", "audio", "speech")}

    held = {t for t, split in zip(store.column("text"), store.column("split"), strict=True) if split == "dev"}
    assert run(dataset, output, models, "--job", str(job)) == 0
    said = capsys.readouterr().out
    assert f"0 clips, 0.00 h, {CLIPS} already there" in said and f"text: 0 done, {CLIPS} already" in said
    assert told(job)["steps"]["speech"] == {"done": 0, "already": CLIPS}
    dataset.write_text("\n".join(dataset.read_text(encoding="utf-8").splitlines()[1:9]), encoding="utf-8")
    assert run(dataset, output, models) == 0
    fewer = open_store(output)
    assert len(fewer) == 8
    now = {t for t, split in zip(fewer.column("text"), fewer.column("split"), strict=True) if split == "dev"}
    assert now <= held, "who was trained on is never held out later"


def test_single_steps_make_up_the_whole(
    dataset: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, job = tmp_path / "features", tmp_path / "job"
    assert run(dataset, output, models, "--only", "text", "--job", str(job)) == 0
    assert f"text done for {CLIPS} lines; audio and speech are missing" in capsys.readouterr().out
    assert told(job)["steps"] == {"text": {"done": CLIPS, "already": 0}}
    assert told(job)["missing"] == {"audio": CLIPS, "speech": CLIPS} and told(job)["complete"] == 0
    with pytest.raises(UserError, match="missing: audio, speech"):
        PromptDataset([output], "train", MixOptions())
    assert run(dataset, output, models, "--only", "speech") == 0
    assert f"speech done for {CLIPS} lines; audio is missing" in capsys.readouterr().out
    assert run(dataset, output, models, "--job", str(job)) == 0
    assert "missing" not in capsys.readouterr().out and told(job)["complete"] == CLIPS
    assert {step: count["done"] for step, count in told(job)["steps"].items()} == {
        "text": 0,
        "audio": CLIPS,
        "speech": 0,
    }
    with pytest.raises(SystemExit):
        run(dataset, output, models, "--only", "audio", "--no-audio")


def test_a_second_run_decodes_nothing_and_a_new_text_tokenizer_neither(
    dataset: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, job = tmp_path / "features", tmp_path / "job"
    assert run(dataset, output, models) == 0
    monkeypatch.setattr(recordings, "decode", lambda path: pytest.fail(f"decoded {path}"))
    other = tmp_path / "tokenizer.json"
    other.write_text((models / "tokenizer.json").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert run(dataset, output, models, "--text-tokenizer", str(other), "--job", str(job)) == 0
    assert {step: count["done"] for step, count in told(job)["steps"].items()} == {
        "text": CLIPS,
        "audio": 0,
        "speech": 0,
    }


def test_the_gpt_needs_no_audio_and_the_decoder_says_so(dataset: Path, models: Path, tmp_path: Path) -> None:
    assert run(dataset, tmp_path / "features", models, "--no-audio") == 0
    assert len(PromptDataset([tmp_path / "features"], "train", MixOptions())) == CLIPS - 2
    with pytest.raises(UserError, match="audio") as caught:
        DecoderDataset([open_store(tmp_path / "features")], AudioConfig())
    assert caught.value.code == "no_audio_rows"


def test_an_experiment_names_the_folder(
    dataset: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = extract.Experiment
    monkeypatch.setattr(extract, "Experiment", lambda name: experiment(name, logs=tmp_path / "logs"))
    flags = ["--input", str(dataset), "--models", str(models), "--no-audio"]
    assert extract.main([*flags, "--experiment", "my voice"]) == 0
    assert len(open_store(tmp_path / "logs" / "my voice" / "features")) == CLIPS
    assert extract.main([*flags, "--experiment", "../me"]) == 2
    for place in ((), ("--experiment", "a", "--output", "b")):
        with pytest.raises(SystemExit):
            extract.main([*flags, *place])


def test_the_shares_of_several_processes_are_the_whole(dataset: Path, models: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "whole", models)
    for rank in ("0", "1", "2"):
        assert run(dataset, tmp_path / "shared", models, "--rank", rank, "--world", "3") == 0
    whole, shared = open_store(tmp_path / "whole"), open_store(tmp_path / "shared")
    assert sorted(whole.keys()) == sorted(shared.keys()) and whole.fingerprint() == shared.fingerprint()
    assert run(dataset, tmp_path / "shared", models) == 0
    assert open_store(tmp_path / "shared").fingerprint() == whole.fingerprint()
    assert len(list((tmp_path / "shared").glob("lines-*"))) == len(list((tmp_path / "shared").glob("record*"))) == 1


def test_a_list_of_nothing_is_refused(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "me.list").write_text("gone.wav|ada|en|text\n")
    assert run(tmp_path / "me.list", tmp_path / "out", models) == 2
    said = capsys.readouterr().err
    assert "me.list" in said and "rejected.jsonl" in said and "Traceback" not in said
    assert run(tmp_path / "none.list", tmp_path / "out", models) == 2


def test_bad_clips_are_left_out_and_one_good_one_is_enough(dataset: Path, models: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nan.wav", np.full(32000, np.nan, np.float32), 32000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "empty.wav").touch()
    names = ["my clips/0.wav", "nan.wav", "text.wav", "empty.wav", "gone.wav"]
    (tmp_path / "one.list").write_text("".join(f"{name}|ada|en|text\n" for name in names))
    assert run(tmp_path / "one.list", tmp_path / "out", models, "--job", str(tmp_path / "job")) == 0
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    told_of = " ".join(row["file"] + row["reason"] for row in rejected)
    assert len(rejected) == 4 and all(Path(name).name in told_of for name in names[1:])
    assert told(tmp_path / "job")["rejected"] == 4 and len(open_store(tmp_path / "out")) == 1


def test_a_second_extraction_into_the_same_folder_is_refused(
    dataset: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LineWriter(tmp_path / "out", {"text": "x", "audio": "", "speech": "x"}):
        assert run(dataset, tmp_path / "out", models) == 2
    assert "Another extraction" in capsys.readouterr().err
    assert run(dataset, tmp_path / "out", models, "--only", "text") == 0


def test_a_full_disk_is_told_and_the_next_run_goes_on(
    dataset: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run(dataset, tmp_path / "out", models) == 2
    said = capsys.readouterr().err
    assert "disk is full" in said and str(tmp_path / "out") in said and "Traceback" not in said
    assert run(dataset, tmp_path / "out", models) == 0 and len(open_store(tmp_path / "out")) == CLIPS
