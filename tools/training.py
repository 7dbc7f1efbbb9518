"""What the command lines of all trainings have in common: flags, the processes that train, who hears the events."""

import argparse
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from modules.checkpoint import load_training_state
from modules.data.batching import BatchSampler, Loader
from modules.data.store import entry_key, telling_full_disk
from modules.errors import Stopped, UserError
from modules.experiment import Experiment, experiment_name
from modules.progress import StepProgress
from modules.runtime import bf16_supported, pick_device, seed_everything, set_threads
from modules.training.board import Board
from modules.training.loop import LoopConfig, train
from modules.training.memory import fit_batch
from modules.training.runs import CHECKPOINT_NAME, has_checkpoint, set_aside
from modules.training.schedule import epoch_ends
from modules.training.stage import Stage
from modules.training.team import Alone, Team

MOST = 10**9
"""No limit: more steps than any training makes."""


def add_run_length(parser: argparse._ActionsContainer) -> None:
    """Flags that count in epochs, and the experiment that the weights are named after."""
    parser.add_argument("--experiment", default="", help="also put the weights among those that the page offers")
    parser.add_argument("--epochs", type=int, default=0, help="passes through the data; 0 = as many as the steps allow")
    parser.add_argument("--save-every-epochs", type=int, default=0, help="epochs between saved weights; 0 = at the end")
    parser.add_argument("--max-minutes", type=float, default=0.0, help="end, annealed, after so many minutes; 0 = off")
    parser.add_argument("--accumulate", type=int, default=1, help="batches to a step, of each process")


def add_beginning(parser: argparse._ActionsContainer) -> None:
    """The three ways to go about a training that is in the folder already."""
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output, with the same data")
    ways.add_argument("--data-added", action="store_true", help="go on from the checkpoint with data that changed")
    ways.add_argument("--start-over", action="store_true", help="begin anew; the earlier run is renamed, not deleted")


def add_keeping(parser: argparse._ActionsContainer) -> None:
    """What is kept of a training besides its checkpoint."""
    yes_or_no = argparse.BooleanOptionalAction
    parser.add_argument("--weights-out", type=Path, help="copy the final weights here")
    parser.add_argument(
        "--keep-latest", action=yes_or_no, default=None,
        help="of the saved weights keep the newest alone; the default without --experiment",
    )  # fmt: skip
    parser.add_argument(
        "--save-small", action=yes_or_no, default=True,
        help="with --experiment: offer the weights of every save on the page, not of the last alone",
    )  # fmt: skip
    parser.add_argument("--samples", type=int, default=0, help="held-out lines that are spoken at every save")
    parser.add_argument("--tensorboard", action=yes_or_no, default=False, help="also write curves for TensorBoard")


def add_machine(parser: argparse._ActionsContainer) -> None:
    """Where and how a training computes."""
    parser.add_argument("--precision", choices=("float32", "bf16", "auto"), default="auto")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches; 0 = a thread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = PyTorch's choice")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--check-memory", action=argparse.BooleanOptionalAction, default=True,
        help="try the largest batch before the start, and make it smaller where it does not fit",
    )  # fmt: skip
    parser.add_argument(
        "--shard", action="store_true",
        help="several processes: each holds a part of the weights, for models too large for one GPU (train_gpt alone); "
        "memory is not checked before the start",
    )  # fmt: skip
    parser.add_argument(
        "--job", type=Path, metavar="FOLDER", help="run folder of the job that started this; progress goes there"
    )


def is_main() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", 0)) == 0


def begin(arguments: argparse.Namespace) -> Team:
    """Check the figures, set threads and seed, and find the other processes that torchrun started.

    To be called before any model is built.

    Raises:
        UserError: option_invalid.
    """
    for name, low in (("accumulate", 1), ("epochs", 0), ("learning_rate", 1e-9), ("samples", 0)):
        value = getattr(arguments, name, low)
        if not low <= value <= MOST:
            raise UserError(
                "option_invalid",
                "{name} is {value}; choose a number from {low} to {high}.",
                name=f"--{name.replace('_', '-')}",
                value=value,
                low=low,
                high=MOST,
            )
    set_threads(arguments.threads)
    team = _team(arguments.device, shard=getattr(arguments, "shard", False))
    seed_everything(arguments.seed)
    return team


def published(arguments: argparse.Namespace, stage: str) -> Callable[[int, int], Path] | None:
    """Where the page looks for the weights of a stage; None without an experiment. Raises UserError experiment_name."""
    if not arguments.experiment:
        return None
    experiment = Experiment(experiment_name(arguments.experiment))
    return experiment.gpt_file if stage == "gpt" else experiment.vits2_file


