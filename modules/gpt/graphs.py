"""Steps as CUDA graphs: what a step launches is recorded once and replayed, without the cost of launching it.

A graph is bound to its memory, so caches are lent out of a small store and come back by themselves; and it reads a
fixed number of positions, so there is one for each doubling of the history. Where the rows end is a tensor, and what
lies beyond is masked.

Shape letters: n rows, H hidden.
"""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.gpt.cache import Cache

FIRST_WIDTH = 256
"""Positions that the smallest graph reads."""
KEPT_CACHES = 4


@dataclass
class _Recorded:
    """A graph with the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    x: Tensor
    positions: Tensor
    at: Tensor
    hidden: Tensor


def width_for(length: int, capacity: int) -> int:
    """How many positions a step reads whose rows have at most `length`: the next doubling, within the capacity."""
    width = FIRST_WIDTH
    while width < length:
        width *= 2
    return min(width, capacity)


class StepGraphs:
    """Records and replays the steps of one engine.

    Args:
        engine: gives `empty_cache` and `run_at` (see `StepEngine`).
    """

    def __init__(self, engine):
        self._engine = engine
        self._free: list[Cache] = []
        # Reentrant, because a cache may be collected, and so come back, in the middle of anything.
        self._lock = threading.RLock()
        self._recording = threading.Lock()

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache; its memory comes back when the last that holds the cache lets go of it."""
        capacity = width_for(capacity, self._engine.capacity)
        with self._lock:
            fitting = [c for c in self._free if c.rows == rows and c.capacity == capacity]
            inner = fitting[0] if fitting else None
            self._free = [c for c in self._free if c is not inner]
        inner = inner or self._engine.empty_cache(rows, capacity)
        lent = Cache(inner.keys, inner.values, [0] * rows, inner.bound)
        weakref.finalize(lent, self._give_back, inner)
        return lent

    def _give_back(self, cache: Cache) -> None:
        with self._lock:
            self._free = [*self._free, cache][-KEPT_CACHES:]

    def step(self, x: Tensor, cache: Cache, positions: Tensor | None) -> Tensor:
        """One position of every row: x [n, 1, H], positions [n, 1] or None -> hidden [n, 1, H]."""
        width = width_for(cache.longest + 1, cache.capacity)
        recorded = cache.bound.get(width)
        if recorded is None:
            with self._recording:
                recorded = cache.bound[width] = self._record(x, cache, width)
        at = torch.tensor(cache.lengths).pin_memory().to(x.device, non_blocking=True)
        recorded.at.copy_(at)
        recorded.x.copy_(x)
        recorded.positions.copy_(at[:, None] if positions is None else positions)
        recorded.graph.replay()
        return recorded.hidden.clone()

    def _record(self, x: Tensor, cache: Cache, width: int) -> _Recorded:
        """The step is warmed on a side stream first, as recording demands; what it wrote is written again."""
        at = torch.tensor(cache.lengths, device=x.device)
        inputs = x.clone(), at[:, None].float(), at

        def step() -> Tensor:
            return self._engine.run_at(inputs[0], cache, inputs[1], inputs[2], width)

        _warm(step)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the card meanwhile, the decoder for one.
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
            hidden = step()
        return _Recorded(graph, *inputs, hidden)


def _warm(step: Callable[[], Tensor]) -> None:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
