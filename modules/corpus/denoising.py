"""Steady noise out of recordings, by spectral gating (noisereduce).

The noise is learned from the quietest parts of the recording itself. A long recording is worked on in pieces that
begin on the same grid of frames and see some seconds on both sides, so that no seam is heard.

Shapes: C channels, S samples.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from modules.audio.channels import read_channels, write_channels
from modules.audio.loudness import integrated_lufs
from modules.config import field
from modules.corpus.journal import Journal, content_key
from modules.corpus.outputs import REJECTED_NAME, mirrored, write_rejected
from modules.errors import Stopped, UserError
from modules.progress import StepProgress

JOURNAL_NAME = "journal.jsonl"
_FRAME_SECONDS = 0.03
_PIECE_SECONDS = 60.0
_CONTEXT_SECONDS = {"stationary": 1.0, "adaptive": 10.0}
"""What a piece sees on both sides: the smoothing of the mask, or five time constants of the adaptive floor, beyond which
a sound weighs less than a hundredth."""
_FLOOR_CONSTANT_SECONDS = 2.0
_SHORTEST_SECONDS = 0.15
"""Too short to tell noise from voice: returned as it is."""
_QUIET_SHARE = 0.15
_QUIET_WINDOW_SECONDS = 0.1
_NOISE_SECONDS = (0.5, 60.0)
_DIGITAL_SILENCE_DB = -100.0
_DITHER = 1e-7
"""-140 dB: without it, frames of zeros divide zero by zero."""
_MAX_GAIN_DB = 3.0


@dataclass(frozen=True)
class DenoiseOptions:
    """How noise is taken away, and what is written."""

    method: Literal["stationary", "adaptive"] = field(
        "stationary", "stationary for a steady hiss or hum, adaptive for noise that comes and goes"
    )
    strength: float = field(
        0.8, "0 leaves all of the noise, 1 takes away all that is found (and may sound hollow)", 0, 1
    )
    threshold: float = field(
        1.3,
        "how far sound must stand out to be kept; more is stricter. stationary: standard deviations above the noise; "
        "adaptive: times the mean level around it",
        0,
        10,
    )
    format: Literal["wav", "flac", "mp3", "m4a"] = field("wav", "format of the files that are written")


@dataclass(frozen=True)
class DenoiseReport:
    """What a run made: the folder, counts, reasons with their counts."""

    folder: Path
    files: int
    already: int
    seconds: float
    rejected: dict[str, int]


def denoise(
    wav: np.ndarray,
    sample_rate: int,
    options: DenoiseOptions | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """wav [C, S] float32 without its noise, of the same shape and loudness; channels are cleaned one by one.

    Silence, strength 0 and what is shorter than 0.15 s come back unchanged. NaN counts as 0.

    Args:
        on_progress: gets the share that is done, 0 to 1; whatever it raises ends the work.
    """
    options = options or DenoiseOptions()
    wav = np.nan_to_num(np.asarray(wav, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if options.strength == 0 or wav.shape[1] < _SHORTEST_SECONDS * sample_rate or not wav.any():
        return wav.copy()
    size = 2 ** round(math.log2(_FRAME_SECONDS * sample_rate))
    cleaned = np.empty_like(wav)
    for channel, samples in enumerate(wav):

        def tick(share: float, channel: int = channel) -> None:
            if on_progress is not None:
                on_progress((channel + share) / len(wav))

        noise = quietest(samples, sample_rate) if options.method == "stationary" else None
        if options.method == "stationary" and noise is None:
            cleaned[channel] = samples  # nothing but digital silence between the sounds
        else:
            cleaned[channel] = _in_pieces(samples, sample_rate, size, noise, options, tick)
    return _as_loud(cleaned, wav, sample_rate)


def quietest(samples: np.ndarray, sample_rate: int) -> np.ndarray | None:
    """The quietest tenths of a second of samples [S] one after another, half a second to a minute; None for silence.

    Parts of digital silence, as they come from editing, tell nothing about the noise and are passed over.
    """
    window = round(_QUIET_WINDOW_SECONDS * sample_rate)
    count = len(samples) // window
    if count < 2:
        return None
    windows = samples[: count * window].reshape(count, window).astype(np.float64)
    levels = 10 * np.log10(windows.var(axis=1) + 1e-20)
    order = [int(i) for i in np.argsort(levels, kind="stable") if levels[i] > _DIGITAL_SILENCE_DB]
    if not order:
        return None
    fewest, most = (math.ceil(seconds / _QUIET_WINDOW_SECONDS) for seconds in _NOISE_SECONDS)
    chosen = order[: min(most, max(fewest, round(_QUIET_SHARE * len(order))))]
    # In their order in time, so that neighbours stay joined.
    return np.concatenate([windows[i] for i in sorted(chosen)])


def denoise_files(
    files: Sequence[Path],
    root: Path,
    options: DenoiseOptions,
    output: Path,
    progress: StepProgress,
    fresh: bool = False,
) -> DenoiseReport:
    """Write `<name>.<format>` into `output` for every file, folders below `root` mirrored.

    A file that was done before with the same options is not done again; one that cannot be read goes into
    `rejected.jsonl`.

    Raises:
        Stopped: asked for by `progress`, also in the middle of a file; finished files stay.
    """
    targets = mirrored(files, root, f".{options.format}")
    journal = Journal(output / JOURNAL_NAME, fresh)
    rejected: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    seconds = 0.0
    for number, (file, target) in enumerate(zip(files, targets)):

        def tick(share: float, number: int = number, name: str = file.name) -> None:
            if progress.should_stop():
                raise Stopped
            progress.update(number, len(files), f"{name} {100 * share:.0f} %")

        tick(0.0)
        path = output / target
        try:
            made_of = content_key(file, str(sorted(asdict(options).items())))
            known = journal.get(target.as_posix())
            if known is None or known["made_of"] != made_of or not path.is_file():
                wav, rate = read_channels(file)
                write_channels(path, denoise(wav, rate, options, tick), rate)
                known = {"made_of": made_of, "seconds": round(wav.shape[1] / rate, 3)}
                journal.add(target.as_posix(), known)
                counts["files"] += 1
            else:
                counts["already"] += 1
            seconds += float(known["seconds"])
        except UserError as cause:
            rejected.append({"file": str(file), "reason": " ".join(str(cause).split())})
            counts[cause.code] += 1
            progress.reject(file, rejected[-1]["reason"])
        progress.update(number + 1, len(files), file.name, [path] if path.is_file() else [])
    write_rejected(output / REJECTED_NAME, rejected)
    done, already = counts.pop("files", 0), counts.pop("already", 0)
    return DenoiseReport(output, done, already, round(seconds, 3), dict(counts))


def _in_pieces(
    samples: np.ndarray,
    sample_rate: int,
    size: int,
    noise: np.ndarray | None,
    options: DenoiseOptions,
    tick: Callable[[float], None],
) -> np.ndarray:
    """samples [S] cleaned piece by piece; frames have `size` samples."""
    grid = size // 4
    piece = round(_PIECE_SECONDS * sample_rate) // grid * grid
    context = round(_CONTEXT_SECONDS[options.method] * sample_rate) // grid * grid
    # Mirrored edges: beyond them the adaptive floor would otherwise fall to nothing and let the noise pass.
    edge = min(context, len(samples) - 1) // grid * grid
    padded = np.pad(samples.astype(np.float64), edge, mode="reflect")
    padded += _DITHER * np.random.default_rng(0).standard_normal(len(padded))
    cleaned = np.empty(len(samples), dtype=np.float32)
    for start in range(0, len(samples), piece):
        end = min(start + piece, len(samples))
        left = max(0, start + edge - context)
        right = min(len(padded), end + edge + context)
        part = _gate(padded[left:right], sample_rate, size, noise, options)
        cleaned[start:end] = part[start + edge - left : end + edge - left]
        tick(end / len(samples))
    return cleaned


def _gate(
    samples: np.ndarray, sample_rate: int, size: int, noise: np.ndarray | None, options: DenoiseOptions
) -> np.ndarray:
    import noisereduce

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return noisereduce.reduce_noise(
            y=samples,
            sr=sample_rate,
            stationary=noise is not None,
            y_noise=noise,
            prop_decrease=options.strength,
            n_std_thresh_stationary=options.threshold,
            thresh_n_mult_nonstationary=options.threshold - 1,  # the library counts from once the mean
            time_constant_s=_FLOOR_CONSTANT_SECONDS,
            n_fft=size,
            freq_mask_smooth_hz=max(500, math.ceil(2 * sample_rate / size)),
            chunk_size=None,
            padding=size,
            clip_noise_stationary=False,
        )


def _as_loud(cleaned: np.ndarray, before: np.ndarray, sample_rate: int) -> np.ndarray:
    """cleaned [C, S] with the loudness of `before`, as far as that does not bring the noise back, and without clipping.

    Only what the loudness meter's gate counts, that is the voice, is compared; a recording of noise alone therefore
    gains no more than `_MAX_GAIN_DB`.
    """
    old, new = (integrated_lufs(torch.from_numpy(one.mean(axis=0)), sample_rate) for one in (before, cleaned))
    if not math.isfinite(old) or not math.isfinite(new):
        return cleaned
    gain = 10 ** (min(_MAX_GAIN_DB, max(-_MAX_GAIN_DB, old - new)) / 20)
    peak = float(np.abs(cleaned).max(initial=0.0))
    ceiling = max(1.0, float(np.abs(before).max()))
    return (cleaned * min(gain, ceiling / max(peak, 1e-9))).astype(np.float32)
