"""Excitation, frames and their gradients."""

import math

import pytest
import torch

from modules.audio.spectral import LogMel
from modules.vits2.frames import OverlapAdd, PowerSpectrum
from modules.vits2.generator import Frames
from modules.vits2.losses import FastLogMel, MelDistance
from modules.vits2.source import fill_unvoiced, pulse_train, stretch_f0

RATE = 32000


@pytest.mark.parametrize("f0_hz", [70.0, 123.4, 300.0, 777.0])
def test_pulses_have_the_pitch_they_were_asked_for(f0_hz):
    wav = pulse_train(torch.full((1, 100), f0_hz), RATE, 320)[0]
    spec = torch.fft.rfft(wav.double() * torch.hann_window(len(wav), dtype=torch.float64), n=8 * len(wav)).abs()
    low = spec[: int(1.5 * f0_hz * 8)]
    assert low.argmax().item() / 8 == pytest.approx(f0_hz, rel=0.002)
    assert wav.square().mean().sqrt().item() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("f0_hz", [97.0, 431.0, 1310.0])
def test_pulses_have_energy_at_harmonics_only(f0_hz):
    """An alias would lie off the harmonics, because the rate is no multiple of these pitches."""
    wav = pulse_train(torch.full((1, 200), f0_hz), RATE, 320)[0].double()
    spec = torch.fft.rfft(wav * torch.hann_window(len(wav), dtype=torch.float64)).abs() ** 2
    hz = torch.arange(len(spec)) * RATE / len(wav)
    off = ((hz / f0_hz) - (hz / f0_hz).round()).abs() * f0_hz > 5.0
    assert 10 * math.log10(spec[off].sum() / spec.sum()) < -60


def test_a_glide_does_not_alias_either():
    f0 = torch.linspace(200.0, 800.0, 100)[None]
    wav = pulse_train(f0, RATE, 320)[0]
    spec = torch.stft(wav, 2048, 256, window=torch.hann_window(2048), return_complex=True).abs() ** 2
    top = spec[int(15900 / RATE * 2048) :].sum() / spec.sum()
    assert top < 0.02
    assert wav.abs().max() < 40


def test_unvoiced_is_silent_and_the_start_phase_shifts():
    f0 = torch.cat((torch.full((1, 50), 150.0), torch.zeros(1, 50)), dim=1)
    wav = pulse_train(f0, RATE, 320)[0]
    assert wav[: 49 * 320].std() > 0.5
    assert wav[51 * 320 :].abs().max() == 0
    shifted = pulse_train(f0, RATE, 320, torch.tensor([0.5]))[0]
    period = RATE / 150
    difference = (wav[:8000].argmax() - shifted[:8000].argmax()).abs().item() / period
    assert difference % 1 == pytest.approx(0.5, abs=0.02)


def test_pitch_is_carried_through_unvoiced_frames():
    f0 = torch.tensor([[0.0, 100.0, 0.0, 400.0, 0.0], [0.0] * 5])
    filled = fill_unvoiced(f0)
    assert filled[0].tolist() == pytest.approx([100.0, 100.0, 200.0, 400.0, 400.0], rel=1e-4)
    assert (filled[1] > 50).all()
    stretched = stretch_f0(f0, 10)[0]
    assert ((stretched == 0) | (stretched > 99)).all()


def test_frames_give_back_the_sound_and_its_exact_length():
    frames = Frames(1280, 320)
    wav = torch.randn(2, 320 * 40)
    spec = frames.analyse(wav)
    assert spec.shape == (2, 40, 641)
    assert torch.allclose(frames.synthesise(spec), wav, atol=1e-4)


def test_gradients_of_frames_are_exact():
    window = torch.hann_window(16, dtype=torch.float64)
    wav = torch.randn(2, 67, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: PowerSpectrum.apply(x, window, 4), wav)
    pieces = torch.randn(2, 5, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: OverlapAdd.apply(x, 4), pieces)


def test_fast_mel_is_the_mel():
    wav = 0.1 * torch.randn(2, 6400)
    fast, plain = FastLogMel(RATE, 512, 128, 40)(wav), LogMel(RATE, 512, 128, 40)(wav)
    assert torch.allclose(fast.transpose(1, 2), plain, atol=1e-5)


def test_energy_distance_is_least_at_the_right_noise_level():
    """The plain distance prefers too little noise; with a second sound the true level wins."""
    distance = MelDistance(RATE)
    target, first, second = (0.1 * torch.randn(4, RATE) for _ in range(3))
    mask = torch.ones(4, RATE)
    levels = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5)
    measured = [distance(a * first, target, mask, a * second).mean().item() for a in levels]
    assert levels[measured.index(min(measured))] == 1.0
    assert distance(target, target, mask).max() == 0
