"""Which text unit each phone belongs to, learned from texts and phones alone.

Units and phones stand in the same order, and every unit says some phones or none: a monotonic many-to-one alignment
(Jiampojamarn et al., "Applying many-to-many alignments and hidden Markov models to letter-to-phoneme conversion", 2007;
here one unit to n phones). What a unit says and how many phones it takes are counted along the best paths, which then
give better counts (Viterbi training). Punctuation and spaces learn to say pauses.

Shape letters: B utterances, U units, R phones, N the most phones of a unit.
"""

from collections.abc import Sequence

import numpy as np

MOST_PHONES = 6
_NEVER = -1e4
_ROUNDS = 6
_SAYS_SIGHTINGS, _COUNT_SIGHTINGS = 2.0, 2.0


class UnitAligner:
    """What each unit says.

    Args:
        says: log-probabilities [units, phones] of a phone, given a unit that says one.
        counts: log-probabilities [units, N + 1] of the number of phones.
    """

    def __init__(self, says: np.ndarray, counts: np.ndarray):
        self.says, self.counts = says.astype(np.float32), counts.astype(np.float32)

    @classmethod
    def train(
        cls,
        units: Sequence[np.ndarray],
        phones: Sequence[np.ndarray],
        vocab: int,
        inventory: int,
        rounds: int = _ROUNDS,
    ) -> "UnitAligner":
        """Learn from utterances, each as the numbers of its units [U] and of its phones [R]."""
        overall = np.bincount(np.concatenate(phones), minlength=inventory) + 1.0
        overall /= overall.sum()
        total = np.zeros((vocab, inventory))
        lengths = np.zeros((vocab, MOST_PHONES + 1))
        # At first each phone belongs to the units near its place on the diagonal.
        for u, p in zip(units, phones, strict=True):
            if not len(u) or not len(p):
                continue
            distance = (np.arange(len(u))[:, None] + 0.5) / len(u) - (np.arange(len(p)) + 0.5)[None] / len(p)
            near = np.exp(-0.5 * (distance * max(len(u), len(p)) / 2.0) ** 2)
            near /= near.sum(0)
            np.add.at(total, u, _scattered(near, p, inventory))
            mean = near.sum(1)
            np.add.at(lengths, u, np.exp(-0.5 * (np.arange(MOST_PHONES + 1)[None] - mean[:, None]) ** 2))
        aligner = cls._of_counts(total, lengths, overall)
        for _ in range(rounds):
            total[:], lengths[:] = 0, 0
            for u, p, owner in aligner._paths(units, phones):
                np.add.at(total, (u[owner], p), 1)
                took = np.minimum(np.bincount(owner, minlength=len(u)), MOST_PHONES)
                np.add.at(lengths, (u, took), 1)
            aligner = cls._of_counts(total, lengths, overall)
        return aligner

    @classmethod
    def _of_counts(cls, total: np.ndarray, lengths: np.ndarray, overall: np.ndarray) -> "UnitAligner":
        says = (total + _SAYS_SIGHTINGS * overall) / (total.sum(1, keepdims=True) + _SAYS_SIGHTINGS)
        usual = (lengths.sum(0) + 1) / (lengths.sum() + MOST_PHONES + 1)
        counts = (lengths + _COUNT_SIGHTINGS * usual) / (lengths.sum(1, keepdims=True) + _COUNT_SIGHTINGS)
        return cls(np.log(says), np.log(counts))

    def align(self, units: np.ndarray, phones: np.ndarray) -> np.ndarray | None:
        """The unit of each phone, rising: int64 [R]; None where the phones do not fit on the units."""
        return self.align_all([units], [phones])[0]

    def align_all(self, units: Sequence[np.ndarray], phones: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """`align` of many utterances, those of like length together."""
        found: list[np.ndarray | None] = [None] * len(units)
        for number, owner in self._numbered_paths(units, phones):
            found[number] = owner
        return found

    def _paths(self, units: Sequence[np.ndarray], phones: Sequence[np.ndarray]):
        for number, owner in self._numbered_paths(units, phones):
            yield units[number], phones[number], owner

    def _numbered_paths(self, units: Sequence[np.ndarray], phones: Sequence[np.ndarray], batch: int = 256):
        fits = [n for n in range(len(units)) if 0 < len(phones[n]) <= MOST_PHONES * len(units[n])]
        fits.sort(key=lambda n: (len(units[n]), len(phones[n])))
        for start in range(0, len(fits), batch):
            chosen = fits[start : start + batch]
            owners = self._search([units[n] for n in chosen], [phones[n] for n in chosen])
            yield from zip(chosen, owners, strict=True)

    def _search(self, units: Sequence[np.ndarray], phones: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Viterbi search over a batch."""
        rows, longest = len(units), max(map(len, phones))
        unit_count = max(map(len, units))
        texts, sounds = np.zeros((rows, unit_count), np.int64), np.zeros((rows, longest), np.int64)
        for row, (u, p) in enumerate(zip(units, phones, strict=True)):
            texts[row, : len(u)], sounds[row, : len(p)] = u, p
        best = np.full((rows, longest + 1), _NEVER, np.float32)
        best[:, 0] = 0
        taken = np.zeros((unit_count, rows, longest + 1), np.int8)
        for unit in range(unit_count):
            said = self.says[texts[:, unit, None], sounds]
            summed = np.concatenate([np.zeros((rows, 1), np.float32), said.cumsum(1)], 1)
            count = self.counts[texts[:, unit]]
            following = best + count[:, :1]
            for n in range(1, min(MOST_PHONES, longest) + 1):
                score = best[:, :-n] + summed[:, n:] - summed[:, :-n] + count[:, n, None]
                better = score > following[:, n:]
                following[:, n:] = np.where(better, score, following[:, n:])
                taken[unit][:, n:] = np.where(better, n, taken[unit][:, n:])
            best = following
        return [_owners(taken[: len(u), row], len(p)) for row, (u, p) in enumerate(zip(units, phones, strict=True))]


def _owners(taken: np.ndarray, phones: int) -> np.ndarray:
    """Follow a path back: [U, R + 1] phones taken by each unit up to each place -> the unit of each phone."""
    counts, place = np.zeros(len(taken), np.int64), phones
    for unit in range(len(taken) - 1, -1, -1):
        counts[unit] = taken[unit, place]
        place -= counts[unit]
    return np.repeat(np.arange(len(taken)), counts)


def _scattered(weights: np.ndarray, phones: np.ndarray, inventory: int) -> np.ndarray:
    """[U, R] weights of phone places -> [U, inventory] weights of phones."""
    one_hot = np.zeros((len(phones), inventory))
    one_hot[np.arange(len(phones)), phones] = 1
    return weights @ one_hot


def runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels without repetitions [R], and which of them each frame [T] belongs to."""
    begins = np.concatenate([[True], labels[1:] != labels[:-1]]) if len(labels) else np.zeros(0, bool)
    return labels[begins], np.cumsum(begins) - 1
