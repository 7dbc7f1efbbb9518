"""From clips to lists: judging what was heard, going on after a stop."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.audio.io import write
from modules.corpus.journal import Journal, content_key
from modules.corpus.recognition import Recognition, RecognitionOptions
from modules.corpus.transcribing import clips_of, judge, repeated_phrase, transcribe_clips
from modules.data.manifest import Utterance, read_manifest
from modules.data.own_lists import OwnLists
from modules.errors import Stopped, UserError
from modules.progress import StepProgress
from tests.corpus.recognizers import EASY, Heard, model_folder, noise, recognizer


def test_reasons_for_leaving_a_clip_out() -> None:
    options = RecognitionOptions(min_confidence=0.5)
    assert judge(Recognition("Good morning to you.", "en", 0.9, 2.0), options) == ""
    assert judge(Recognition(" ... ♪", "en", 0.9, 2.0), options) == "no words"
    assert judge(Recognition("Thank you.", "en", 0.9, 20.0), options).startswith("too long without words")
    assert judge(Recognition("Oh", "en", 0.9, 2.9), options) == ""
    assert judge(Recognition("Good morning to you.", "en", 0.4, 2.0), options) == "low confidence: 0.40"
    assert judge(Recognition("谢谢观看" * 6, "zh", 0.9, 9.0), options).startswith("repeated phrase")


@pytest.mark.parametrize(
    "text",
    [
        "thank you for watching, thank you for watching, thank you for watching",
        "Well. I see. I see. I see. I see. I see. I see. I see.",
        "请不吝点赞订阅请不吝点赞订阅请不吝点赞订阅",
        "la la la la la la la la",
        "ご視聴ありがとうございました。" * 4,
        "감사합니다 감사합니다 감사합니다 감사합니다",
    ],
)
def test_loops_are_seen(text: str) -> None:
    assert repeated_phrase(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "no, no, no, no, no!",
        "Again and again and again the rain came down upon the old town.",
        "Sometimes at night, sometimes by day, sometimes not at all.",
        "快点快点快点，我们要迟到了",
        "その日は朝から雨が降っていました。",
        "The quick brown fox jumps over the lazy dog.",
    ],
)
def test_speech_is_no_loop(text: str) -> None:
    assert repeated_phrase(text) == ""


def test_a_journal_survives_a_line_that_was_cut_short(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.add("a", {"text": "一"})
    with open(journal.path, "ab") as file:
        file.write(b'{"key": "b", "resu')
    again = Journal(journal.path)
    assert again.get("a") == {"text": "一"} and again.get("b") is None
    again.add("c", {"text": "3"})
    assert Journal(journal.path).get("c") == {"text": "3"} and len(Journal(journal.path)) == 2
    assert len(Journal(journal.path, fresh=True)) == 0


def test_the_key_follows_content_not_name(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    keys = [content_key(tmp_path / name, "x") for name in "abc"]
    assert keys[0] == keys[1] != keys[2]
    assert content_key(tmp_path / "a", "y") != keys[0]


@pytest.fixture
def clips(tmp_path: Path) -> list[Utterance]:
    """Six good clips, a silent one and one that is no sound."""
    folder = tmp_path / "clips"
    for i in range(6):
        write(folder / f"{i}.wav", noise(0.3 + 0.1 * i, i), 16000)
    write(folder / "silent.wav", np.zeros(16000, dtype=np.float32), 16000)
    (folder / "text.wav").write_text("not a sound")
    return clips_of(folder, sorted(folder.iterdir()), [], "")


class StopAfter(StepProgress):
    """Asks for a stop once so many batches were begun."""

    def __init__(self, batches: int):
        super().__init__(None)
        self.left = batches

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left < 0


def lists(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("manifest.jsonl", "clips.list", "rejected.jsonl")]


def test_lists_and_rejections(tmp_path: Path, clips: Sequence[Utterance]) -> None:
    model = model_folder(tmp_path / "m")
    output = tmp_path / "out"
    report = transcribe_clips(clips, recognizer(model, Heard()), EASY, output, "clips", StepProgress(None))
    assert report.clips == 6 and report.rejected == {"silence": 1, "unreadable": 1} and report.languages == {"EN": 6}
    rows = read_manifest(report.manifest)
    assert [row.text for row in rows] == [f"Hello there {len(noise(0.3 + 0.1 * i, i))}" for i in range(6)]
    assert rows[0].speaker == "clips" and rows[0].language == "en" and rows[0].seconds == 0.3
    assert rows[0].confidence == pytest.approx(np.exp(-0.1), abs=1e-4)
    first = report.list.read_text(encoding="utf-8").split("\n")[0]
    assert first == f"{clips[0].audio}|clips|EN|Hello there 4800"
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert [Path(row["file"]).name for row in rejected] == ["silent.wav", "text.wav"]
    assert rejected[0]["reason"] == "silence" and rejected[1]["reason"].startswith("unreadable: ")


def test_a_stopped_run_goes_on_and_comes_to_the_same_lists(tmp_path: Path, clips: Sequence[Utterance]) -> None:
    model = model_folder(tmp_path / "m")
    unbroken = Heard()
    transcribe_clips(clips, recognizer(model, unbroken), EASY, tmp_path / "a", "clips", StepProgress(None))
    first, second, third = Heard(), Heard(), Heard()
    with pytest.raises(Stopped):
        transcribe_clips(clips, recognizer(model, first), EASY, tmp_path / "b", "clips", StopAfter(3))
    assert not (tmp_path / "b" / "manifest.jsonl").exists()
    transcribe_clips(clips, recognizer(model, second), EASY, tmp_path / "b", "clips", StepProgress(None))
    assert lists(tmp_path / "a") == lists(tmp_path / "b")
    assert (first.asked, second.asked) == (3, 3)
    transcribe_clips(clips, recognizer(model, third), EASY, tmp_path / "b", "clips", StepProgress(None), fresh=True)
    assert third.asked == unbroken.asked == 6


def test_other_thresholds_judge_again_without_hearing_again(tmp_path: Path, clips: Sequence[Utterance]) -> None:
    model, output = model_folder(tmp_path / "m"), tmp_path / "out"
    transcribe_clips(clips, recognizer(model, Heard()), EASY, output, "clips", StepProgress(None))
    silent = Heard()
    strict = dataclasses.replace(EASY, min_confidence=0.95)
    report = transcribe_clips(clips, recognizer(model, silent, strict), strict, output, "clips", StepProgress(None))
    assert silent.asked == 0 and report.rejected["low confidence"] == 6
    row = json.loads((output / "rejected.jsonl").read_text().splitlines()[0])
    assert row["text"] == "Hello there 4800" and row["confidence"] > 0.9


def test_a_clip_that_breaks_the_model_costs_only_itself(tmp_path: Path, clips: Sequence[Utterance]) -> None:
    class Choosy(Heard):
        def transcribe(self, wav: np.ndarray, language: str | None, **more: Any) -> tuple[list[Any], Any]:
            if len(wav) == 4800:
                raise RuntimeError("odd shape")
            return super().transcribe(wav, language, **more)

    model = model_folder(tmp_path / "m")
    report = transcribe_clips(clips, recognizer(model, Choosy()), EASY, tmp_path / "out", "clips", StepProgress(None))
    assert report.clips == 5 and report.rejected["recognition failed"] == 1
    always = Heard(error=RuntimeError("never"))
    with pytest.raises(UserError) as caught:
        transcribe_clips(clips[:2], recognizer(model, always), EASY, tmp_path / "no", "clips", StepProgress(None))
    assert caught.value.code == "asr_all_failed"


def test_what_a_person_made_of_the_lists_is_kept(tmp_path: Path, clips: Sequence[Utterance]) -> None:
    model, output = model_folder(tmp_path / "m"), tmp_path / "out"

    def again(**changes: Any) -> tuple[Path, ...]:
        options = dataclasses.replace(EASY, **changes)
        one = recognizer(model, Heard(), options)
        return transcribe_clips(clips, one, options, output, "clips", StepProgress(None)).kept

    assert again() == again() == again(min_confidence=0.95) == again() == (), "its own lists are simply replaced"
    for name, text in (("", "corrected"), ("", "corrected"), ("2", "corrected again")):
        (output / "clips.list").write_text(text)
        assert again(min_confidence=0.95) == (output / f"clips.list.bak{name}",)
        assert (output / "clips.list").read_text() == "", "no clip was good enough"
    assert (output / "clips.list.bak").read_text() == "corrected"
    (output / "manifest.jsonl").write_text("")
    (output / ".written.json").unlink()
    assert again() == (output / "manifest.jsonl.bak", output / "clips.list.bak3"), "nobody knows who wrote them"


def test_a_kill_between_two_writes_makes_no_list_look_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_text(text: str) -> None:
        OwnLists(tmp_path).write("a.list", lambda path: path.write_text(text))

    write_text("one")
    for call in (0, 1):
        left = [call]
        original = os.replace

        def replace(source: Any, target: Any, left: list[int] = left, original: Any = original) -> None:
            if Path(target).name == "a.list" and not left[0]:
                raise KeyboardInterrupt
            original(source, target)
            if Path(target).name == "a.list":
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                write_text(f"two {call}")
        write_text(f"three {call}")
        assert (tmp_path / "a.list").read_text() == f"three {call}" and not list(tmp_path.glob("*.bak*"))


def test_a_clip_that_cannot_be_read_does_not_have_its_batch_heard_again(
    tmp_path: Path, clips: Sequence[Utterance]
) -> None:
    class Counting:
        identity, notes, heard = "x", (), 0

        def recognize(self, wavs: Sequence[np.ndarray]) -> list[Recognition]:
            self.heard += len(wavs)
            return [Recognition("Good morning", "en", 0.9, len(wav) / 16000) for wav in wavs]

    one, options = Counting(), dataclasses.replace(EASY, batch_size=8)
    gone = dataclasses.replace(clips[0], audio=str(tmp_path / "gone.wav"))
    for _ in range(2):
        report = transcribe_clips([*clips, gone], one, options, tmp_path / "out", "clips", StepProgress(None))
        assert one.heard == 6 and report.rejected == {"silence": 1, "unreadable": 2}
        if not _:
            first = lists(tmp_path / "out")
    assert first == lists(tmp_path / "out")


def test_a_bar_in_a_path_leaves_the_manifest_whole(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a|b.wav", noise(0.3, 0), 16000)
    clips = clips_of(tmp_path / "in", [tmp_path / "in" / "a|b.wav"], [], "me")
    one = recognizer(model_folder(tmp_path / "m"), Heard())
    report = transcribe_clips(clips, one, EASY, tmp_path / "out", "x", StepProgress(None))
    assert len(read_manifest(report.manifest)) == 1 and report.list.read_text() == "" and "|" in report.notes[0]
