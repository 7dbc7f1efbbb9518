"""The training loop of every stage: it knows no model, and survives NaN, stop, kill and resume.

A stage turns a batch into named losses; the loop weighs and sums them, steps one optimizer per phase, averages
weights (EMA), writes events and checkpoints. A run that was killed and resumed goes through the same weights as
one that never was, when the schedule depends on steps alone (with `max_minutes` it depends on the clock too). The
random choices for a batch depend on the seed and on its number alone: several processes (`team`) go through the same
weights as one that takes all their batches.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.checkpoint import save_training_state
from modules.data.batching import map_tensors
from modules.errors import UserError
from modules.runtime import bf16_supported, restore_rng_state, rng_state, seed_everything
from modules.training.average import WeightAverage, evaluating
from modules.training.events import EventLog, NoLog
from modules.training.meter import Meter, mean_of
from modules.training.runs import CHECKPOINT_NAME, open_run, stop_is_asked
from modules.training.schedule import LoopConfig, learning_rate_factor
from modules.training.stage import Batches, Samples, Stage
from modules.training.team import Alone, Team

SAMPLES_NAME = "samples"
MOST_SKIPS_IN_A_ROW = 100


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. `stopped_by`: "steps", "minutes" or "stop"; `skipped` steps had NaN or infinite values."""

    step: int
    stopped_by: str
    last_losses: dict[str, float]
    validation: dict[str, float]
    skipped: int = 0
    weights: tuple[Path, ...] = ()


def train(
    stage: Stage,
    loader: Batches,
    config: LoopConfig,
    folder: Path | str,
    *,
    resume: bool,
    device: torch.device,
    should_stop: Callable[[], bool] | None = None,
    run_config: dict[str, Any] | None = None,
    data: str = "",
    data_added: bool = False,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    team: Team | None = None,
    notes: Sequence[dict[str, Any]] = (),
) -> TrainResult:
    """Train `stage` until `max_steps`, `max_minutes` or a wish to stop (`should_stop()` or a file `folder/stop`).

    Args:
        stage: its modules are moved to `device`.
        folder: gets checkpoint.safetensors, events.jsonl and what `stage.save_weights` writes.
        resume: go on from the checkpoint in `folder`; without one, start.
        run_config: JSON values that must be the same when the run is resumed.
        data: tells one dataset from another; must be the same, too, unless `data_added`. Then the run goes on with the
            new data from the beginning of an epoch.
        on_event: gets every event after it was written to events.jsonl.
        team: the processes that train together; only the main one writes, and hears `on_event`.
        notes: fields of "note" events to begin with.

    Raises:
        UserError: run_exists, resume_config_differs (names the keys), resume_data_differs, checkpoint_unreadable,
            no_batches, training_diverged.
    """
    folder = Path(folder)
    run_config = json.loads(json.dumps(run_config)) if run_config is not None else None
    state = open_run(folder, resume=resume, run_config=run_config, data=data, data_added=data_added)
    team = team or Alone(device)
    with EventLog(folder, on_event) if team.rank == 0 else NoLog() as log:
        run = _Run(stage, loader, config, folder, team, log, run_config, data)
        try:
            run.begin(state)
            for note in notes:
                log.write("note", **note)
            return run.go(should_stop)
        except Exception as cause:
            log.write("error", step=run.step, total=run.total, error=str(cause) or type(cause).__name__)
            raise


