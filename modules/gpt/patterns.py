"""How the code frames of an utterance become steps of the language model, and back.

A step is one position of the sequence: what enters there, and what is predicted from one hidden state. It has
W = G * K places, frame by frame of its group and stream by stream of each frame.

- G = `group_size` frames are one step (grouped code modelling: VALL-E 2, Chen et al. 2024, arXiv:2406.05370). A last
  incomplete group is filled with nothing, and EOS is a class of the content of every frame of the group, so that an
  utterance may end inside one.
- `codebooks` says what of a step depends on what: "chain": every code on those before it in the step; "parallel": none
  on another of its step; "delay" (MusicGen, Copet et al. 2023, arXiv:2306.05284): as parallel, but stream k of a frame
  is said k steps after its content, so that it has read what the earlier streams are. T frames then take T + K - 1
  steps; there is no such thing as a delay inside a group.

- `phones` puts a stream of the model's own in front of the tokens': the phone that is being said. A frame without a
  known phone (a reference at run time) has a gap there, and EOS is a class of the phones instead of the content.
- `pointer` puts another one behind them: by how many text units the place of reading advances after the frame (see
  `reading.py`). It is only predicted; what enters is the text at that place.

Shape letters: T frames, K streams (those of the model's own included), G frames of a group, W places of a step, S steps
that enter, P steps predicted.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from modules.config import GPTConfig
from modules.errors import ConfigError

ADVANCES = 8
"""Classes of the pointer's advances: 0 to 7 text units."""
IGNORED = -100
"""No code at this place: nothing enters, nothing is learned."""


@dataclass(frozen=True)
class Pattern:
    """One way to lay frames out in steps.

    Args:
        codebook_sizes: classes of each code stream; the first of the tokens carries content, before it stand the
            phones if there are any.
        group_size: frames of a step.
        codebooks: see the module's text.
        phones: whether stream 0 is that of the phones.
        pointer: whether the last stream is that of the pointer's advances.

    Raises:
        ConfigError: gpt_delay_grouped, gpt_phones_chain.
    """

    codebook_sizes: tuple[int, ...]
    group_size: int = 1
    codebooks: Literal["chain", "parallel", "delay"] = "chain"
    phones: bool = False
    pointer: bool = False

    def __post_init__(self) -> None:
        if (self.phones or self.pointer) and (self.codebooks != "chain" or self.group_size > 1):
            raise ConfigError(
                "gpt_phones_chain",
                "gpt.phones or gpt.reading pointer is set, and what a frame says depends on them; set gpt.codebooks to "
                "chain and gpt.group_size to 1, or gpt.phones to 0 and gpt.reading to attention.",
            )
        if self.codebooks == "delay" and self.group_size > 1:
            raise ConfigError(
                "gpt_delay_grouped",
                "gpt.codebooks is delay and gpt.group_size is {size}; a delay needs groups of one frame, "
                "so set group_size to 1 or codebooks to chain or parallel.",
                size=self.group_size,
            )

    @property
    def streams(self) -> int:
        """K, the codes of a frame."""
        return len(self.codebook_sizes)

    @property
    def width(self) -> int:
        """W, the places of a step."""
        return self.group_size * self.streams

    @property
    def content(self) -> int:
        """Number of the content's stream."""
        return int(self.phones)

    @property
    def tokens(self) -> slice:
        """Streams of the tokens, without those of the model's own."""
        return slice(self.content, self.streams - self.pointer)

    @property
    def end_code(self) -> int:
        """Class of EOS in stream 0."""
        return self.codebook_sizes[0]

    @property
    def chained(self) -> bool:
        """Whether later codes of a step depend on the earlier ones."""
        return self.codebooks == "chain"

    @property
    def lag(self) -> int:
        """Steps between a frame's first code and its last."""
        return self.streams - 1 if self.codebooks == "delay" else 0

    @property
    def has_gaps(self) -> bool:
        """Whether places of a step that enters may be empty."""
        return self.group_size > 1 or self.lag > 0 or self.phones or self.pointer

    def check_width(self, codes: int) -> None:
        """Raises ValueError where steps of so many codes are not of this pattern."""
        if codes != self.width:
            raise ValueError(f"steps of {codes} codes, this model's have {self.width}")

    def steps(self, frames: int) -> int:
        """S, the steps that `frames` frames take in a sequence. Works on arrays too."""
        # The lag of nothing is nothing.
        return -(-frames // self.group_size) + self.lag * (frames > 0)

    def frames_within(self, steps: int) -> int:
        """Most frames that take no more than `steps` steps."""
        return max(steps - self.lag, 0) * self.group_size

    def pack(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames [T, K] to what enters, [S, W], and to what is predicted, [P, W]. Frames may be those of the tokens
        alone: then phones and advances are not known.

        Prediction 0 is made before the first step entered, prediction s after step s - 1; P is at most S + 1. EOS
        stands in stream 0 right after the last frame. Empty places are IGNORED.
        """
        if codes.shape[1] == self.tokens.stop - self.tokens.start < self.streams:
            whole = np.full((len(codes), self.streams), IGNORED, np.int64)
            whole[:, self.tokens] = codes
            codes = whole
        frames = len(codes)
        entering, predicted = self.steps(frames), frames // self.group_size + 1
        if self.lag:
            predicted = max(predicted, entering)
            inputs = self._delayed(codes, entering)
            targets = self._delayed(codes, predicted)
            targets[frames, 0] = self.end_code
            return inputs, targets
        inputs = _filled(codes, entering * self.group_size)
        if self.pointer:
            inputs[:, -1] = IGNORED
        targets = _filled(codes, predicted * self.group_size)
        targets[frames, 0] = self.end_code
        return inputs.reshape(entering, self.width), targets.reshape(predicted, self.width)

    def unpack(self, steps: np.ndarray) -> np.ndarray:
        """Steps [S, W], as entered or as predicted, to the frames [T, K] that are complete before the first EOS or the
        first frame without content."""
        if not self.lag:
            frames = steps.reshape(-1, self.streams)
        else:
            count = max(len(steps) - self.lag, 0)
            frames = np.stack([steps[k : k + count, k] for k in range(self.streams)], 1)
        over = np.flatnonzero((frames[:, self.content] < 0) | (frames[:, 0] == self.end_code))
        return frames[: over[0]] if len(over) else frames

    def _delayed(self, codes: np.ndarray, steps: int) -> np.ndarray:
        laid = np.full((steps, self.streams), IGNORED, np.int64)
        for k in range(self.streams):
            laid[k : k + len(codes), k] = codes[:, k]
        return laid


def pattern_of(config: GPTConfig, codebook_sizes: tuple[int, ...]) -> Pattern:
    """The pattern that a config asks for, over the streams of the tokens. Raises ConfigError, see `Pattern`."""
    phones = (config.phones,) if config.phones else ()
    advances = (ADVANCES,) if config.reading == "pointer" else ()
    sizes = (*phones, *codebook_sizes, *advances)
    return Pattern(sizes, config.group_size, config.codebooks, bool(phones), bool(advances))


def plain_pattern(end_code: int, streams: int) -> Pattern:
    """One frame a step, its codes in a chain; all that `arrange` must know of it is the EOS class."""
    return Pattern((end_code,) * streams)


def _filled(codes: np.ndarray, frames: int) -> np.ndarray:
    laid = np.full((frames, codes.shape[1]), IGNORED, np.int64)
    laid[: len(codes)] = codes
    return laid
