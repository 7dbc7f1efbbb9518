"""Recognition: choosing devices, telling how sure it is, and a real model of random weights."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modules.corpus.recognition import Recognizer, confidence, has_voice, list_language
from modules.corpus.whisper_device import Attempt, load_whisper, plan_attempts
from modules.errors import UserError
from tests.corpus.recognizers import CPU, EASY, Heard, model_folder, noise, recognizer


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


def test_confidence_is_the_mean_probability_of_a_token_times_that_of_speech() -> None:
    def segment(tokens: int, logprob: float, silence: float) -> Any:
        return SimpleNamespace(tokens=[0] * tokens, avg_logprob=logprob, no_speech_prob=silence)

    assert confidence([segment(5, 0.0, 0.0)]) == 1.0
    assert confidence([segment(5, np.log(0.5), 0.0)]) == 0.5
    assert confidence([segment(5, np.log(0.5), 0.2)]) == 0.4
    assert confidence([segment(30, np.log(0.8), 0.0), segment(10, np.log(0.1), 0.0)]) == round(0.8**0.75 * 0.1**0.25, 4)
    assert confidence([]) == 0.0
    assert confidence([segment(5, float("nan"), 0.0)]) == 0.0


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


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of random weights, one layer of 64, with 100 languages, converted for CTranslate2."""
    from tests.corpus.tiny_whisper import build_tiny_whisper

    return build_tiny_whisper(tmp_path_factory.mktemp("whisper"))


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
