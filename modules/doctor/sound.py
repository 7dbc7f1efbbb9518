"""Checks of sound: the packaged ffmpeg, and a way through every format that the program reads and writes."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modules.doctor.findings import Finding, cause_of
from modules.doctor.system import SET_UP

RATE_HZ, OTHER_RATE_HZ = 32000, 16000
SECONDS, TONE_HZ, TONE_LEVEL = 1.0, 440.0, 0.25
_TARGET_LUFS = -23.0


def check_ffmpeg() -> Finding:
    """Whether the ffmpeg that comes with the packages is there and starts."""
    import imageio_ffmpeg

    try:
        executable, version = imageio_ffmpeg.get_ffmpeg_exe(), imageio_ffmpeg.get_ffmpeg_version()
    except (RuntimeError, OSError) as cause:
        return Finding("ffmpeg", "problem", f"The packaged ffmpeg does not start ({cause_of(cause)}).", SET_UP)
    return Finding("ffmpeg", "ok", f"{version}, {Path(executable).name}")


def check_sound() -> Iterator[Finding]:
    """A tone written as wav and flac, read again, resampled and set to a loudness."""
    times = np.arange(int(SECONDS * RATE_HZ)) / RATE_HZ
    tone = (TONE_LEVEL * np.sin(2 * math.pi * TONE_HZ * times)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        for suffix in (".wav", ".flac"):
            yield _round_trip(tone, Path(folder) / f"tone{suffix}")
    yield _loudness(tone)


def _round_trip(tone: np.ndarray, path: Path) -> Finding:
    from modules.audio.channels import write_channels
    from modules.audio.io import read
    from modules.audio.resample import resample

    name = f"Sound {path.suffix[1:]}"
    try:
        write_channels(path, tone[None], RATE_HZ)
        same = read(path, RATE_HZ).numpy()
        other = read(path, OTHER_RATE_HZ).numpy()
        expected = resample(tone, RATE_HZ, OTHER_RATE_HZ)
    except Exception as cause:  # codecs fail in many ways
        return Finding(name, "problem", f"A file cannot be written and read ({cause_of(cause)}).", SET_UP)
    difference = max(_distance(same, tone), _distance(other, expected))
    if difference > 1e-2:
        return Finding(name, "problem", f"What is read differs from what was written by {difference:.2g}.", SET_UP)
    return Finding(name, "ok", f"written, read and resampled; differs by {difference:.1g}")


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    length = min(len(found), len(expected))
    if length < 0.9 * len(expected):
        return math.inf
    return float(np.abs(found[:length] - expected[:length]).max())


def _loudness(tone: np.ndarray) -> Finding:
    import torch

    from modules.audio.loudness import integrated_lufs, normalize

    level = integrated_lufs(normalize(torch.from_numpy(tone), RATE_HZ, _TARGET_LUFS), RATE_HZ)
    if abs(level - _TARGET_LUFS) > 0.5:
        return Finding("Loudness", "problem", f"Asked for {_TARGET_LUFS} LUFS, got {level:.1f}.", SET_UP)
    return Finding("Loudness", "ok", f"{level:.1f} LUFS where {_TARGET_LUFS} were asked for")
