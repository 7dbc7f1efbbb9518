"""What the training loop asks of the things that it moves: a stage, its optimizers and its batches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Samples:
    """Held-out lines made heard.

    Args:
        items: one for each line: file (wav that was made) and truth (wav of the recording), text, seconds and
            true_seconds, f0_hz and true_f0_hz (medians; 0 = unvoiced).
        measures: what the items tell together, such as "length_ratio".
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)


class Stage(Protocol):
    """What is trained.

    With `accumulate` n, a phase sees its n batches one after the other before the next phase begins. A stage may
    have `averaged`, the names of the modules that EMA covers (a discriminator needs none); by default all; and
    `unaveraged`, beginnings of "module.parameter" that it leaves out: those are validated and saved as they are. It may
    have `make_samples(folder) -> Samples`, called whenever weights are saved, averaged weights in place. It may have
    `quiet()`, a context for steps that are only tried: inside, `losses` costs what it costs else, but asks no other
    process for anything and moves nothing by itself.
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

    def save_weights(self, folder: Path, step: int, epoch: int, *, last: bool) -> list[Path]:
        """Write inference weights; the averaged weights are in place when this is called. `last`: the run is over."""


class Batches(Protocol):
    """What the loop draws from; see `modules.data.batching.Loader`."""

    epoch: int

    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
