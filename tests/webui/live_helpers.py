"""A synthesizer that needs no model and speaks as slowly as a test wants, and the page's client for its stream."""

import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from modules.config import AudioConfig
from modules.inference import finishing
from modules.inference.options import Segment, SpeakOptions

RATE = 32000
CHUNKS = 4
"""Pieces of a sentence."""


def sentence_wav(index: int) -> np.ndarray:
    """A tone of 0.8 s, of another height for each sentence."""
    return (0.3 * np.sin(2 * np.pi * (220 + 40 * (index % 8)) * np.arange(int(0.8 * RATE)) / RATE)).astype(np.float32)


class SlowSynthesizer:
    """Speaks every line of a text as a tone, piece by piece; `gate` is waited for before every piece but the first."""

    sample_rate = RATE
    used_seed = 7
    hashes: dict[str, str] = {}

    def __init__(self) -> None:
        self.preset = SimpleNamespace(audio=AudioConfig())
        self.gate: Callable[[], Any] = lambda: None
        self.ways: list[str] = []
        """How each run was asked for."""
        self.running = threading.Event()

    def join(self, segments: Sequence[Segment], pause_seconds: float) -> np.ndarray:
        return finishing.join([segment.wav for segment in segments], pause_seconds, RATE)

    def stream(self, voice: object, text: str, options: SpeakOptions, **asked: Any) -> Iterator[SimpleNamespace]:
        self.ways.append("stream")
        return self._stream(text, options, **asked)

    def speak(self, voice: object, text: str, options: SpeakOptions, **asked: Any) -> Iterator[Segment]:
        self.ways.append("speak")
        return (chunk.segment for chunk in self._stream(text, options, **asked) if chunk.segment is not None)

    def _stream(
        self, text: str, options: SpeakOptions, *, on_progress: object, should_stop: Callable[[], bool]
    ) -> Iterator[SimpleNamespace]:
        lines = text.splitlines()
        pause = np.zeros(round(options.pause_seconds * RATE), np.float32)
        self.running.set()
        try:
            for index, line in enumerate(lines):
                wav = sentence_wav(index)
                segment = Segment(index, len(lines), line, wav, len(wav) / RATE, "eos", torch.zeros(1, 2))
                for number, piece in enumerate(np.array_split(wav, CHUNKS)):
                    if index or number:
                        self.gate()
                    if should_stop():
                        return
                    sound = np.concatenate([pause, piece]) if index and not number else piece
                    last = number == CHUNKS - 1
                    yield SimpleNamespace(index=index, total=len(lines), wav=sound, segment=segment if last else None)
        finally:
            self.running.clear()


class SlowEngine:
    """What the page has instead of `tools.webui.services.Engine`."""

    def __init__(self) -> None:
        self.slow = SlowSynthesizer()

    def is_loaded(self, choice: object) -> bool:
        return True

    def synthesizer(self, choice: object) -> SlowSynthesizer:
        return self.slow

    def device_name(self) -> str:
        return "CPU"
