"""Batches: budget, little padding, few shapes, and a loader that resumes exactly."""

from collections import Counter

import numpy as np
import pytest
import torch

from modules.data.batching import LengthBuckets, Loader, map_tensors, pad_stack, padded_length
from modules.errors import UserError


def realistic_lengths(count: int = 5000, seed: int = 0) -> np.ndarray:
    """Frames at 25 Hz of utterances of 1 to 16 s, median 3.4 s, as read speech has them."""
    seconds = np.random.default_rng(seed).lognormal(np.log(3.4), 0.5, count).clip(1.0, 16.0)
    return (seconds * 25).astype(np.int64)


class Noise:
    """Items are noise from the generator handed in, so that they show how it was seeded."""

    def __init__(self, lengths):
        self.lengths = lengths

    def get(self, index, rng):
        return index, rng.standard_normal(int(self.lengths[index])).astype(np.float32)


class Collate:
    """Padded batch with its indices; a class, because workers need to pickle it."""

    def __init__(self, bounds):
        self.bounds = bounds

    def __call__(self, items):
        padded, lengths = pad_stack([noise for _, noise in items], self.bounds)
        return {"index": torch.tensor([i for i, _ in items]), "noise": padded, "lengths": lengths}


def make_loader(count=120, seed=3, **options) -> Loader:
    lengths = realistic_lengths(count)
    sampler = LengthBuckets(lengths, budget=1500, seed=seed, buckets=6)
    return Loader(Noise(lengths), sampler, Collate(sampler.bounds), **options)


def equal(a, b) -> bool:
    return len(a) == len(b) and all(torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)


