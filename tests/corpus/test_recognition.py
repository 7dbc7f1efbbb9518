"""Recognition: finding models, choosing devices, judging results, going on after a stop."""

import dataclasses
import json
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modules.audio.io import write
from modules.corpus.hub import can_connect, hub_reachable
from modules.corpus.journal import Journal, content_key
from modules.corpus.recognition import (
    Recognition,
    RecognitionOptions,
    Recognizer,
    confidence,
    has_voice,
    list_language,
)
from modules.corpus.transcribing import clips_of, judge, repeated_phrase, transcribe_clips
from modules.corpus.whisper_device import Attempt, load_whisper, plan_attempts
from modules.corpus.whisper_models import (
    WHISPER_SIZES,
    find_whisper_model,
    missing_files,
    whisper_identity,
)
from modules.data.manifest import Utterance, read_manifest
from modules.errors import Stopped, UserError
from modules.progress import StepProgress

CPU = [Attempt("cpu", "int8")]
EASY = RecognitionOptions(min_confidence=0.0, find_speech=False, max_seconds_per_letter=60, beam_size=1, threads=1)


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of random weights, one layer of 64, with 100 languages, converted for CTranslate2."""
    from tests.corpus.tiny_whisper import build_tiny_whisper

    return build_tiny_whisper(tmp_path_factory.mktemp("whisper"))


def noise(seconds: float, seed: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000))).astype(np.float32)


def model_folder(path: Path) -> Path:
    """Files of the right names; nothing that could be loaded."""
    path.mkdir(parents=True)
    (path / "model.bin").write_bytes(b"w" * 5000)
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        (path / name).write_text("{}")
    return path


class Heard:
    """Stands for a WhisperModel: says a text that depends on the clip alone, and counts how often it is asked."""

    supported_languages = ("en", "zh")
    hf_tokenizer = SimpleNamespace(token_to_id=lambda token: 1 if token in ("<|en|>", "<|zh|>") else None)

    def __init__(self, text: str = "Hello there", logprob: float = -0.1, error: Exception | None = None):
        self.text, self.logprob, self.error, self.asked = text, logprob, error, 0

    def transcribe(self, wav: np.ndarray, language: str | None, **_: Any) -> tuple[list[Any], Any]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        segment = SimpleNamespace(
            text=f" {self.text} {len(wav)}", tokens=[1, 2], avg_logprob=self.logprob, no_speech_prob=0.0
        )
        return [segment], SimpleNamespace(language=language or "en")


def recognizer(folder: Path, model: Any, options: RecognitionOptions = EASY, **more: Any) -> Recognizer:
    return Recognizer(folder, options, attempts=CPU, load=lambda *_: model, **more)


# ---- models on this machine


def test_the_catalogue_knows_the_sizes_of_the_library() -> None:
    from faster_whisper import utils

    assert {name: size.repository for name, size in WHISPER_SIZES.items()} == utils._MODELS


def test_a_model_is_found_by_size_by_published_name_and_as_a_folder(tmp_path: Path) -> None:
    by_size = model_folder(tmp_path / "whisper" / "tiny")
    published = model_folder(tmp_path / "whisper" / "faster-whisper-small")
    assert find_whisper_model("tiny", tmp_path) == by_size
    assert find_whisper_model("small", tmp_path) == published
    assert find_whisper_model(str(by_size), tmp_path / "nowhere") == by_size


def test_missing_files_of_a_model_are_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "whisper" / "tiny")
    (folder / "tokenizer.json").unlink()
    (folder / "vocabulary.json").unlink()
    (folder / "model.bin").write_text("version of a pointer")
    with pytest.raises(UserError, match="tokenizer.json") as caught:
        find_whisper_model("tiny", tmp_path)
    assert caught.value.code == "asr_model_incomplete"
    assert "vocabulary.json" in str(caught.value) and "only a pointer" in str(caught.value)
    (folder / "vocabulary.txt").write_text("a\n")
    assert not any(name.startswith("vocabulary") for name in missing_files(folder))


def test_an_unknown_model_is_refused_with_the_sizes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="large-v3-turbo") as caught:
        find_whisper_model("gigantic", tmp_path)
    assert caught.value.code == "asr_model_unknown"


def test_without_a_network_a_missing_model_is_told_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        find_whisper_model("medium", tmp_path, cache=tmp_path / "cache")  # the tests are offline
    assert time.monotonic() - start < 10  # what counts is that nothing is tried again for half a minute
    text = str(caught.value)
    assert caught.value.code == "asr_model_missing"
    assert all(word in text for word in ("Systran/faster-whisper-medium", "1530 MB", str(tmp_path / "whisper/medium")))


def test_the_hub_is_not_asked_when_switched_off_and_not_for_long() -> None:
    assert not hub_reachable()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert can_connect("127.0.0.1", server.getsockname()[1])
        port = server.getsockname()[1]
    start = time.monotonic()
    assert not can_connect("127.0.0.1", port, 0.5)
    assert not can_connect("x" * 80, 80, 0.5)
    assert time.monotonic() - start < 5


def test_the_identity_follows_the_model_and_the_choices(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "a")
    same = recognizer(folder, Heard()).identity
    assert recognizer(folder, Heard(), dataclasses.replace(EASY, min_confidence=0.9, threads=4)).identity == same
    assert recognizer(folder, Heard(), dataclasses.replace(EASY, beam_size=3)).identity != same
    assert recognizer(folder, Heard(), dataclasses.replace(EASY, language="en")).identity != same
    before = whisper_identity(folder)
    (folder / "model.bin").write_bytes(b"v" * 5000)
    assert whisper_identity(folder) != before


# ---- devices


def test_the_order_of_attempts() -> None:
    gpu, cpu = ("float16", "int8_float16", "int8", "float32"), ("int8", "int8_float32", "float32")
    assert plan_attempts("auto", "auto", 1, gpu, cpu) == [
        ("cuda", "float16"),
        ("cuda", "int8_float16"),
        ("cuda", "float32"),
        ("cpu", "int8"),
    ]
    assert plan_attempts("auto", "auto", 1, ("int8", "float32"), cpu) == [("cuda", "float32"), ("cpu", "int8")]
    assert plan_attempts("auto", "auto", 0, (), cpu) == [("cpu", "int8")]
    assert plan_attempts("cpu", "float32", 1, gpu, cpu) == [("cpu", "float32")]
    assert plan_attempts("cpu", "auto", 1, gpu, ("float32",)) == [("cpu", "float32")]
    assert plan_attempts("cuda", "int8", 1, gpu, cpu) == [("cuda", "int8"), ("cpu", "int8")]


@pytest.mark.parametrize(
    ("device", "precision", "code"), [("cuda", "auto", "device_missing"), ("cpu", "float16", "asr_precision")]
)
def test_a_choice_that_cannot_be_met_is_refused(device: str, precision: str, code: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_attempts(device, precision, 0, (), ("int8", "float32"))
    assert caught.value.code == code


@pytest.mark.parametrize("at_load", [True, False])
def test_a_gpu_without_its_libraries_leads_to_the_cpu_and_a_note(tmp_path: Path, at_load: bool) -> None:
    folder = model_folder(tmp_path / "m")
    error = RuntimeError("Library libcublas.so.12 is not found or cannot be loaded")
    said: list[str] = []
    loaded: list[Attempt] = []

    def load(_: Path, attempt: Attempt, threads: int) -> Heard:
        loaded.append(attempt)
        if attempt.device == "cuda" and at_load:
            raise error
        return Heard(error=error if attempt.device == "cuda" else None)

    attempts = [Attempt("cuda", "float16"), Attempt("cuda", "int8_float16"), Attempt("cpu", "int8")]
    one = Recognizer(folder, EASY, said.append, attempts, load)
    assert one.recognize([noise(1, 1)])[0].text == "Hello there 16000"
    assert loaded == [("cuda", "float16"), ("cpu", "int8")]
    assert one.attempt == ("cpu", "int8") and said == one.notes
    assert "libcublas.so.12" in said[0] and "int8 on cpu" in said[0] and "nvidia-cublas-cu12" in said[0]


def test_a_gpu_short_of_memory_tries_a_smaller_format_first(tmp_path: Path) -> None:
    def load(_: Path, attempt: Attempt, threads: int) -> Heard:
        if attempt.precision == "float16":
            raise RuntimeError("CUDA failed with error out of memory")
        return Heard()

    attempts = [Attempt("cuda", "float16"), Attempt("cuda", "int8_float16"), Attempt("cpu", "int8")]
    one = Recognizer(model_folder(tmp_path / "m"), EASY, None, attempts, load)
    one.recognize([noise(1, 1)])
    assert one.attempt == ("cuda", "int8_float16")


def test_a_broken_model_is_told(tmp_path: Path) -> None:
    one = Recognizer(model_folder(tmp_path / "m"), EASY, attempts=CPU, load=load_whisper)
    with pytest.raises(UserError) as caught:
        one.recognize([noise(1, 1)])
    assert caught.value.code == "asr_model_broken"


def test_a_language_that_the_model_does_not_know_is_refused(tmp_path: Path) -> None:
    options = dataclasses.replace(EASY, language="xx")
    with pytest.raises(UserError, match="en, zh") as caught:
        recognizer(model_folder(tmp_path / "m"), Heard(), options).recognize([noise(1, 1)])
    assert caught.value.code == "asr_language"


# ---- judging


def test_confidence_is_the_mean_probability_of_a_token_times_that_of_speech() -> None:
    def segment(tokens: int, logprob: float, silence: float) -> Any:
        return SimpleNamespace(tokens=[0] * tokens, avg_logprob=logprob, no_speech_prob=silence)

    assert confidence([segment(5, 0.0, 0.0)]) == 1.0
    assert confidence([segment(5, np.log(0.5), 0.0)]) == 0.5
    assert confidence([segment(5, np.log(0.5), 0.2)]) == 0.4
    assert confidence([segment(30, np.log(0.8), 0.0), segment(10, np.log(0.1), 0.0)]) == round(0.8**0.75 * 0.1**0.25, 4)
    assert confidence([]) == 0.0
    assert confidence([segment(5, float("nan"), 0.0)]) == 0.0


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


def test_languages_of_a_list_are_capitals() -> None:
    assert [list_language(code) for code in ("zh", "yue", "ja", "de", "jw")] == ["ZH", "YUE", "JA", "DE", "JV"]


def test_noise_has_no_voice_and_silence_neither(speech_dir: Path | None) -> None:
    assert not has_voice(np.zeros(16000, dtype=np.float32))
    assert not has_voice(noise(2, 1))
    if speech_dir is None:
        pytest.skip("needs --speech")
    from modules.audio.io import read

    assert has_voice(read(speech_dir / "clips" / "kerstin_0043.flac", 16000).numpy())
    assert has_voice(read(speech_dir / "odd" / "very_quiet.wav", 16000).numpy())
    assert not has_voice(read(speech_dir / "odd" / "room_noise_3s.wav", 16000).numpy())


# ---- the journal and the whole step


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


def test_a_bar_in_a_path_leaves_the_manifest_whole(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a|b.wav", noise(0.3, 0), 16000)
    clips = clips_of(tmp_path / "in", [tmp_path / "in" / "a|b.wav"], [], "me")
    one = recognizer(model_folder(tmp_path / "m"), Heard())
    report = transcribe_clips(clips, one, EASY, tmp_path / "out", "x", StepProgress(None))
    assert len(read_manifest(report.manifest)) == 1 and report.list.read_text() == "" and "|" in report.notes[0]


# ---- a real model, of random weights


def test_a_converted_model_hears_something_in_every_way(whisper_folder: Path) -> None:
    wavs = [noise(0.5, 1), noise(1.2, 2), noise(0.8, 3)]
    one = Recognizer(whisper_folder, EASY, attempts=CPU)
    alone = one.recognize(wavs)
    assert [heard.seconds for heard in alone] == [0.5, 1.2, 0.8]
    assert all(0 <= heard.confidence <= 1 and heard.language for heard in alone)
    assert one.recognize(wavs) == alone
    batched = Recognizer(whisper_folder, dataclasses.replace(EASY, batch_size=4), attempts=CPU)
    together = batched.recognize(wavs)
    assert [heard.seconds for heard in together] == [0.5, 1.2, 0.8]
    assert [heard.language for heard in together] == [heard.language for heard in alone]
    assert batched.recognize(wavs[1:2])[0].text == together[1].text
    fixed = Recognizer(whisper_folder, dataclasses.replace(EASY, language="DE", batch_size=2), attempts=CPU)
    assert {heard.language for heard in fixed.recognize(wavs)} == {"de"}


def test_a_folder_without_its_preprocessor_still_works(whisper_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whisper_folder, tmp_path / "copy")
    (copy / "preprocessor_config.json").unlink(missing_ok=True)
    one = Recognizer(copy, EASY, attempts=CPU)
    assert one.recognize([noise(0.5, 1)])[0].seconds == 0.5
