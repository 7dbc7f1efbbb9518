"""Drawing the codes of a step from hidden states.

Shape letters: n rows (prompts, with guidance twice as many), K codebooks, H hidden, V classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from modules.gpt.patterns import Pattern
from modules.gpt.reading import Pointer
from modules.gpt.sampling import Quiet, draw, is_overused, penalize_repetition


@dataclass(frozen=True)
class DecodeOptions:
    """How frames are drawn.

    Args:
        top_k, top_p, temperature: of the content stream (0 and 1 switch the first two off).
        repetition_penalty: on content codes of the last `penalty_window` new frames (0: of all of them).
        ras_window, ras_threshold: repetition-aware sampling: a code that fills more than this share of the last
            `ras_window` frames is drawn again from the whole distribution; window 0 switches it off.
        phone_top_k, phone_temperature: of the phones, where the model says them before the content. EOS is one of them.
        prosody_top_k, prosody_temperature: of the other streams.
        advance_temperature: of how far the text is gone on with, where a pointer follows it.
        min_frames: EOS is impossible before this many new frames.
        max_frames: most new frames.
        guidance: how far to move away from what would be said without the text (classifier-free guidance, Ho and
            Salimans, 2022): 0 not at all; 1 doubles the text's influence on stream 0. Costs a second row.
        guard: stop when the codes or the phones go round in circles.
        usual_frames: what the text usually takes; a model without a pointer has probably said it by then.
        tail_frames: silence that ends the speech after the text, see `watching.Watch`; 0: only the model ends it.
        pause_frames: what counts of a pause; 0: all of it.
        seed: same seed, same codes; None draws a fresh one.
    """

    top_k: int = 15
    top_p: float = 1.0
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    penalty_window: int = 16
    ras_window: int = 10
    ras_threshold: float = 0.4
    phone_top_k: int = 5
    phone_temperature: float = 0.4
    prosody_top_k: int = 8
    prosody_temperature: float = 0.8
    advance_temperature: float = 0.5
    min_frames: int = 1
    max_frames: int = 1000
    guidance: float = 0.0
    guard: bool = True
    usual_frames: int = 0
    tail_frames: int = 0
    pause_frames: int = 0
    seed: int | None = None


class Heads(Protocol):
    """What the logits come from: a `Decoder`."""

    pattern: Pattern
    quiet: Quiet

    def place(self, hidden: Tensor, frames: Sequence[list[int]]) -> Tensor:
        """States [n, H] of the next frame of a step, after those of the step so far."""

    def first_logits(self, hidden: Tensor) -> Tensor:
        """[n, H] -> [n, V_0 + 1] on the CPU."""

    def stream_logits(self, stream: int, hidden: Tensor, frame: list[int]) -> Tensor:
        """Logits of stream k >= 1 after the frame's earlier codes: [n, H] -> [n, V_k] on the CPU."""


class Reads(Protocol):
    """What follows the text."""

    pointer: Pointer


class FrameChooser:
    """Draws codes from hidden states, by the options.

    Args:
        weights: [n] of the prompts, whose distributions are mixed; the first n rows of the hidden states follow them,
            and with guidance as many rows without text come after.
        reader: whose pointer follows the text; it goes on with every frame.
    """

    def __init__(
        self,
        heads: Heads,
        options: DecodeOptions,
        weights: Sequence[float],
        generator: torch.Generator,
        reader: Reads | None = None,
    ):
        self.heads, self.options, self.generator, self.reader = heads, options, generator, reader
        self.rows = len(weights)
        mixed = torch.tensor(weights)
        self.weights = mixed / mixed.sum() if len(weights) > 1 else None
        self.end_code = heads.pattern.end_code
        self.streams = heads.pattern.streams
        self.phones = heads.pattern.phones

    def frame(self, hidden: Tensor, content: list[int]) -> list[int] | None:
        """hidden [n, H] and the content codes so far -> codes of the next frame, None for EOS."""
        first = self.first(hidden, content)
        if first is None:
            return None
        frame = [first]
        if self.phones:
            logits = mix(self.heads.stream_logits(1, hidden[: self.rows], frame), self.weights)
            frame.append(self._content(logits, content, self.heads.quiet.phone == first))
        for stream in range(len(frame), self.heads.pattern.tokens.stop):
            frame.append(self.stream(stream, hidden, frame))
        if self.reader is not None:
            frame.append(self._advance(hidden, frame))
        return frame

    def _advance(self, hidden: Tensor, frame: list[int]) -> int:
        """How many text units the pointer goes on by after this frame."""
        pointer = self.reader.pointer
        logits = mix(self.heads.stream_logits(len(frame), hidden[: self.rows], frame), self.weights)
        logits[pointer.most + 1 :] = float("-inf")
        if pointer.stuck and pointer.most:
            logits[0] = float("-inf")
        o = self.options
        units = draw(logits, 0, 1.0, o.advance_temperature * (o.temperature > 0), self.generator)
        pointer.advance(units)
        return units

    def first(self, hidden: Tensor, content: list[int]) -> int | None:
        """The next code of stream 0, after the content codes so far; None for EOS."""
        o = self.options
        logits = self.first_logits(hidden)
        pointer = self.reader.pointer if self.reader else None
        if len(content) < o.min_frames or (pointer and not pointer.at_end):
            logits[self.end_code] = float("-inf")
        elif pointer and pointer.stuck:
            return None  # nothing is left to say
        if self.phones:
            code = draw(logits, o.phone_top_k, 1.0, o.phone_temperature * (o.temperature > 0), self.generator)
        else:
            code = self._content(logits, content)
        return None if code == self.end_code else code

    def _content(self, logits: Tensor, content: list[int], silence: bool = False) -> int:
        """The next content code. Silence may repeat itself: its codes, and any code where the phone is a pause."""
        o, quiet = self.options, self.heads.quiet.codes
        if silence:
            return draw(logits, o.top_k, o.top_p, o.temperature, self.generator)
        recent = content[-o.penalty_window :] if o.penalty_window else content
        penalized = penalize_repetition(logits, [c for c in recent if c not in quiet], o.repetition_penalty)
        code = draw(penalized, o.top_k, o.top_p, o.temperature, self.generator)
        if o.temperature and code not in quiet and is_overused(code, content, o.ras_window, o.ras_threshold):
            code = draw(logits, 0, 1.0, max(o.temperature, 1.0), self.generator)
        return code

    def stream(self, stream: int, hidden: Tensor, frame: list[int]) -> int:
        """The code of stream k >= 1, after the earlier ones of its frame."""
        o = self.options
        logits = mix(self.heads.stream_logits(stream, hidden[: self.rows], frame), self.weights)
        return draw(logits, o.prosody_top_k, 1.0, o.prosody_temperature * (o.temperature > 0), self.generator)

    def first_logits(self, hidden: Tensor) -> Tensor:
        """Mixed and guided logits of stream 0, [V_0 + 1]."""
        logits = self.heads.first_logits(hidden)
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
