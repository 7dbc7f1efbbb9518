"""Means of losses over the steps between two events."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Meter:
    """Means of losses since the last event, kept on the device so that a step does not wait for it."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, losses: dict[str, Tensor]) -> None:
        """Count in the losses of one step."""
        for name, loss in losses.items():
            loss = loss.detach()
            self.sums[name] = self.sums[name] + loss if name in self.sums else loss
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The mean of each loss since the last call; waits for the device."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


def mean_of(losses: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over processes of what each has measured; a loss that one has not seen is the mean of the others'."""
    names = dict.fromkeys(name for known in losses for name in known)
    found = {name: [known[name] for known in losses if name in known] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}
