"""Averaged weights (EMA): what is validated and saved for inference, while training goes on with the raw ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modules.runtime import restore_rng_state, rng_state


class WeightAverage:
    """Exponential moving average of parameters, warmed up so that a short run is not held back by its start.

    Args:
        modules: their trainable floating parameters are averaged; buffers are not.
        decay: share of the old average kept per step; at step t it is at most (1 + t) / (10 + t).
        left_out: beginnings of "module.parameter" that stay as they are.
    """

    def __init__(self, modules: dict[str, nn.Module], decay: float, left_out: Sequence[str] = ()):
        named = {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters()}
        self.named = {
            name: p
            for name, p in named.items()
            if p.is_floating_point() and p.requires_grad and not name.startswith(tuple(left_out))
        }
        self.decay = decay
        self.parameters = [p.detach() for p in self.named.values()]
        self.averages = [p.float().clone() for p in self.parameters]

    @torch.no_grad()
    def update_(self, step: int) -> None:
        """Move the average towards the parameters; `step` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, [p.float() for p in self.parameters], 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the modules hold the average; after, exactly what they held before."""
        kept = [p.clone() for p in self.parameters]
        _copy_(self.parameters, self.averages)
        try:
            yield
        finally:
            _copy_(self.parameters, kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by "module.parameter"."""
        return dict(zip(self.named, self.averages, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore; a parameter that the state lacks starts from its present value, what else it has is passed by."""
        for name, average, parameter in zip(self.named, self.averages, self.parameters, strict=True):
            average.copy_(state.get(name, parameter))


@contextmanager
def evaluating(modules: dict[str, nn.Module]) -> Iterator[None]:
    """Inside: eval mode, no gradients, and random generators that training does not notice."""
    random_state = rng_state()
    modes = [(m, m.training) for module in modules.values() for m in module.modules()]
    try:
        for module in modules.values():
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        restore_rng_state(random_state)


@torch.no_grad()
def _copy_(targets: list[Tensor], sources: list[Tensor]) -> None:
    """One by one: for weights that lie sharded over processes there is no copy of many at once."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
