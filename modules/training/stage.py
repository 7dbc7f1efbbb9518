"""What the training loop asks of the things that it moves: a stage, its optimizers and its batches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn


class Optimizer(Protocol):
    """The part of `torch.optim.Optimizer` that the loop uses."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self, set_to_none: bool = True) -> None: ...
    def step(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Stage(Protocol):
    """What is trained.

    With `accumulate` n, a phase sees its n batches one after the other before the next phase begins. A stage may
    have `averaged`, the names of the modules that EMA covers (a discriminator needs none); by default all.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]  # by phase
    weights: dict[str, float]  # of losses; missing = 1.0

    def phases(self, step: int) -> tuple[str, ...]:
        """The phases of this step in order, for instance ("discriminator", "generator")."""

    def losses(self, phase: str, batch: Any) -> dict[str, Tensor]:
        """Named scalar losses of a batch; a name starting with "_" is logged and not summed."""

    def validate(self) -> dict[str, float]:
        """Measures on held-out data; the loop has put the modules in eval mode and switched gradients off."""

    def save_weights(self, folder: Path, step: int, epoch: int) -> list[Path]:
        """Write inference weights; the averaged weights are in place when this is called."""


class Batches(Protocol):
    """What the loop draws from; see `modules.data.batching.Loader`."""

    epoch: int

    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
