"""How often something happened, with the interval that so many tries allow."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
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


def clustered_share(flags: Sequence[bool], clusters: Sequence[Hashable]) -> dict[str, float | int | None]:
    """The values of a `Share` whose tries of one cluster (a voice, a sentence) are alike: the wider of the score
    interval and of the percentile bootstrap over clusters (Davison and Hinkley 1997), seeded."""
    found = share_of(flags).values()
    if len(set(clusters)) >= 2 and found["count"]:
        drawn = cluster_means(np.array([float(flag) for flag in flags]), clusters)
        low, high = np.percentile(drawn, (2.5, 97.5))
        found |= {"low": min(found["low"], float(low)), "high": max(found["high"], float(high))}
    return found


def cluster_means(values: np.ndarray, clusters: Sequence[Hashable], resamples: int = 1000) -> np.ndarray:
    """Means of `values` [N] over clusters drawn with replacement, [resamples]; values of a cluster stay together."""
    number = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    places = np.array([number[cluster] for cluster in clusters])
    sums, sizes = np.bincount(places, values), np.bincount(places)
    drawn = np.random.default_rng(0).integers(len(sums), size=(resamples, len(sums)))
    return sums[drawn].sum(1) / sizes[drawn].sum(1)


def shown_share(found: Mapping[str, float | int | None]) -> str:
    """The values of a share with the interval that they hold."""
    if not found["of"]:
        return "-"
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['rate']:.1f} % ({low:.1f}-{high:.1f}; {found['count']} of {found['of']})"


def mean_interval(
    values: Iterable[float], resamples: int = 1000, clusters: Sequence[Hashable] = ()
) -> dict[str, float | int | None]:
    """Mean and 95 % percentile bootstrap interval over the finite values, or their clusters, seeded; None for ends
    of a single one, which does not tell how others would differ."""
    values = list(values)
    kept = [i for i, value in enumerate(values) if value is not None and math.isfinite(value)]
    if not kept:
        return {"mean": None, "low": None, "high": None, "count": 0}
    found = np.array([values[i] for i in kept], dtype=np.float64)
    told = {"mean": float(found.mean()), "low": None, "high": None, "count": len(found)}
    groups = [clusters[i] for i in kept] if clusters else kept
    if len(set(groups)) < 2:
        return told
    low, high = np.percentile(cluster_means(found, groups, resamples), (2.5, 97.5))
    return {**told, "low": float(low), "high": float(high)}


def shown_ends(found: Mapping[str, float | int | None], form: str = "{:+.3f}") -> str:
    """The interval of a mean, "-" where it has none."""
    ends = [found["low"], found["high"]]
    return "..".join(map(form.format, ends)) if None not in ends else "-"
