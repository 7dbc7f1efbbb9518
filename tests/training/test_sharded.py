"""Several processes that each hold a part of the weights: together they go through the weights of one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from modules.checkpoint import load_training_state, load_weights
from modules.config import to_dict
from modules.paths import PROJECT_ROOT
from modules.training import loop
from modules.training.average import WeightAverage
from modules.training.events import read_events
from modules.training.loop import train
from modules.training.optimizers import muon_and_adamw
from tests.tiny import tiny_preset
from tests.tools.conftest import write_store
from tests.training.test_team import torchrun
from tests.training.toys import CPU, Plain, make_loader, settings
from tools import train_gpt

STEPS, HALF = 20, 10

WORKER = """
import sys
from pathlib import Path
from modules.errors import UserError
from modules.training.loop import train
from modules.training.sharded import Sharded
from tests.training.test_sharded import HALF, Tower, bytes_held, stopping
from tests.training.toys import Adversarial, Plain, make_loader, settings

team, folder = Sharded(cpu=True), Path(sys.argv[1])

def run(stage, name, config=settings(), **options):
    loader = make_loader(rank=team.rank, world=team.world)
    options = {"resume": False, **options}
    return train(stage, loader, config, folder / name, device=team.device, team=team, **options)

whole = bytes_held(Tower())
stage = Tower()
result = run(stage, "whole")
assert len(set(team.from_all(str(result.validation)))) == 1
parameters, states = team.from_all(bytes_held(stage)), team.from_all(stage.bytes_of_states())
assert sum(parameters) == whole and max(parameters) < 0.6 * whole, (parameters, whole)
assert sum(states) > whole and max(states) < 0.6 * sum(states), states
assert len(stage.validated) == (result.step // 6 + 1 if team.rank == 0 else 0)
run(Plain(), "plain")
run(Tower(), "accumulated", settings(accumulate=2))
stage = Tower()
assert run(stage, "stopped", should_stop=stopping(stage)).step == HALF
run(Tower(), "one-stopped", resume=True)
try:
    run(Adversarial(), "adversarial")
except UserError as error:
    assert error.code == "shard_unsupported", error
else:
    raise AssertionError("two modules and two phases")
team.close()
"""


class Layer(nn.Module):
    """Sizes that do not divide by the number of processes."""

    def __init__(self):
        super().__init__()
        self.wide, self.back = nn.Linear(7, 13), nn.Linear(13, 7)

    def forward(self, x):
        return x + self.back(torch.tanh(self.wide(x)))


class Stack(nn.Module):
    """Three layers that can stand alone, and weights of the whole, one of them of a single row."""

    _no_split_modules = ("Layer",)

    def __init__(self):
        super().__init__()
        self.enter, self.shift = nn.Linear(3, 7), nn.Parameter(torch.randn(1, 7))
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.leave = nn.Linear(7, 1)
        self.register_buffer("scale", torch.tensor([0.5]))

    def forward(self, x):
        x = self.enter(x) + self.shift
        for layer in self.layers:
            x = layer(x)
        return self.leave(x * self.scale)


class Tower(Plain):
    """A model of layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = Stack()
        self.modules = {"model": self.model}
        self.optimizers = {"fit": muon_and_adamw(self.model, 1e-2)}

    def losses(self, phase, batch):
        wav, lengths = batch
        self.calls += 1
        out = self.model(wav.sum(1) / lengths[:, None] + 0.1 * torch.rand(()))
        return {"fit": (out - wav.mean((1, 2))[:, None]).square().mean()}

    def bytes_of_states(self) -> int:
        """Of the optimizers' momenta, in this process."""
        states = [state for member in self.optimizers["fit"].members for state in member.state.values()]
        return sum(t.to_local().nbytes for state in states for t in state.values() if t.ndim)


def bytes_held(stage) -> int:
    """Of the parameters, in this process."""
    parameters = stage.modules["model"].parameters()
    return sum(getattr(p, "to_local", lambda p=p: p)().nbytes for p in parameters)


def stopping(stage):
    """Asks for a stop after half of the steps."""
    asked = iter(range(STEPS))
    return lambda: next(asked) == HALF


def gpt_flags(data: Path, output: Path) -> list[str]:
    """A short training of a tiny language model."""
    common = ["--store", data / "store", "--preset", data / "tiny.json", "--output", output, "--decoder", data]
    numbers = ["--batch-frames", 160, "--max-steps", STEPS, "--warmup-steps", 2, "--validate-every", 7]
    machine = ["--device", "cpu", "--threads", 1, "--ema-decay", 0.9, "--no-check-memory"]
    return list(map(str, [*common, *numbers, *machine]))


def train_half(arguments: list[str]) -> int:
    """Train a language model that is stopped half of the way."""
    with pytest.MonkeyPatch.context() as patch:
        asked = iter(range(STEPS))
        patch.setattr(loop, "stop_is_asked", lambda folder: next(asked) == HALF)
        return train_gpt.main(arguments)


def assert_same_course(one, two) -> None:
    """Weights, optimizer states, averages and validation of two run folders."""
    a, b = (load_training_state(folder / "checkpoint.safetensors") for folder in (one, two))
    assert (a["step"], a["loader"], a["skipped"]) == (b["step"], b["loader"], b["skipped"])
    for kind in ("modules", "optimizers", "ema"):
        torch.testing.assert_close(b[kind], a[kind], rtol=1e-4, atol=1e-6)
    told = [{e["step"]: e["losses"] for e in read_events(f) if e["kind"] == "validation"} for f in (one, two)]
    assert told[0] and told[0].keys() <= told[1].keys()  # one that was stopped has validated then, too
    for step, losses in told[0].items():
        assert told[1][step] == pytest.approx(losses, rel=1e-4)


def test_sharded_processes_go_through_the_weights_of_one(tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"

    def run(stage, name, accumulate=2, **options):
        config = settings(accumulate=accumulate)
        return train(stage, make_loader(), config, one / name, device=CPU, **{"resume": False, **options})

    for name, stage in {"whole": Tower(), "plain": Plain()}.items():
        run(stage, name)
    run(Tower(), "accumulated", accumulate=4)
    stage = Tower()
    run(stage, "stopped", should_stop=stopping(stage))
    shutil.copytree(one / "stopped", two / "one-stopped")
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    torchrun(str(script), str(two))
    for name in ("whole", "plain", "accumulated", "stopped"):
        assert_same_course(one / name, two / name)
    assert_same_course(one / "whole", two / "one-stopped")
    # What was begun sharded goes on alone, in the same way.
    shutil.copytree(two / "stopped", one / "two-stopped")
    run(Tower(), "two-stopped", resume=True)
    assert_same_course(one / "whole", one / "two-stopped")
    saved = [load_weights(folder / "whole" / f"toy_s{STEPS}.safetensors").state for folder in (one, two)]
    torch.testing.assert_close(saved[1], saved[0], rtol=1e-4, atol=1e-6)


def test_a_sharded_language_model_is_that_of_one_process(tmp_path) -> None:
    data, one, two = (tmp_path / name for name in ("data", "one", "two"))
    data.mkdir()
    (data / "tiny.json").write_text(json.dumps(to_dict(tiny_preset())))
    write_store(data / "store", 12)

    def run(name: str, *more: str) -> int:
        return train_gpt.main([*gpt_flags(data, one / name), "--accumulate", "2", *more])

    assert run("whole") == 0
    lora = ["--init", str(one / "whole" / "gpt.safetensors"), "--lora-rank", "16"]
    assert run("lora", *lora) == 0
    assert train_half([*gpt_flags(data, one / "stopped"), "--accumulate", "2"]) == 3
    shutil.copytree(one / "stopped", two / "one-stopped")
    for name, more in {"lora": lora, "one-stopped": ["--resume"]}.items():
        torchrun("-m", "tools.train_gpt", *gpt_flags(data, two / name), "--shard", *more)
    for expected, name in (("lora", "lora"), ("whole", "one-stopped")):
        assert_same_course(one / expected, two / name)
        states = [load_weights(folder / "gpt.safetensors").state for folder in (one / expected, two / name)]
        torch.testing.assert_close(states[1], states[0], rtol=1e-3, atol=1e-5)  # they are kept in float16
    adapters = [load_file(folder / "lora" / "adapter" / "adapter_model.safetensors") for folder in (one, two)]
    torch.testing.assert_close(adapters[1], adapters[0], rtol=1e-4, atol=1e-6)


def test_averages_go_in_and_out_of_plain_weights() -> None:
    model = nn.Linear(2, 2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    average = WeightAverage({"m": model}, 0.5)
    with torch.no_grad():
        model.weight += 1
    with average.applied():
        assert torch.equal(model.weight, before["weight"])
    assert torch.equal(model.weight, before["weight"] + 1)


def test_one_process_loads_nothing_of_it_though_it_is_asked_for() -> None:
    code = (
        "import sys, argparse, tools.train_gpt\n"
        "from tools.training import begin\n"
        "team = begin(argparse.Namespace(threads=1, device='cpu', start_over=False, seed=0, shard=True))\n"
        "assert not team.sharded and team.world == 1\n"
        "assert not {'accelerate', 'modules.training.sharded', 'torch.distributed.fsdp'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
