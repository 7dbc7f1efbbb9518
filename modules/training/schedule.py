"""How long a training runs and how fast it learns at each of its steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LoopConfig:
    """How long, how fast and how safely. Zero switches the `*_minutes`, `*_every_*`, `clip_norm`, `ema_decay` off."""

    max_steps: int
    max_minutes: float = 0.0  # over all resumes; the schedule ends with it
    learning_rate: float = 1e-3  # reported; every parameter group peaks at the rate that it was built with
    warmup_steps: int = 0
    min_lr_ratio: float = 0.05
    clip_norm: float = 1.0
    accumulate: int = 1  # batches per step; a step never ends with fewer, it goes on into the next epoch
    ema_decay: float = 0.0
    save_every_steps: int = 0  # checkpoint and weights
    save_at_steps: tuple[int, ...] = ()  # the same at these steps: the ends of epochs, which need not be equally long
    save_every_minutes: float = 5.0  # checkpoint only
    validate_every_steps: int = 0  # besides at every save and once at the end
    keep_latest: bool = True  # delete the weights that the same run saved before
    seed: int = 0
    precision: Literal["float32", "bf16", "auto"] = "float32"
    log_every_steps: int = 10


def epoch_ends(batches: Callable[[int], int], epochs: int, accumulate: int = 1) -> tuple[int, ...]:
    """The steps at which epochs end, one for each, of which the last is the length of the run.

    A step takes `accumulate` batches, if need be into the next epoch; it ends the epoch that its last batch belongs to.

    Args:
        batches: number of batches of an epoch, which may differ from one to the next.
    """
    seen, ends = 0, []
    for epoch in range(epochs):
        seen += batches(epoch)
        ends.append(-(-seen // accumulate))
    return tuple(ends)


def learning_rate_factor(config: LoopConfig, step: int, elapsed_seconds: float) -> float:
    """Share of the peak rate at a step: linear warm-up, then a cosine down to `min_lr_ratio`.

    The cosine's position is the larger of the shares of steps and of minutes that are used up, so that a run with
    a time budget is annealed when the time is over.
    """
    after = max(1, config.max_steps - config.warmup_steps)
    progress = (step - config.warmup_steps) / after
    if config.max_minutes > 0:
        progress = max(progress, elapsed_seconds / (60 * config.max_minutes))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps > 0 else 1.0
    return warmup * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)
