"""Ways to run a backbone position by position: the plain loop of its library, and our engines.

Shape letters: n rows, L positions of the history, H hidden, D head width.
"""

import copy
import warnings
from typing import Protocol

import torch
from torch import Tensor, nn

from modules.evaluation.bench.timing import Clock, Turn
from modules.gpt.step import Engine


class Stepper(Protocol):
    """A backbone with a history, which grows by a position a step."""

    def begin(self, history: int) -> None:
        """Go back to a history of so many positions. Its numbers are noise: their time is that of any others."""

    def step(self, x: Tensor) -> Tensor:
        """Append x [n, 1, H]; its hidden states [n, 1, H]."""


class PlainLoop:
    """A Qwen2Model as its library runs it: one position of `inputs_embeds` a call, a `DynamicCache` that grows."""

    def __init__(self, backbone: nn.Module, rows: int = 1):
        self._backbone, self._rows = backbone, rows
        self._cache = None
        weight = backbone.norm.weight
        self._dtype, self._device = weight.dtype, weight.device

    def begin(self, history: int) -> None:
        """See `Stepper`."""
        from transformers import DynamicCache

        config = self._backbone.config
        shape = (
            self._rows,
            config.num_key_value_heads,
            history,
            config.hidden_size // config.num_attention_heads,
        )
        self._cache = DynamicCache()
        for layer in range(config.num_hidden_layers):
            keys, values = (torch.randn(shape, dtype=self._dtype, device=self._device) for _ in "kv")
            self._cache.update(keys, values, layer)

    def step(self, x: Tensor) -> Tensor:
        """See `Stepper`."""
        out = self._backbone(inputs_embeds=x.to(self._dtype), past_key_values=self._cache, use_cache=True)
        return out.last_hidden_state.float()


class OurSteps:
    """One of our engines.

    Args:
        room: most positions that the history will have.
    """

    def __init__(self, engine: Engine, room: int, rows: int = 1):
        self.engine, self.cache = engine, engine.new_cache(rows, room)
        for memory in (self.cache.keys, self.cache.values):
            memory.normal_() if memory.is_floating_point() else memory.random_(-100, 101)

    def begin(self, history: int) -> None:
        """See `Stepper`."""
        self.cache.lengths = [history] * self.cache.rows

    def step(self, x: Tensor) -> Tensor:
        """See `Stepper`."""
        return self.engine(x, self.cache)

    def read_bytes(self, history: int) -> int:
        """Bytes of keys and values that a step reads at this history."""
        layers, rows, heads, _, width = self.cache.keys.shape
        return 2 * layers * rows * heads * history * width * self.cache.keys.element_size()


def quantised(backbone: nn.Module) -> nn.Module:
    """A copy whose linear layers torch has quantised dynamically: weights as bytes, inputs as bytes step by step.

    Raises:
        RuntimeError: this torch, or this processor, has no kernels for it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that torchao is to follow
        try:
            from torch.ao.quantization import quantize_dynamic
        except ImportError as cause:
            raise RuntimeError(f"this torch has no dynamic quantisation ({cause})") from cause
        if torch.backends.quantized.engine == "none":
            raise RuntimeError("this torch has no quantised kernels for this processor")
        return quantize_dynamic(copy.deepcopy(backbone), {nn.Linear}, dtype=torch.qint8, inplace=True)


def step_turn(stepper: Stepper, hidden: int, history: int, steps: int, clock: Clock, rows: int = 1) -> Turn:
    """A turn of so many steps from a history on, each fed by the one before; gives seconds a step."""

    def turn() -> float:
        with torch.inference_mode():
            stepper.begin(history)
            x = torch.randn(rows, 1, hidden, device=clock.device)

            def work() -> None:
                y = x
                for _ in range(steps):
                    y = stepper.step(y)

            return clock.seconds(work) / steps

    return turn


def held_turn(stepper: Stepper, hidden: int, history: int, steps: int, clock: Clock) -> Turn:
    """A turn of so many steps at the same history; gives seconds a step."""

    def turn() -> float:
        with torch.inference_mode():
            x, seconds = torch.randn(1, 1, hidden, device=clock.device), 0.0
            for _ in range(steps):
                stepper.begin(history)
                seconds += clock.seconds(lambda: stepper.step(x))
            return seconds / steps

    return turn
