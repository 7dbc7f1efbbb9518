"""What a language model is told before it speaks: references with their texts, and the target's text.

Shape letters: U text units, T frames, K codebooks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from torch import Tensor

from modules.gpt.sequence import Part

FusionMode = Literal["distributions", "share", "order"]


@dataclass(frozen=True)
class PromptReference:
    """A reference for the language model: its text units (may be empty), codes [T, K] and weight."""

    text_ids: Sequence[int] | Tensor | np.ndarray
    codes: Tensor | np.ndarray
    weight: float = 1.0
    text_features: np.ndarray | None = None


@dataclass(frozen=True)
class Prompt:
    """References in order (the one nearest the target last), the open target, and the prompt's weight."""

    parts: tuple[Part, ...]
    weight: float = 1.0

    @property
    def reference_frames(self) -> int:
        """Speech frames of the references."""
        return sum(len(part.codes) for part in self.parts)


def build_prompts(
    references: Sequence[PromptReference],
    text_ids: Sequence[int] | Tensor | np.ndarray,
    codebooks: int,
    mode: FusionMode = "distributions",
    text_features: np.ndarray | None = None,
) -> list[Prompt]:
    """Prompts for a target text out of weighted references; those of weight zero are dropped.

    Modes:
        distributions: a prompt per reference, which stands nearest the target in it, the others before it by
            rising weight; the prompts' distributions are mixed by weight.
        share: one prompt of those references whose shares of its frames come nearest to the weights (a reference
            is taken whole or not at all, because its text goes with its speech), the heaviest last.
        order: one prompt of all references, the heaviest last.

    Without references the single prompt is the bare target.
    """
    target = Part(_array(text_ids), np.zeros((0, codebooks), np.int64), text_features)
    # A stable sort: equal weights keep the order in which they were given.
    used = sorted((r for r in references if r.weight > 0), key=lambda r: r.weight)
    parts = [
        Part(_array(r.text_ids), _array(r.codes).reshape(-1, codebooks), r.text_features, hidden=True) for r in used
    ]
    if mode == "distributions" and len(parts) > 1:
        total = sum(r.weight for r in used)
        return [
            Prompt((*parts[:i], *parts[i + 1 :], parts[i], target), used[i].weight / total) for i in range(len(used))
        ]
    if mode == "share" and len(parts) > 1:
        kept = _best_share([len(p.codes) for p in parts], [r.weight for r in used])
        parts = [parts[i] for i in kept]
    return [Prompt((*parts, target))]


def frame_limits(text_units: int, frames_per_unit: float, slack: int = 25) -> tuple[int, int]:
    """Fewest and most frames that a text can sensibly take, from a normal pace (the model's statistics, or a
    reference's frames over its units): a third of it, and three times it and `slack` frames more."""
    expected = text_units * frames_per_unit
    return max(1, int(expected / 3)), int(3 * expected) + slack


def _best_share(frames: Sequence[int], weights: Sequence[float]) -> tuple[int, ...]:
    """Which references to keep so that their shares of the frames come nearest to the weights.

    Every subset is tried (references are few); on a tie the one with more references wins.
    """
    wanted = np.asarray(weights) / sum(weights)
    best, best_distance = tuple(range(len(frames))), np.inf
    for size in range(len(frames), 0, -1):
        for kept in combinations(range(len(frames)), size):
            share = np.zeros(len(frames))
            share[list(kept)] = np.asarray(frames)[list(kept)]
            distance = np.abs(share / max(share.sum(), 1) - wanted).sum()
            if distance < best_distance - 1e-9:
                best, best_distance = kept, distance
    return best


def without_text(prompt: Prompt) -> Prompt:
    """The same prompt with the target's text left out."""
    target = prompt.parts[-1]
    features = None if target.text_features is None else target.text_features[:0]
    return replace(prompt, parts=(*prompt.parts[:-1], Part(target.text_ids[:0], target.codes, features)))


def _array(values: Sequence[int] | Tensor | np.ndarray) -> np.ndarray:
    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return np.asarray(values, np.int64)
