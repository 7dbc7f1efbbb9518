"""Noise and time on the way from tokens to sound. All of it is causal: what comes first does not depend on how much
comes after it, so a sentence that is decoded while it is still growing sounds as if decoded at once.

Shapes: B batch, C channels, T frames, N pitch points, K places.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None

ROWS_AT_ONCE = 16
"""Torch draws normal numbers in groups of 16: only draws of whole groups, one after the other, are one long draw."""


class NoiseTape:
    """Unit noise row by row: a row has the same values however many rows are asked for at once. On the CPU, so that
    every device hears the same.

    Args:
        width: values of a row.
        seed: of a generator of its own.
    """

    def __init__(self, width: int, seed: int):
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn = torch.empty(0, width)

    def rows(self, first: int, last: int) -> Tensor:
        """Rows first..last - 1, [last - first, width]."""
        missing = last - len(self._drawn)
        if missing > 0:
            rows = -(-missing // ROWS_AT_ONCE) * ROWS_AT_ONCE
            more = torch.randn(rows, self._drawn.shape[1], generator=self._generator)
            self._drawn = torch.cat((self._drawn, more)) if len(self._drawn) else more
        return self._drawn[first:last]


def noise_tapes(widths: Sequence[int], generator: torch.Generator | None) -> list[NoiseTape]:
    """One tape per width, seeded by the next numbers of a CPU generator (the global one when None)."""
    seeds = torch.randint(2**62, (len(widths),), generator=generator).tolist()
    return [NoiseTape(width, seed) for width, seed in zip(widths, seeds, strict=True)]


def draw_noise(counts: Sequence[int], widths: Sequence[int], generators: Generators) -> list[Tensor]:
    """Noise of several widths for rows of `counts` frames, [B, longest, width] each, zero after a row's end.

    With a generator per row a row's noise is the same in every batch.
    """
    one = generators is None or isinstance(generators, torch.Generator)
    tapes = [noise_tapes(widths, generators if one else generators[row]) for row in range(len(counts))]
    return [
        torch.nn.utils.rnn.pad_sequence(
            [tape[kind].rows(0, count) for tape, count in zip(tapes, counts, strict=True)], batch_first=True
        )
        for kind in range(len(widths))
    ]


def places_at(speed: float, first: int, last: int, device: torch.device) -> Tensor:
    """Where frames first..last - 1 of a sound of that speed lie among the frames of the plain sound, [K] float64.

    The speed itself is the ratio, not the ratio of two rounded lengths: that would depend on the end.
    """
    return (torch.arange(first, last, device=device, dtype=torch.float64) + 0.5) * speed - 0.5


def retime(x: Tensor, places: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Values of each row at places [K] between its frames, by straight lines. [B, C, T] -> [B, C, K].

    Args:
        lengths: [B]; a row's last frame is held after its end. None: whole width.
    """
    if lengths is None:
        lengths = torch.full((x.shape[0],), x.shape[2], device=x.device)
    ends = (lengths - 1)[:, None]
    place = places.clamp_min(0.0).minimum(ends.to(places.dtype))
    left = place.floor().long()
    share = (place - left)[:, None].to(x.dtype)
    index = [i[:, None].expand(-1, x.shape[1], -1) for i in (left, (left + 1).minimum(ends))]
    return torch.lerp(x.gather(2, index[0]), x.gather(2, index[1]), share)


def retime_f0(f0: Tensor, carried: Tensor, places: Tensor, lengths: Tensor | None = None) -> Tensor:
    """`retime` for pitch: voiced stays voiced and no glide leads into silence.

    f0 [B, N] Hz, carried [B, N] Hz (see `carry_pitch`) -> [B, K] Hz.
    """
    voiced = retime((f0 > 0).to(f0.dtype)[:, None], places, lengths)[:, 0] > 0.5
    return torch.where(voiced, retime(carried[:, None], places, lengths)[:, 0], 0.0)
