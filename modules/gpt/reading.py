"""Where the text is being read: the pointer of a model with `reading = "pointer"`.

At every step that predicts a frame the pointer stands on the text unit that this frame says. The step then stands at
that unit's place on the RoPE axis and gets the unit and its neighbours as an input, so that reading is a matter of a
few letters and not of finding one's place. After each frame the model says by how many units the pointer advances. It
never goes back and passes few units at a time, so a sentence cannot be begun again, and it ends where the text ends.

In training the pointer is known by alignment (`unit_alignment.py`). For references at run time it is not: their frames
are spread over their units by the units' usual lengths.

Shape letters: N text units of all rows (flat), U of one part, R steps that read (BOS and each frame), T frames,
S sentences, n rows, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

WINDOW = (-1, 0, 1, 2)
"""Neighbours of the unit that is read, which enter with it."""


@dataclass(frozen=True)
class Reading:
    """Steps that read, as flat lists.

    at [R] flat grid index of the step; unit [R] flat index of the text unit it reads, -1 where that is not known;
    held [R] steps since the pointer came there; share [R] place of the step in its part, 0 to 1; first, last [R] flat
    bounds of the part's text (last is one beyond; equal for a part without text).
    """

    at: Tensor
    unit: Tensor
    held: Tensor
    share: Tensor
    first: Tensor
    last: Tensor

    def to(self, device: torch.device | str) -> "Reading":
        """The same on `device`."""
        return Reading(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def places(self, unit_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Where the steps stand, from the usual lengths [N] of all text units.

        Returns:
            units int64 [R] read at each step (-1 without text), offsets float [R] beyond the start of that unit, below
            its usual length.
        """
        if not len(unit_frames):
            return torch.full_like(self.unit, -1), torch.zeros_like(self.share)
        ends = unit_frames.double().cumsum(0)
        starts = ends - unit_frames
        before = starts[self.first.clamp_max(len(ends) - 1)]
        span = ends[(self.last - 1).clamp_min(0)] - before
        time = before + self.share.double() * span
        spread = torch.searchsorted(ends, time, right=True)
        spread = torch.minimum(torch.maximum(spread, self.first), self.last - 1)
        there = self.last > self.first
        unit = torch.where(self.unit >= 0, self.unit, spread)
        unit = torch.where(there, unit, -1)
        inside = torch.where(self.unit >= 0, self.held.double(), time - starts[spread.clamp_min(0)])
        known = unit.clamp_min(0)
        return unit, torch.minimum(inside.float(), 0.9 * unit_frames[known]) * there

    def window(self, unit: Tensor) -> Tensor:
        """Flat indices [R, len(WINDOW)] of the units around the one that is read; -1 beyond the part's text."""
        around = unit[:, None] + torch.tensor(WINDOW, device=unit.device)
        inside = (around >= self.first[:, None]) & (around < self.last[:, None]) & (unit >= 0)[:, None]
        return torch.where(inside, around, -1)


class ReadingBuilder:
    """Collects the steps of all parts."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, at: int, frames: int, text: int, units: int, reads: np.ndarray | None) -> None:
        """A part of `frames` frames whose BOS is the flat grid index `at` and whose text of `units` units begins at the
        flat index `text`; `reads` [T] says which of them each frame reads, None where nobody knows."""
        steps = np.arange(frames + 1)
        last = max(frames - 1, 0)
        if not frames:  # an open part: the pointer starts at its first unit
            unit, held = np.zeros(1, np.int64), np.zeros(1, np.int64)
        elif reads is None:
            unit, held = np.full(frames + 1, -1), np.zeros(frames + 1, np.int64)
        else:
            unit = np.asarray(reads, np.int64)[np.minimum(steps, last)]
            begins = np.concatenate([[True], unit[1:] != unit[:-1]])
            held = steps - np.maximum.accumulate(np.where(begins, steps, 0))
        share = (np.minimum(steps, last) + 0.5) / max(frames, 1)
        known = (unit >= 0) & (units > 0)
        self._parts.append(
            (
                at + steps,
                np.where(known, text + unit, -1),
                held,
                share.astype(np.float32),
                np.full(len(steps), text),
                np.full(len(steps), text + units),
            )
        )

    def finished(self) -> Reading:
        """All of them."""
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        return Reading(*(torch.from_numpy(c if c.dtype == np.float32 else c.astype(np.int64)) for c in columns))


@dataclass
class Pointer:
    """The pointer while speaking: over the U units of the target.

    Args:
        unit_frames: usual lengths of the units, in frames.
        patience: how many times its usual length (and at least `least_frames`) the pointer may stay on a unit.
    """

    unit_frames: Sequence[float]
    patience: float = 6.0
    least_frames: int = 20
    unit: int = 0
    held: int = 0

    def __post_init__(self) -> None:
        self._starts = [0.0, *accumulate(self.unit_frames)]

    @property
    def at_end(self) -> bool:
        """Whether what is left of the text is at most a mark that nobody hears, and the unit before it was said."""
        last = len(self.unit_frames) - 1
        return self.unit >= last or (self.unit == last - 1 and self.held + 1 >= 0.5 * self.unit_frames[self.unit])

    @property
    def stuck(self) -> bool:
        """Whether the pointer has stayed longer than any sound lasts."""
        usual = self.unit_frames[self.unit] if self.unit_frames else 1.0
        return self.held + 1 >= max(self.patience * usual, self.least_frames)

    @property
    def most(self) -> int:
        """Largest advance that stays within the text."""
        return max(len(self.unit_frames) - 1 - self.unit, 0)

    def advance(self, units: int) -> None:
        """A frame was said; go on by so many units."""
        units = min(units, self.most)
        self.held = 0 if units else self.held + 1
        self.unit += units

    @property
    def place(self) -> float:
        """Where the next step stands, in frames from the start of the first unit."""
        if not self.unit_frames:
            return 0.0
        usual = self.unit_frames[self.unit]
        return self._starts[self.unit] + min(float(self.held), 0.9 * usual)


@dataclass
class Reader:
    """The pointers while frames are drawn, and what the texts give to each step.

    pointers: of every sentence; near [S, U, H]: what enters where each unit is read; told bool [S, rows of a sentence]:
    the rows that know the text; begin [S, rows of a sentence]: where they began.
    """

    pointers: list[Pointer]
    near: Tensor
    told: Tensor
    begin: Tensor
    steps: int = 0

    def __post_init__(self) -> None:
        self._all_told = bool(self.told.all())
        self._rows = list(range(len(self.pointers)))

    def step(self) -> tuple[Tensor, Tensor]:
        """After a frame: what enters besides it, [n, 1, H], and where the rows stand, [n, 1]."""
        self.steps += 1
        units = [pointer.unit for pointer in self.pointers]
        near = (self.near[:, units[0]] if len(units) == 1 else self.near[self._rows, units])[:, None]
        places = torch.tensor([[pointer.place] for pointer in self.pointers], device=self.near.device)
        if self.told.shape[1] == 1 and self._all_told:
            return near, self.begin + places
        if not self._all_told:
            near = near * self.told[..., None]
            places = torch.where(self.told, places, float(self.steps))
        near = near.expand(-1, self.told.shape[1], -1)
        return near.flatten(0, 1)[:, None], (self.begin + places).flatten()[:, None]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these sentences alone."""
        self.pointers = [self.pointers[row] for row in rows]
        index = torch.tensor(rows, device=self.near.device)
        self.near, self.told, self.begin = self.near[index], self.told[index], self.begin[index]
        self._rows = list(range(len(rows)))
