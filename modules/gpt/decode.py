"""Speaking: from prompts to new frames, one step per frame.

`Decoder` lays the prompts out once (prefill) and then samples frame by frame. Several prompts are several
opinions on the next frame: their distributions are mixed by weight, one frame is drawn and all of them go on
from it. That is how references fuse in the language model; `build_prompts` makes the prompts.

Shape letters: n prompts, T frames, K codebooks, H hidden, V classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.errors import Stopped, UserError
from modules.gpt.model import SpeechGPT
from modules.gpt.sampling import LoopDetector, draw, is_overused, penalize_repetition
from modules.gpt.sequence import SPEECH, Part, arrange
from modules.gpt.step import Cache, StepEngine

StoppedBy = Literal["eos", "limit", "guard"]
FusionMode = Literal["distributions", "share", "order"]


@dataclass(frozen=True)
class DecodeOptions:
    """How frames are drawn.

    Args:
        top_k, top_p, temperature: of the content stream (0 and 1 switch the first two off).
        repetition_penalty: on content codes of the last `penalty_window` new frames (0: of all of them).
        ras_window, ras_threshold: repetition-aware sampling: a code that fills more than this share of the last
            `ras_window` frames is drawn again from the whole distribution; window 0 switches it off.
        prosody_top_k, prosody_temperature: of the other streams.
        min_frames: EOS is impossible before this many new frames.
        max_frames: most new frames.
        guidance: how far to move away from what would be said without the text (classifier-free guidance, Ho and
            Salimans, 2022): 0 not at all; 1 doubles the text's influence on the content stream. Costs a second row.
        guard: stop when the codes go round in circles.
        seed: same seed, same codes; None draws a fresh one.
    """

    top_k: int = 15
    top_p: float = 1.0
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    penalty_window: int = 16
    ras_window: int = 10
    ras_threshold: float = 0.4
    prosody_top_k: int = 8
    prosody_temperature: float = 0.8
    min_frames: int = 1
    max_frames: int = 1000
    guidance: float = 0.0
    guard: bool = True
    seed: int | None = None


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


@dataclass(frozen=True)
class Generated:
    """New codes int64 [T, K] on the CPU and why they ended."""

    codes: Tensor
    stopped_by: StoppedBy


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
    parts = [Part(_array(r.text_ids), _array(r.codes).reshape(-1, codebooks), r.text_features) for r in used]
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


class Decoder:
    """Draws frames from a trained model. Weights are copied into fast form once, so build it once and keep it.

    Args:
        model: in eval mode, on its device.
    """

    def __init__(self, model: SpeechGPT):
        self.model = model
        self.quiet_codes = frozenset(model.statistics.get("quiet_codes", ()))
        self._engine = StepEngine(model.backbone)
        self._device = model.specials.device
        with torch.inference_mode():
            self._output = model.output_matrix().clone()
            self._frame_kind = model.specials[SPEECH].clone()
            learned = model.vector_dim is None
            self._tables = [table.matrix().clone() for table in model.speech] if learned else None
            self._chosen = [table.matrix().clone() for table in model.chosen_tables()]

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        options: DecodeOptions | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_frame: Callable[[int, Tensor], None] | None = None,
    ) -> Generated:
        """Continue the prompts with new frames.

        Args:
            prompts: one, or several whose distributions are mixed by weight (weight zero: left out).
            should_stop: asked at every frame.
            on_frame: called with the number of frames so far and the newest frame [K].

        Raises:
            Stopped: should_stop said so.
            UserError: gpt_prompt_too_long when fewer than `min_frames` would fit behind the prompts.
        """
        options = options or DecodeOptions()
        prompts = [prompts] if isinstance(prompts, Prompt) else [p for p in prompts if p.weight > 0]
        generator = torch.Generator()
        generator.manual_seed(options.seed) if options.seed is not None else generator.seed()
        with torch.inference_mode():
            rows = [*prompts, *map(_without_text, prompts)] if options.guidance else prompts
            hidden, cache, place, limit = self._prefill(rows, options)
            chooser = _FrameChooser(self, options, prompts, generator)
            frames: list[list[int]] = []
            content: list[int] = []
            detector = LoopDetector(quiet=self.quiet_codes)
            while True:
                if should_stop is not None and should_stop():
                    raise Stopped
                frame = chooser.choose(hidden, content)
                if frame is None:
                    return self._result(frames, "eos")
                frames.append(frame)
                content.append(frame[0])
                if on_frame is not None:
                    on_frame(len(frames), torch.tensor(frame))
                if options.guard and detector.update(frame[0]):
                    # One round of the pattern may be speech; what repeats it is not.
                    return self._result(frames[: len(frames) - detector.length], "guard")
                if len(frames) >= limit:
                    return self._result(frames, "limit")
                place = None if place is None else place + 1
                hidden = self._engine(self._embed(frame).expand(len(hidden), 1, -1), cache, place)[:, -1]

    def _prefill(self, prompts: list[Prompt], options: DecodeOptions) -> tuple[Tensor, Cache, Tensor | None, int]:
        """Hidden states at the end of the prompts [n, H], their cache, the last RoPE positions [n, 1] (None: counted
        by the engine) and the frame limit."""
        sequences = arrange([prompt.parts for prompt in prompts], self.model.end_code).to(self._device)
        lengths, width = sequences.lengths, sequences.kinds.shape[1]
        limit = min(options.max_frames, self._engine.capacity - width)
        if limit < max(options.min_frames, 1):
            raise UserError(
                "gpt_prompt_too_long",
                "References and text take {length} positions of the {capacity} that the model has; use shorter "
                "references or fewer of them.",
                length=width,
                capacity=self._engine.capacity,
            )
        x, positions = self.model.embed(sequences), self.model.positions(sequences)
        padding = width - lengths
        if len(prompts) > 1:
            # Rows end together: new frames then stand at the same place in every row.
            x = _align_right(x, padding)
            positions = None if positions is None else _align_right(positions, padding)
        cache = self._engine.new_cache(len(prompts), width + limit, padding)
        hidden = self._engine(x, cache, positions)[:, -1]
        return hidden, cache, None if positions is None else positions[:, -1:], limit

    def _embed(self, frame: list[int]) -> Tensor:
        """Input embedding [H] of a frame."""
        if self._tables is None:
            return self.model.embed_frames(torch.tensor([frame], device=self._device))[0] + self._frame_kind
        x = self._frame_kind
        for table, code in zip(self._tables, frame, strict=True):
            x = x + table[code]
        return x

    def content_logits(self, hidden: Tensor) -> Tensor:
        """[n, H] -> [n, V_0 + 1] on the CPU."""
        return F.linear(hidden, self._output).float().cpu()

    def stream_logits(self, stream: int, hidden: Tensor, frame: list[int]) -> Tensor:
        """Logits of stream k >= 1 after the frame's earlier codes: [n, H] -> [n, V_k] on the CPU."""
        for table, code in zip(self._chosen, frame, strict=False):
            hidden = hidden + table[code]
        return self.model.heads[stream - 1](hidden).float().cpu()

    def _result(self, frames: list[list[int]], stopped_by: StoppedBy) -> Generated:
        streams = len(self.model.codebook_sizes)
        return Generated(torch.tensor(frames, dtype=torch.int64).reshape(-1, streams), stopped_by)


