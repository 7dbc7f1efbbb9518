"""What can be measured of a clip, and which clips hold the same bytes.

Shapes: S samples (mono).
"""

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.errors import Stopped

CLIPPED_SHARE = 0.0005
"""A clip with a larger share of clipped samples is called clipped; a single touch is not heard."""

_HEAD_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
_FULL_SCALE = 0.999
_CLIPPED_RUN = 3
"""Samples in a row at full scale; a loud clip that was only normalised touches it with single ones."""
_FRAME_SECONDS = 0.01
_SILENT_DB = -60.0
_DYNAMIC_DB = 40.0
"""A frame is silent below _SILENT_DB, or this much below the clip's loud frames."""


@dataclass(frozen=True)
class ClipFacts:
    """What a clip sounds like by numbers.

    Args:
        seconds: length.
        sample_rate: Hz.
        loudness_lufs: gated loudness; -inf for silence.
        clipped_share: share of samples in runs at full scale, 0 to 1.
        silent_share: share of 10 ms frames without sound, 0 to 1.
    """

    seconds: float
    sample_rate: int
    loudness_lufs: float
    clipped_share: float
    silent_share: float


def measure_clip(path: str | Path) -> ClipFacts:
    """The facts of a sound file, its channels mixed to one. Raises UserError like `modules.audio.io.read`."""
    from modules.audio.io import probe, read
    from modules.audio.loudness import integrated_lufs

    sample_rate = probe(path).sample_rate
    wav = read(path, sample_rate)
    samples = wav.numpy()
    return ClipFacts(
        seconds=len(samples) / sample_rate,
        sample_rate=sample_rate,
        loudness_lufs=integrated_lufs(wav, sample_rate),
        clipped_share=clipped_share(samples),
        silent_share=silent_share(samples, sample_rate),
    )


def clip_seconds(path: str | Path) -> float:
    """Length of a sound file, from its header where that tells it. Raises UserError like `modules.audio.io.probe`."""
    from modules.audio.io import probe

    return probe(path).seconds


def clip_clipping(path: str | Path) -> float:
    """`clipped_share` of a sound file. Raises UserError like `modules.audio.io.read`."""
    from modules.audio.io import probe, read

    return clipped_share(read(path, probe(path).sample_rate).numpy())


def clipped_share(wav: np.ndarray) -> float:
    """Share of the samples of wav [S] that lie in runs of three or more at full scale."""
    full = (np.abs(wav) >= _FULL_SCALE).astype(np.int8)
    edges = np.flatnonzero(np.diff(full, prepend=0, append=0))
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= _CLIPPED_RUN].sum() / max(1, len(wav)))


def silent_share(wav: np.ndarray, sample_rate: int) -> float:
    """Share of the 10 ms frames of wav [S] that hold no sound; 1 for a clip shorter than one frame or silent."""
    frame = max(1, round(sample_rate * _FRAME_SECONDS))
    count = len(wav) // frame
    if not count:
        return 1.0
    power = np.mean(wav[: count * frame].reshape(count, frame).astype(np.float64) ** 2, axis=1)
    levels_db = 10 * np.log10(power + 1e-20)
    return float(np.mean(levels_db < max(_SILENT_DB, float(np.percentile(levels_db, 95)) - _DYNAMIC_DB)))


def file_digest(path: str | Path, most_bytes: float = math.inf) -> bytes:
    """SHA-256 of a file's bytes, or of its first `most_bytes`."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while most_bytes > 0 and (block := file.read(int(min(_BLOCK_BYTES, most_bytes)))):
            digest.update(block)
            most_bytes -= len(block)
    return digest.digest()


def same_content(paths: Sequence[str], should_stop: Callable[[], bool] = lambda: False) -> dict[int, int]:
    """Which files have the same bytes: index of a later path -> index of the first path with that content.

    Only files of equal size and equal beginning are read whole. Missing and unreadable files equal none.

    Raises:
        Stopped: should_stop, asked before each file, said so.
    """

    def size(index: int) -> int:
        return os.stat(paths[index]).st_size

    def beginning(index: int) -> bytes:
        return file_digest(paths[index], _HEAD_BYTES)

    def everything(index: int) -> bytes:
        return file_digest(paths[index])

    groups: list[list[int]] = [list(range(len(paths)))]
    for key in (size, beginning, everything):
        groups = [part for group in groups for part in _parted(group, key, should_stop)]
    return {later: group[0] for group in groups for later in group[1:]}


def _parted(group: Iterable[int], key: Callable[[int], Hashable], should_stop: Callable[[], bool]) -> list[list[int]]:
    """The members of `group` by equal key, without those that are alone with theirs."""
    parts: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index in group:
        if should_stop():
            raise Stopped
        try:
            parts[key(index)].append(index)
        except OSError:
            continue
    return [part for part in parts.values() if len(part) > 1]
