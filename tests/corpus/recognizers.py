"""Recognizers for tests that need no model: what they hear depends on the clip alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from modules.corpus.recognition import RecognitionOptions, Recognizer
from modules.corpus.whisper_device import Attempt

CPU = [Attempt("cpu", "int8")]
EASY = RecognitionOptions(min_confidence=0.0, find_speech=False, max_seconds_per_letter=60, beam_size=1, threads=1)


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
