"""Laws of the last touch: trimmed, levelled, never clipped, never a click."""

import numpy as np
import pytest
import torch

from modules.audio.loudness import integrated_lufs
from modules.inference.finishing import LOUDNESS_LUFS, fade, finish, join, trim
from tests.tiny import synthetic_speech

RATE = 32000


def test_silence_at_the_edges_goes_and_the_middle_stays() -> None:
    speech = synthetic_speech(1.0)
    padded = np.concatenate([np.zeros(RATE, np.float32), speech, np.zeros(2 * RATE, np.float32)])
    trimmed = trim(padded, RATE)
    assert 0.9 * len(speech) < len(trimmed) < 1.2 * len(speech)
    pause = np.concatenate([speech, np.zeros(RATE, np.float32), speech])
    assert len(trim(pause, RATE)) > 2.8 * RATE


@pytest.mark.parametrize("gain", [1e-3, 0.1, 1.0, 50.0])
def test_every_level_in_gives_one_level_out_without_clipping(gain: float) -> None:
    out = finish(gain * synthetic_speech(2.0), RATE)
    assert np.abs(out).max() < 1.0
    assert integrated_lufs(torch.from_numpy(out), RATE) == pytest.approx(LOUDNESS_LUFS, abs=1.5)


@pytest.mark.parametrize(
    "wav",
    [np.zeros(RATE), np.zeros(0), np.full(RATE, np.nan), np.full(5, np.inf), np.ones(1)],
    ids=["silence", "nothing", "nan", "inf", "one sample"],
)
def test_odd_sounds_stay_finite(wav: np.ndarray) -> None:
    out = finish(wav.astype(np.float32), RATE)
    assert np.isfinite(out).all() and out.dtype == np.float32


def test_edges_are_faded_and_the_input_is_left_alone() -> None:
    wav = np.ones(RATE, np.float32)
    faded = fade(wav, RATE)
    assert faded[0] == faded[-1] == 0 and faded[RATE // 2] == 1 and wav[0] == 1


def test_pauses_stand_between_sounds_only() -> None:
    one = np.ones(10, np.float32)
    assert len(join([one, one, one], 0.01, RATE)) == 30 + 2 * 320
    assert len(join([one], 3.0, RATE)) == 10
    assert len(join([], 3.0, RATE)) == 0
