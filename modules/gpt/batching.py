"""Training rows cut into batches: which rows an epoch holds, which stand together, and how they are padded."""

from collections.abc import Sequence

import numpy as np

from modules.gpt.dataset import PromptDataset, Row
from modules.gpt.patterns import Pattern
from modules.gpt.sequence import Sequences, arrange, part_length


class MixSampler:
    """Batches of rows of like length within a budget, planned anew each epoch from (seed, epoch).

    Args:
        dataset: what to plan for.
        budget: most padded positions in a batch.
        seed: of everything random, the dataset's choices included.
        pad_multiple: row lengths are rounded up to this before they are compared.
        max_batch: most rows in a batch.
    """

    def __init__(self, dataset: PromptDataset, budget: int, seed: int = 0, pad_multiple: int = 8, max_batch: int = 64):
        self.dataset, self.budget, self.seed = dataset, budget, seed
        self.pad_multiple, self.max_batch = pad_multiple, max_batch
        self._weights = dataset.target_weights()
        self._planned: tuple[int, list[np.ndarray]] | None = None
        self.padding_waste = 0.0
        """Share of the positions of the epoch planned last that are padding, if no prompt loses its text."""

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch in order, each an array of dataset indices."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, self._plan(epoch))
        return self._planned[1]

    def cost(self, batch: np.ndarray) -> float:
        """Padded positions of a batch."""
        return float(max(self.dataset.length(self.dataset.choose(int(i))) for i in batch) * len(batch))

    def _plan(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, epoch))
        total = len(self.dataset)
        # Whole repeats always, the fraction by chance: on average exactly the weight.
        repeats = np.floor(self._weights + rng.random(total)).astype(int)
        targets = np.repeat(np.arange(total), repeats)
        # A number of its own for every draw of every epoch, since it decides the prompts.
        first = int(np.random.default_rng((self.seed, epoch, 1)).integers(1 << 40))
        again = first + np.arange(len(targets)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        indices = rng.permutation(targets + total * again)
        lengths = np.array([self.dataset.length(self.dataset.choose(int(i))) for i in indices])
        widths = -(-lengths // self.pad_multiple) * self.pad_multiple
        order = np.argsort(widths, kind="stable")  # like lengths together, in random order among equals
        batches, start, padded = [], 0, 0
        for end in range(1, len(order) + 1):
            full = end == len(order) or end + 1 - start > self.max_batch
            if full or widths[order[end]] * (end + 1 - start) > self.budget:
                batches.append(indices[order[start:end]])
                padded += int(widths[order[end - 1]]) * (end - start)
                start = end
        self.padding_waste = 1.0 - float(lengths.sum()) / max(padded, 1)
        return [batches[i] for i in rng.permutation(len(batches))]


class Collate:
    """Rows to `Sequences`, padded to a multiple of `pad_multiple`; `pattern` as in `arrange`."""

    def __init__(self, pattern: Pattern | int, pad_multiple: int = 8, last_only: bool = False):
        self.pattern, self.pad_multiple, self.last_only = pattern, pad_multiple, last_only

    def __call__(self, rows: list[Row]) -> Sequences:
        return arrange(
            [row.parts for row in rows], self.pattern, self.pad_multiple, [row.group for row in rows], self.last_only
        )


def batches_of(rows: Sequence[Row], budget: int, pattern: Pattern | None = None) -> list[list[Row]]:
    """Rows sorted by length and cut into lists of at most `budget` padded positions; `pattern` as in the dataset."""
    long = sorted(((_row_length(row, pattern), row) for row in rows), key=lambda pair: pair[0])
    batches: list[list[Row]] = [[]]
    for length, row in long:
        if batches[-1] and length * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(row)
    return [batch for batch in batches if batch]


def _row_length(row: Row, pattern: Pattern | None) -> int:
    return sum(part_length(len(p.text_ids), len(p.codes), pattern) for p in row.parts)
