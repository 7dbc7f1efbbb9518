"""How what was heard runs along what should have been said, with ways back for what is said again.

Shapes: N expected phones, M heard phones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

JUMP_COST = 1.5
"""A way back costs this many edits: less than the two phones that it saves at the least, more than chance gives."""
_DIAGONAL, _SKIP, _EXTRA, _JUMP = range(4)


@dataclass(frozen=True)
class Path:
    """The cheapest way through.

    Args:
        visits: (expected index, heard index) of every pair that stands together, in the order heard.
        matched: of each pair, whether both are the same phone.
        jumps: (from, to) expected index at each way back; the phones from `to` up to `from` are said again.
    """

    visits: tuple[tuple[int, int], ...]
    matched: tuple[bool, ...]
    jumps: tuple[tuple[int, int], ...]


def walk(expected: Sequence, heard: Sequence, jump_cost: float | None = None) -> Path:
    """Align with unit costs (Levenshtein 1966); `jump_cost` also allows ways back to any earlier expected phone."""
    size = len(expected)
    column: list[float] = list(range(size + 1))
    steps: list[list[int]] = [[_SKIP] * (size + 1)]
    sources: list[list[int]] = []
    for sound in heard:
        column, taken = _next_column(column, expected, sound)
        target = list(range(size + 1))
        if jump_cost is not None:
            _jump_back(column, taken, target, jump_cost)
        steps.append(taken)
        sources.append(target)
    return _trace(expected, heard, steps, sources)


def _next_column(before: list[float], expected: Sequence, sound: object) -> tuple[list[float], list[int]]:
    column, taken = [before[0] + 1], [_EXTRA]
    for i, wanted in enumerate(expected):
        best, step = before[i] + (wanted != sound), _DIAGONAL
        if before[i + 1] + 1 < best:
            best, step = before[i + 1] + 1, _EXTRA
        if column[i] + 1 < best:
            best, step = column[i] + 1, _SKIP
        column.append(best)
        taken.append(step)
    return column, taken


def _jump_back(column: list[float], taken: list[int], target: list[int], cost: float) -> None:
    """Lower the entries of a column that are reached cheaper by a way back from a later one."""
    best, place = column[-1], len(column) - 1
    for i in range(len(column) - 2, -1, -1):
        if best + cost < column[i]:
            column[i], taken[i], target[i] = best + cost, _JUMP, place
        elif column[i] < best:
            best, place = column[i], i


def _trace(expected: Sequence, heard: Sequence, steps: list[list[int]], sources: list[list[int]]) -> Path:
    i, j = len(expected), len(heard)
    visits, matched, jumps = [], [], []
    while i or j:
        step = steps[j][i] if j else _SKIP
        if step == _JUMP:
            jumps.append((sources[j - 1][i], i))
            i = sources[j - 1][i]
        elif step == _DIAGONAL:
            i, j = i - 1, j - 1
            visits.append((i, j))
            matched.append(expected[i] == heard[j])
        elif step == _EXTRA:
            j -= 1
        else:
            i -= 1
    return Path(tuple(visits[::-1]), tuple(matched[::-1]), tuple(jumps[::-1]))
