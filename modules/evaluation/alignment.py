"""How far what was heard is from what should have been said.

Words: truth is the right sequence, hypothesis the one that was heard.
"""

import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EditCounts:
    """Edits that turn the truth into the hypothesis; `length` of the truth."""

    substitutions: int
    insertions: int
    deletions: int
    length: int

    @property
    def edits(self) -> int:
        """All edits."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Edits per item of the truth; may exceed 1."""
        return self.edits / max(1, self.length)


def count_edits(hypothesis: Sequence, truth: Sequence) -> EditCounts:
    """The cheapest alignment (Levenshtein 1966), substitutions preferred among equals."""
    # A cell is (edits, insertions, deletions); the substitutions follow.
    row = [(j, j, 0) for j in range(len(hypothesis) + 1)]
    for i, wanted in enumerate(truth, 1):
        above, row = row, [(i, 0, i)]
        for j, heard in enumerate(hypothesis, 1):
            diagonal, up, left = above[j - 1], above[j], row[-1]
            best = (diagonal[0] + (wanted != heard), diagonal[1], diagonal[2])
            if up[0] + 1 < best[0]:
                best = (up[0] + 1, up[1], up[2] + 1)
            if left[0] + 1 < best[0]:
                best = (left[0] + 1, left[1] + 1, left[2])
            row.append(best)
    edits, insertions, deletions = row[-1]
    return EditCounts(edits - insertions - deletions, insertions, deletions, len(truth))


@dataclass(frozen=True)
class ErrorRate:
    """A rate over several items: all edits over all lengths, and its 95 % interval from resampled items."""

    rate: float
    low: float
    high: float
    insertions: float
    deletions: float
    substitutions: float
    items: int
    length: int


def pooled_rate(counts: Iterable[EditCounts], resamples: int = 1000, clusters: Sequence[Hashable] = ()) -> ErrorRate:
    """Pool items; the interval is the percentile bootstrap over items, or over the clusters that they belong to (the
    sentence that several voices say), seeded."""
    counts = list(counts)
    edits = np.array([c.edits for c in counts], dtype=np.float64)
    lengths = np.array([c.length for c in counts], dtype=np.float64)
    total = max(1.0, lengths.sum())
    if len(counts):
        number = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
        places = np.array([number[cluster] for cluster in clusters]) if clusters else np.arange(len(counts))
        wrong, of = np.bincount(places, edits), np.bincount(places, lengths)
        drawn = np.random.default_rng(0).integers(len(of), size=(resamples, len(of)))
        low, high = np.percentile(wrong[drawn].sum(1) / np.maximum(1.0, of[drawn].sum(1)), (2.5, 97.5))
    else:
        low = high = 0.0
    parts = [sum(getattr(c, name) for c in counts) / total for name in ("insertions", "deletions", "substitutions")]
    return ErrorRate(edits.sum() / total, float(low), float(high), *parts, len(counts), int(lengths.sum()))


def nearest(hypothesis: Sequence, choices: Sequence[Sequence]) -> int:
    """Index of the choice with the fewest edits per item of the longer of the two; the first among equals."""
    costs = [count_edits(hypothesis, choice).edits / max(1, len(choice), len(hypothesis)) for choice in choices]
    return int(np.argmin(costs))


def plain_words(text: str) -> list[str]:
    """Words in lower case without punctuation; an apostrophe inside a word stays."""
    text = unicodedata.normalize("NFC", text).casefold().replace("’", "'")
    # Vowel signs and viramas (category M) are letters to those who write with them.
    spaced = "".join(c if c.isalnum() or c == "'" or unicodedata.category(c)[0] == "M" else " " for c in text)
    return [word for word in (part.strip("'") for part in spaced.split()) if word]


def without_tones(labels: Iterable[str]) -> list[str]:
    """Phone labels without the tone digits of Mandarin."""
    return [label.rstrip("12345") for label in labels]


def rising_steps(values: Sequence[float], tolerance: float = 0.0) -> int:
    """How many steps of a curve do not fall by more than `tolerance`."""
    return sum(later >= earlier - tolerance for earlier, later in zip(values, values[1:]))


def is_rising(values: Sequence[float], tolerance: float = 0.0) -> bool:
    """Whether no step falls by more than `tolerance`."""
    return rising_steps(values, tolerance) == len(values) - 1
