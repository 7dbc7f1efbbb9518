"""What each part of a system costs while it speaks: numbers, seconds and memory, measured on the way that speech takes.

The parts are handed on unchanged, with a watch on the methods that speaking calls.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from modules.evaluation.costs.sizing import MIB
from modules.inference.parts import Parts
from modules.training.memory import PeakMemory

_WATCHED = {
    "text": {"features": "text encoder", "encode": "text encoder"},
    "speech": {"encode": "speech encoder"},
    "gpt": {"generate_batch": "language model"},
    "vits2": {"style_of": "style", "infer_batch": "decoder"},
}
"""Field of `Parts` -> method -> the part that its time is counted for."""


@dataclass
class PartCost:
    """One part.

    Args:
        parameters: numbers that it holds (tables and codebooks included).
        seconds: in it, over all calls.
        peak_mib: most memory beyond what was taken when a call began; on CUDA of tensors, else of the process.
        calls: how often it was asked.
    """

    part: str
    parameters: int
    seconds: float = 0.0
    peak_mib: float = 0.0
    calls: int = 0

    def row(self) -> dict[str, Any]:
        """As JSON values, with the size of its float32 numbers."""
        return asdict(self) | {"float32_mib": 4 * self.parameters / MIB}


def watched(parts: Parts) -> tuple[Parts, list[PartCost]]:
    """The same parts under watch, and their costs, which fill while they speak."""
    costs = {cost.part: cost for cost in _sizes(parts)}
    proxies = {
        name: _Watched(getattr(parts, name), {method: costs[part] for method, part in methods.items()}, parts.device)
        for name, methods in _WATCHED.items()
        if getattr(parts, name) is not None
    }
    return replace(parts, **proxies), list(costs.values())


class _Watched:
    """Stands for a part; the named methods are timed, all else goes to the part itself."""

    def __init__(self, inner: Any, costs: dict[str, PartCost], device: torch.device):
        self._inner, self._costs, self._device = inner, costs, device

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._timed(found, self._costs[name]) if name in self._costs else found

    def _timed(self, method: Callable, cost: PartCost) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            with _measuring(cost, self._device):
                return method(*args, **kwargs)

        return call


@contextmanager
def _measuring(cost: PartCost, device: torch.device) -> Iterator[None]:
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with PeakMemory() as peak:
        start = time.perf_counter()
        yield
        if cuda:
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    used = torch.cuda.max_memory_allocated(device) - before if cuda else peak.bytes
    cost.seconds += seconds
    cost.peak_mib = max(cost.peak_mib, used / MIB)
    cost.calls += 1


def _sizes(parts: Parts) -> list[PartCost]:
    """Numbers of every part, each counted where it lies. A published graph does not tell its own: 0."""
    text = [parts.text.encoder.model] if parts.text.has_features else []
    speech = [parts.speech] if isinstance(parts.speech, nn.Module) else []
    gpt = [parts.gpt.model] if parts.gpt is not None else []
    style = parts.vits2.style_encoder
    # The quantiser is saved with the decoder, and used by the speech encoder as well.
    shared = _count([parts.vits2.quantizer]) if parts.vits2.quantizer is not None else 0
    return [
        PartCost("text encoder", _count(text)),
        PartCost("speech encoder", _count(speech) - shared if speech else 0),
        PartCost("style", _count([style])),
        PartCost("language model", _count(gpt)),
        PartCost("decoder", _count([parts.vits2]) - _count([style])),
    ]


def _count(modules: Iterable[nn.Module]) -> int:
    """Numbers in the weights and tables; those of layers turned into bytes are kept in pairs with their biases."""
    count = 0
    for module in modules:
        for value in module.state_dict().values():
            tensors = value if isinstance(value, tuple) else (value,)
            count += sum(t.numel() for t in tensors if isinstance(t, torch.Tensor))
    return count