class _FrameChooser:
    """Draws the codes of a frame from hidden states, by the options.

    Args:
        prompts: what the first rows of the hidden states follow; with guidance as many rows without text come after.
    """

    def __init__(self, decoder: Decoder, options: DecodeOptions, prompts: Sequence[Prompt], generator: torch.Generator):
        self.decoder, self.options, self.generator = decoder, options, generator
        weights = torch.tensor([prompt.weight for prompt in prompts])
        self.rows = len(prompts)
        self.weights = weights / weights.sum() if len(prompts) > 1 else None
        self.end_code = decoder.model.end_code
        self.streams = len(decoder.model.codebook_sizes)

    def choose(self, hidden: Tensor, content: list[int]) -> list[int] | None:
        """hidden [n, H] and the content codes so far -> codes of the next frame, None for EOS."""
        o = self.options
        logits = self._content(hidden)
        hidden = hidden[: self.rows]
        if len(content) < o.min_frames:
            logits[self.end_code] = float("-inf")
        recent = content[-o.penalty_window :] if o.penalty_window else content
        penalized = penalize_repetition(
            logits, [c for c in recent if c not in self.decoder.quiet_codes], o.repetition_penalty
        )
        code = draw(penalized, o.top_k, o.top_p, o.temperature, self.generator)
        if code not in self.decoder.quiet_codes and is_overused(code, content, o.ras_window, o.ras_threshold):
            code = draw(logits, 0, 1.0, max(o.temperature, 1.0), self.generator)
        if code == self.end_code:
            return None
        frame = [code]
        for stream in range(1, self.streams):
            logits = mix(self.decoder.stream_logits(stream, hidden, frame), self.weights)
            frame.append(draw(logits, o.prosody_top_k, 1.0, o.prosody_temperature, self.generator))
        return frame

    def _content(self, hidden: Tensor) -> Tensor:
        """Mixed and guided logits of the content stream [V_0 + 1]."""
        logits = self.decoder.content_logits(hidden)
        told = mix(logits[: self.rows], self.weights)
        if not self.options.guidance:
            return told
        told, untold = told.log_softmax(-1), mix(logits[self.rows :], self.weights).log_softmax(-1)
        return told + self.options.guidance * (told - untold)


def mix(logits: Tensor, weights: Tensor | None) -> Tensor:
    """Log of the weighted mean of the rows' distributions: [n, V] and [n] -> [V]. One row (weights None) is
    handed through as it is."""
    if weights is None:
        return logits[0]
    return torch.logsumexp(logits.log_softmax(-1) + weights.log()[:, None], 0)


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


def _without_text(prompt: Prompt) -> Prompt:
    """The same prompt with the target's text left out."""
    target = prompt.parts[-1]
    features = None if target.text_features is None else target.text_features[:0]
    return replace(prompt, parts=(*prompt.parts[:-1], Part(target.text_ids[:0], target.codes, features)))


def _align_right(rows: Tensor, padding: Tensor) -> Tensor:
    """Move each row's padding [n] from its end to its start."""
    return torch.stack([row.roll(int(shift), 0) for row, shift in zip(rows, padding, strict=True)])


def _array(values: Sequence[int] | Tensor | np.ndarray) -> np.ndarray:
    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return np.asarray(values, np.int64)
