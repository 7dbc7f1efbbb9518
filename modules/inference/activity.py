"""Where a recording holds speech.

Silero VAD (bundled with faster-whisper, no download) decides where it is installed; otherwise frame energy
does. Either way the caller still asks for voiced frames, so that a door slam is no voice.

Shapes: S samples, T frames.
"""

from collections.abc import Sequence

import numpy as np

RATE_HZ = 16000
FRAME = 160
_DYNAMIC_DB = 32.0
"""Without the VAD: frames within this distance of the loud ones count as speech."""

Span = tuple[int, int]


def speech_spans(wav: np.ndarray, *, use_vad: bool = True) -> list[Span]:
    """Spans of speech in wav float32 [S] at 16 kHz, as (start, end) samples, in order, without overlap.

    Args:
        wav: its level does not matter.
        use_vad: False asks for the energy rule (tests; machines without onnxruntime).
    """
    peak = float(np.abs(wav).max(initial=0.0))
    if peak <= 0:
        return []
    wav = wav / peak * 0.7
    spans = _silero(wav) if use_vad else None
    return _by_energy(wav) if spans is None else spans


def frame_levels_db(wav: np.ndarray) -> np.ndarray:
    """RMS level of each 10 ms of wav [S] at 16 kHz -> [T] dB, at least one frame."""
    count = max(1, len(wav) // FRAME)
    frames = np.resize(wav, count * FRAME) if len(wav) < FRAME else wav[: count * FRAME]
    return 10 * np.log10(np.mean(frames.reshape(count, FRAME).astype(np.float64) ** 2, axis=1) + 1e-12)


def best_window(spans: Sequence[Span], wav: np.ndarray, longest: int) -> list[Span]:
    """The spans of the stretch of at most `longest` samples with the most speech.

    A stretch begins at the start of a span. Of stretches with nearly as much speech the steadier and less
    clipped one wins, because one shout spoils a reference.
    """
    levels = frame_levels_db(wav)
    clipped = np.abs(wav) > 0.97 * np.abs(wav).max(initial=1e-9)
    best: list[Span] = []
    best_score = -np.inf
    for first in range(len(spans)):
        stretch = _stretch(spans, first, longest, levels)
        frames = np.concatenate([levels[a // FRAME : max(b // FRAME, a // FRAME + 1)] for a, b in stretch])
        seconds = sum(b - a for a, b in stretch) / RATE_HZ
        clipping = np.mean(np.concatenate([clipped[a:b] for a, b in stretch]))
        score = seconds - 0.05 * float(np.std(frames)) - 100 * float(clipping)
        if score > best_score:
            best, best_score = stretch, score
    return best


def _stretch(spans: Sequence[Span], first: int, longest: int, levels: np.ndarray) -> list[Span]:
    """Whole spans from `first` on that fit; a first span that does not fit is cut at a quiet frame."""
    start, end = spans[first]
    if end - start > longest:
        low, high = (start + longest * 3 // 4) // FRAME, (start + longest) // FRAME
        return [(start, (low + int(np.argmin(levels[low:high]))) * FRAME)]
    stretch = [spans[first]]
    for span in spans[first + 1 :]:
        if span[1] - start > longest:
            break
        stretch.append(span)
    return stretch


def _silero(wav: np.ndarray) -> list[Span] | None:
    try:
        from faster_whisper.vad import VadOptions, get_speech_timestamps
    except ImportError:
        return None
    options = VadOptions(min_speech_duration_ms=100, min_silence_duration_ms=200, speech_pad_ms=30)
    return [(int(s["start"]), int(s["end"])) for s in get_speech_timestamps(wav.astype(np.float32), options)]


def _by_energy(wav: np.ndarray) -> list[Span]:
    levels = frame_levels_db(wav)
    active = levels > max(float(np.percentile(levels, 95)) - _DYNAMIC_DB, -70.0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(np.int8), [0]])))
    spans: list[Span] = []
    for start, end in zip(edges[::2] * FRAME, edges[1::2] * FRAME, strict=True):
        if spans and start - spans[-1][1] < RATE_HZ // 5:
            spans[-1] = (spans[-1][0], int(end))
        else:
            spans.append((int(start), int(end)))
    return [(a, b) for a, b in spans if b - a >= RATE_HZ // 10]
