"""The static key-value cache of decoding: allocated once for a request, written in place, true lengths beside it.

Shape letters: n rows, L positions of capacity, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Cache:
    """Keys and values of every layer, [layers, n, kv_heads, L, D] each; of row r the first `lengths[r]` positions are
    filled, and nobody reads the others.

    bound: what an engine keeps of its own with this memory; it goes when the cache goes.
    """

    keys: Tensor
    values: Tensor
    lengths: list[int]
    bound: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def empty(
        cls, layers: int, rows: int, kv_heads: int, capacity: int, head_dim: int, dtype: torch.dtype,
        device: torch.device,
    ) -> "Cache":  # fmt: skip
        """No position of any row is filled."""
        # Zeros, because attention under a mask multiplies what it hides by nothing, and nothing times NaN is NaN.
        keys, values = (
            torch.zeros(layers, rows, kv_heads, capacity, head_dim, dtype=dtype, device=device) for _ in "kv"
        )
        return cls(keys, values, [0] * rows)

    @property
    def rows(self) -> int:
        """n."""
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """L."""
        return self.keys.shape[3]

    @property
    def longest(self) -> int:
        """Filled positions of the fullest row."""
        return max(self.lengths)

    def check_room(self, new: Sequence[int]) -> None:
        """Raises ValueError when so many more positions of each row do not fit."""
        if max(length + count for length, count in zip(self.lengths, new, strict=True)) > self.capacity:
            raise ValueError(f"cache of {self.capacity} positions is full")

    def row(self, row: int) -> "Cache":
        """One row; the same memory, with a length of its own."""
        keys, values = self.keys[:, row : row + 1], self.values[:, row : row + 1]
        return Cache(keys, values, [self.lengths[row]])

    def keep(self, rows: Sequence[int]) -> "Cache":
        """A cache of these rows alone, in this order."""
        index = torch.tensor(rows, device=self.keys.device)
        lengths = [self.lengths[row] for row in rows]
        return Cache(self.keys.index_select(1, index), self.values.index_select(1, index), lengths)

    def head(self, row: int, length: int) -> tuple[Tensor, Tensor]:
        """A copy of the first `length` positions of a row, [layers, kv_heads, length, D] each."""
        return self.keys[:, row, :, :length].clone(), self.values[:, row, :, :length].clone()

    def begin(self, row: int, head: tuple[Tensor, Tensor]) -> None:
        """Begin an empty row with what `head` gave."""
        length = head[0].shape[2]
        self.keys[:, row, :, :length], self.values[:, row, :, :length] = head
        self.lengths[row] = length
