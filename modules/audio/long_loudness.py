"""Loudness of recordings that last for hours, in the memory that a minute needs.

Shapes: C channels, S samples.
"""

import math
from collections.abc import Iterator

import numpy as np

_WHOLE_SECONDS = 300
"""Shorter recordings are measured at once."""
_STRETCH_SECONDS = 60
_STEPS_PER_SECOND = 10
"""Gating blocks of 400 ms begin every 100 ms."""
_OVERHANG_SECONDS = 0.3
"""So far does the last block that begins within a stretch reach beyond it."""
_LEAD_SECONDS = 1
"""Before each stretch, for the weighting filters to settle."""
_ABSOLUTE_GATE_LUFS, _RELATIVE_GATE_LU = -70.0, 10.0
_OFFSET_LUFS = -0.691


def mix_lufs(wav: np.ndarray, sample_rate: int) -> float:
    """Gated loudness (ITU-R BS.1770) of the mean of the channels of wav [C, S], LUFS; -inf for silence.

    That of a long recording is put together from the loudness of its gating blocks, and differs from
    `modules.audio.loudness.integrated_lufs` in rounding only, which may count a last, incomplete block or not.
    """
    if wav.shape[1] <= _WHOLE_SECONDS * sample_rate:
        import torch

        from modules.audio.loudness import integrated_lufs

        return integrated_lufs(torch.from_numpy(wav.mean(axis=0)), sample_rate)
    levels = np.concatenate(list(_block_levels(wav, sample_rate)))
    levels = levels[levels >= _ABSOLUTE_GATE_LUFS]
    if not len(levels):
        return -math.inf
    return _mean_level(levels[levels > _mean_level(levels) - _RELATIVE_GATE_LU])


def _block_levels(wav: np.ndarray, sample_rate: int) -> Iterator[np.ndarray]:
    """Loudness of all gating blocks in order, a stretch at a time."""
    import pyloudnorm

    meter = pyloudnorm.Meter(sample_rate)
    for start in range(0, wav.shape[1], _STRETCH_SECONDS * sample_rate):
        lead_seconds = _LEAD_SECONDS if start else 0
        end = start + math.ceil((_STRETCH_SECONDS + _OVERHANG_SECONDS) * sample_rate)
        stretch = wav[:, start - lead_seconds * sample_rate : end].mean(axis=0).astype(np.float64)
        if len(stretch) < meter.block_size * sample_rate:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            meter.integrated_loudness(stretch)
        first = lead_seconds * _STEPS_PER_SECOND
        yield np.asarray(meter.blockwise_loudness[first : first + _STRETCH_SECONDS * _STEPS_PER_SECOND])


def _mean_level(levels: np.ndarray) -> float:
    """The level, LUFS, of the mean power of blocks of these levels."""
    return _OFFSET_LUFS + 10 * math.log10(np.mean(10 ** ((levels - _OFFSET_LUFS) / 10)))
