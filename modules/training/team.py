"""What the loop asks of the processes that train together, and the answer of one that is alone."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from modules.training.stage import Stage

T = TypeVar("T")
Losses = Callable[[Any], dict[str, Tensor]]


class Team(Protocol):
    """The processes of one training. All of them step through the same weights; only the main one writes.

    `sharded`: each process holds a part of every weight, and of all that belongs to it.
    """

    rank: int
    world: int
    device: torch.device
    sharded: bool

    def place(self, stage: Stage) -> None:
        """Put the stage's modules where they will be trained; before anything is derived from their weights."""

    def losses(self, stage: Stage, phase: str) -> Losses:
        """The losses of a phase as a function of the batch whose gradients become the mean over all processes."""

    def accumulating(self, losses: Losses) -> AbstractContextManager[Any]:
        """Inside, gradients of `losses` stay this process's own, to be shared with those of a later batch."""

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm of all gradients together, as one plain scalar."""

    def whole(self, stage: Stage) -> AbstractContextManager[Any]:
        """Inside, the main process's stage has plain modules with whole weights. To be entered by all processes."""

    def gathered(self, state: Any) -> Any:
        """A tree of dicts and lists, its tensors whole in the main process. To be called by all processes."""

    def scattered(self, stage: Stage, state: dict[str, Any]) -> dict[str, Any]:
        """A training state of whole tensors as the placed stage, its optimizers and averages can load it."""

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

    rank, world, sharded = 0, 1, False

    def __init__(self, device: torch.device):
        self.device = device

    def place(self, stage: Stage) -> None:
        """To the device."""
        for module in stage.modules.values():
            module.to(self.device)

    def losses(self, stage: Stage, phase: str) -> Losses:
        """The stage's own."""
        return lambda batch: stage.losses(phase, batch)

    def accumulating(self, losses: Losses) -> AbstractContextManager[Any]:
        """Nothing to hold back."""
        return nullcontext()

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm."""
        return torch.nn.utils.get_total_norm(gradients)

    def whole(self, stage: Stage) -> AbstractContextManager[Any]:
        """They are."""
        return nullcontext()

    def gathered(self, state: Any) -> Any:
        """The state."""
        return state

    def scattered(self, stage: Stage, state: dict[str, Any]) -> dict[str, Any]:
        """The state."""
        return state

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
