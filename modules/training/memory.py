"""Does a batch fit into memory? Tried before a training starts, so that it does not die an hour later.

The heaviest batch goes forward and backward once, without a step. On a GPU a batch that is too large says so by
itself. On a CPU the system would kill the process, or start to swap, so there a small batch is measured first and the
large one is foretold from it.
"""

import gc
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from torch import Tensor

from modules.data.batching import Loader, map_tensors
from modules.errors import UserError
from modules.runtime import restore_rng_state, rng_state
from modules.training.stage import Stage
from modules.training.team import Alone, Team

SAMPLE_SECONDS = 0.004
MARGIN = 0.85
"""Share of the free memory that a training may plan with: other programs breathe, too."""
STATES = 3
"""What the optimizers and the averages will hold, in sizes of the trained parameters: two moments and one average."""
SHARES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)


@dataclass(frozen=True)
class Fit:
    """What was found.

    Args:
        share: of the wished budget that is used, 1.0 = all of it.
        needed_bytes: foretold or measured for one step with that share, weights and optimizer included.
        free_bytes: what there was.
    """

    share: float
    needed_bytes: int
    free_bytes: int


class PeakMemory:
    """Peak of this process's memory above where it stood at the start, bytes. CPU only; a context manager."""

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        self._process = psutil.Process()
        self._start = self._peak = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    @property
    def bytes(self) -> int:
        """The peak so far."""
        return self._peak - self._start

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        self._peak = max(self._peak, self._process.memory_info().rss)


def fit_batch(
    stage: Stage,
    loader: Callable[[float], Loader],
    device: torch.device,
    *,
    step: int = 0,
    free_bytes: int | None = None,
    bf16: bool = False,
    team: Team | None = None,
) -> Fit:
    """The largest share of the wished batch that fits, in every process of a team.

    Each process tries by itself, as many shares as it needs, and then all of them take the smallest that was found.

    Args:
        stage: its modules are moved to `device`; nothing that it learned changes, nor does any random state.
        loader: gives, from a share of the wished batch size, the loader that would be used.
        step: decides which phases are tried; the one that will have most of them is the one to give.
        free_bytes: what may be used; by default what the device has.
        bf16: whether the training computes in bfloat16.
        team: the processes that train together, each of which calls this; None: there is one.

    Raises:
        UserError: memory_too_small, in every process, when the smallest share does not fit in one.
    """
    team = team or Alone(device)
    free = free_bytes if free_bytes is not None else _free_bytes(device)
    for module in stage.modules.values():
        module.to(device).train()
    find = _foretell if device.type != "cuda" else _try_out
    fit = find(stage, loader, device, step, free, bf16)
    found = team.from_all((fit.share if fit is not None else 0.0, free))
    share, least = min(found)
    if fit is None or share == 0:
        raise UserError(
            "memory_too_small",
            "Even a batch of {share} of the wished size does not fit into the {free} of free memory; "
            "close other programs, or choose a smaller preset.",
            share=f"{SHARES[-1]:.0%}",
            free=_words(least),
        )
    return replace(fit, share=share)


def _foretell(
    stage: Stage, loader: Callable[[float], Loader], device: torch.device, step: int, free: int, bf16: bool
) -> Fit | None:
    """Measure the smallest share, and scale it."""
    small, cost = loader(SHARES[-1]), loader(SHARES[-1]).heaviest_cost()
    with PeakMemory() as peak:
        _dry_run(stage, small, device, step, bf16)
    gradients = _trained_bytes(stage)
    activations, fixed = max(0, peak.bytes - gradients), gradients + STATES * gradients
    for share in SHARES:
        needed = round(activations * loader(share).heaviest_cost() / max(cost, 1e-9)) + fixed
        if needed <= MARGIN * free:
            return Fit(share, needed, free)
    return None


def _try_out(
    stage: Stage, loader: Callable[[float], Loader], device: torch.device, step: int, free: int, bf16: bool
) -> Fit | None:
    """Try the shares from the largest on until one does not run out of memory."""
    states = STATES * _trained_bytes(stage)
    for share in SHARES:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            _dry_run(stage, loader(share), device, step, bf16)
        except torch.cuda.OutOfMemoryError:
            continue
        needed = torch.cuda.max_memory_allocated(device) + states
        if needed <= MARGIN * free:
            return Fit(share, needed, free)
    return None


def _dry_run(stage: Stage, loader: Loader, device: torch.device, step: int, bf16: bool) -> None:
    """Forward and backward through all phases of a step, and everything put back as it was.

    The other processes of a team may be trying another share, or none any more: nothing here may wait for them.
    """
    quiet = getattr(stage, "quiet", nullcontext)
    random_state = rng_state()
    buffers = [(b, b.detach().clone()) for module in stage.modules.values() for b in module.buffers()]
    batch = map_tensors(loader.heaviest(), lambda t: t.to(device))
    try:
        with quiet():
            for phase in stage.phases(step):
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    losses = stage.losses(phase, batch)
                _total(stage, losses).backward()
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for optimizer in stage.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        restore_rng_state(random_state)


def _total(stage: Stage, losses: dict[str, Tensor]) -> Any:
    return sum(stage.weights.get(name, 1.0) * loss for name, loss in losses.items() if not name.startswith("_"))


def _trained_bytes(stage: Stage) -> int:
    """Of all trained parameters, and so of their gradients."""
    groups = [group for optimizer in stage.optimizers.values() for group in optimizer.param_groups]
    return sum(p.numel() * p.element_size() for group in groups for p in group["params"])


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _words(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
