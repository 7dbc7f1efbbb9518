"""What frames enter a step as, from tables that are made once: the fast form of `SpeechGPT.embed_frames`.

Shape letters: S steps, W places of a step, K streams of a frame, H hidden, D width of a code vector, V classes.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.gpt.model import SpeechGPT
from modules.gpt.packing import WeightType, pack_linear

_TRIED = 64
"""Frames of drawn codes by which the tables of code vectors are held to the vectors themselves."""
_SAME = 1e-4
"""Of the largest number, so far may the two be apart; what rounding does is a hundredth of it."""


class FrameTables:
    """A vector for every code of a step; those of its codes are added up, and what is made of the sum enters.

    Args:
        places: tables [V_k + 1, H] of the streams that enter, for every frame of a step; the last vector is nothing.
        joined: makes one vector of a step of the sums of its frames [S, H].
    """

    def __init__(self, places: Sequence[Sequence[Tensor]], joined: Callable[[Sequence[Tensor]], Tensor]):
        self.places, self._joined = places, joined

    def __call__(self, frames: Sequence[Tensor]) -> Tensor:
        """Codes [S, K] of the frames of steps -> what enters [S, H]. A code that is not there (negative) adds
        nothing."""
        return self._joined([add_up(tables, codes) for tables, codes in zip(self.places, frames, strict=True)])


def frame_tables(model: SpeechGPT, weights: WeightType) -> FrameTables | None:
    """The tables of a model.

    A model of code vectors enters by a layer over the vector of a frame. Vectors of grouped quantisers are sums of what
    each code says, so that behind this layer each code still has a vector of its own.

    Args:
        model: in eval mode; its weights are copied.
        weights: type of the matrix behind the sum, where there is one.

    Returns:
        None where code vectors are not handed in yet, or are no such sums.
    """
    group = model.pattern.group_size
    if model.vector_dim is None:
        tables = [with_nothing(table.matrix()) for table in model.speech]
        joined = _alone if group == 1 else lambda sums: model.grouping.join(torch.cat(sums, 1))
        return FrameTables([tables] * group, joined)
    if model.vectors is None:
        return None
    apart = _apart(model.vectors, model.codebook_sizes, model.specials.device)
    if apart is None:
        return None
    first, _, second = model.from_vector
    bias, last = first.bias.detach().clone(), pack_linear(second.weight, second.bias, weights)
    places = [
        [with_nothing(F.linear(vectors, matrix)) for vectors in apart]
        for matrix in first.weight.detach().split(model.vector_dim, 1)
    ]
    return FrameTables(places, lambda sums: last(F.gelu(sum(sums) + bias)))


def add_up(tables: Sequence[Tensor], codes: Tensor) -> Tensor:
    """The sum of the vectors of codes [S, K] in their tables, [S, H]; row -1 of a table is nothing."""
    found = zip(tables, codes.clamp_min(-1).unbind(1), strict=False)  # advances have no table
    return sum(table[code] for table, code in found)


def with_nothing(table: Tensor) -> Tensor:
    """A table with a vector of nothing at its end, for the class of EOS and for codes that are not there."""
    return torch.cat([table, torch.zeros_like(table[:1])])


def _alone(sums: Sequence[Tensor]) -> Tensor:
    return sums[0]


def _apart(vectors: Callable[[Tensor], Tensor], sizes: Sequence[int], device: torch.device) -> list[Tensor] | None:
    """Tables [V_k, D] whose sum is the vector of a frame's codes; what is in every vector is in the first. None where
    there are none such."""
    nothing = torch.zeros(1, len(sizes), dtype=torch.int64, device=device)
    always = vectors(nothing).float()
    tables = []
    for stream, size in enumerate(sizes):
        codes = nothing.repeat(size, 1)
        codes[:, stream] = torch.arange(size, device=device)
        tables.append(vectors(codes).float() - (always if stream else 0))
    limits = torch.tensor(sizes, device=device)
    drawn = torch.rand(_TRIED, len(sizes), generator=torch.Generator().manual_seed(0)).to(device)
    codes = (drawn * limits).long()
    wanted = vectors(codes).float()
    apart = (add_up(tables, codes) - wanted).abs().max()
    return tables if bool(apart <= _SAME * wanted.abs().max()) else None
