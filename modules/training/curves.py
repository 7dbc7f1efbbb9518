"""Numbers over the steps of a run, bounded in length however long the run is."""

from dataclasses import dataclass

MOST_POINTS = 1000
"""A curve keeps between this many and twice as many points; beyond, neighbours are averaged."""


@dataclass(frozen=True)
class Curve:
    """A number over the run. `steps` rise strictly; both have the same length."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


class Points:
    """A growing curve of bounded size: when it gets too long, neighbours become their mean."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: list[float] = []
        self._stride = 1
        self._pending: list[tuple[int, float]] = []

    def add(self, step: int, value: float) -> None:
        """Append a point; what was there from this step on is superseded."""
        self.cut(step - 1)
        self._pending.append((step, value))
        if len(self._pending) < self._stride:
            return
        self._settle()
        if len(self.steps) >= 2 * MOST_POINTS:
            self.steps = self.steps[1::2]
            self.values = [(a + b) / 2 for a, b in zip(self.values[::2], self.values[1::2])]
            self._stride *= 2

    def cut(self, step: int) -> None:
        """Forget what came after a step."""
        while self._pending and self._pending[-1][0] > step:
            self._pending.pop()
        while self.steps and self.steps[-1] > step:
            self.steps.pop()
            self.values.pop()

    def _settle(self) -> None:
        self.steps.append(self._pending[-1][0])
        self.values.append(sum(value for _, value in self._pending) / len(self._pending))
        self._pending.clear()

    def curve(self) -> Curve:
        """With the newest point, even where its neighbours are not there yet."""
        steps, values = list(self.steps), list(self.values)
        if self._pending:
            steps.append(self._pending[-1][0])
            values.append(sum(value for _, value in self._pending) / len(self._pending))
        return Curve(tuple(steps), tuple(values))
