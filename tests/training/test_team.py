"""Several processes: each gets its share of the batches, and together they go through the weights of one."""

import json
import subprocess
import sys

import torch

from modules.checkpoint import load_training_state
from modules.paths import PROJECT_ROOT
from modules.training.events import read_events
from modules.training.loop import train
from modules.training.meter import mean_of
from tests.training.toys import CPU, Adversarial, Plain, make_loader, settings

WORKER = """
import sys
from pathlib import Path
from modules.training.distributed import Accelerated
from modules.training.loop import train
from tests.training.toys import Adversarial, Plain, make_loader, settings

team = Accelerated(cpu=True)
for stage in (Plain, Adversarial):
    loader = make_loader(rank=team.rank, world=team.world)
    result = train(stage(), loader, settings(), Path(sys.argv[1]) / stage.__name__, resume=False, device=team.device,
                   team=team)
    assert len(set(team.from_all(str(result.last_losses)))) == 1
team.close()
"""


def torchrun(*arguments: str, processes: int = 2) -> None:
    """Run something in several processes that know of each other."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_ROOT), "PATH": "/usr/bin:/bin", "HOME": "/tmp"}
    done = subprocess.run(
        [*command, *arguments], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_shares_of_all_ranks_are_the_batches_of_one() -> None:
    for count, world in ((22, 2), (22, 3), (5, 4), (3, 4)):
        alone = make_loader(count)
        expected, places = [], []
        while len(expected) < 6 * world:
            for wav, _ in alone:
                expected.append(wav)
                places.append((alone.epoch, alone.position))
        for rank in range(world):
            loader, got = make_loader(count, rank=rank, world=world), []
            while len(got) < 6:
                for wav, _ in loader:
                    got.append(wav)
                    assert (loader.epoch, loader.position) == places[len(got) * world - 1], "all stand at one place"
                    if len(got) == 6:
                        break
            wanted = expected[rank : 6 * world : world]
            assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True)), (count, world, rank)


def test_a_share_is_resumed_where_all_stood() -> None:
    whole = make_loader(rank=1, world=2)
    stream = [wav for _ in range(3) for wav, _ in whole]
    first = make_loader(rank=1, world=2)
    for seen, _ in enumerate(first, 1):
        if seen == 2:
            break
    second = make_loader(rank=1, world=2)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = [wav for _ in range(3) for wav, _ in second]
    assert all(torch.equal(a, b) for a, b in zip(rest, stream[2:], strict=False))


def test_two_processes_go_through_the_weights_of_one(tmp_path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    torchrun(str(script), str(tmp_path / "two"))
    for stage in (Plain, Adversarial):
        config = settings(accumulate=2)
        train(stage(), make_loader(), config, tmp_path / "one" / stage.__name__, resume=False, device=CPU)
        one, two = (tmp_path / name / stage.__name__ for name in ("one", "two"))
        a, b = (load_training_state(folder / "checkpoint.safetensors") for folder in (one, two))
        assert (a["step"], a["loader"], a["skipped"]) == (b["step"], b["loader"], b["skipped"])
        for module, state in a["modules"].items():
            for name, tensor in state.items():
                if name.endswith("mean"):  # a running mean is each process's own, unless its module shares it
                    continue
                torch.testing.assert_close(b["modules"][module][name], tensor, rtol=1e-4, atol=1e-6)
        kinds = [[event["kind"] for event in read_events(folder)] for folder in (one, two)]
        assert kinds[0] == kinds[1], "only the main process tells, and it tells all"


def test_the_mean_of_what_processes_saw() -> None:
    assert mean_of([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}


def test_nothing_distributed_is_loaded_for_one_process() -> None:
    code = (
        "import sys, tools.train_gpt, tools.train_vits2\n"
        "from tools.training import begin\n"
        "import argparse\n"
        "begin(argparse.Namespace(threads=1, device='cpu', start_over=False, seed=0))\n"
        "assert 'accelerate' not in sys.modules and 'modules.training.distributed' not in sys.modules\n"
        "import torch.distributed as d\n"
        "assert not d.is_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
