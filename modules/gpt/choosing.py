"""Drawing the codes of a step from hidden states, for all sentences of a batch at once.

Shape letters: S sentences, P prompts of each, n rows (the prompts of a sentence and, with guidance, as many without
text behind them), K codebooks, H hidden, V classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from modules.gpt.loops import Quiet
from modules.gpt.patterns import Pattern
from modules.gpt.reading import Pointer
from modules.gpt.sampling import RowNoise, draw, is_overused, penalize_repetition

_OF_A_SENTENCE = frozenset(
    {"min_frames", "max_frames", "guard", "usual_frames", "tail_frames", "pause_frames", "seed"}
)  # fmt: skip


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

    def draws_like(self, other: "DecodeOptions") -> bool:
        """Whether sentences of these and of the other options can be drawn together: they may differ in what belongs to
        a sentence, its lengths and its seed."""
        shared = [spec.name for spec in fields(self) if spec.name not in _OF_A_SENTENCE]
        return all(getattr(self, name) == getattr(other, name) for name in shared)


class Heads(Protocol):
    """What the logits come from: a `Decoder`."""

    pattern: Pattern
    quiet: Quiet

    def place(self, hidden: Tensor, frames: Sequence[Tensor]) -> Tensor:
        """States [n, H] of the next frame of a step, after those of the step so far, [n, K] each."""

    def first_logits(self, hidden: Tensor) -> Tensor:
        """[n, H] -> [n, V_0 + 1]."""

    def stream_logits(self, stream: int, hidden: Tensor, frame: Sequence[Tensor]) -> Tensor:
        """Logits of stream k >= 1 after the frame's earlier codes, [n] each: [n, H] -> [n, V_k]."""

    def whole_frames(self) -> "WholeFrames | None":
        """What draws plain frames at one go, where there is such a thing."""


class StreamPlan(NamedTuple):
    """How a stream is drawn: numbers of noise, temperature, and how many of the likeliest codes are drawn from (None:
    all)."""

    noise: int
    temperature: float
    top: int | None


class WholeFrames(Protocol):
    """Draws whole frames, see `modules.gpt.onnx_frame.OnnxFrames`."""

    def bind(self, sentences: int, plan: Sequence[StreamPlan], recent: int, history: int) -> "FrameMemory":
        """Memory for frames of so many sentences."""


class FrameMemory(Protocol):
    """What a frame is drawn from and in, always the same memory: see `modules.gpt.onnx_frame.BoundFrames`, also for the
    shapes."""

    hidden: np.ndarray
    first: np.ndarray
    advance: np.ndarray
    most: np.ndarray
    forced: np.ndarray
    codes: np.ndarray
    overused: np.ndarray
    logits: np.ndarray

    def run(self, numbers: np.ndarray) -> Tensor:
        """Draw with this noise; what enters the model of the frames, which the next run overwrites."""

    def remember(self, content: np.ndarray, penalty: np.ndarray) -> None:
        """These content codes were said."""

    def keep(self, rows: Sequence[int]) -> "FrameMemory":
        """Memory of these sentences alone."""


