"""Laws of the spectra: exact frame counts, energy where the tone is, frames where the sound is."""

import math

import pytest
import torch

from modules.audio.spectral import LogMel, mel_filters, stft_magnitude

SHAPES = [(32000, 2048, 640, 100), (16000, 400, 160, 80), (16000, 512, 320, 40)]


@pytest.mark.parametrize(("rate", "n_fft", "hop", "n_mels"), SHAPES)
def test_frame_count_is_exact_and_short_wavs_work(rate: int, n_fft: int, hop: int, n_mels: int) -> None:
    log_mel = LogMel(rate, n_fft, hop, n_mels)
    for samples in (0, 1, hop - 1, hop, hop + 1, n_fft - 1, n_fft, 5 * hop - 1, 5 * hop, rate):
        frames = max(1, samples // hop)
        mel = log_mel(torch.randn(2, samples))
        assert mel.shape == (2, n_mels, frames) and mel.isfinite().all()
        assert stft_magnitude(torch.randn(2, samples), n_fft, hop, n_fft).shape == (2, n_fft // 2 + 1, frames)
        assert log_mel.frames(samples) == int(log_mel.frames(torch.tensor([samples]))) == frames


def test_silence_is_the_floor() -> None:
    mel = LogMel(16000, 400, 160, 80)(torch.zeros(1, 16000))
    assert torch.all(mel >= math.log(1e-5) - 1e-4) and torch.all(mel < -9)


def test_a_tone_lies_in_its_band_and_bin() -> None:
    rate, n_fft, hop = 16000, 1024, 256
    for frequency_hz in (250.0, 1000.0, 4000.0):
        wav = torch.sin(2 * math.pi * frequency_hz * torch.arange(rate) / rate)[None]
        spec = stft_magnitude(wav, n_fft, hop, 1024)[0, :, 20]
        assert int(spec.argmax()) == round(frequency_hz / rate * n_fft)
        filters = mel_filters(rate, n_fft, 80, 0, rate / 2)
        band = int(LogMel(rate, n_fft, hop, 80)(wav)[0, :, 20].argmax())
        centre_hz = float(filters[band].argmax()) * rate / n_fft
        assert centre_hz == pytest.approx(frequency_hz, rel=0.06, abs=rate / n_fft)


def test_frame_is_centred_on_its_hop() -> None:
    hop = 160
    wav = torch.zeros(1, 40 * hop)
    wav[0, 20 * hop + hop // 2] = 1.0
    energy = stft_magnitude(wav, 400, hop, 400).sum(dim=1)[0]
    assert int(energy.argmax()) == 20
    assert float(energy[19]) == pytest.approx(float(energy[21]), rel=1e-3)


def test_batch_equals_single_and_level_is_a_shift() -> None:
    torch.manual_seed(0)
    log_mel = LogMel(16000, 400, 160, 80)
    wav = torch.randn(3, 8000)
    batch = log_mel(wav)
    assert torch.allclose(batch[1:2], log_mel(wav[1:2]), atol=1e-5)
    assert torch.allclose(log_mel(wav * 2), batch + math.log(2), atol=1e-3)


@pytest.mark.parametrize(("rate", "n_fft", "n_mels"), [(32000, 2048, 100), (16000, 400, 80), (16000, 256, 100)])
def test_no_band_is_empty(rate: int, n_fft: int, n_mels: int) -> None:
    filters = mel_filters(rate, n_fft, n_mels, 0, rate / 2)
    assert filters.shape == (n_mels, n_fft // 2 + 1)
    assert torch.all(filters.sum(dim=1) > 0) and torch.all(filters >= 0)


def test_equals_torchaudio_filters() -> None:
    functional = pytest.importorskip("torchaudio").functional
    theirs = functional.melscale_fbanks(1025, 0.0, 16000.0, 100, 32000, norm="slaney", mel_scale="slaney").T
    ours = mel_filters(32000, 2048, 100, 0, 16000)
    filled = theirs.sum(dim=1) > 0
    assert torch.allclose(ours[filled], theirs[filled], atol=1e-6)


def test_gradient_is_finite_in_silence() -> None:
    wav = torch.zeros(1, 2000, requires_grad=True)
    (LogMel(16000, 400, 160, 80)(wav).sum() + stft_magnitude(wav, 400, 160, 400).sum()).backward()
    assert wav.grad is not None and wav.grad.isfinite().all()


def test_nothing_is_saved() -> None:
    assert not LogMel(16000, 400, 160, 80).state_dict()
