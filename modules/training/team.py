"""What the loop asks of the processes that train together, and the answer of one that is alone."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from modules.training.stage import Stage

T = TypeVar("T")
Losses = Callable[[Any], dict[str, Tensor]]


class Team(Protocol):
    """The processes of one training. All of them step through the same weights; only the main one writes."""

    rank: int
    world: int
    device: torch.device

    def losses(self, stage: Stage, phase: str) -> Losses:
        """The losses of a phase as a function of the batch whose gradients become the mean over all processes."""

    def accumulating(self, losses: Losses) -> AbstractContextManager[Any]:
        """Inside, gradients of `losses` stay this process's own, to be shared with those of a later batch."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""

    def from_main(self, value: T) -> T:
        """What the main process holds, in every process."""

    def from_all(self, value: T) -> list[T]:
        """What each process holds, in order."""

    def close(self) -> None:
        """End the connection between the processes."""


class Alone:
    """One process; nothing distributed is loaded."""

    rank, world = 0, 1

    def __init__(self, device: torch.device):
        self.device = device

    def losses(self, stage: Stage, phase: str) -> Losses:
        """The stage's own."""
        return lambda batch: stage.losses(phase, batch)

    def accumulating(self, losses: Losses) -> AbstractContextManager[Any]:
        """Nothing to hold back."""
        return nullcontext()

    def mean(self, value: Tensor) -> Tensor:
        """The value."""
        return value

    def from_main(self, value: T) -> T:
        """The value."""
        return value

    def from_all(self, value: T) -> list[T]:
        """The value alone."""
        return [value]

    def close(self) -> None:
        """Nothing to end."""
