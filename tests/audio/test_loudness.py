"""Laws of loudness: the standard's own tones, and a level that every clip reaches."""

import math

import pytest
import torch
from torch import Tensor

from modules.audio.loudness import integrated_lufs, normalize, true_peak_db

RATE = 16000


def _tone(frequency_hz: float, seconds: float, amplitude: float = 1.0, rate: int = RATE, phase: float = 0.0) -> Tensor:
    times = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    return (amplitude * torch.sin(2 * math.pi * frequency_hz * times + phase)).float()


@pytest.mark.parametrize("rate", [16000, 32000, 48000])
def test_full_scale_tone_of_the_standard(rate: int) -> None:
    assert integrated_lufs(_tone(997, 3, rate=rate), rate) == pytest.approx(-3.01, abs=0.1)


def test_level_moves_loudness_by_as_much() -> None:
    tone = _tone(440, 2, 0.5)
    assert integrated_lufs(tone / 10, RATE) == pytest.approx(integrated_lufs(tone, RATE) - 20, abs=0.01)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.1, 2.0])
def test_silence_has_no_loudness_and_stays_silence(seconds: float) -> None:
    silence = torch.zeros(int(seconds * RATE))
    assert integrated_lufs(silence, RATE) == -math.inf
    assert true_peak_db(silence, RATE) == -math.inf
    assert torch.equal(normalize(silence, RATE), silence)


def test_peak_between_samples_is_seen() -> None:
    # A quarter of the rate at 45 degrees: every sample lies 3 dB below the crest.
    tone = _tone(RATE / 4, 1, phase=math.pi / 4)
    assert 20 * math.log10(float(tone.abs().max())) == pytest.approx(-3.01, abs=0.01)
    assert true_peak_db(tone[800:-800], RATE) == pytest.approx(0, abs=0.6)


@pytest.mark.parametrize("seconds", [0.06, 0.3, 0.4, 3.0])
@pytest.mark.parametrize("amplitude", [0.0005, 0.02, 1.0])
def test_every_clip_reaches_the_target(seconds: float, amplitude: float) -> None:
    clip = normalize(_tone(300, seconds, amplitude), RATE, -23.0)
    assert integrated_lufs(clip, RATE) == pytest.approx(-23, abs=0.3)


def test_the_ceiling_wins_over_the_target() -> None:
    clicks = torch.zeros(2 * RATE)
    clicks[:: RATE // 4] = 0.5
    done = normalize(clicks, RATE, -10.0, -1.0)
    assert true_peak_db(done, RATE) == pytest.approx(-1.0, abs=0.3)
    assert integrated_lufs(done, RATE) < -10


def test_offset_and_bad_samples_do_no_harm() -> None:
    clean = normalize(_tone(300, 2, 0.2), RATE)
    assert torch.allclose(normalize(_tone(300, 2, 0.2) + 0.3, RATE), clean, atol=0.01)
    broken = _tone(300, 2, 0.2)
    broken[100], broken[200] = math.nan, math.inf
    assert normalize(broken, RATE).isfinite().all()


def test_normalising_twice_changes_nothing() -> None:
    torch.manual_seed(0)
    once = normalize(torch.randn(RATE) * 0.05, RATE)
    assert torch.allclose(normalize(once, RATE), once, atol=1e-4)
