"""The loop's laws, on toys: resume equals never-killed, NaN is survived, accumulation steps, EMA swaps back."""

import os
import random
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from modules.checkpoint import Lineage, load_training_state, load_weights, save_weights
from modules.data.batching import LengthBuckets, Loader, pad_stack
from modules.errors import UserError
from modules.training import loop
from modules.training.average import WeightAverage
from modules.training.events import read_events
from modules.training.loop import LoopConfig, learning_rate_factor, train
from modules.training.optimizers import muon_and_adamw

CPU = torch.device("cpu")


class Killed(Exception):
    """Stands for a kill: nothing runs after it."""


class Tones:
    """Items that depend on the generator handed in."""

    def __init__(self, count: int = 22):
        self.lengths = np.random.default_rng(0).integers(4, 12, count)

    def get(self, index, rng):
        return rng.standard_normal((int(self.lengths[index]), 3)).astype(np.float32)


def make_loader(count: int = 22, **options) -> Loader:
    data = Tones(count)
    sampler = LengthBuckets(data.lengths, budget=40, seed=1, buckets=3)
    return Loader(data, sampler, lambda items: pad_stack(items, sampler.bounds), **options)


class Center(nn.Module):
    """Has a buffer that changes in training, as batch norms and codebooks do."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0).float(), 0.1)
        return x - self.mean.clone()


class Regression:
    """One phase; dropout and Python's and numpy's global generators take part."""

    weights = {"l2": 0.5}

    def __init__(self, rate: float = 1e-2, kill_at: int = -1):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), Center(8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.modules = {"model": self.model}
        self.optimizers = {"fit": muon_and_adamw(self.model, rate)}
        self.kill_at, self.calls, self.saved, self.history = kill_at, 0, [], []
        self.validated: list[dict[str, torch.Tensor]] = []

    def phases(self, step):
        if step == self.kill_at:
            raise Killed
        return ("fit",)

    def losses(self, phase, batch):
        wav, lengths = batch
        self.calls += 1
        noise = random.random() * 0.1 + np.random.rand() * 0.1
        out = self.model((wav.sum(1) / lengths[:, None]) + noise)
        loss = (out - wav.mean((1, 2))[:, None]).square().mean()
        self.history.append(loss.item())
        return {"fit": loss, "l2": self.model[0].weight.square().mean(), "_noise": torch.tensor(noise)}

    def validate(self):
        assert not self.model.training and not torch.is_grad_enabled()
        torch.rand(3), random.random(), np.random.rand()  # must not be noticed by the training
        self.validated.append({k: v.clone() for k, v in self.model.state_dict().items()})
        return {"size": sum(float(p.abs().sum()) for p in self.model.parameters())}

    def save_weights(self, folder, step, epoch):
        path = folder / f"toy_s{step}.safetensors"
        self.saved.append(step)
        return [save_weights(path, self.model.state_dict(), {}, Lineage("nano", "toy", step, epoch))]


class Adversarial(Regression):
    """Two phases with an optimizer each; the discriminator is left out every third step, as is done in GANs."""

    weights = {"adversarial": 0.3}
    averaged = ("generator",)

    def __init__(self, rate: float = 2e-3, kill_at: int = -1):
        super().__init__(rate, kill_at)
        self.discriminator = nn.Sequential(nn.Linear(3, 16), nn.LeakyReLU(0.1), nn.Linear(16, 1))
        self.model = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.1), nn.Linear(16, 3))
        self.modules = {"generator": self.model, "discriminator": self.discriminator}
        self.optimizers = {
            "discriminator": torch.optim.AdamW(self.discriminator.parameters(), lr=rate, betas=(0.8, 0.99)),
            "generator": torch.optim.AdamW(self.model.parameters(), lr=rate),
        }

    def phases(self, step):
        super().phases(step)
        return ("generator",) if step % 3 == 2 else ("discriminator", "generator")

    def losses(self, phase, batch):
        real = batch[0].mean(1)
        fake = self.model(torch.randn_like(real))
        if phase == "discriminator":
            return {"real": functional.softplus(-self.discriminator(real)).mean(),
                    "fake": functional.softplus(self.discriminator(fake.detach())).mean()}  # fmt: skip
        adversarial = functional.softplus(-self.discriminator(fake)).mean()
        self.history.append(adversarial.item())
        return {"adversarial": adversarial, "match": (fake.mean(0) - real.mean(0)).square().mean()}


def settings(**changes) -> LoopConfig:
    values = {"max_steps": 20, "warmup_steps": 3, "ema_decay": 0.9, "validate_every_steps": 6, "log_every_steps": 2}
    return LoopConfig(**{**values, **changes})


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("stage", [Regression, Adversarial])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_killed_and_resumed_equals_never_killed(tmp_path, stage, accumulate):
    config = settings(save_every_steps=5, accumulate=accumulate)
    whole = stage()
    expected = train(whole, make_loader(), config, tmp_path / "whole", resume=False, device=CPU)
    losses = []
    for kill_at in (8, 17, -1):  # killed twice, between checkpoints: steps 5-7 and 15-16 are done again
        part = stage(kill_at=kill_at)
        try:
            result = train(part, make_loader(), config, tmp_path / "parts", resume=True, device=CPU)
        except Killed:
            pass
        losses.append(part.history)
    assert result.step == 20 and result.last_losses == expected.last_losses
    assert result.validation == expected.validation
    a, b = (load_training_state(tmp_path / n / "checkpoint.safetensors") for n in ("whole", "parts"))
    for key in ("step", "modules", "optimizers", "ema", "loader", "rng", "skipped"):
        assert same(a[key], b[key]), key
    phases = 1 if accumulate == 1 else accumulate
    joined = losses[0][: 5 * phases] + losses[1][: 10 * phases] + losses[2]
    assert joined == whole.history


def test_a_clean_stop_loses_nothing(tmp_path):
    whole, config = Regression(), settings()
    train(whole, make_loader(), config, tmp_path / "whole", resume=False, device=CPU)
    first, polls = Regression(), iter(range(100))
    result = train(
        first, make_loader(), config, tmp_path / "parts", resume=False, device=CPU, should_stop=lambda: next(polls) == 7
    )
    assert (result.step, result.stopped_by) == (7, "stop") and result.weights[0].name == "toy_s7.safetensors"
    second = Regression()
    result = train(second, make_loader(), config, tmp_path / "parts", resume=True, device=CPU)
    assert (result.step, result.stopped_by) == (20, "steps")
    assert first.history + second.history == whole.history
    assert same(second.model.state_dict(), whole.model.state_dict())


def test_stop_file_stops_and_an_old_one_does_not(tmp_path):
    (tmp_path / "stop").touch()
    result = train(Regression(), make_loader(), settings(), tmp_path, resume=False, device=CPU)
    assert (result.step, result.stopped_by) == (0, "stop")
    long_ago = time.time() - 10**7
    os.utime(tmp_path / "stop", (long_ago, long_ago))
    assert train(Regression(), make_loader(), settings(), tmp_path, resume=True, device=CPU).step == 20


def test_resume_without_a_checkpoint_starts_and_a_finished_run_stays(tmp_path):
    assert train(Regression(), make_loader(), settings(), tmp_path, resume=True, device=CPU).step == 20
    again = Regression()
    assert train(again, make_loader(), settings(), tmp_path, resume=True, device=CPU).step == 20
    assert again.calls == 0
    assert train(Regression(), make_loader(), settings(max_steps=25), tmp_path, resume=True, device=CPU).step == 25


def test_a_second_run_in_a_folder_is_refused(tmp_path):
    train(Regression(), make_loader(), settings(max_steps=1), tmp_path, resume=False, device=CPU)
    with pytest.raises(UserError, match=tmp_path.name) as caught:
        train(Regression(), make_loader(), settings(), tmp_path, resume=False, device=CPU)
    assert caught.value.code == "run_exists"


def test_resume_with_another_config_names_the_keys(tmp_path):
    ours = {"gpt": {"hidden": 4, "layers": (1, 2)}, "preset": "nano", "seed": 1}
    train(Regression(), make_loader(), settings(max_steps=1), tmp_path, resume=False, device=CPU, run_config=ours)
    other = {"gpt": {"hidden": 8, "layers": [1, 2]}, "preset": "nano", "speed": 2}
    with pytest.raises(UserError) as caught:
        train(Regression(), make_loader(), settings(), tmp_path, resume=True, device=CPU, run_config=other)
    assert caught.value.code == "resume_config_differs"
    assert caught.value.fields["keys"] == "gpt.hidden, seed, speed"
    train(Regression(), make_loader(), settings(), tmp_path, resume=True, device=CPU, run_config=ours)


def test_ema_swap_round_trip():
    model = nn.Linear(4, 4).double()
    model.bias.requires_grad_(False)
    average = WeightAverage({"m": model}, 0.5)
    before, pointer = model.weight.detach().clone(), model.weight.data_ptr()
    average.averages[0].fill_(7.0)
    with average.applied():
        assert (model.weight == 7).all()
    assert torch.equal(model.weight, before) and model.weight.data_ptr() == pointer
    with pytest.raises(Killed), average.applied():
        raise Killed
    assert torch.equal(model.weight, before)
    assert list(average.state_dict()) == ["m.weight"]


def test_ema_is_the_average_and_warms_up():
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage({"m": model}, 0.3)
    value = model.weight.item()
    for step, weight in enumerate((1.0, 2.0, 5.0, 4.0, -3.0)):
        model.weight.data.fill_(weight)
        average.update_(step)
        decay = min(0.3, (1 + step) / (10 + step))
        value = decay * value + (1 - decay) * weight
    assert float(average.averages[0]) == pytest.approx(value, rel=1e-6)


def test_validation_and_weights_get_the_average_and_training_does_not(tmp_path):
    stage = Regression()
    result = train(stage, make_loader(), settings(), tmp_path, resume=False, device=CPU)
    state = load_training_state(tmp_path / "checkpoint.safetensors")
    saved = load_weights(result.weights[0]).state
    for name in ("0.weight", "3.bias"):
        average = state["ema"][f"model.{name}"]
        assert torch.equal(saved[name], average) and torch.equal(stage.validated[-1][name], average)
        assert torch.equal(stage.model.state_dict()[name], state["modules"]["model"][name])
        assert not torch.equal(average, state["modules"]["model"][name])
    assert stage.model.training and stage.model[2].training
    assert set(load_training_state(tmp_path / "checkpoint.safetensors")["ema"]) == {
        f"model.{n}" for n, _ in stage.model.named_parameters()
    }


def test_validation_does_not_disturb_the_training(tmp_path):
    runs = []
    for every in (0, 1):
        stage = Regression()
        config = settings(validate_every_steps=every)
        train(stage, make_loader(), config, tmp_path / str(every), resume=False, device=CPU)
        runs.append(stage)
    assert runs[0].history == runs[1].history and len(runs[1].validated) == 20


class Sick(Regression):
    """Gives NaN in some calls: as the loss, or in the gradient alone."""

    def __init__(self, when, how="loss"):
        super().__init__()
        self.when, self.how = when, how

    def losses(self, phase, batch):
        losses = super().losses(phase, batch)
        if self.when(self.calls):
            if self.how == "loss":
                losses["fit"] = losses["fit"] * float("nan")
            else:  # finite value, infinite slope
                losses["fit"] = losses["fit"] + (self.model[0].weight * 0).abs().sum().sqrt()
        return losses


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_nan_is_skipped_and_counted(tmp_path, how):
    stage = Sick(lambda call: call in (3, 4, 11), how)
    result = train(stage, make_loader(), settings(), tmp_path, resume=False, device=CPU)
    assert (result.step, result.skipped) == (20, 3)
    assert all(p.isfinite().all() for p in stage.model.parameters())
    assert all(np.isfinite(v) for v in result.last_losses.values())
    assert load_training_state(tmp_path / "checkpoint.safetensors")["skipped"] == 3
    assert read_events(tmp_path)[-2]["kind"] in ("step", "validation", "weights")


def test_a_skipped_step_leaves_the_weights_alone(tmp_path):
    stage = Sick(lambda call: True)
    before = {k: v.clone() for k, v in stage.model.named_parameters()}
    train(stage, make_loader(), settings(max_steps=3), tmp_path, resume=False, device=CPU)
    assert same(before, dict(stage.model.named_parameters()))


def test_endless_nan_ends_the_run_with_the_cause(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MOST_SKIPS_IN_A_ROW", 5)
    with pytest.raises(UserError) as caught:
        train(Sick(lambda call: True), make_loader(), settings(), tmp_path, resume=False, device=CPU)
    assert caught.value.code == "training_diverged"
    last = read_events(tmp_path)[-1]
    assert last["kind"] == "error" and "learning rate" in last["error"]


def test_accumulation_always_steps(tmp_path):
    stage = Regression()
    loader = make_loader(5)  # fewer batches in an epoch than are accumulated
    assert len(loader) < 4
    before = stage.model[3].weight.clone()
    result = train(stage, loader, settings(max_steps=3, accumulate=4), tmp_path, resume=False, device=CPU)
    assert result.step == 3 and stage.calls == 12
    assert not torch.equal(stage.model[3].weight, before)


def test_accumulated_gradients_are_the_mean(tmp_path):
    class Linear(Regression):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(3, 1)
            self.modules = {"model": self.model}
            self.optimizers = {"fit": torch.optim.SGD(self.model.parameters(), lr=1.0)}

        def losses(self, phase, batch):
            return {"fit": self.model(batch).mean()}

    class Fixed:
        epoch = 0

        def __init__(self, batches):
            self.batches = batches

        def __iter__(self):
            return (b for b in self.batches)

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    batches = [torch.full((2, 3), float(v)) for v in (1, 2, 6)]
    weights = []
    for name, data, accumulate in (("a", batches, 3), ("b", [torch.cat(batches)], 1)):
        stage = Linear()
        config = settings(max_steps=1, accumulate=accumulate, warmup_steps=0, clip_norm=0)
        train(stage, Fixed(data), config, tmp_path / name, resume=False, device=CPU)
        weights.append(stage.model.weight.detach())
    assert torch.allclose(*weights, atol=1e-6)
    with pytest.raises(UserError) as caught:
        train(Linear(), Fixed([]), config, tmp_path / "none", resume=False, device=CPU)
    assert caught.value.code == "no_batches"


def test_schedule_warms_up_and_anneals_to_the_end_of_steps_or_minutes():
    steps = LoopConfig(max_steps=100, warmup_steps=10, min_lr_ratio=0.1)
    factors = [learning_rate_factor(steps, step, 0.0) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == pytest.approx(1.0)
    assert factors[100] == pytest.approx(0.1) and all(a >= b for a, b in zip(factors[10:], factors[11:], strict=False))
    minutes = LoopConfig(max_steps=10**6, max_minutes=2, warmup_steps=10, min_lr_ratio=0.1)
    assert learning_rate_factor(minutes, 500, 60.0) == pytest.approx(0.55)
    assert learning_rate_factor(minutes, 500, 119.99) == pytest.approx(0.1, abs=1e-3)
    assert learning_rate_factor(minutes, 500, 500.0) == pytest.approx(0.1)


def test_groups_keep_their_ratio_of_rates(tmp_path):
    stage = Regression()
    stage.optimizers["fit"].param_groups[0]["lr"] = 0.1
    config = settings(max_steps=6, warmup_steps=0, log_every_steps=1)
    train(stage, make_loader(), config, tmp_path, resume=False, device=CPU)
    factor = learning_rate_factor(config, 5, 0.0)
    muon, adamw = stage.optimizers["fit"].param_groups
    assert (muon["lr"], adamw["lr"]) == (pytest.approx(0.1 * factor), pytest.approx(0.01 * factor))


def test_time_budget_counts_earlier_runs(tmp_path):
    config = settings(max_steps=10**6, max_minutes=0.3 / 60)
    result = train(Regression(), make_loader(), config, tmp_path, resume=False, device=CPU)
    assert result.stopped_by == "minutes" and result.step < 10**6
    again = train(Regression(), make_loader(), config, tmp_path, resume=True, device=CPU)
    assert again.step == result.step


def test_clipping_bounds_the_update(tmp_path):
    stage = Regression()
    stage.optimizers = {"fit": torch.optim.SGD(stage.model.parameters(), lr=1.0)}
    before = torch.cat([p.detach().clone().flatten() for p in stage.model.parameters()])
    config = settings(max_steps=1, warmup_steps=0, clip_norm=1e-3)
    train(stage, make_loader(), config, tmp_path, resume=False, device=CPU)
    after = torch.cat([p.detach().flatten() for p in stage.model.parameters()])
    assert float((after - before).norm()) == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize("keep_latest", [True, False])
def test_saved_weights_are_kept_or_replaced(tmp_path, keep_latest):
    config = settings(save_every_steps=8, keep_latest=keep_latest)
    train(Regression(), make_loader(), config, tmp_path, resume=False, device=CPU)
    names = sorted(p.name for p in tmp_path.glob("toy_*"))
    every = ["toy_s16.safetensors", "toy_s20.safetensors", "toy_s8.safetensors"]
    assert names == (every[1:2] if keep_latest else every)


def test_weights_saved_under_one_name_are_not_deleted(tmp_path):
    class OneName(Regression):
        def save_weights(self, folder, step, epoch):
            lineage = Lineage("nano", "toy", step, epoch)
            return [save_weights(folder / "s3.safetensors", self.model.state_dict(), {}, lineage)]

    train(OneName(), make_loader(), settings(save_every_steps=5), tmp_path, resume=False, device=CPU)
    assert load_weights(tmp_path / "s3.safetensors").lineage.step == 20


def test_events_tell_the_progress(tmp_path):
    train(Regression(), make_loader(), settings(), tmp_path, resume=False, device=CPU)
    events = read_events(tmp_path)
    assert events[0]["kind"] == "start" and events[-1]["kind"] == "end"
    steps = [e for e in events if e["kind"] == "step"]
    assert [e["step"] for e in steps] == list(range(2, 21, 2))
    assert set(steps[0]["losses"]) == {"fit", "l2", "_noise"}
    assert steps[0]["total"] == 20 and steps[-1]["eta_seconds"] == 0 and steps[0]["epoch"] >= 0
    assert [e["step"] for e in events if e["kind"] == "validation"] == [6, 12, 18, 20]


def test_a_listener_hears_every_event_as_it_is_written(tmp_path):
    heard = []
    train(Regression(), make_loader(), settings(), tmp_path, resume=False, device=CPU, on_event=heard.append)
    for told in heard:
        told["files"] = [str(file) for file in told.get("files", [])]
    assert heard == [{**event, "files": event.get("files", [])} for event in read_events(tmp_path)]
    with pytest.raises(Killed):
        train(Regression(kill_at=2), make_loader(), settings(), tmp_path / "died", resume=False, device=CPU,
              on_event=heard.append)  # fmt: skip
    assert (heard[-1]["kind"], heard[-1]["step"], heard[-1]["error"]) == ("error", 2, "Killed")


def test_the_total_of_a_run_that_minutes_end_follows_its_speed(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Slow(Regression):
        def losses(self, phase, batch):
            clock[0] += 1 / 64
            return super().losses(phase, batch)

    config = settings(max_steps=1000, max_minutes=1 / 128, log_every_steps=1)  # 30 steps
    train(Slow(), make_loader(), config, tmp_path, resume=False, device=CPU)
    events = read_events(tmp_path)
    assert (events[0]["kind"], events[0]["total"]) == ("start", 0)
    assert {event["total"] for event in events[1:]} == {30} and events[-1]["step"] == 30


def test_bf16_on_request(tmp_path):
    class Looking(Regression):
        def losses(self, phase, batch):
            losses = super().losses(phase, batch)
            self.dtype = self.model[0](torch.ones(1, 3)).dtype
            return losses

    stage = Looking()
    train(stage, make_loader(), settings(max_steps=2, precision="bf16"), tmp_path, resume=False, device=CPU)
    assert stage.dtype == torch.bfloat16 and stage.model[0].weight.dtype == torch.float32
