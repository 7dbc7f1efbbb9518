"""The loop's laws on weights: what a step does to them, what is averaged, and what is saved."""

import pytest
import torch
from torch import nn

from modules.checkpoint import Lineage, load_training_state, load_weights, save_weights
from modules.errors import UserError
from modules.training.average import WeightAverage
from modules.training.loop import LoopConfig, learning_rate_factor, train
from tests.training.toys import CPU, Killed, Regression, make_loader, settings


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


def test_what_is_left_out_of_the_average_is_saved_as_it_is(tmp_path):
    stages = {}
    for left_out in ((), ("model.0.",)):
        stage = stages[left_out] = Regression()
        stage.unaveraged = left_out
        folder = tmp_path / str(len(left_out))
        result = train(stage, make_loader(), settings(max_steps=4), folder, resume=False, device=CPU)
        saved, state = load_weights(result.weights[0]).state, load_training_state(folder / "checkpoint.safetensors")
        assert torch.equal(saved["0.weight"], state["modules"]["model"]["0.weight"]) == bool(left_out)
        assert not torch.equal(saved["3.weight"], state["modules"]["model"]["3.weight"])
        assert ("model.0.weight" in state["ema"]) == (not left_out)
    # A checkpoint from before something was left out has an average of it, which nobody asks for any more.
    resumed = Regression()
    resumed.unaveraged = ("model.0.",)
    result = train(resumed, make_loader(), settings(max_steps=6), tmp_path / "0", resume=True, device=CPU)
    saved = load_weights(result.weights[0]).state
    assert result.step == 6 and torch.equal(saved["0.weight"], resumed.model[0].weight)


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
        def save_weights(self, folder, step, epoch, *, last):
            lineage = Lineage("nano", "toy", step, epoch)
            return [save_weights(folder / "s3.safetensors", self.model.state_dict(), {}, lineage)]

    train(OneName(), make_loader(), settings(save_every_steps=5), tmp_path, resume=False, device=CPU)
    assert load_weights(tmp_path / "s3.safetensors").lineage.step == 20


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


def test_bf16_on_request(tmp_path):
    class Looking(Regression):
        def losses(self, phase, batch):
            losses = super().losses(phase, batch)
            self.dtype = self.model[0](torch.ones(1, 3)).dtype
            return losses

    stage = Looking()
    train(stage, make_loader(), settings(max_steps=2, precision="bf16"), tmp_path, resume=False, device=CPU)
    assert stage.dtype == torch.bfloat16 and stage.model[0].weight.dtype == torch.float32
