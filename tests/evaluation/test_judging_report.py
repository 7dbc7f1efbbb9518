"""The JSON has every key, the page is one folder without anything from elsewhere, and the command writes both."""

import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from modules.evaluation.report import document as documents
from modules.evaluation.report.document import KEYS, LANGUAGE_KEYS
from modules.evaluation.report.page import TEMPLATE, _card, outputs_of, write_page
from modules.evaluation.report.spectrogram import HEIGHT, png, spectrogram_png
from modules.evaluation.results import Finding, Table, plain
from modules.evaluation.sound import pitch_agreement
from modules.evaluation.voices import likeness
from modules.evaluation.weights import folder_name
from tests.tiny import build_tiny_model_folder, synthetic_speech, write_wav
from tools import evaluate


def test_a_png_holds_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    data = png(pixels)
    width, height = struct.unpack(">II", data[16:24])
    packed = data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8]
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(5, 22)
    assert (width, height) == (7, 5) and np.array_equal(rows[:, 1:].reshape(5, 7, 3), pixels)
    assert struct.unpack(">II", spectrogram_png(np.zeros(16000, np.float32))[16:24]) == (100, HEIGHT)


DOCUMENT = {
    "model": {"folder": "<nano>", "files": {"gpt": {"step": 3}}},
    "settings": {"outputs": {"given": 2}, "guards": "default"},
    "languages": {
        "en": {"error": 0.25, "low": 0.2, "high": 0.3, "floor": 0.1, "count": 2},
        "ja": {"error": None, "count": 1, "reason": "the ear is <deaf>"},
    },
    **dict.fromkeys(KEYS), "lost_rate": 0.5, "intervals": {"lost_rate": [0.1, 0.9]}, "floors": {"lost_rate": 0.01},
    "counts": {}, "not_measured": {"similarity": "no package"},
}  # fmt: skip


def test_the_page_is_whole_escaped_and_sorted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_wav(tmp_path / "wavs" / f"{name}.wav", synthetic_speech(0.5))
    common = {"language": "en", "voice": "V"}
    heard = [{**common, "wav": "a.wav", "text": "<script>x</script>", "error": 0.1}]
    heard += [{**common, "wav": "b.wav", "text": "worst", "error": 0.9}]
    judged = [{**common, "wav": "b.wav", "text": "worst", "lost": True, "seconds": 1.0, "floor": {"lost": False}}]
    findings = [
        Finding("intelligibility", {"given": {"items": heard}}, (Table("T & U", ("h",), (("<i>",),)),)),
        Finding("failures", {"default": {"items": judged}}, ()),
    ]
    assert [(item["wav"], item["tags"]) for item in outputs_of(findings)] == [("b.wav", ["lost"]), ("a.wav", [])]
    (tmp_path / "page" / "wavs").mkdir(parents=True)
    (tmp_path / "page" / "wavs" / "old.wav").write_bytes(b"")
    text = write_page(tmp_path / "page", DOCUMENT, findings, tmp_path / "wavs").read_text(encoding="utf-8")
    assert text.index("worst") < text.index("&lt;script&gt;x") and "<script>x" not in text and "<i>" not in text
    assert "T &amp; U" in text and "&lt;nano&gt;" in text and "&lt;deaf&gt;" in text and "prefers-color-scheme" in text
    assert not re.findall(r"(?:src|href)=\"(?!wavs/|spectrograms/)", text) and "http" not in text
    for place in re.findall(r"src=\"([^\"]+)\"", text):
        assert (tmp_path / "page" / place).is_file()
    assert not (tmp_path / "page" / "wavs" / "old.wav").exists()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model_folder(tmp_path_factory.mktemp("report") / "models")


def _flags(models: Path, folder: Path) -> list[str]:
    return ["--models", str(models), "--output", str(folder), "--language", "en", "--count", "1", "--device", "cpu"]


