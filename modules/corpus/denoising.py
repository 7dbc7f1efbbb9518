"""Steady noise out of recordings, by spectral gating (noisereduce).

The noise is learned from the quietest parts of the recording itself. A long recording is worked on in pieces that
begin on the same grid of frames and see some seconds on both sides, so that no seam is heard.

Shapes: C channels, S samples.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modules.audio.channels import read_channels, write_channels
from modules.audio.long_loudness import mix_lufs
from modules.corpus.options import DenoiseOptions
from modules.corpus.outputs import Results, mirrored
from modules.errors import Stopped
from modules.progress import StepProgress

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
_LEVELS_AT_ONCE = 4096
_DIGITAL_SILENCE_DB = -100.0
_DITHER = 1e-7
"""-140 dB: without it, frames of zeros divide zero by zero."""
_MAX_GAIN_DB = 3.0


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
    wav = np.asarray(wav, dtype=np.float32)
    if not np.isfinite(wav).all():
        wav = np.nan_to_num(wav, nan=0.0, posinf=0.0, neginf=0.0)
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
            _in_pieces(samples, sample_rate, size, noise, options, tick, cleaned[channel])
    _level(cleaned, wav, sample_rate)
    return cleaned


def quietest(samples: np.ndarray, sample_rate: int) -> np.ndarray | None:
    """The quietest tenths of a second of samples [S] one after another, half a second to a minute; None for silence.

    Parts of digital silence, as they come from editing, tell nothing about the noise and are passed over.
    """
    window = round(_QUIET_WINDOW_SECONDS * sample_rate)
    count = len(samples) // window
    if count < 2:
        return None
    windows = samples[: count * window].reshape(count, window)
    parts = range(0, count, _LEVELS_AT_ONCE)  # float64 of an hour at once would be twice its size
    power = [windows[i : i + _LEVELS_AT_ONCE].astype(np.float64).var(axis=1) for i in parts]
    levels = 10 * np.log10(np.concatenate(power) + 1e-20)
    order = [int(i) for i in np.argsort(levels, kind="stable") if levels[i] > _DIGITAL_SILENCE_DB]
    if not order:
        return None
    fewest, most = (math.ceil(seconds / _QUIET_WINDOW_SECONDS) for seconds in _NOISE_SECONDS)
    chosen = order[: min(most, max(fewest, round(_QUIET_SHARE * len(order))))]
    # In their order in time, so that neighbours stay joined.
    return np.concatenate([windows[i] for i in sorted(chosen)]).astype(np.float64)


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
        UserError: output_of_other_step.
    """
    results = Results("denoise", output, [output], str(sorted(asdict(options).items())), progress, fresh)
    targets = results.claim(files, mirrored(files, root, f".{options.format}"))
    seconds = 0.0
    for number, (file, target) in enumerate(zip(files, targets)):

        def tick(share: float, number: int = number, name: str = file.name) -> None:
            if progress.should_stop():
                raise Stopped
            progress.update(number, len(files), f"{name} {100 * share:.0f} %")

        tick(0.0)
        path = output / target
        work = functools.partial(_denoise_file, file, path, options, tick)
        known = results.make(file, target.as_posix(), [path], work)
        seconds += float(known["seconds"]) if known is not None else 0.0
        progress.update(number + 1, len(files), file.name, [path] if path.is_file() else [])
    results.close()
    return DenoiseReport(output, results.made, results.already, round(seconds, 3), dict(results.reasons))


def _denoise_file(file: Path, path: Path, options: DenoiseOptions, tick: Callable[[float], None]) -> dict[str, Any]:
    """Write the cleaned sound of one file; tells its length. Raises UserError of its reading."""
    wav, rate = read_channels(file)
    seconds = round(wav.shape[1] / rate, 3)
    cleaned = denoise(wav, rate, options, tick)
    del wav
    write_channels(path, cleaned, rate)
    return {"seconds": seconds}


def _in_pieces(
    samples: np.ndarray,
    sample_rate: int,
    size: int,
    noise: np.ndarray | None,
    options: DenoiseOptions,
    tick: Callable[[float], None],
    cleaned: np.ndarray,
) -> None:
    """Clean samples [S] into `cleaned` [S], piece by piece; frames have `size` samples."""
    grid = size // 4
    piece = round(_PIECE_SECONDS * sample_rate) // grid * grid
    context = round(_CONTEXT_SECONDS[options.method] * sample_rate) // grid * grid
    # Mirrored edges: beyond them the adaptive floor would otherwise fall to nothing and let the noise pass.
    edge = min(context, len(samples) - 1) // grid * grid
    padded = _Padded(samples, edge)
    for start in range(0, len(samples), piece):
        end = min(start + piece, len(samples))
        left = max(0, start + edge - context)
        right = min(len(samples) + 2 * edge, end + edge + context)
        part = _gate(padded.read(left, right), sample_rate, size, noise, options)
        cleaned[start:end] = part[start + edge - left : end + edge - left]
        tick(end / len(samples))


class _Padded:
    """samples [S] in float64 with `edge` mirrored samples on both sides and dither, of which one stretch is held.

    Positions count from the first mirrored sample.
    """

    def __init__(self, samples: np.ndarray, edge: int):
        self._samples, self._edge = samples, edge
        self._random = np.random.default_rng(0)
        self._begin, self._held = 0, np.empty(0)

    def read(self, begin: int, end: int) -> np.ndarray:
        """Samples begin to end; neither may lie before those of the call before."""
        known = self._begin + len(self._held)
        places = np.abs(np.arange(known, end) - self._edge)
        new = self._samples[np.minimum(places, 2 * (len(self._samples) - 1) - places)].astype(np.float64)
        new += _DITHER * self._random.standard_normal(len(new))
        self._held = np.concatenate([self._held[begin - self._begin :], new])
        self._begin = begin
        return self._held


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


def _level(cleaned: np.ndarray, before: np.ndarray, sample_rate: int) -> None:
    """Give cleaned [C, S] the loudness of `before`, as far as that does not bring the noise back, without clipping.

    Only what the loudness meter's gate counts, that is the voice, is compared; a recording of noise alone therefore
    gains no more than `_MAX_GAIN_DB`.
    """
    old, new = (mix_lufs(one, sample_rate) for one in (before, cleaned))
    if not math.isfinite(old) or not math.isfinite(new):
        return
    gain = 10 ** (min(_MAX_GAIN_DB, max(-_MAX_GAIN_DB, old - new)) / 20)
    ceiling = max(1.0, _peak(before))
    cleaned *= min(gain, ceiling / max(_peak(cleaned), 1e-9))


def _peak(wav: np.ndarray) -> float:
    return max(float(wav.max()), -float(wav.min()))