class FrameChooser:
    """Draws codes from hidden states, by the options.

    Args:
        options: of every sentence; they draw alike (see `DecodeOptions.draws_like`).
        weights: [S, P] of the prompts, whose distributions are mixed.
        device: where the hidden states are.
        pointers: of every sentence, where a pointer follows the text.
        longest: most frames that a sentence takes.
    """

    def __init__(
        self,
        heads: Heads,
        options: Sequence[DecodeOptions],
        weights: Sequence[Sequence[float]],
        device: torch.device = torch.device("cpu"),
        pointers: Sequence[Pointer] | None = None,
        longest: int = 1000,
    ):
        self.heads, self.each, self.options = heads, list(options), options[0]
        self.prompts = len(weights[0])
        mixed = torch.tensor(weights, device=device)
        self.weights = mixed / mixed.sum(1, keepdim=True) if self.prompts > 1 else None
        self.pointers = None if pointers is None else list(pointers)
        self.noise = RowNoise([o.seed for o in options], device)
        self.drawn = 0
        self.entering: Tensor | None = None
        """What enters the model of the last frames [S, H], where that is known already; overwritten by the next."""
        self._end, self._phones = heads.pattern.end_code, heads.pattern.phones
        classes = heads.pattern.codebook_sizes[heads.pattern.content] + 1
        spared = torch.zeros(classes, dtype=torch.bool, device=device)
        spared[[code for code in heads.quiet.codes if code < classes]] = True
        self._spared, self._free = spared, spared.cpu().numpy()
        self._draws = self._plan()
        self._numbers = sum(stream.noise for stream in self._draws or ())
        plain = self.prompts == 1 and not self.options.guidance and self._draws is not None
        whole = heads.whole_frames() if plain else None
        self._whole = None if whole is None else self._bound(whole, longest)
        window = 0 if self._whole else max(self.options.penalty_window or longest, self.options.ras_window, 1)
        self._history = torch.full((len(options), window), -1, device=device)

    @property
    def sentences(self) -> int:
        """S."""
        return len(self.each)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these sentences alone."""
        index = torch.tensor(rows, device=self._history.device)
        self._history = self._history[index]
        self.entering = None if self.entering is None else self.entering[index]
        self.weights = None if self.weights is None else self.weights[index]
        self.each = [self.each[row] for row in rows]
        self.pointers = None if self.pointers is None else [self.pointers[row] for row in rows]
        self._whole = None if self._whole is None else self._whole.keep(rows)
        self.noise.keep(rows)

    def frame(self, hidden: Tensor) -> Tensor:
        """hidden [n, H] -> codes of the next frames [S, K]; stream 0 is the class of EOS where there is none, and the
        rest of such a frame means nothing."""
        if self._draws is not None:
            self.noise.reserve(self._numbers)
        if self._whole is not None:
            return self._at_one_go(hidden)
        first = self.first(hidden)
        frame = [first]
        if self._phones:
            silent = None if self.heads.quiet.phone is None else first == self.heads.quiet.phone
            frame.append(self._content(self._logits(1, hidden, frame), silent))
        for stream in range(len(frame), self.heads.pattern.tokens.stop):
            frame.append(self.stream(stream, hidden, frame))
        if self.pointers is not None:
            frame.append(self._advance(hidden, frame))
        return torch.stack(frame, 1)

    def _plan(self) -> list[StreamPlan] | None:
        """How the streams of a frame are drawn; None where something else than that is asked for."""
        o, sizes = self.options, self.heads.pattern.codebook_sizes
        if o.temperature <= 0 or o.top_p < 1 or self.heads.pattern.lag:
            return None
        plan: list[StreamPlan] = []
        for stream, size in enumerate(sizes):
            classes = size + (stream == 0)
            if stream == self.heads.pattern.content:
                top, temperature = o.top_k, o.temperature
            elif self._phones and stream == 0:
                top, temperature = o.phone_top_k, o.phone_temperature
            elif self.pointers is not None and stream == len(sizes) - 1:
                plan.append(StreamPlan(classes, o.advance_temperature, None))
                continue
            else:
                top, temperature = o.prosody_top_k, o.prosody_temperature
            if top <= 1 or temperature <= 0:
                return None
            plan.append(StreamPlan(min(top, classes), temperature, min(top, classes)))
        return plan if plan[-1].temperature > 0 else None

    def _bound(self, whole: WholeFrames, longest: int) -> FrameMemory:
        """Memory for frames that are drawn at one go."""
        o = self.options
        bound = whole.bind(self.sentences, self._draws, o.penalty_window or longest, o.ras_window)
        if o.ras_window:
            bound.most[:] = o.ras_threshold * o.ras_window
        return bound

    def _at_one_go(self, hidden: Tensor) -> Tensor:
        """`frame` by `OnnxFrames`: the same codes, sooner. No operation of torch, whose beginning costs more here than
        its work."""
        o, bound, content = self.options, self._whole, self.heads.pattern.content
        for row in range(self.sentences):
            bound.first[row, self._end] = 0.0 if self._may_end(row) else -np.inf
        self.drawn += 1
        if self.pointers is not None:
            self._bias(bound.advance)
        bound.hidden[:] = hidden.numpy()
        numbers = self.noise.take_array(self._numbers)
        self.entering = bound.run(numbers)
        if bound.overused.any():
            noise = self.noise.again(self.drawn, bound.logits.shape[1]).numpy()
            again = (bound.logits / max(o.temperature, 1.0) + noise).argmax(1)
            # Later streams have seen the code that is taken back; the same noise and the new code give them anew.
            bound.forced[:, 0] = np.where(bound.overused[:, 0], again, bound.codes[:, content])
            self.entering = bound.run(numbers)
            bound.forced[:] = -1
        said = bound.codes[:, content]
        bound.remember(said, np.where(self._free[said], np.float32(1), np.float32(o.repetition_penalty)))
        return torch.from_numpy(bound.codes.copy())

    def _bias(self, advance: np.ndarray) -> None:
        """Write what keeps the pointers within their texts, and from staying too long, [S, classes]."""
        advance[:] = 0.0
        for row, pointer in enumerate(self.pointers):
            most = pointer.most
            advance[row, most + 1 :] = -np.inf
            if most and pointer.stuck:
                advance[row, 0] = -np.inf

    def first(self, hidden: Tensor) -> Tensor:
        """The next codes of stream 0, [S]; the class of EOS where there is no more."""
        o, logits = self.options, self.first_logits(hidden)
        may_end = [self._may_end(row) for row in range(self.sentences)]
        if not any(may_end):
            logits[:, self._end] = float("-inf")
        elif not all(may_end):
            never = ~torch.tensor(may_end, device=logits.device)
            logits[:, self._end] = logits[:, self._end].masked_fill(never, float("-inf"))
        self.drawn += 1
        if self._phones:
            return draw(logits, o.phone_top_k, 1.0, o.phone_temperature * (o.temperature > 0), self.noise)
        return self._content(logits)

    def must_end(self, row: int) -> bool:
        """Whether nothing is left to say in a sentence, whatever is drawn for it now."""
        pointer = self.pointers[row] if self.pointers is not None else None
        return pointer is not None and pointer.stuck and self._may_end(row)

    def _may_end(self, row: int) -> bool:
        enough = self.drawn >= self.each[row].min_frames
        return enough and (self.pointers is None or self.pointers[row].at_end)

    def stream(self, stream: int, hidden: Tensor, frame: Sequence[Tensor]) -> Tensor:
        """The codes [S] of stream k >= 1, after the earlier ones of their frame, [S] each."""
        o = self.options
        logits = self._logits(stream, hidden, frame)
        return draw(logits, o.prosody_top_k, 1.0, o.prosody_temperature * (o.temperature > 0), self.noise)

    def first_logits(self, hidden: Tensor) -> Tensor:
        """Mixed and guided logits of stream 0, [S, V_0 + 1]."""
        logits = self.heads.first_logits(hidden)
        if not self.options.guidance:
            return mix(logits, self.weights)
        halves = logits.view(self.sentences, 2, self.prompts, -1).unbind(1)
        told, untold = (mix(half.flatten(0, 1), self.weights).log_softmax(-1) for half in halves)
        return told + self.options.guidance * (told - untold)

    def _logits(self, stream: int, hidden: Tensor, frame: Sequence[Tensor]) -> Tensor:
        """Mixed logits [S, V_k] of stream k >= 1."""
        codes = frame if self.prompts == 1 else [code.repeat_interleave(self.prompts) for code in frame]
        if self.options.guidance:  # which is a matter of stream 0 alone
            hidden = hidden.view(self.sentences, 2 * self.prompts, -1)[:, : self.prompts].flatten(0, 1)
        return mix(self.heads.stream_logits(stream, hidden, codes), self.weights)

    def _content(self, logits: Tensor, silent: Tensor | None = None) -> Tensor:
        """The next content codes. Silence may repeat itself: its codes, and any code where the phone is a pause
        (`silent`, bool [S])."""
        o = self.options
        recent = self._history[:, -o.penalty_window :] if o.penalty_window else self._history
        penalized = penalize_repetition(logits, recent, o.repetition_penalty, self._spared)
        if silent is not None and penalized is not logits:
            penalized = torch.where(silent[:, None], logits, penalized)
        codes = draw(penalized, o.top_k, o.top_p, o.temperature, self.noise)
        if o.temperature and o.ras_window:
            codes = self._drawn_again(codes, logits, silent)
        self._history = torch.cat([self._history[:, 1:], codes[:, None]], 1)
        return codes

    def _drawn_again(self, codes: Tensor, logits: Tensor, silent: Tensor | None) -> Tensor:
        """The codes; those that are overused drawn once more from the whole distribution."""
        o = self.options
        overused = is_overused(codes, self._history, o.ras_window, o.ras_threshold) & ~self._spared[codes]
        if silent is not None:
            overused = overused & ~silent
        # A look at the values: free on a CPU, while a GPU would have to wait for it and draws for nothing instead.
        if overused.device.type == "cpu" and not overused.any():
            return codes
        noise = self.noise.again(self.drawn, logits.shape[1])
        return torch.where(overused, (logits / max(o.temperature, 1.0) + noise).argmax(-1), codes)

    def _advance(self, hidden: Tensor, frame: Sequence[Tensor]) -> Tensor:
        """By how many text units the pointers go on after this frame, [S]."""
        o, logits = self.options, self._logits(len(frame), hidden, frame)
        most, last = [pointer.most for pointer in self.pointers], logits.shape[1] - 1
        stuck = [pointer.stuck and pointer.most > 0 for pointer in self.pointers]
        if min(most) < last:
            beyond = torch.arange(last + 1, device=logits.device) > torch.tensor(most, device=logits.device)[:, None]
            logits = logits.masked_fill(beyond, float("-inf"))
        if any(stuck):
            stays = logits[:, 0].masked_fill(torch.tensor(stuck, device=logits.device), float("-inf"))
            logits = torch.cat([stays[:, None], logits[:, 1:]], 1)
        return draw(logits, 0, 1.0, o.advance_temperature * (o.temperature > 0), self.noise)


def mix(logits: Tensor, weights: Tensor | None) -> Tensor:
    """Log of the weighted mean of each sentence's distributions: [S * P, V] and [S, P] -> [S, V]. Where there is one a
    sentence (weights None) they are handed through as they are."""
    if weights is None:
        return logits
    apart = logits.log_softmax(-1).view(*weights.shape, -1)
    return torch.logsumexp(apart + weights.log()[..., None], 1)
