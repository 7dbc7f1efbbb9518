"""Choosing the next code out of logits, for all rows of a batch at once.

All of it is tensor operations without a look at their values, so that a step may run far ahead of who asks. Chance
comes in as noise that each row draws from its own seed: a row says the same alone and in any company, and on every
device.

Shape letters: S rows (sentences), V classes, N past codes, k candidates.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 2048
"""Numbers of noise that a row draws at once."""
_RETRY_SEED = 0x9E3779B97F4A7C15
"""An odd number of many bits: seeds of neighbouring turns have nothing in common."""


def penalize_repetition(logits: Tensor, recent: Tensor, penalty: float, spared: Tensor | None = None) -> Tensor:
    """Lower the logits of `recent` codes: positive ones are divided by `penalty`, negative ones multiplied
    (Keskar et al., 2019). Penalty 1 changes nothing.

    Args:
        logits: [S, V].
        recent: int64 [S, N]; negative: none.
        spared: bool [V], codes that may repeat themselves.
    """
    if penalty == 1.0 or recent.shape[1] == 0:
        return logits
    codes = recent.clamp_min(0)
    values = logits.gather(1, codes)
    lowered = torch.where(values > 0, values / penalty, values * penalty)
    kept = recent < 0 if spared is None else (recent < 0) | spared[codes]
    # A code may stand there several times, and where there is none it reads as code 0: the lowest value wins.
    return logits.scatter_reduce(1, codes, torch.where(kept, values, lowered), "amin")


def candidates(logits: Tensor, top_k: int, top_p: float, temperature: float) -> tuple[Tensor, Tensor]:
    """What may be drawn: scores (logits over the temperature) and their codes, likeliest first, [S, k] each.

    The `top_k` likeliest codes (0: all), of them the fewest that hold `top_p` of the probability (1: all), at
    least one; the others have a score of minus infinity. Temperature is applied first.
    """
    keep = top_k if 0 < top_k < logits.shape[1] else logits.shape[1]
    # topk sorts too, but a full sort is cheaper when everything is kept.
    values, codes = logits.topk(keep) if keep < logits.shape[1] else logits.sort(descending=True)
    if temperature != 1.0:
        values = values / max(temperature, 1e-4)
    if top_p < 1.0:
        probabilities = values.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # mass of the likelier codes
        outside = before >= top_p
        outside[:, 0] = False
        values = values.masked_fill(outside, float("-inf"))
    return values, codes


def draw(
    logits: Tensor, top_k: int, top_p: float, temperature: float, noise: "RowNoise | None" = None
) -> Tensor:  # fmt: skip
    """Draw one code a row from logits [S, V] -> int64 [S]; top_k = 1, temperature = 0 or no noise is the argmax.

    The largest score plus Gumbel noise is a draw from their distribution (Gumbel, 1954; Maddison et al., 2014).
    """
    if top_k == 1 or temperature == 0 or noise is None:
        return logits.argmax(-1)
    if top_k == 0 and top_p >= 1.0:
        return (logits / max(temperature, 1e-4) + noise.take(logits.shape[1])).argmax(-1)
    scores, codes = candidates(logits, top_k, top_p, temperature)
    chosen = (scores + noise.take(scores.shape[1])).argmax(-1, keepdim=True)
    return codes.gather(1, chosen)[:, 0]


def is_overused(codes: Tensor, history: Tensor, window: int, threshold: float) -> Tensor:
    """Whether more than `threshold` of the last `window` of the history [S, N] are the code [S] (VALL-E 2, Chen et al.
    2024, sec. 3.2), bool [S]."""
    return (history[:, -window:] == codes[:, None]).sum(1) > threshold * window


class RowNoise:
    """Gumbel noise of several rows, each from its own seed.

    Args:
        seeds: one for each row; None draws one.
        device: where the noise is wanted; it is drawn on the CPU, the same for every device.
    """

    def __init__(self, seeds: Sequence[int | None], device: torch.device = torch.device("cpu")):
        seeds = [int(torch.Generator().seed()) if seed is None else seed for seed in seeds]
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._seeds = seeds
        self._device = device
        self._block, self._used = torch.zeros(len(seeds), 0), 0
        self._array = self._block.numpy()

    def take(self, count: int) -> Tensor:
        """The next numbers of every row, [S, count]."""
        there = self._next(count)
        return self._block[:, there]

    def take_array(self, count: int) -> np.ndarray:
        """What `take` gives, of noise on the CPU."""
        there = self._next(count)
        return self._array[:, there]

    def _next(self, count: int) -> slice:
        self.reserve(count)
        self._used += count
        return slice(self._used - count, self._used)

    def reserve(self, count: int) -> None:
        """Let the next `count` numbers lie side by side."""
        if self._used + count > self._block.shape[1]:
            self._hold(self._drawn(self._generators, max(BLOCK, count)))
            self._used = 0

    def again(self, turn: int, count: int) -> Tensor:
        """Numbers for drawing again at turn `turn`, [S, count]. They follow from the turn alone, so that it does not
        matter who drew again before."""
        seeds = [(seed + turn * _RETRY_SEED) % 2**63 for seed in self._seeds]
        return self._drawn([torch.Generator().manual_seed(seed) for seed in seeds], count)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        self._generators, self._seeds = ([of[row] for row in rows] for of in (self._generators, self._seeds))
        self._hold(self._block[list(rows)])

    def _hold(self, block: Tensor) -> None:
        self._block = block
        if block.device.type == "cpu":
            self._array = block.numpy()

    def _drawn(self, generators: Sequence[torch.Generator], count: int) -> Tensor:
        uniform = torch.stack([torch.rand(count, generator=generator) for generator in generators])
        return uniform.clamp_(1e-20, 1 - 1e-7).log_().neg_().log_().neg_().to(self._device)
