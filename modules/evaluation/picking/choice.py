"""Which of several trainings of one part is the best, when all of them were heard on the same lines.

An output is one line spoken with one seed. Its score is

    similarity - phone_error - failed - weight * distance

with similarity -1..1, phone_error 0..1, failed 0 or 1, and the distance that the part is trained to make small: for
the decoder the mel distance to the recording (nepers), for the language model its loss on the recording's tokens
(nats a token). A row's score is the mean over its outputs.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

DISTANCE_WEIGHTS = {"vits2": 0.25, "gpt": 0.2}
NOISE_FACTOR = 2.0
"""Standard errors within which two rows count as equal."""
LEAST_DIFFERENCE = 0.01
"""Nobody hears less than this, however surely it was measured."""
FEWEST_LINES = 4
"""With fewer, outputs and not lines are taken for the independent ones."""


@dataclass(frozen=True)
class Output:
    """What was measured on one line spoken with one seed.

    Args:
        line, seed: which one.
        similarity: to the voice, -1..1; phone_error: 0..1.
        distance: mel distance or token loss, see above; nan where it could not be measured.
        failure: why it is no usable speech, "" when it is.
    """

    line: int
    seed: int
    similarity: float
    phone_error: float
    distance: float
    failure: str = ""


@dataclass
class Row:
    """One weight file, heard.

    Args:
        stage: "vits2" or "gpt".
        file: its name, "" for the built-in weights; epoch, step: 0 for those.
        bytes, mtime_ns: size and time of change of the file that was heard, 0 for the built-in weights: a later
            training may write another of the same name.
        error: why it could not be heard.
        samples: wavs for people, as `pick.json` lists them.
    """

    stage: str
    file: str
    epoch: int = 0
    step: int = 0
    bytes: int = 0
    mtime_ns: int = 0
    outputs: list[Output] = field(default_factory=list)
    error: str = ""
    samples: list[dict[str, str]] = field(default_factory=list)

    @property
    def failure_rate(self) -> float:
        """Share of outputs that are no usable speech; 1 when nothing could be heard."""
        return _mean([bool(o.failure) for o in self.outputs]) if self.outputs else 1.0

    @property
    def score(self) -> float:
        """Mean over the outputs; -inf when nothing could be heard."""
        scores = self._scores()
        return _mean(list(scores.values())) if scores else -math.inf

    @property
    def spread(self) -> float:
        """Standard error of the score, from its lines."""
        return _standard_error(self._scores())

    def mean(self, name: str) -> float:
        """Mean of a field of the outputs, those without a value left out; nan when there is none."""
        values = [value for o in self.outputs if math.isfinite(value := getattr(o, name))]
        return _mean(values) if values else math.nan

    def _scores(self) -> dict[tuple[int, int], float]:
        weight, worst = DISTANCE_WEIGHTS[self.stage], _worst(self.outputs)
        return {
            (o.line, o.seed): o.similarity
            - o.phone_error
            - bool(o.failure)
            - weight * (o.distance if math.isfinite(o.distance) else worst)
            for o in self.outputs
        }


def choose(rows: Sequence[Row]) -> int:
    """Index of the row to use.

    The best score wins, unless other rows are equal to it: their paired difference on the same outputs is within
    `NOISE_FACTOR` standard errors, or too small to be heard. Among equals the fewest failures win, and then the row
    that stands first; so hand in the built-in weights first and the others by age, and a later training must be
    really better to be chosen (after the one-standard-error rule, Breiman et al. 1984).

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("nothing to choose from")
    best = max(range(len(rows)), key=lambda i: rows[i].score)
    if not rows[best].outputs:
        return 0
    equals = [i for i, row in enumerate(rows) if row.outputs and _equal(row, rows[best])]
    fewest = min(rows[i].failure_rate for i in equals)
    return next(i for i in equals if rows[i].failure_rate <= fewest)


def _equal(row: Row, best: Row) -> bool:
    ours, theirs = row._scores(), best._scores()
    differences = {key: theirs[key] - ours[key] for key in ours.keys() & theirs.keys()}
    if not differences or row is best:
        return row is best
    margin = max(NOISE_FACTOR * _standard_error(differences), LEAST_DIFFERENCE)
    return _mean(list(differences.values())) <= margin


def _standard_error(values: dict[tuple[int, int], float]) -> float:
    """Of the mean of values by line and seed; infinite for a single one."""
    by_line: dict[int, list[float]] = defaultdict(list)
    for (line, _), value in values.items():
        by_line[line].append(value)
    # Seeds of one line share its difficulties.
    groups = [_mean(group) for group in by_line.values()]
    units = groups if len(groups) >= FEWEST_LINES else list(values.values())
    return float(np.std(units, ddof=1) / math.sqrt(len(units))) if len(units) > 1 else math.inf


def _worst(outputs: Sequence[Output]) -> float:
    """What stands in for a distance that could not be measured."""
    return max((o.distance for o in outputs if math.isfinite(o.distance)), default=0.0)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
