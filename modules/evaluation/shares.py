"""How often something happened, with the interval that so many tries allow."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_Z = 1.96


@dataclass(frozen=True)
class Share:
    """`count` of `of` tries, and the 95 % score interval (Wilson 1927), which is honest about 0 of few."""

    count: int
    of: int

    @property
    def rate(self) -> float | None:
        """None without a try."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Low and high end."""
        if not self.of:
            return None
        n, p = self.of, self.count / self.of
        centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def values(self) -> dict[str, float | int | None]:
        """For machines."""
        low, high = self.interval or (None, None)
        return {"rate": self.rate, "low": low, "high": high, "count": self.count, "of": self.of}

    def __str__(self) -> str:
        if not self.of:
            return "-"
        low, high = self.interval
        return f"{100 * self.rate:.1f} % ({100 * low:.1f}-{100 * high:.1f}; {self.count} of {self.of})"


def share_of(flags: Iterable[bool | None]) -> Share:
    """Of the flags that are not None."""
    known = [flag for flag in flags if flag is not None]
    return Share(sum(map(bool, known)), len(known))


def mean_interval(values: Iterable[float], resamples: int = 1000) -> dict[str, float | int | None]:
    """Mean and 95 % percentile bootstrap interval over the finite values, seeded."""
    found = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=np.float64)
    if not len(found):
        return {"mean": None, "low": None, "high": None, "count": 0}
    drawn = np.random.default_rng(0).integers(len(found), size=(resamples, len(found)))
    low, high = np.percentile(found[drawn].mean(1), (2.5, 97.5))
    return {"mean": float(found.mean()), "low": float(low), "high": float(high), "count": len(found)}
