"""Reading any sound file and writing wav.

soundfile is asked first (wav, flac, ogg, opus, mp3); what it cannot open, or can read only in part, goes to PyAV
(m4a, webm, mp4, odd headers). Whatever could be decoded before a defect is used if it lasts long enough.

Shapes: S samples, C channels.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from modules.errors import UserError

T = TypeVar("T")

_SHORTEST_SECONDS = 0.1
"""A defective file that yields less than this is refused."""
_BLOCK_SAMPLES = 1 << 16
_FIRST_SAMPLES = 1 << 22
_ANTIPHASE_RATIO = 0.25
"""A mix this much quieter than its loudest channel (-12 dB) means that the channels cancel each other."""


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file holds, before any conversion."""

    seconds: float
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class Decoded:
    """What a file gave: samples [S, C] float32 at their own rate; whole is False when decoding ended at a defect."""

    samples: np.ndarray
    sample_rate: int
    whole: bool

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


def read(path: str | Path, sample_rate: int) -> Tensor:
    """The sound of a file in any container as wav [S], float32, mono, at sample_rate Hz.

    Channels are averaged; if they cancel each other (antiphase), the loudest one is taken instead. NaN and
    infinite samples become 0.

    Raises:
        UserError: audio_missing (no such file), audio_unreadable (not a sound, or damaged from the start),
            audio_empty (a sound of no samples).
    """
    path = Path(path)
    decoded = decode(path)
    if not len(decoded.samples):
        raise empty(path)
    if not decoded.whole and decoded.seconds < _SHORTEST_SECONDS:
        raise _unreadable(path)
    mono = to_mono(decoded.samples)
    if decoded.sample_rate != sample_rate:
        mono = soxr.resample(mono, decoded.sample_rate, sample_rate)
    if not len(mono):
        raise empty(path)
    return torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))


def probe(path: str | Path) -> AudioInfo:
    """Length, rate and channels of a file; decodes it only if its header does not tell.

    The header is believed: a truncated file may hold less than it promises. Raises UserError like `read`.
    """
    path = Path(path)
    _require_file(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            if 0 < file.frames < 1 << 40:
                return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)
    except (OSError, RuntimeError, ValueError):
        pass  # not a format of soundfile's
    except TypeError:
        pass  # a name ending in .raw: soundfile wants to be told its format
    promised = _attempt(_probe_av, path)
    if promised is not None:
        return promised
    decoded = decode(path)
    if not len(decoded.samples):
        raise empty(path)
    return AudioInfo(decoded.seconds, decoded.sample_rate, decoded.samples.shape[1])


