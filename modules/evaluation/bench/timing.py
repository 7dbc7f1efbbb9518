"""Seconds of work: by turns, until the device is done, as medians.

A machine drifts, by its temperature and by what else runs on it. What is compared is therefore measured in one run in
turns, every way once a round, and a figure is the median of its rounds.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from modules.errors import Stopped

Turn = Callable[[], float]
"""Does one turn of a way; gives what it took."""


@dataclass(frozen=True)
class Spread:
    """Turns of one way: their median, lowest and highest, and how many there were."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Clock:
    """Measures on one device."""

    device: torch.device

    def seconds(self, work: Callable[[], object]) -> float:
        """Wall seconds until the work is done, on the device as well."""
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Rounds:
    """How often ways take turns.

    Args:
        most: rounds that count.
        seconds: no round after the first is begun once so much time has gone, the warm-up included.
        warm: whether a round that does not count comes first.
    """

    most: int
    seconds: float
    warm: bool = True

    def run(self, ways: Mapping[str, Turn], should_stop: Callable[[], bool] | None = None) -> dict[str, list[float]]:
        """What every way took in every round. Every second round goes backwards, so that no way always follows the
        same one.

        Raises:
            Stopped: `should_stop` said so before a turn.
        """
        found: dict[str, list[float]] = {name: [] for name in ways}
        begun = time.perf_counter()
        for number in range(0 if self.warm else 1, self.most + 1):
            if number > 1 and time.perf_counter() - begun > self.seconds:
                break
            names = list(ways) if number % 2 else list(reversed(ways))
            for name in names:
                if should_stop is not None and should_stop():
                    raise Stopped
                value = ways[name]()
                if number:
                    found[name].append(value)
        return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this percentage of the values lies, between neighbours by a line."""
    return float(np.percentile(np.asarray(values), share))