class _Run:
    """One run: the state that `train` moves forward."""

    def __init__(
        self,
        stage: Stage,
        loader: Batches,
        config: LoopConfig,
        folder: Path,
        team: Team,
        log: EventLog | NoLog,
        run_config: dict[str, Any] | None,
        data: str,
    ):
        self.stage, self.loader, self.config, self.folder = stage, loader, config, folder
        self.team, self.device = team, team.device
        self.log, self.run_config, self.data = log, run_config, data
        self.step = self.skipped = self.skips_in_a_row = 0
        self.earlier_seconds, self.started = 0.0, time.monotonic()
        self.saved_at = self.started
        self.validated_step = -1
        self.validation: dict[str, float] = {}
        self.last_losses: dict[str, float] = {}
        self.weight_files: list[Path] = []
        self.meter = Meter()
        self.ema: WeightAverage | None = None
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and bf16_supported(self.device))

    @property
    def seconds(self) -> float:
        """Time spent training, over all resumes."""
        return self.earlier_seconds + time.monotonic() - self.started

    @property
    def used(self) -> float:
        """The share of the run that is over, by steps or by minutes, whichever will end it."""
        used = self.step / self.config.max_steps
        if self.config.max_minutes > 0:
            used = max(used, self.seconds / (60 * self.config.max_minutes))
        return used

    @property
    def total(self) -> int:
        """How many steps the run is going to have; where minutes end it, a guess by the speed so far (0: none yet)."""
        if self.config.max_minutes <= 0:
            return self.config.max_steps
        return max(self.step, round(self.step / self.used)) if self.step > 0 else 0

    def begin(self, state: dict[str, Any] | None) -> None:
        """Put everything where `state` (or a fresh start) wants it."""
        self.team.place(self.stage)
        for module in self.stage.modules.values():
            module.train()
        # Rates as built: a loaded optimizer state would bring the scheduled rate of the moment of saving.
        self.groups = [g for optimizer in self.stage.optimizers.values() for g in optimizer.param_groups]
        self.peaks = [float(group["lr"]) for group in self.groups]
        if self.config.ema_decay > 0:
            names = getattr(self.stage, "averaged", tuple(self.stage.modules))
            averaged = {name: self.stage.modules[name] for name in names}
            self.ema = WeightAverage(averaged, self.config.ema_decay, getattr(self.stage, "unaveraged", ()))
        if state is None:
            seed_everything(self.config.seed)
        else:
            self._restore(self.team.scattered(self.stage, state))
        self.groups = [g for optimizer in self.stage.optimizers.values() for g in optimizer.param_groups]
        self.parameters = {
            phase: [p for group in optimizer.param_groups for p in group["params"]]
            for phase, optimizer in self.stage.optimizers.items()
        }
        self.losses = {phase: self.team.losses(self.stage, phase) for phase in self.stage.optimizers}
        self.log.write("start" if state is None else "resume", step=self.step, total=self.total)

    def go(self, should_stop: Callable[[], bool] | None) -> TrainResult:
        """Steps until something ends the run; then validates and saves."""
        with closing(self._stream()) as stream:
            while True:
                # Clocks differ, and only the main process is asked to stop.
                now = (self._stopped_by(should_stop), self.seconds, self._is_overdue())
                stopped_by, seconds, overdue = self.team.from_main(now)
                if stopped_by:
                    break
                factor = learning_rate_factor(self.config, self.step, seconds)
                for group, peak in zip(self.groups, self.peaks, strict=True):
                    group["lr"] = peak * factor
                self._one_step(stream)
                if self.ema is not None:
                    self.ema.update_(self.step)
                self.step += 1
                self._housekeeping(factor, overdue)
        if stopped_by == "stop":
            self._save_state()  # whoever asked to stop may not wait for what follows
        if self.meter.sums:
            self._report(learning_rate_factor(self.config, self.step, self.seconds))
        if self.validated_step != self.step:
            self._validate()
        self._save_weights(last=stopped_by != "stop")
        self._save_state()
        self._save_samples()
        self.log.write("end", step=self.step, total=self.total, seconds=round(self.seconds, 1))
        self.team.from_main(None)  # nobody leaves, and ends the others if it fails in that, before all is written
        return TrainResult(
            self.step, stopped_by, self.last_losses, self.validation, self.skipped, tuple(self.weight_files)
        )

    def _stream(self) -> Iterator[Any]:
        while True:
            empty = True
            with closing(iter(self.loader)) as batches:
                for batch in batches:
                    empty = False
                    yield map_tensors(batch, lambda t: t.to(self.device, non_blocking=True))
            if empty:
                raise UserError("no_batches", "There is nothing to train on: the dataset is empty after filtering.")

    def _one_step(self, stream: Iterator[Any]) -> None:
        batches = [next(stream) for _ in range(self.config.accumulate)]
        phases = self.stage.phases(self.step)
        healthy = [self._one_phase(phase, number, batches) for number, phase in enumerate(phases)]
        self.skips_in_a_row = 0 if all(healthy) else self.skips_in_a_row + 1
        self.skipped += not all(healthy)
        if self.skips_in_a_row >= MOST_SKIPS_IN_A_ROW:
            raise UserError(
                "training_diverged",
                "{count} steps in a row gave NaN or infinite values; start over with a lower learning rate.",
                count=self.skips_in_a_row,
            )

    def _one_phase(self, phase: str, number: int, batches: list[Any]) -> bool:
        """Gradients of all batches, then one update; False when it was skipped for a value that is not finite."""
        optimizer, parameters = self.stage.optimizers[phase], self.parameters[phase]
        optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros((), device=self.device)
        seen: list[dict[str, Tensor]] = []
        for place, batch in enumerate(batches):
            self._seed(number, place * self.team.world + self.team.rank)
            last = place + 1 == len(batches)
            with nullcontext() if last else self.team.accumulating(self.losses[phase]):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    losses = self.losses[phase](batch)
                total = sum(
                    self.stage.weights.get(name, 1.0) * loss
                    for name, loss in losses.items()
                    if not name.startswith("_")
                )
                (total / len(batches)).backward()
            sums += total.detach()
            seen.append({name: torch.as_tensor(loss).detach() for name, loss in losses.items()})
        norm = self.team.norm([p.grad for p in parameters if p.grad is not None])
        # One look at the device per phase: NaN anywhere makes this sum NaN.
        if not math.isfinite((self.team.mean(sums) + norm).item()):
            optimizer.zero_grad(set_to_none=True)
            return False
        if self.config.clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
        optimizer.step()
        for losses in seen:
            self.meter.add(losses)
        return True

    def _seed(self, phase: int, batch: int) -> None:
        """Seed everything random for the batch of that number in this step."""
        entropy = (self.config.seed, self.step, phase, batch)
        seed_everything(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def _stopped_by(self, should_stop: Callable[[], bool] | None) -> str:
        if self.step >= self.config.max_steps:
            return "steps"
        if self.config.max_minutes > 0 and self.seconds >= 60 * self.config.max_minutes:
            return "minutes"
        wanted = (should_stop is not None and should_stop()) or stop_is_asked(self.folder)
        return "stop" if wanted else ""

    def _is_overdue(self) -> bool:
        """Whether the last checkpoint is old by the clock."""
        minutes = self.config.save_every_minutes
        return minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes

    def _housekeeping(self, factor: float, overdue: bool) -> None:
        config, step = self.config, self.step
        if config.log_every_steps > 0 and step % config.log_every_steps == 0:
            self._report(factor)
        due = step in config.save_at_steps or (config.save_every_steps > 0 and step % config.save_every_steps == 0)
        due = due and step < config.max_steps
        if due or (config.validate_every_steps > 0 and step % config.validate_every_steps == 0):
            self._validate()
        if due:
            self._save_weights(last=False)
            self._save_state()
            self._save_samples()
        elif overdue:
            self._save_state()

    def _report(self, factor: float) -> None:
        self.last_losses = mean_of(self.team.from_all(self.meter.take()))
        used = self.used
        self.log.write(
            "step",
            step=self.step,
            total=self.total,
            epoch=self.loader.epoch,
            losses={name: float(f"{value:.6g}") for name, value in self.last_losses.items()},
            learning_rate=self.config.learning_rate * factor,
            seconds=round(self.seconds, 2),
            eta_seconds=round(self.seconds / used - self.seconds, 1) if used > 0 else None,
            skipped=self.skipped or None,
        )

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Averaged weights, eval mode, no gradients, and random generators that training does not notice.

        To be entered by all processes; the weights are whole in the main one.
        """
        averaged = self.ema.applied() if self.ema is not None else nullcontext()
        with averaged, self.team.whole(self.stage), evaluating(self.stage.modules):
            yield

    def _validate(self) -> None:
        with self._averaged():
            measures = self.stage.validate() if self.team.rank == 0 else {}
        self.validation = self.team.from_main({name: float(value) for name, value in measures.items()})
        self.validated_step = self.step
        self.log.write(
            "validation", step=self.step, total=self.total, epoch=self.loader.epoch,
            losses=self.validation, seconds=round(self.seconds, 2),
        )  # fmt: skip

    def _save_weights(self, last: bool) -> None:
        files: list[Path] = []
        with self._averaged():
            if self.team.rank == 0:
                files = [Path(p) for p in self.stage.save_weights(self.folder, self.step, self.loader.epoch, last=last)]
        if self.team.rank > 0:
            return
        if self.config.keep_latest:
            for path in {p.resolve() for p in self.weight_files} - {p.resolve() for p in files}:
                path.unlink(missing_ok=True)
        self.weight_files = files
        self.log.write("weights", step=self.step, total=self.total, files=files)

    def _save_samples(self) -> None:
        """Let the stage, if it can, make held-out lines heard."""
        make = getattr(self.stage, "make_samples", None)
        if make is None:
            return
        samples = Samples()
        with self._averaged():
            if self.team.rank == 0:
                samples = make(self.folder / SAMPLES_NAME / f"step-{self.step:06d}")
        if samples.items:
            self.log.write(
                "samples", step=self.step, total=self.total, epoch=self.loader.epoch,
                samples=[item["file"] for item in samples.items], items=samples.items, measures=samples.measures,
            )  # fmt: skip

    def _save_state(self) -> None:
        learned = self.team.gathered({
            "modules": {name: module.state_dict() for name, module in self.stage.modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.stage.optimizers.items()},
            "ema": self.ema.state_dict() if self.ema is not None else None,
        })  # fmt: skip
        if self.team.rank > 0:
            return
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "run_config": self.run_config,
            "data": self.data,
            "loader": self.loader.state_dict(),
            "rng": rng_state(),
            **learned,
            "weight_files": [_within(self.folder, path) for path in self.weight_files],
        }
        save_training_state(self.folder, CHECKPOINT_NAME, state)
        self.saved_at = time.monotonic()

    def _restore(self, state: dict[str, Any]) -> None:
        for name, module in self.stage.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.stage.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"] or {})
        self.loader.load_state_dict(state["loader"])
        self.step, self.skipped, self.earlier_seconds = state["step"], state["skipped"], state["seconds"]
        self.weight_files = [self.folder / path for path in state["weight_files"]]
        restore_rng_state(state["rng"])


def _within(folder: Path, path: Path) -> str:
    """A file of the run by its place in the folder, which somebody may rename; another by its whole path."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path.absolute())
