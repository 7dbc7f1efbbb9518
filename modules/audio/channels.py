"""Sound with all of its channels at its own rate, for steps that give back what they were given.

Shapes: C channels, S samples.
"""

import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile
import soxr

from modules.audio.io import decode, empty, finite, to_mono, to_pcm16
from modules.errors import UserError

FORMATS = ("wav", "flac", "mp3", "m4a")
_MPEG_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_BIT_RATE = 192_000
_ENCODERS = {"mp3": "libmp3lame", "m4a": "aac"}


def read_channels(path: str | Path) -> tuple[np.ndarray, int]:
    """The sound of a file in any container as wav [C, S] float32, with its sample rate, Hz. NaN becomes 0.

    Raises:
        UserError: audio_missing, audio_unreadable, audio_empty, as `modules.audio.io.read` does.
    """
    path = Path(path)
    decoded = decode(path)
    if not len(decoded.samples):
        raise empty(path)
    return np.ascontiguousarray(finite(decoded.samples).T), decoded.sample_rate


def write_channels(path: Path, wav: np.ndarray, sample_rate: int) -> None:
    """Write wav [C, S] (-1 to 1, clipped beyond) in the format that the suffix names, one of `FORMATS`.

    wav and flac are 16-bit; mp3 and m4a know no rates above 48 kHz and few others, so they may be resampled, and more
    than two channels become one. The file appears whole or not at all, and missing folders are made.

    Raises:
        UserError: audio_unwritable: the format cannot hold this sound.
        OSError: nothing can be written there.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise ValueError(f"{path.name} does not end in one of {FORMATS}")
    if kind in _ENCODERS and len(wav) > 2:
        wav = to_mono(wav.T)[None]
    if kind in _ENCODERS and sample_rate not in _MPEG_RATES:
        rate = min((rate for rate in _MPEG_RATES if rate >= sample_rate), default=_MPEG_RATES[-1])
        wav, sample_rate = soxr.resample(np.ascontiguousarray(wav.T), sample_rate, rate).T, rate
    pcm = to_pcm16(np.asarray(wav, dtype=np.float32).T)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}.", suffix=path.suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            try:
                _encode(file, pcm, sample_rate, kind)
            except (RuntimeError, ValueError, OverflowError, av.error.FFmpegError) as cause:
                raise UserError(
                    "audio_unwritable",
                    "{file} cannot be written ({channels} channels at {rate} Hz: {cause}); choose another format.",
                    file=str(path),
                    channels=pcm.shape[1],
                    rate=sample_rate,
                    cause=" ".join(str(cause).split())[:200],
                ) from cause
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the result from other users
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _encode(file: BinaryIO, pcm: np.ndarray, sample_rate: int, kind: str) -> None:
    """pcm int16 [S, C] into an open file."""
    if kind in ("wav", "flac"):
        soundfile.write(file, pcm, sample_rate, format=kind.upper(), subtype="PCM_16")
    elif kind == "mp3" and "MP3" in soundfile.available_formats():
        # libsndfile 1.2.2 copies half of every block of 16-bit stereo to its MP3 encoder and leaves noise in the rest.
        soundfile.write(file, pcm.astype(np.float32) / 32768.0, sample_rate, format="MP3")
    else:
        _encode_av(file, pcm, sample_rate, kind)


def _encode_av(file: BinaryIO, pcm: np.ndarray, sample_rate: int, kind: str) -> None:
    layout = "mono" if pcm.shape[1] == 1 else "stereo"
    with av.open(file, mode="w", format="ipod" if kind == "m4a" else kind) as container:
        stream = container.add_stream(_ENCODERS[kind], rate=sample_rate, layout=layout)
        stream.bit_rate = _BIT_RATE
        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate = sample_rate
        resampler = av.AudioResampler(stream.format, layout, sample_rate, frame_size=stream.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
