"""What extraction makes features with: encoders as plain functions, and how their results are stored.

Shapes: B batch, S samples, T token frames, K code streams, F feature frames, N points of f0, U text units, D width.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from modules.config import AudioConfig
from modules.data.line_index import CODES
from modules.data.recordings import Spelled
from modules.data.store import entry_key

VERSION = "1"
"""Part of every step's hash: to be raised when the same input gives other features."""


@dataclass(frozen=True)
class Encoders:
    """What extraction needs, and for each encoder a hash that changes when it does, "" where it is not at hand. One
    whose step is not asked for may be None.

    Args:
        text: str -> ids [U].
        speech: wav [B, S] at `sample_rate`, lengths [B], f0 [B, N] -> codes [B, T, K].
        sample_rate, samples_per_token: of speech; with `ssl` the samples of one of its frames.
        text_features: texts -> [U, D] for each; None for none.
        ssl: instead of speech, wav [B, S], lengths [B] -> [B, F, D]; feature_dim: its D.
        codes: ssl [1, F, D], f0 [1, N] -> codes [1, T, K].
        phones: codes [T, K] and what is known of the phones -> the name of the phone in each frame; empty where that
            is not clear. None for none.
    """

    text: Callable[[str], list[int]] | None
    speech: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    sample_rate: int
    samples_per_token: int
    text_hash: str
    speech_hash: str
    text_features: Callable[[Sequence[str]], list[np.ndarray]] | None = None
    ssl: Callable[[Tensor, Tensor], Tensor] | None = None
    feature_dim: int = 0
    codes: Callable[[Tensor, Tensor], Tensor] | None = None
    codes_hash: str = ""
    phones: Callable[[Tensor, Spelled], list[str]] | None = None

    def hashes(self, audio: AudioConfig, keep_audio: bool = True) -> dict[str, str | None]:
        """What makes the features of each step, audio "" where it is left out; for `LineWriter`."""
        settings = json.dumps([audio.sample_rate, audio.loudness_lufs, audio.true_peak_db])
        return {
            "text": step_hash(self.text_hash) if self.text_hash else None,
            "audio": step_hash(settings) if keep_audio else "",
            "speech": step_hash(self.speech_hash) if self.speech_hash else None,
            CODES: step_hash(self.codes_hash) if self.codes_hash else None,
        }


def step_hash(made_by: str) -> str:
    """What makes the features of a step, out of what its encoder is told by."""
    return entry_key(VERSION, made_by)


def flat_codes(codes: Tensor) -> np.ndarray:
    """Codes [T, K] as they are stored: int16 [T * K]."""
    return codes.reshape(-1).cpu().numpy().astype(np.int16)


def half(values: np.ndarray) -> np.ndarray:
    """Features as they are stored: float16, one after the other. A few channels of some encoders are very large."""
    limit = np.finfo(np.float16).max
    return np.clip(values, -limit, limit).astype(np.float16).reshape(-1)
