"""A batch is made smaller until it fits, and trying it changes nothing."""

import copy
from contextlib import contextmanager

import pytest
import torch

from modules.data.batching import LengthBuckets, Loader, pad_stack
from modules.errors import UserError
from modules.runtime import rng_state
from modules.training.memory import SHARES, PeakMemory, fit_batch
from modules.training.team import Alone
from tests.training.toys import CPU, Adversarial, Regression, Tones, make_loader, same

GIB = 1 << 30


class Hungry(Regression):
    """Takes a known amount of memory for each item of its batch."""

    bytes_per_item = 40 << 20  # more than an allocator keeps for itself of what earlier tests gave back

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
        for share, free in ((1.0, 40.0), (0.5, 2.25), (0.0, 1.0))
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


class Others(Alone):
    """A team of which only this process is here; the others have found what they are told to have found."""

    def __init__(self, *shares: float):
        super().__init__(CPU)
        self.shares, self.asked = shares, 0

    def from_all(self, value):
        self.asked += 1
        return [value, *((share, GIB) for share in self.shares)]


def test_a_team_takes_what_fits_everywhere_and_meets_once() -> None:
    for shares, expected in (((1.0,), 1.0), ((0.5, 0.75), 0.5)):
        team = Others(*shares)
        assert fit_batch(Hungry(), lambda s: loader_of(s), CPU, team=team).share == expected
        assert team.asked == 1
    # Whoever finds nothing says so too, before anybody gives up; and all of them give up.
    for free_bytes, shares in ((1 << 20, (1.0,)), (8 * GIB, (0.0,))):
        team = Others(*shares)
        with pytest.raises(UserError) as caught:
            fit_batch(Hungry(), lambda s: loader_of(32 * s), CPU, free_bytes=free_bytes, team=team)
        assert caught.value.code == "memory_too_small" and team.asked == 1


def test_a_stage_is_quiet_while_it_is_tried() -> None:
    class Talkative(Regression):
        calm = False

        @contextmanager
        def quiet(self):
            self.calm = True
            yield
            self.calm = False

        def losses(self, phase, batch):
            assert self.calm
            return super().losses(phase, batch)

    stage = Talkative()
    assert fit_batch(stage, lambda share: make_loader(), CPU).share == 1.0 and stage.calls and not stage.calm
