"""What frames enter a step as, from tables that are made once: the fast form of `SpeechGPT.embed_frames`.

Shape letters: S steps, W places of a step, K streams of a frame, H hidden, D width of a code vector, V classes.
"""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.gpt.model import SpeechGPT

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


def frame_tables(model: SpeechGPT) -> FrameTables:
    """The tables of a model.

    A model of code vectors enters by a layer over the vector of a frame. Vectors of grouped quantisers are sums of what
    each code says, so that behind this layer each code still has a vector of its own.

    Args:
        model: in eval mode, with its code vectors handed in where it reads such; its weights are copied.

    Raises:
        ValueError: there are no code vectors, or they are no such sums.
    """
    group = model.pattern.group_size
    if model.vector_dim is None:
        tables = [with_nothing(table.matrix()) for table in model.speech]
        if group == 1:
            return FrameTables([tables], lambda sums: sums[0])
        join = copy.deepcopy(model.grouping.join)
        return FrameTables([tables] * group, lambda sums: join(torch.cat(sums, 1)))
    apart = _apart(model)
    first, *rest = copy.deepcopy(model.from_vector)
    places = [
        [with_nothing(F.linear(vectors, matrix)) for vectors in apart]
        for matrix in first.weight.detach().split(model.vector_dim, 1)
    ]
    behind = nn.Sequential(*rest)
    return FrameTables(places, lambda sums: behind(sum(sums) + first.bias))


def add_up(tables: Sequence[Tensor], codes: Tensor) -> Tensor:
    """The sum of the vectors of codes [S, K] in their tables, [S, H]; row -1 of a table is nothing."""
    found = zip(tables, codes.clamp_min(-1).unbind(1), strict=False)  # advances have no table
    return sum(table[code] for table, code in found)


def with_nothing(table: Tensor) -> Tensor:
    """A table with a vector of nothing at its end, for the class of EOS and for codes that are not there."""
    return torch.cat([table, torch.zeros_like(table[:1])])


def _apart(model: SpeechGPT) -> list[Tensor]:
    """Tables [V_k, D] whose sum is the vector of a frame's codes; what is in every vector is in the first. Raises
    ValueError where there are none such."""
    vectors, sizes, device = model.frame_vectors, model.codebook_sizes, model.specials.device
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
    if not (add_up(tables, codes) - wanted).abs().max() <= _SAME * wanted.abs().max():
        raise ValueError("the vector of a frame is not the sum of what each of its codes says")
    return tables
