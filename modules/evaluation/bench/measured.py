"""What a part of the benchmark gives, and how its figures are written for people."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modules.evaluation.results import Table

DIGITS = 3


@dataclass(frozen=True)
class Measured:
    """Figures of one part.

    Args:
        values: for machines; the unit of each stands in its key.
        tables: for people.
        headlines: the few that stand at the top, by name.
    """

    values: dict[str, Any]
    tables: tuple[Table, ...]
    headlines: Mapping[str, float] = field(default_factory=dict)


def figure(value: float | None) -> str:
    """A number with three digits that count; "-" where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0 or abs(value) >= 10**DIGITS:
        return f"{value:,.0f}"
    return f"{value:.{max(0, DIGITS - 1 - math.floor(math.log10(abs(value))))}f}"


def times(value: float | None) -> str:
    """A ratio, such as "3.2 x"."""
    return "-" if value is None else f"{figure(value)} x"


def share(value: float | None) -> str:
    """A share as a percentage."""
    return "-" if value is None else f"{100 * value:.0f} %"


def rounded(value: Any) -> Any:
    """JSON values whose fractions have six digits that count: more would be noise."""
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