def fitting_loader(
    arguments: argparse.Namespace,
    stage: Stage,
    build: Callable[[float], Loader],
    size: float,
    unit: str,
    team: Team,
    step: int = 0,
) -> tuple[Loader, list[dict[str, Any]]]:
    """The loader whose largest batch fits into memory, and notes on that. Raises UserError memory_too_small.

    Args:
        build: gives the loader for a batch size.
        size, unit: the batch size that is wished for, and what it counts.
        step: whose phases are tried.
    """
    if not arguments.check_memory or team.sharded:  # tried before it is sharded, a large model would fit nowhere
        return build(size), []
    fit = fit_batch(
        stage,
        lambda share: build(size * share),
        team.device,
        step=step,
        bf16=_in_bf16(arguments.precision, team.device),
        team=team,
    )
    share = fit.share
    if share == 1:
        return build(size), []
    fields = {"size": f"{size:g}", "used": f"{size * share:g}", "unit": unit}
    text = "A batch of {size} {unit} does not fit into the free memory; {used} are used.".format(**fields)
    if team.rank == 0:
        print(text)
    return build(size * share), [{"code": "batch_stepped_down", "message": text, "fields": fields}]


def run_length(
    arguments: argparse.Namespace, sampler: BatchSampler, world: int = 1, fingerprints: Sequence[str] = ()
) -> tuple[int, tuple[int, ...]]:
    """Most steps of a training, and the steps at which weights are saved, from its flags.

    Where data were added to a run, epochs count from there.

    Args:
        world: processes that train together, each with batches of its own.
        fingerprints: of the feature stores.
    """
    if arguments.epochs <= 0:
        return arguments.max_steps or MOST, ()
    accumulate = world * arguments.accumulate
    epoch, step = _added_at(arguments, fingerprints)
    ends = epoch_ends(lambda later: len(sampler.batches(epoch + later)), arguments.epochs, accumulate)
    ends = tuple(step + end for end in ends)
    every = arguments.save_every_epochs
    saves = tuple(ends[epoch] for epoch in range(every - 1, len(ends), every)) if every > 0 else ()
    return min(ends[-1], arguments.max_steps or ends[-1]), saves


def _in_bf16(precision: str, device: torch.device) -> bool:
    return precision == "bf16" or (precision == "auto" and bf16_supported(device))


def _added_at(arguments: argparse.Namespace, fingerprints: Sequence[str]) -> tuple[int, int]:
    """Epoch and step of the run in the folder where other data than it had are added to it; else the beginning."""
    if not (arguments.data_added and has_checkpoint(arguments.output)):
        return 0, 0
    state = load_training_state(arguments.output / f"{CHECKPOINT_NAME}.safetensors")
    changed = state.get("data") != entry_key(*fingerprints)
    return (state["loader"]["epoch"], state["step"]) if changed else (0, 0)


def keeps_latest(arguments: argparse.Namespace) -> bool:
    """Whether a training deletes the weights that it saved before."""
    return not arguments.experiment if arguments.keep_latest is None else arguments.keep_latest


def run_training(
    arguments: argparse.Namespace,
    stage: Stage,
    loader: Loader,
    config: LoopConfig,
    team: Team,
    progress: StepProgress,
    *,
    run_config: dict[str, Any],
    fingerprints: list[str],
    weights_name: str,
    notes: Sequence[dict[str, Any]] = (),
) -> None:
    """Train as the flags say, tell everybody who wants to hear of it, and finish the step.

    A run that starts over finds the folder empty: only now, when nothing else is in the way, is the earlier one set
    aside.

    Args:
        run_config: must be the same when the run is resumed.
        fingerprints: of the feature stores.
        weights_name: file in the run folder that `--weights-out` is copied from.
        notes: fields of "note" events to begin with.

    Raises:
        Stopped: after saving.
        UserError: see `modules.training.loop.train`.
    """
    main = team.rank == 0
    if team.from_main(progress.should_stop()):
        raise Stopped  # while everything was made ready: nothing is trained, and nothing to be saved
    if arguments.start_over and main and (kept := set_aside(arguments.output)):
        print(f"the earlier run is kept as {kept}")
    team.from_main(None)  # nobody looks into the folder before it has been set aside
    disk = telling_full_disk(arguments.output)
    with (
        disk,
        closing(team),
        closing(Board(arguments.output)) if main and arguments.tensorboard else nullcontext() as board,
    ):

        def hear(event: dict[str, Any]) -> None:
            progress.pass_on(event)
            if board is not None:
                board(event)

        result = train(
            stage, loader, config, arguments.output, resume=arguments.resume or arguments.data_added,
            device=team.device, team=team, data=entry_key(*fingerprints), data_added=arguments.data_added,
            should_stop=progress.should_stop, run_config=run_config, on_event=hear, notes=notes,
        )  # fmt: skip
    if main:
        skipped = f", skipped {result.skipped}" if result.skipped else ""
        print(f"step {result.step}, stopped by {result.stopped_by}{skipped}, {json.dumps(result.validation)}")
    weights = list(result.weights)
    if arguments.weights_out and main:
        arguments.weights_out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.output / weights_name, arguments.weights_out)
        weights.append(arguments.weights_out)
    if result.stopped_by == "stop":
        raise Stopped
    progress.finish({**asdict(result), "weights": weights})


def _team(device: str, *, shard: bool) -> Team:
    """This process alone, or with the others that torchrun tells of by the environment."""
    if int(os.environ.get("WORLD_SIZE", 1)) <= 1:
        return Alone(pick_device(device))
    if shard:
        from modules.training.sharded import Sharded

        return Sharded(cpu=device == "cpu")
    from modules.training.distributed import Accelerated

    return Accelerated(cpu=device == "cpu")
