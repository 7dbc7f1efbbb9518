"""The command line: what it prints, what it leaves behind, how it fails."""

import json
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.inference.options import SpeakOptions
from modules.inference.synthesizer import Synthesizer
from tests.tiny import build_tiny_model_folder, synthetic_speech, write_wav
from tools import synthesize


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder and two references."""
    folder = tmp_path_factory.mktemp("synthesize")
    build_tiny_model_folder(folder / "tiny")
    write_wav(folder / "a.wav", synthetic_speech(1.2))
    write_wav(folder / "b.wav", synthetic_speech(1.2, f0_hz=220, seed=2))
    return folder


def arguments(folder: Path, output: Path, *more: str, text: str = "Hello you.") -> list[str]:
    return [
        *("--reference", str(folder / "a.wav"), "--text", text, "--output", str(output)),
        *("--model", str(folder / "tiny"), "--device", "cpu", *more),
    ]


def frames_of(path: Path) -> bytes:
    with wave.open(str(path), "rb") as file:
        assert file.getframerate() == 32000 and file.getsampwidth() == 2 and file.getnchannels() == 1
        return file.readframes(file.getnframes())


def test_json_is_one_line_and_the_sidecar_can_make_it_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "new folder" / "out.wav"
    more = ["--reference", str(folder / "b.wav"), "--weight", "0.7", "--weight", "0.3"]
    more += ["--reference-text", "the lazy dog", "--reference-text", "", "--json"]
    assert synthesize.main(arguments(folder, output, *more)) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    report = json.loads(printed)
    assert set(report) == {"seconds", "rtf", "first_sound_seconds", "sample_rate", "seed", "sentences"}
    assert [set(s) for s in report["sentences"]] == [{"text", "seconds", "stopped_by", "retries", "seed"}]
    assert report["seconds"] == pytest.approx(len(frames_of(output)) / 2 / 32000, abs=0.01)
    kept = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert kept["text"] == "Hello you." and kept["complete"] is True
    assert [r["weight"] for r in kept["references"]] == [0.7, 0.3]
    assert set(kept["model"]["hashes"]) == {"text", "s3", "gpt", "vits2"}
    again = tmp_path / "again.wav"
    assert synthesize.main(arguments(folder, again, *more, "--seed", str(kept["options"]["seed"]))) == 0
    assert frames_of(again) == frames_of(output)


def test_what_is_not_asked_for_is_as_the_library_has_it() -> None:
    given = synthesize.build_parser().parse_args(["--reference", "a.wav", "--text", "Hello."])
    assert synthesize._options(given) == SpeakOptions()


def test_words_for_people(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert synthesize.main(arguments(folder, tmp_path / "out.wav")) == 0
    printed = capsys.readouterr()
    assert "1/1" in printed.out and "out.wav" in printed.out
    assert "a.wav: Only" in printed.err  # a note about the short reference


def test_text_comes_from_a_file_with_or_without_a_byte_order_mark(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Hello you.\nAnd you.", encoding="utf-8-sig")
    call = arguments(folder, tmp_path / "out.wav")
    at = call.index("--text")
    assert synthesize.main([*call[:at], "--text-file", str(file), *call[at + 2 :]]) == 0
    kept = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [s["text"] for s in kept["sentences"]] == ["Hello you.", "And you."]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--weight", "1", "--weight", "2"], "--weight was given 2 times"),
        (["--reference-text", "a", "--reference-text", "b"], "--reference-text"),
        (["--weight", "0"], "weight"),
        (["--weight", "-1"], "weight"),
        (["--weight", "nan"], "weight"),
        (["--reference", "missing.wav"], "missing.wav"),
        (["--speed", "9"], "speed"),
        (["--seed", "-5"], "seed"),
        (["--model", "no/such/folder"], "folder"),
        (["--model", "base"], "base"),
        (["--device", "tpu"], "tpu"),
        (["--gpt", "missing.safetensors"], "missing.safetensors"),
        (["--output", "out.mp3"], ".wav"),
        (["--text", ""], "no text"),
        (["--text", "?!"], "letter"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str], says: str
) -> None:
    assert synthesize.main(arguments(folder, tmp_path / "out.wav", *more)) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert says in printed.err and "Traceback" not in printed.err
    assert not (tmp_path / "out.wav").exists()


def test_a_text_file_that_is_no_text_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    call = arguments(folder, tmp_path / "out.wav")
    at = call.index("--text")
    for file in (folder / "a.wav", tmp_path / "missing.txt", tmp_path):
        assert synthesize.main([*call[:at], "--text-file", str(file), *call[at + 2 :]]) == 2
        assert str(file) in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_finished(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    speak = Synthesizer.speak

    def interrupted(*args: object, **kwargs: object) -> Iterator:
        yield next(speak(*args, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(Synthesizer, "speak", interrupted)
    output = tmp_path / "out.wav"
    assert synthesize.main(arguments(folder, output, text="Hello you.\nAnd you.")) == 130
    assert "stopped" in capsys.readouterr().err
    kept = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert kept["complete"] is False and len(kept["sentences"]) == 1 and output.exists()
