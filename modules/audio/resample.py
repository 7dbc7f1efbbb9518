"""Resampling by soxr, for arrays in memory."""

import numpy as np


def resample(wav: np.ndarray, source_hz: int, target_hz: int) -> np.ndarray:
    """float32 [S] at one rate to float32 at another; unchanged when the rates are equal."""
    if source_hz == target_hz:
        return np.asarray(wav, dtype=np.float32)
    import soxr

    return soxr.resample(np.asarray(wav, dtype=np.float32), source_hz, target_hz).astype(np.float32, copy=False)
