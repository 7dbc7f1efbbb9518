"""A batch is made smaller until it fits, and trying it changes nothing."""

import copy

import pytest
import torch

from modules.data.batching import LengthBuckets, Loader, pad_stack
from modules.errors import UserError
from modules.runtime import rng_state
from modules.training.memory import SHARES, PeakMemory, fit_batch
from tests.training.toys import CPU, Adversarial, Regression, Tones, make_loader, same

GIB = 1 << 30


class Hungry(Regression):
    """Takes a known amount of memory for each item of its batch."""

    bytes_per_item = 8 << 20

    def losses(self, phase, batch):
        _, lengths = batch
        room = self.model[0].weight.sum() * torch.ones(len(lengths), self.bytes_per_item // 4)
        return super().losses(phase, batch) | {"_room": (room * room).mean()}


def loader_of(items: float) -> Loader:
    data = Tones(64)
    data.lengths[:] = 8
    sampler = LengthBuckets(data.lengths, budget=8 * items, seed=1)
    return Loader(data, sampler, pad_stack)


def test_peak_memory_sees_what_comes_and_goes() -> None:
    with PeakMemory() as peak:
        torch.ones(16 << 20).sum()
    assert 60 << 20 <= peak.bytes <= 100 << 20


def test_the_batch_is_stepped_down_to_what_fits() -> None:
    needed = {
        share: fit_batch(Hungry(), lambda s: loader_of(32 * s), CPU, free_bytes=int(free * GIB)).share
        for share, free in ((1.0, 8.0), (0.5, 0.45), (0.0, 0.2))
    }
    assert needed[1.0] == 1.0 and 0.25 <= needed[0.5] < 1.0 and needed[0.0] < needed[0.5]


def test_nothing_fits_is_told_with_the_remedy() -> None:
    with pytest.raises(UserError, match="close other programs") as caught:
        fit_batch(Hungry(), lambda s: loader_of(32 * s), CPU, free_bytes=1 << 20)
    assert caught.value.code == "memory_too_small"


@pytest.mark.parametrize("stage", [Regression, Adversarial])
def test_trying_changes_nothing(stage) -> None:
    tried = stage()
    modules = {name: copy.deepcopy(module.state_dict()) for name, module in tried.modules.items()}
    random_state = rng_state()
    fit = fit_batch(tried, lambda share: make_loader(), CPU)
    assert fit.share == SHARES[0] and fit.free_bytes > fit.needed_bytes > 0
    assert same(rng_state(), random_state)
    for name, module in tried.modules.items():
        assert same(module.state_dict(), modules[name])
        assert all(p.grad is None for p in module.parameters())
