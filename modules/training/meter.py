"""Means of losses over the steps between two events."""

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
