"""Learned vectors of speech codes; both the language model and the decoder read tokens through one.

When the codes come from an FSQ, a table is a free table plus the sum of one small table per FSQ digit: codes that
differ in one digit share most of their vector, so a rare code borrows from its neighbours.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INIT_STD = 0.02


class CodeTable(nn.Module):
    """Vectors of a codebook: a free table, plus a table per FSQ digit when the levels are known.

    Args:
        size: number of codes.
        hidden: width of a vector.
        std: spread of the digits' tables at the start, of the free table where there are no digits.
        levels: FSQ levels; their product must be `size`. Digit d of a code is
            (code // (levels[0] * .. * levels[d-1])) % levels[d].
    """

    def __init__(self, size: int, hidden: int, levels: Sequence[int] | None = None, *, std: float = INIT_STD):
        super().__init__()
        if levels and math.prod(levels) != size:
            raise ValueError(f"FSQ levels {tuple(levels)} do not make {size} codes")
        # A free table that starts large would drown the digits in 4096 random vectors that few steps ever move.
        self.free = nn.Parameter(torch.randn(size, hidden) * (INIT_STD if levels else std))
        self.digits = nn.ParameterList([nn.Parameter(torch.randn(n, hidden) * std) for n in levels or ()])

    def matrix(self) -> Tensor:
        """All vectors, [size, H]."""
        table, step = self.free, 1
        for digit in self.digits:
            # Digit d counts up every `step` codes: repeat each row `step` times, then the block to the end.
            block = digit.repeat_interleave(step, 0)
            table = (table.view(-1, *block.shape) + block).view_as(table)
            step *= digit.shape[0]
        return table


class CodeLinear(nn.Module):
    """Logits of FSQ codes by a table that shares vectors between codes of like digits."""

    def __init__(self, size: int, hidden: int, levels: Sequence[int]):
        super().__init__()
        self.table = CodeTable(size, hidden, levels)

    def forward(self, x: Tensor) -> Tensor:
        """[P, H] -> [P, size]."""
        return F.linear(x, self.table.matrix())
