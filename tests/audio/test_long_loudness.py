"""The loudness of long recordings is that of short ones."""

import numpy as np
import pytest
import torch

from modules.audio import long_loudness
from modules.audio.long_loudness import mix_lufs
from modules.audio.loudness import integrated_lufs

RATE = 8000


def sound(seconds: float, channels: int = 2) -> np.ndarray:
    """Bursts in a hiss that stops for a while, so that both gates have work -> [C, S]."""
    rng = np.random.default_rng(0)
    times = np.arange(int(seconds * RATE)) / RATE
    voice = 0.2 * np.sin(2 * np.pi * 200 * times) * (times % 3 < 1) * (1 + 0.5 * np.sin(times / 7))
    hiss = 0.003 * rng.standard_normal((channels, len(times))) * (times % 50 < 40)
    return (voice + hiss).astype(np.float32)


@pytest.mark.parametrize("seconds", [60.0, 121.0, 60.05, 120.32, 179.9123])
def test_stretch_by_stretch_equals_at_once(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_loudness, "_WHOLE_SECONDS", 1)
    wav = sound(seconds)
    at_once = integrated_lufs(torch.from_numpy(wav.mean(axis=0)), RATE)
    assert mix_lufs(wav, RATE) == pytest.approx(at_once, abs=1e-4)


def test_a_short_recording_is_measured_at_once() -> None:
    wav = sound(2.0, channels=1)
    assert mix_lufs(wav, RATE) == integrated_lufs(torch.from_numpy(wav[0]), RATE)


def test_silence_has_no_loudness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_loudness, "_WHOLE_SECONDS", 1)
    assert mix_lufs(np.zeros((1, 90 * RATE), np.float32), RATE) == -np.inf
    assert mix_lufs(1e-5 * sound(70), RATE) == -np.inf