def test_every_item_once_per_epoch_within_budget():
    lengths = realistic_lengths()
    sampler = LengthBuckets(lengths, budget=4000, max_batch=48)
    batches = sampler.batches(0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        padded = padded_length(lengths[batch].max(), sampler.bounds)
        assert len(batch) <= 48 and (padded * len(batch) <= 4000 or len(batch) == 1)


def test_waste_is_under_eight_percent_with_few_shapes():
    lengths = realistic_lengths()
    sampler = LengthBuckets(lengths, budget=4000)
    assert sampler.padding_waste < 0.08
    assert len(sampler.bounds) <= 20
    batches = sampler.batches(0)
    shapes = [padded_length(lengths[b].max(), sampler.bounds) for b in batches]
    assert set(shapes) <= set(sampler.bounds)
    units = sum(s * len(b) for s, b in zip(shapes, batches, strict=True))
    assert 1 - lengths.sum() / units == pytest.approx(sampler.padding_waste)


def test_bounds_are_the_best_ones():
    lengths = np.array([1, 1, 2, 8, 9, 9, 9, 30])
    sampler = LengthBuckets(lengths, budget=100, buckets=3)
    assert sampler.bounds == (2, 9, 30)
    assert LengthBuckets(lengths, budget=100, buckets=3, multiple=8).bounds == (8, 16, 32)
    assert LengthBuckets([5, 5, 5], budget=100).bounds == (5,)


def test_lengths_may_be_seconds():
    seconds = realistic_lengths() / 25.0
    sampler = LengthBuckets(seconds, budget=100.0, max_batch=96)
    assert sampler.padding_waste < 0.08
    for batch in sampler.batches(1):
        assert padded_length(seconds[batch].max(), sampler.bounds) * len(batch) <= 100.0


def test_an_item_beyond_the_budget_is_a_batch_of_its_own():
    batches = LengthBuckets([10, 10, 500], budget=20).batches(0)
    assert sorted(map(len, batches)) == [1, 2]


def test_epochs_differ_and_seeds_decide():
    lengths = realistic_lengths(300)

    def flat(seed, epoch):
        return np.concatenate(LengthBuckets(lengths, 1000, seed=seed).batches(epoch)).tolist()

    assert flat(1, 0) == flat(1, 0)
    assert len({tuple(flat(s, e)) for s, e in ((1, 0), (1, 1), (2, 0))}) == 3


def test_weights_set_how_often_an_item_is_drawn():
    lengths = realistic_lengths(400)
    weights = np.ones(400)
    weights[:100] = 5.0
    weights[390:] = 0.0
    sampler = LengthBuckets(lengths, 1000, seed=0, weights=weights)
    expected = weights / weights.sum() * 400
    total: Counter = Counter()
    for epoch in range(20):
        drawn = Counter(np.concatenate(sampler.batches(epoch)).tolist())
        assert sum(drawn.values()) == 400
        assert all(abs(drawn[i] - expected[i]) < 1 + 1e-6 for i in range(400))
        total += drawn
    assert sum(total[i] for i in range(100)) / sum(total.values()) == pytest.approx(500 / 790, abs=0.01)


def test_nothing_to_train_on_is_told():
    with pytest.raises(UserError) as caught:
        LengthBuckets([], budget=10)
    assert caught.value.code == "no_batches"


@pytest.mark.parametrize("options", [{"prefetch_threads": 0}, {"prefetch_threads": 3}, {"workers": 1}])
def test_prefetching_does_not_change_the_batches(options):
    count = 40 if "workers" in options else 120
    assert equal(list(make_loader(count, **options)), list(make_loader(count)))


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_resumed_loader_hands_out_the_rest(threads):
    whole = make_loader()
    batches = [batch for _ in range(3) for batch in whole]
    first = make_loader(prefetch_threads=threads)
    cut = len(batches) // 2 + 1
    seen, state = [], None
    while state is None:
        for batch in first:
            seen.append(batch)
            if len(seen) == cut:
                state = first.state_dict()  # as a checkpoint does; the prefetched batches are not consumed
                break
    second = make_loader(prefetch_threads=threads)
    second.load_state_dict(state)
    while second.epoch < 3:
        seen += list(second)
    assert equal(seen, batches)


def test_the_last_batch_of_an_epoch_belongs_to_it():
    loader = make_loader()
    count = len(loader)
    iterator = iter(loader)
    for _ in range(count):
        next(iterator)
    assert loader.state_dict()["epoch"] == 1 and loader.state_dict()["position"] == 0
    with pytest.raises(StopIteration):
        next(iterator)
    assert loader.epoch == 1


def test_random_choices_differ_between_epochs_and_draws():
    lengths = np.full(4, 6)
    sampler = LengthBuckets(lengths, budget=6, seed=0, weights=[1, 0, 0, 0])
    loader = Loader(Noise(lengths), sampler, Collate(sampler.bounds))
    rows = torch.cat([batch["noise"] for _ in range(2) for batch in loader])
    assert len(torch.unique(rows, dim=0)) == 8


def test_the_loader_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(make_loader(40))
    list(make_loader(10, workers=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_in_the_dataset_reaches_the_caller():
    class Broken:
        def get(self, index, rng):
            raise UserError("audio_missing", "{file} is gone.", file="a.wav")

    loader = Loader(Broken(), LengthBuckets([1, 1], 1), list)
    with pytest.raises(UserError, match="a.wav"):
        next(iter(loader))


def test_pad_stack():
    padded, lengths = pad_stack([np.ones((2, 3), np.int16), np.ones((4, 3), np.int16)], (3, 5, 9), value=-1)
    assert padded.shape == (2, 5, 3) and padded.dtype == torch.int16 and lengths.tolist() == [2, 4]
    assert (padded[0, 2:] == -1).all() and (padded[0, :2] == 1).all()
    assert pad_stack([np.ones(2)])[0].shape == (1, 2)
    assert padded_length(17, (8, 16)) == 18 and padded_length(7, ()) == 7


def test_map_tensors_keeps_the_structure():
    mapped = map_tensors({"a": [torch.ones(1), 2], "b": ("x", torch.ones(1))}, lambda t: t + 1)
    assert mapped == {"a": [torch.tensor([2.0]), 2], "b": ("x", torch.tensor([2.0]))}
