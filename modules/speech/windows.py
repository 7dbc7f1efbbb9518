"""Long sounds in overlapping windows whose results join without a seam.

Encoders with attention were trained on clips up to half a minute. A longer clip goes through in windows of equal
length; where two overlap, the first half of the overlap is taken from the earlier window and the second from the
later one, so every frame comes from one window that reaches at least half an overlap beyond it on either side (or to
the end of the clip). A network that sees no further than that gives what it gives for the whole clip.
"""

from dataclasses import dataclass

WINDOW_SECONDS = 30
OVERLAP_SECONDS = 4


@dataclass(frozen=True)
class Window:
    """Frames [start, stop) go through the encoder, of which [keep_start, keep_stop) are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def plan_windows(frames: int, size: int, overlap: int) -> list[Window]:
    """Windows that keep each of `frames` frames once, in order.

    All are `size` long, so that each has the context that the encoder knows: the last one begins earlier instead of
    being short. A clip of up to `size` frames is one window of its own length.

    Args:
        size: frames of a window; overlap: frames that neighbours share at least, less than `size`.
    """
    if frames <= size:
        return [Window(0, frames, 0, frames)]
    step = size - overlap
    count = 1 + -(-(frames - size) // step)
    starts = [min(i * step, frames - size) for i in range(count)]
    cuts = [(later + earlier + size) // 2 for earlier, later in zip(starts, starts[1:])]
    return [
        Window(start, start + size, low, high)
        for start, low, high in zip(starts, [0, *cuts], [*cuts, frames], strict=True)
    ]