def write(path: str | Path, wav: Tensor | np.ndarray, sample_rate: int) -> None:
    """Write wav [S] (-1 to 1, clipped beyond) as 16-bit PCM; the file appears whole or not at all.

    Missing folders are made. NaN is written as 0.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = wav.detach().float().cpu().numpy() if isinstance(wav, Tensor) else np.asarray(wav, dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"wav must be [S], not {samples.shape}")
    pcm = to_pcm16(samples)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}.", suffix=".wav")
    try:
        with os.fdopen(handle, "wb") as file:
            soundfile.write(file, pcm, sample_rate, format="WAV", subtype="PCM_16")
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the result from other users
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """float samples (-1 to 1) as int16 with 32768 steps to 1.0, so that PCM read back and written again is equal."""
    pcm = np.empty(samples.shape, dtype=np.int16)
    for start in range(0, len(samples), _FIRST_SAMPLES):
        clean = np.nan_to_num(samples[start : start + _FIRST_SAMPLES], nan=0.0, posinf=1.0, neginf=-1.0)
        pcm[start : start + _FIRST_SAMPLES] = np.clip(np.rint(clean * 32768.0), -32768, 32767)
    return pcm


def to_mono(samples: np.ndarray) -> np.ndarray:
    """samples [S, C] (or [S]) -> [S] float32: the mean of the channels, or the loudest where they cancel."""
    clean = finite(np.asarray(samples, dtype=np.float32))
    if clean.ndim == 1:
        return clean
    if clean.shape[1] == 1:
        return clean[:, 0]
    mixed = clean.mean(axis=1)
    # einsum sums into float64 without a float64 copy of what may be hours of sound.
    levels = np.sqrt(np.einsum("sc,sc->c", clean, clean, dtype=np.float64) / max(1, len(clean)))
    loudest = int(levels.argmax())
    mixed_level = float(np.sqrt(np.einsum("s,s->", mixed, mixed, dtype=np.float64) / max(1, len(mixed))))
    # One silent channel among C lowers the mix to 1/C of the other without any cancelling.
    if mixed_level < _ANTIPHASE_RATIO * levels.mean():
        return clean[:, loudest]
    return mixed


def finite(samples: np.ndarray) -> np.ndarray:
    """The samples with 0 for NaN and infinite ones; the same array where there are none."""
    return samples if np.isfinite(samples).all() else np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(
            "audio_missing", "There is no audio file {file}; check the path, or restore the file.", file=str(path)
        )
    if path.stat().st_size == 0:
        raise empty(path)


def _unreadable(path: Path) -> UserError:
    return UserError(
        "audio_unreadable",
        "{file} cannot be read as audio; it is damaged or not a sound. Convert it to wav or flac and try again.",
        file=str(path),
    )


def empty(path: Path) -> UserError:
    """The error of a file without samples."""
    return UserError(
        "audio_empty", "{file} holds no sound; record or export it again, or leave it out.", file=str(path)
    )


def decode(path: Path) -> Decoded:
    """The best that any decoder makes of the file: the first whole result, else the longest partial one.

    Raises:
        UserError: audio_missing, audio_unreadable, audio_empty (a file of no bytes).
    """
    _require_file(path)
    results = []
    for decoder in (_decode_soundfile, _decode_av):
        decoded = _attempt(decoder, path)
        if decoded is not None and decoded.whole and len(decoded.samples):
            return decoded
        if decoded is not None:
            results.append(decoded)
    if not results:
        raise _unreadable(path)
    return max(results, key=lambda decoded: decoded.seconds)


def _attempt(decoder: Callable[[Path], T], path: Path) -> T | None:
    """The decoder's result, or None if it does not know the file at all."""
    try:
        return decoder(path)
    except (OSError, RuntimeError, ValueError, LookupError):
        # soundfile raises RuntimeErrors, PyAV OSErrors and ValueErrors, both for "not my format".
        return None
    except TypeError:
        # soundfile wants to be told the format of a name ending in .raw, whatever is in the file.
        return None


def _probe_av(path: Path) -> AudioInfo:
    """What the container's header promises; ValueError where it tells no length (a browser's recording)."""
    with av.open(str(path), mode="r") as container:
        stream = next((stream for stream in container.streams if stream.type == "audio"), None)
        if stream is None or not stream.duration or not stream.time_base or not stream.sample_rate:
            raise ValueError("no length in the header")
        return AudioInfo(float(stream.duration * stream.time_base), stream.sample_rate, stream.channels)


def _decode_soundfile(path: Path) -> Decoded:
    with soundfile.SoundFile(str(path)) as file:
        promised, whole, count = file.frames, True, 0
        # One array that grows in place: hours of sound are not held twice, and a header's promise is not believed.
        samples = np.empty((min(max(promised, 0), _FIRST_SAMPLES) + _BLOCK_SAMPLES, file.channels), dtype=np.float32)
        try:
            while got := len(file.read(out=samples[count : count + _BLOCK_SAMPLES])):
                count += got
                if count + _BLOCK_SAMPLES > len(samples):
                    samples.resize((len(samples) * 3 // 2, file.channels), refcheck=False)
        except (OSError, RuntimeError):
            whole = False
        samples.resize((count, file.channels), refcheck=False)
        # A streamed wav promises 2^31 samples; an mp3's estimate may be off by its padding.
        if 0 < promised < 1 << 30 and len(samples) < 0.98 * promised:
            whole = False
        return Decoded(samples, file.samplerate, whole)


def _decode_av(path: Path) -> Decoded:
    with av.open(str(path), mode="r") as container:
        stream = next((stream for stream in container.streams if stream.type == "audio"), None)
        if stream is None:
            raise ValueError("no audio stream")
        blocks: list[np.ndarray] = []
        rate, whole = 0, True
        resampler: av.AudioResampler | None = None
        try:
            for frame in container.decode(stream):
                if resampler is None:
                    rate = frame.sample_rate
                    # The resampler's own mix would hide cancelling channels, so the layout is kept.
                    resampler = av.AudioResampler(format="fltp", layout=frame.layout.name, rate=rate)
                blocks += [part.to_ndarray().T for part in resampler.resample(frame)]
            if resampler is not None:
                blocks += [part.to_ndarray().T for part in resampler.resample(None)]
        except (OSError, RuntimeError, ValueError):
            whole = False
        if not blocks:
            raise ValueError("no audio frames")
        return Decoded(np.concatenate(blocks).astype(np.float32, copy=False), rate, whole)
