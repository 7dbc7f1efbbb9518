"""From the decoder's raw sound to a segment that joins well: trimmed, levelled, faded.

Shapes: S samples.
"""

from collections.abc import Sequence

import numpy as np
import torch

from modules.audio.loudness import frame_power, normalize

LOUDNESS_LUFS = -20.0
CEILING_DB = -1.0
LEAD_SECONDS = 0.04
TAIL_SECONDS = 0.08
FADE_SECONDS = 0.005
_QUIET_DB = -42.0
"""Below the loudest frame by this much counts as silence at the edges."""
_FRAME_SECONDS = 0.01
_NOTHING = 1e-5
_FLAT = 0.999


def raw_levels(wav: np.ndarray) -> dict[str, float]:
    """What finishing hides of the decoder's raw sound [S]: its peak, its root mean square, and the share of samples
    that are flat against the peak, as the fields of `modules.inference.options.Segment`."""
    sound = np.nan_to_num(wav.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(np.abs(sound).max(initial=0.0))
    return {
        "raw_peak": peak,
        "raw_rms": float(np.sqrt(np.mean(np.square(sound)))) if len(sound) else 0.0,
        "raw_flat_share": float(np.mean(np.abs(sound) >= _FLAT * peak)) if peak > 0 else 0.0,
    }


def finish(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Trim silent edges, bring to the output loudness under the ceiling, fade both edges; float32 [S] -> [S'].

    Values that are no numbers become silence; the result never clips.
    """
    wav = trim(np.nan_to_num(wav.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0), sample_rate)
    peak = float(np.abs(wav).max(initial=0.0))
    if peak < _NOTHING:
        return wav
    # Loudness is gated at -70 LUFS: what is quieter must be raised before it can be measured.
    levelled = normalize(torch.from_numpy(wav / peak), sample_rate, LOUDNESS_LUFS, CEILING_DB).numpy().copy()
    return fade(np.clip(levelled, -1.0, 1.0).astype(np.float32), sample_rate)


def trim(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Without the silence at both ends, but for a short lead and tail."""
    frame = max(1, int(_FRAME_SECONDS * sample_rate))
    power = frame_power(wav, frame)
    if len(power) < 2:
        return wav
    loud = np.flatnonzero(power > power.max() * 10 ** (_QUIET_DB / 10))
    if len(loud) == 0:
        return wav
    start = loud[0] * frame - int(LEAD_SECONDS * sample_rate)
    end = (loud[-1] + 1) * frame + int(TAIL_SECONDS * sample_rate)
    return wav[max(0, start) : end]


def fade(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """A copy that begins and ends at zero, so that joins do not click."""
    wav = wav.copy()
    size = min(int(FADE_SECONDS * sample_rate), len(wav) // 2)
    if size:
        ramp = np.linspace(0, 1, size, dtype=np.float32)
        wav[:size] *= ramp
        wav[-size:] *= ramp[::-1]
    return wav


def join(wavs: Sequence[np.ndarray], pause_seconds: float, sample_rate: int) -> np.ndarray:
    """Sounds one after the other with a pause between them, none after the last; float32 [S]."""
    pause = np.zeros(round(pause_seconds * sample_rate), np.float32)
    parts: list[np.ndarray] = []
    for i, wav in enumerate(wavs):
        parts += [pause, wav] if i else [wav]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
