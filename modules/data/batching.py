"""Batches of similar length, and a loader that resumes exactly where it stopped.

Padded lengths take few values (the bucket bounds), so memory is predictable and shape-specialised kernels are
reused. Order and random choices depend on (seed, epoch, index) alone, never on timing or on earlier batches.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from modules.errors import UserError

CANDIDATE_BOUNDS = 256


class IndexedDataset(Protocol):
    """What a loader reads: an item is a function of its index and of the generator handed in."""

    def get(self, index: int, rng: np.random.Generator) -> Any: ...


class BatchSampler(Protocol):
    """What decides the batches of an epoch."""

    seed: int

    def batches(self, epoch: int) -> list[np.ndarray]: ...
    def cost(self, batch: np.ndarray) -> float: ...


class LengthBuckets:
    """Token-budget batches from length buckets, reshuffled every epoch from (seed, epoch).

    Args:
        lengths: length of each item, in whatever unit `budget` has (frames, tokens, samples, seconds).
        budget: most padded units in one batch; an item longer than this makes a batch of its own.
        max_batch: most items in one batch.
        seed: of the shuffling, and of the loader's random choices.
        buckets: most bounds; they are placed where the padding is least for these lengths.
        multiple: bounds are multiples of this; 0 leaves them free.
        weights: relative frequency of each item. An epoch then has as many draws as there are items, each item
            being drawn its expected number of times rounded up or down; None takes every item once.

    Raises:
        UserError: no_batches when there are no items.
    """

    def __init__(
        self,
        lengths: Sequence[float] | np.ndarray,
        budget: float,
        max_batch: int = 64,
        seed: int = 0,
        buckets: int = 20,
        multiple: float = 0,
        weights: Sequence[float] | np.ndarray | None = None,
    ):
        self.lengths = np.asarray(lengths)
        if self.lengths.size == 0:
            raise UserError("no_batches", "There is nothing to train on: the dataset is empty after filtering.")
        self.seed, self.budget, self.max_batch = seed, budget, max_batch
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64) / np.sum(weights)
        self.bounds = _place_bounds(self.lengths, buckets, multiple)
        self._bucket = np.searchsorted(np.asarray(self.bounds), self.lengths)

    @property
    def padding_waste(self) -> float:
        """Expected share of the padded units that is padding, 0..1, when batches are padded to the bounds."""
        share = np.ones(len(self.lengths)) if self.weights is None else self.weights
        padded = (np.asarray(self.bounds)[self._bucket] * share).sum()
        return float(1.0 - (self.lengths * share).sum() / max(float(padded), 1e-9))

    def batch_size(self, bucket: int) -> int:
        """Items in a full batch of that bucket."""
        return int(max(1, min(self.max_batch, self.budget // max(self.bounds[bucket], 1e-9))))

    def cost(self, batch: np.ndarray) -> float:
        """Padded units of a batch."""
        return float(self.bounds[int(self._bucket[batch].max())] * len(batch))

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch in order, each an array of item indices."""
        rng = np.random.default_rng((self.seed, epoch))
        drawn = self._draw(rng)
        bucket_of = self._bucket[drawn]
        batches: list[np.ndarray] = []
        for bucket in range(len(self.bounds)):
            size, members = self.batch_size(bucket), drawn[bucket_of == bucket]
            batches += [members[start : start + size] for start in range(0, len(members), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        order = rng.permutation(len(self.lengths))
        if self.weights is None:
            return order
        # Systematic resampling: one random offset, equal strides through the cumulated weights.
        edges = np.cumsum(self.weights[order])
        points = (rng.random() + np.arange(len(order))) / len(order) * edges[-1]
        return rng.permutation(order[np.minimum(np.searchsorted(edges, points, side="right"), len(order) - 1)])


def padded_length(length: int, bounds: Sequence[float]) -> int:
    """The smallest bound that holds `length`; above the last one, the next multiple of an eighth of it."""
    for bound in bounds:
        if length <= bound:
            return int(bound)
    step = max(1, int(bounds[-1]) // 8) if len(bounds) else 1
    return -(-length // step) * step


def pad_stack(
    arrays: Sequence[np.ndarray | Tensor],
    bounds: Sequence[float] = (),
    value: float = 0,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Stack arrays [L, ...] of differing length along a new first dimension.

    Args:
        arrays: [L_i, ...] each, with the same trailing shape.
        bounds: the padded length is the smallest of these that fits (`LengthBuckets.bounds`), else the longest L.
        value: what the padding holds.

    Returns:
        padded [B, L, ...] and lengths int64 [B].
    """
    tensors = [torch.as_tensor(array) for array in arrays]
    lengths = torch.tensor([len(t) for t in tensors], dtype=torch.int64)
    longest = padded_length(int(lengths.max()), bounds)
    padded = torch.full((len(tensors), longest, *tensors[0].shape[1:]), value, dtype=dtype or tensors[0].dtype)
    for row, tensor in zip(padded, tensors, strict=True):
        row[: len(tensor)] = tensor
    return padded, lengths


class Loader:
    """Iterates over one epoch at a time; a resumed loader hands out exactly the batches that were not yet consumed.

    `dataset.get(index, rng)` is called with a generator seeded by (seed, epoch, batch, index), then `collate(items)`.

    Several processes (`world`) share the batches of one loader each: of every `world` batches in the order of one
    process, across the ends of epochs too, each gets the one of its rank. What the loader says of itself (epoch,
    position, state) is the same in all of them.

    Args:
        dataset: see `IndexedDataset`.
        sampler: decides the batches, for instance `LengthBuckets`.
        collate: list of items -> batch.
        workers: processes that prepare batches (for heavy decoding); 0 prepares in threads.
        prefetch_threads: threads that prepare batches ahead when `workers` is 0; 0 prepares on demand.
        pin_memory: page-lock tensors for faster copies to a CUDA device.
        rank, world: number of this training process, and of all.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        sampler: BatchSampler,
        collate: Callable[[list[Any]], Any],
        workers: int = 0,
        prefetch_threads: int = 1,
        pin_memory: bool = False,
        rank: int = 0,
        world: int = 1,
    ):
        self.dataset, self.sampler, self.collate = dataset, sampler, collate
        self.workers, self.prefetch_threads, self.pin_memory = workers, prefetch_threads, pin_memory
        self.rank, self.world = rank, world
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        """Batches in the current epoch, those of all processes."""
        return len(self.sampler.batches(self.epoch))

    def __iter__(self) -> Iterator[Any]:
        """This process's batches in the rest of the current epoch. A batch counts as consumed once it is handed out;
        with the last one the loader already stands at the start of the next epoch, so `epoch` is the number of epochs
        handed out."""
        batches = self.sampler.batches(self.epoch)
        if not batches:
            return
        start = self.position if self.position < len(batches) else 0
        turns, after = self._turns(len(batches), start)
        epochs = {epoch: batches if epoch == self.epoch else self.sampler.batches(epoch) for epoch, _ in turns}
        prepared = self._prepare_all(_Prepare(self.dataset, self.collate, self.sampler.seed, epochs, turns))
        try:
            for batch, place in zip(prepared, after, strict=True):
                self.epoch, self.position = place
                yield batch
        finally:
            prepared.close()

    def heaviest(self) -> Any:
        """The batch of the first epoch that takes most memory; leaves the loader where it is."""
        batches = self.sampler.batches(0)
        if not batches:
            raise UserError("no_batches", "There is nothing to train on: the dataset is empty after filtering.")
        position = max(range(len(batches)), key=lambda number: self.sampler.cost(batches[number]))
        return _Prepare(self.dataset, self.collate, self.sampler.seed, {0: batches}, [(0, position)])[0]

    def heaviest_cost(self) -> float:
        """What that batch costs, in the unit of the sampler."""
        return max((self.sampler.cost(batch) for batch in self.sampler.batches(0)), default=0.0)

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands: epoch and batches of it that were handed out."""
        return {"epoch": self.epoch, "position": self.position, "seed": self.sampler.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken. If the data shrank meanwhile, the epoch starts anew."""
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def _turns(self, count: int, position: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(epoch, position) of this rank's batches until the epoch of `count` batches is used up, and where all the
        processes together stand after each."""
        epoch, turns, after = self.epoch, [], []
        while epoch == self.epoch:
            for rank in range(self.world):
                if rank == self.rank:
                    turns.append((epoch, position))
                position += 1
                if position >= count:
                    epoch, position = epoch + 1, 0
                    # Only now, and at most once or twice in an epoch: planning an epoch is not free.
                    count = len(self.sampler.batches(epoch)) if rank + 1 < self.world else count
            after.append((epoch, position))
        return turns, after

    def _prepare_all(self, job: "_Prepare") -> Iterator[Any]:
        if self.workers > 0:
            # Its own generator: a DataLoader would otherwise draw from the global one and make a resumed run differ.
            loader = DataLoader(
                job,
                batch_size=None,
                sampler=range(len(job)),
                num_workers=self.workers,
                pin_memory=self.pin_memory,
                generator=torch.Generator(),
            )
            yield from loader
        elif self.prefetch_threads > 0:
            yield from _ahead(job, range(len(job)), self.prefetch_threads, self.pin_memory)
        else:
            yield from (job[number] for number in range(len(job)))


class _Prepare:
    """Number of the turn -> collated batch; picklable for worker processes when its parts are."""

    def __init__(
        self,
        dataset: IndexedDataset,
        collate: Callable,
        seed: int,
        batches: dict[int, list[np.ndarray]],
        turns: list[tuple[int, int]],
    ):
        self.dataset, self.collate, self.seed, self.batches, self.turns = dataset, collate, seed, batches, turns

    def __len__(self) -> int:
        return len(self.turns)

    def __getitem__(self, number: int) -> Any:
        epoch, position = self.turns[number]
        return self.collate(
            [
                self.dataset.get(int(i), np.random.default_rng((self.seed, epoch, position, int(i))))
                for i in self.batches[epoch][position]
            ]
        )


def _ahead(job: _Prepare, positions: range, threads: int, pin: bool) -> Iterator[Any]:
    """Batches in order, `2 * threads` of them being prepared ahead."""

    def prepare(position: int) -> Any:
        return map_tensors(job[position], Tensor.pin_memory) if pin else job[position]

    pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
    pending: deque[Future] = deque()
    try:
        for position in positions:
            pending.append(pool.submit(prepare, position))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply `function` to every tensor in a tensor, dict, list, tuple, named tuple or dataclass; others stay."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, function) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, function) for item in value)
    if hasattr(value, "__dataclass_fields__"):
        return type(value)(**{n: map_tensors(getattr(value, n), function) for n in value.__dataclass_fields__})
    return value


def _place_bounds(lengths: np.ndarray, buckets: int, multiple: float) -> tuple[float, ...]:
    """Bounds with the least total padding: dynamic programming over candidate bounds.

    cost(k, j) = min over i < j of cost(k - 1, i) + bound_j * (items in (bound_i, bound_j]); the sum of the true
    lengths is constant, so the least padded total is the least waste.
    """
    rounded = np.maximum(-(-lengths // multiple), 1) * multiple if multiple > 0 else lengths
    candidates = np.unique(rounded)
    if len(candidates) > CANDIDATE_BOUNDS:
        candidates = np.unique(np.quantile(rounded, np.linspace(0, 1, CANDIDATE_BOUNDS), method="higher"))
    if len(candidates) <= buckets:
        return tuple(candidates.tolist())
    below = np.searchsorted(np.sort(rounded), candidates, side="right").astype(np.float64)
    before = np.concatenate([[0.0], below])
    count = len(candidates)
    cost = np.concatenate([[0.0], np.full(count, np.inf)])
    choices = []
    for _ in range(buckets):
        # total[i, j]: the best with the last bound at candidate j and the one before it at candidate i - 1.
        total = cost[:, None] + candidates[None, :] * (below[None, :] - before[:, None])
        total[np.arange(count + 1)[:, None] > np.arange(count)[None, :]] = np.inf
        choice = total.argmin(axis=0)
        choices.append(choice)
        cost = np.concatenate([[0.0], total[choice, np.arange(count)]])
    bounds, last = [], count - 1
    for choice in reversed(choices):
        bounds.append(candidates[last].item())
        last = int(choice[last]) - 1
        if last < 0:
            break
    return tuple(reversed(bounds))
