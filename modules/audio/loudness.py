"""Loudness by ITU-R BS.1770 and the normalising that every clip goes through.

Shapes: S samples.
"""

import math

import numpy as np
import pyloudnorm
import soxr
import torch
from torch import Tensor

_BLOCK_SECONDS = 0.4
"""Gating block of the standard; a shorter clip is measured as one block of its own length."""
_SHORTEST_SECONDS = 0.05
_SILENCE_LUFS = -80.0
"""Quieter than this is the converter's own noise, which must not be blown up to speech level."""
_SILENT_PEAK = 1e-5
_OVERSAMPLING = 4


def frame_power(wav: np.ndarray, frame: int) -> np.ndarray:
    """Mean square of each whole frame of `frame` samples of wav [S], float64 [S // frame]."""
    count = len(wav) // frame
    return np.mean(np.square(wav[: count * frame].reshape(count, frame).astype(np.float64)), axis=1)


def integrated_lufs(wav: Tensor, sample_rate: int) -> float:
    """Gated loudness of wav [S], LUFS; -inf for silence. A clip shorter than 50 ms is padded with zeros."""
    samples = _samples(wav)
    shortest = math.ceil(_SHORTEST_SECONDS * sample_rate)
    if len(samples) < shortest:
        samples = np.pad(samples, (0, shortest - len(samples)))
    seconds = len(samples) / sample_rate
    if not samples.any():
        return -math.inf
    # The meter needs the block to be no longer than the clip, also after its own rounding.
    meter = pyloudnorm.Meter(sample_rate, block_size=min(_BLOCK_SECONDS, seconds * 0.999))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(meter.integrated_loudness(samples))
    return value if math.isfinite(value) else -math.inf


def true_peak_db(wav: Tensor, sample_rate: int) -> float:
    """Highest level of wav [S] between and at its samples, dBTP (4x oversampled); -inf for silence."""
    samples = _samples(wav)
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        return -math.inf
    between = soxr.resample(samples, sample_rate, sample_rate * _OVERSAMPLING)
    return 20 * math.log10(max(peak, float(np.abs(between).max(initial=0.0))))


def normalize(wav: Tensor, sample_rate: int, target_lufs: float = -23.0, true_peak_db: float = -1.0) -> Tensor:
    """wav [S] scaled to target_lufs, or less where its true peak would pass true_peak_db (dBTP).

    Only the level changes, and a constant offset, which is inaudible but eats headroom, goes. Silence is returned
    unchanged; NaN and infinite samples become 0.
    """
    clean = torch.nan_to_num(wav, nan=0.0, posinf=0.0, neginf=0.0)
    if not clean.numel():
        return clean
    centred = clean - clean.mean()
    peak = float(centred.abs().max())
    if peak < _SILENT_PEAK:
        return clean
    # The standard's absolute gate would drop most of a very quiet recording: measure it at full scale.
    loudness = integrated_lufs(centred / peak, sample_rate) + 20 * math.log10(peak)
    if loudness < _SILENCE_LUFS:
        return clean
    gain_db = target_lufs - loudness
    # Between the samples lie at most a few dB more; far below the ceiling it need not be measured.
    if 20 * math.log10(peak) + gain_db > true_peak_db - 6:
        gain_db = min(gain_db, true_peak_db - _true_peak_db(centred, sample_rate))
    return centred * 10 ** (gain_db / 20)


_true_peak_db = true_peak_db  # `normalize` has an argument of that name


def _samples(wav: Tensor) -> np.ndarray:
    """wav [S] as float64 on the CPU with NaN and infinities silenced."""
    samples = wav.detach().cpu().numpy().astype(np.float64)
    if samples.ndim != 1:
        raise ValueError(f"wav must be [S], not {samples.shape}")
    return np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