def test_the_command_writes_every_key(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "RECOGNIZER", tmp_path / "none")
    monkeypatch.setattr(evaluate, "QUICK", ("failures", "drift"))
    assert evaluate.main(["--quick", *_flags(models, tmp_path), "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert set(KEYS) <= set(found) and set(found["languages"]) == {"en"}
    assert all((found[key] is None) == (key in found["not_measured"]) for key in KEYS)
    assert found["runaway_rate"] is not None and found["counts"]["runaway_rate"][1] == 1
    assert found["languages"]["en"]["error"] is None and found["lost_rate"] is None
    assert set(found["languages"]["en"]) == set(LANGUAGE_KEYS) and found["languages"]["en"]["words_reason"]
    assert "not asked for" in found["not_measured"]["similarity"]
    assert (tmp_path / "report.md").is_file() and (tmp_path / "page" / "report.html").is_file()


def test_a_part_by_name_must_run_and_others_may_not(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert evaluate.main(["tokens", *_flags(models, tmp_path), "--no-page"]) == 2
    assert "--corpus" in capsys.readouterr().err
    assert evaluate._parse(["--count", "3", "leak", "--seed", "1", "melody"]).parts == ["leak", "melody"]
    with pytest.raises(SystemExit):
        evaluate.main(["nonsense"])


def test_failures_come_first_and_pairs_have_players() -> None:
    unheard = {"language": "xx", "voice": "V", "text": "no ear", "wav": "c.wav", "runaway": True}
    heard = {"language": "en", "voice": "V", "text": "bad", "wav": "d.wav", "error": 0.9}
    pair = {"language": "en", "voice": "V", "text": "Is it?", "wavs": ["e.wav", "f.wav"]}
    versions = {"language": "en", "voice": "V", "wavs": {"clean": ["g.wav"], "noise": ["h.wav"]}}
    findings = [
        Finding("intelligibility", {"given": {"items": [heard]}}, ()),
        Finding("failures", {"off": {"items": [unheard]}}, ()),
        Finding("melody", {"items": [pair]}, ()),
        Finding("robust_references", {"items": [versions]}, ()),
    ]
    found = outputs_of(findings)
    assert [item["wav"] for item in found][:2] == ["c.wav", "d.wav"] and found[0]["guards"] == "off"
    assert {item["wav"] for item in found} >= {"e.wav", "f.wav", "g.wav", "h.wav"}


def test_parts_that_note_no_words_leave_those_of_others() -> None:
    heard = {"language": "en", "voice": "V", "text": "what is said", "wav": "a.wav", "error": 0.1}
    findings = [
        Finding("intelligibility", {"given": {"items": [heard, {**heard, "wav": "b.wav"}]}}, ()),
        Finding("drift", {"items": [{"language": "en", "units": 9, "wav": "a.wav", "ratio": 1.0}]}, ()),
        Finding("robust_references", {"items": [{"voice": "V", "wavs": {"clean": ["b.wav"], "noise": ["c.wav"]}}]}, ()),
    ]
    texts = {item["wav"]: item["text"] for item in outputs_of(findings)}
    assert texts == {"a.wav": "what is said", "b.wav": "what is said", "c.wav": "V"}


def test_outputs_without_guards_are_told_whatever_part_knew_them_first() -> None:
    one, two, pair = ({"language": "en", "text": "x", "wav": f"{name}.wav"} for name in "abc")
    heard, odd = Finding("drift", {"items": [one]}, ()), Finding("plausible", {"items": [pair]}, ())

    def told(passes: dict, guards: str) -> dict[str, str]:
        found = outputs_of([heard, Finding("failures", passes, ()), odd], guards)
        return {item["wav"][0]: item["guards"] for item in found}

    assert told({"off": {"items": [one, two]}}, "off") == dict.fromkeys("abc", "off")
    assert told({"on": {"items": [one]}, "off": {"items": [two]}}, "both") == {"a": "", "b": "off", "c": ""}
    assert told({"default": {"items": [one, two]}}, "default") == dict.fromkeys("abc", "")


def test_the_page_opens_with_failures_first() -> None:
    """Its script sorts by the first choice as soon as it is read."""
    choices = re.search(r'<select id="sort">(.*?)</select>', TEMPLATE.read_text(encoding="utf-8"), re.DOTALL)
    assert re.findall(r'<option value="(\w+)"', choices[1])[0] == "failures"


def test_a_figure_of_one_thing_shows_no_interval() -> None:
    document = {**DOCUMENT, "similarity": 0.83, "counts": {"similarity": 1, "lost_rate": [1, 2]}}
    assert ">-</div>" in _card(document, "similarity", "likeness", "{:.2f}")
    assert "0.1 to 0.9" in _card(document, "lost_rate", "lost", "{:.1f}")


def _words(language: str, whisper: dict | None = None, **english: float) -> dict:
    rates = {name.replace("_", " "): {"rate": rate} for name, rate in english.items()}
    told = {name: {"word_error": rate, "chosen_right": 0.5} for name, rate in rates.items()}
    return documents._words(language, {"whisper": whisper or {}, "english": told})


def test_a_word_error_stands_on_its_floor() -> None:
    good = _words("en", source_audio=0.3, real_voices=0.4)
    assert (good["word_error"], good["word_floor"], good["words_reason"]) == (0.4, 0.3, None)
    for floor, why in (({"source_audio": 0.6}, "60%"), ({}, "floor is unknown")):
        found = _words("en", **floor, real_voices=0.7)
        assert found["word_error"] is None and found["word_error_raw"] == 0.7 and why in found["words_reason"]
    rates = {name: {"rate": 0.1 * n} for n, name in enumerate(("characters", "words", "floor", "word_floor"), 1)}
    heard = _words("en", {"en": rates}, real_voices=0.9)
    assert (heard["word_error"], heard["words_by"]) == (0.2, "whisper")
    assert heard["character_floor"] == rates["floor"]["rate"] and heard["word_floor"] == rates["word_floor"]["rate"]
    unspaced = _words("zh", {"zh": {"characters": {"rate": 0.1}}})
    assert unspaced["character_error"] == 0.1 and "spaces" in unspaced["words_reason"]
    assert _words("fr")["words_reason"]


def test_voices_are_counted_and_one_alone_has_no_interval() -> None:
    def put(count: int) -> documents.Document:
        rng, told = np.random.default_rng(0), documents.Document({})
        voices = np.eye(count) + 0.1 * rng.random((count, count))
        found = {"outputs": {**vars(likeness(voices, np.eye(count), [""] * count, 20)), "line_up": count}}
        bands = {"band_difference_db": [1.0, -3.0], "band_intervals_db": [[0.5, 1.5], [-4.0, -2.0]]}
        pitch = {"all": pitch_agreement([100.0, 150.0, 200.0][:count], [110.0, 140.0, 210.0][:count])}
        documents._put_voices(plain(found), told)
        documents._put_sound(plain({**bands, "band_outputs": [8, 7], "pitch": pitch}), told)
        return told

    three, one = put(3), put(1)
    assert {key: three.counts[key] for key in ("similarity", "identified", "f0_correlation")} == {
        "similarity": 3, "identified": 3, "f0_correlation": 3,
    }  # fmt: skip
    assert {"similarity", "identified", "f0_correlation"} <= set(three.intervals)
    assert three.figures["band_difference_db"] == -3.0 and three.counts["band_difference_db"] == 7
    assert three.intervals["band_difference_db"] == [-4.0, -2.0]
    assert one.figures["similarity"] is not None and one.counts["similarity"] == 1
    assert "similarity" not in one.intervals


def test_other_weights_have_folders_of_their_own(tmp_path: Path) -> None:
    def name(*flags: str) -> str:
        return folder_name(evaluate._judge_options(evaluate._parse(list(flags))))

    names = {name("--models", str(tmp_path / place / "mine")) for place in "ab"}
    names |= {name(), name("--gpt", str(tmp_path / "g")), name("--gpt", str(tmp_path / "h"))}
    assert len(names) == 5 and "nano" in names
    for flags in (["--seed", "-1"], ["--count", "-3"], ["--voices", "0"]):
        with pytest.raises(SystemExit):
            evaluate.main(flags)


def test_the_commands_of_their_own_have_help(capsys: pytest.CaptureFixture) -> None:
    for command in ("train-recognizer", "calibrate", "read-sentences"):
        with pytest.raises(SystemExit) as caught:
            evaluate.main([command, "--help"])
        assert caught.value.code == 0 and command in capsys.readouterr().out


def test_a_damaged_recogniser_is_told(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "ear.safetensors").write_bytes(b"x" * 100)
    flags = [*_flags(models, tmp_path), "--recognizer", str(tmp_path / "ear.safetensors"), "--no-page"]
    assert evaluate.main(["failures", *flags]) == 2
    assert "ear.safetensors" in capsys.readouterr().err
