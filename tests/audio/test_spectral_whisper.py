"""Laws of Whisper's log-mel."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from modules.audio.spectral import WhisperLogMel


@pytest.mark.parametrize("samples", [1600, 16000, 31234, 80001])
def test_it_is_the_reference(samples: int, tone):
    wav = tone(180, samples / 16000, harmonics=8)[:samples] + 0.02 * torch.randn(samples)
    wav[: samples // 3] *= 1e-3
    reference = WhisperFeatureExtractor(feature_size=128)
    theirs = reference(wav.numpy(), sampling_rate=16000, padding=False, return_tensors="pt")["input_features"][0]
    ours = WhisperLogMel(128)(wav[None])[0]
    assert ours.shape == (128, samples // 160) == theirs.shape
    assert (ours - theirs).abs().max() < 1e-5  # measured: 2e-7
    exact = reference._np_extract_fbank_features(wav.numpy()[None], "cpu")[0]
    assert np.abs(ours.numpy() - exact).max() < 1e-4  # the reference in double precision; measured: 7e-6
    assert (WhisperLogMel(80)(wav[None]).shape[1], ours.dtype) == (80, torch.float32)


def test_filters_are_the_references():
    reference = WhisperFeatureExtractor(feature_size=128).mel_filters.T
    assert np.abs(WhisperLogMel(128).filters.numpy() - reference).max() < 1e-8


def test_rows_are_clips_of_their_own(tone):
    loud, quiet = tone(300, 0.5), 1e-3 * tone(500, 0.5)
    both = WhisperLogMel()(torch.stack([loud, quiet]))
    assert torch.equal(both[1], WhisperLogMel()(quiet[None])[0])
    assert float(both[0].max() - both[0].min()) == pytest.approx(2.0)


def test_silence_and_the_shortest_sounds_are_finite():
    assert (WhisperLogMel()(torch.zeros(1, 1600)) == (4 - 10) / 4).all()
    for samples in (1, 159, 160, 399, 401):
        mel = WhisperLogMel()(torch.randn(1, samples))
        assert mel.isfinite().all() and mel.shape[2] == max(1, samples // 160)
