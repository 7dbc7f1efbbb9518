"""Speech while it comes into being: from the steps of a pattern to frames, and when to stop.

Whatever the pattern, callers count in frames.

Shape letters: n rows, K codebooks, G frames of a step, W = G * K places of a step, H hidden.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from modules.gpt.choosing import FrameChooser
from modules.gpt.patterns import IGNORED
from modules.gpt.watching import StoppedBy, Watch

__all__ = ["DelayWriter", "GroupWriter", "Speech", "StoppedBy", "Writer", "writer_of"]


class Speech:
    """Frames so far, and why there are no more.

    Args:
        limit: most frames.
        tokens: which streams of a frame are those of the tokens.
        watch: notices what goes wrong; None: nobody looks.
        on_frame: see `Decoder.generate`.
    """

    def __init__(
        self,
        limit: int,
        watch: Watch | None,
        on_frame: Callable[[int, Tensor], None] | None,
        tokens: slice = slice(None),
    ):
        self.limit, self.watch, self.on_frame, self._tokens = limit, watch, on_frame, tokens
        self.frames: list[list[int]] = []
        self.content: list[int] = []
        self.stopped_by: StoppedBy | None = None
        self._left_out: set[int] = set()

    def add_content(self, code: int | None, phone: int | None = None) -> None:
        """The content of the next frame, None for EOS, and its phone where there is one; afterwards `stopped_by` says
        whether it was the last."""
        if code is None:
            self.stopped_by = "eos"
            return
        self.content.append(code)
        if self.watch is not None:
            self.stopped_by, cut, left_out = self.watch.add(code, phone)
            if left_out:
                self._left_out.add(len(self.content) - 1)
            del self.content[len(self.content) - cut :]
        if self.stopped_by is None and len(self.content) >= self.limit:
            self.stopped_by = "limit"

    def add_frame(self, frame: list[int]) -> None:
        """The next frame is complete."""
        self.frames.append(frame)
        if self.on_frame is not None:
            self.on_frame(len(self.frames), torch.tensor(frame[self._tokens]))

    def kept(self) -> list[int]:
        """The places of the frames that count."""
        said = range(min(len(self.frames), len(self.content)))
        return [place for place in said if place not in self._left_out]


class Writer(Protocol):
    """Makes a step of every hidden state."""

    def write(self, hidden: Tensor) -> list[int] | None:
        """hidden [n, H] -> the step [W] that was drawn from it; None when there is nothing more to say."""


class GroupWriter:
    """Whole frames, G a step."""

    def __init__(self, chooser: FrameChooser, speech: Speech):
        self.chooser, self.speech = chooser, speech

    def write(self, hidden: Tensor) -> list[int] | None:
        """See `Writer`."""
        heads, speech, step = self.chooser.heads, self.speech, []
        for _ in range(heads.pattern.group_size):
            frame = self.chooser.frame(heads.place(hidden, step), speech.content)
            if frame is not None:
                speech.add_frame(frame)
                step.append(frame)
            if frame is None:
                speech.add_content(None)
            else:
                speech.add_content(frame[heads.pattern.content], frame[0] if heads.pattern.phones else None)
            if speech.stopped_by is not None:
                return None
        return [code for frame in step for code in frame]


class DelayWriter:
    """Stream k of a frame is drawn k steps after its content. After the last content the other streams follow."""

    def __init__(self, chooser: FrameChooser, speech: Speech):
        self.chooser, self.speech = chooser, speech
        self.streams = chooser.heads.pattern.streams
        self._begun: list[list[int]] = []

    def write(self, hidden: Tensor) -> list[int] | None:
        """See `Writer`."""
        speech, step = self.speech, [IGNORED] * self.streams
        older = list(self._begun)
        if speech.stopped_by is None:
            code = self.chooser.first(hidden, speech.content)
            speech.add_content(code)
            if code is not None:
                self._begun.append([code])
                step[0] = code
        for frame in older:
            stream = len(frame)
            step[stream] = self.chooser.stream(stream, hidden, frame)
            frame.append(step[stream])
        while self._begun and len(self._begun[0]) == self.streams:
            speech.add_frame(self._begun.pop(0))
        ended = speech.stopped_by == "guard" or (speech.stopped_by is not None and not self._begun)
        return None if ended else step


def writer_of(chooser: FrameChooser, speech: Speech) -> Writer:
    """The writer of the model's pattern."""
    return (DelayWriter if chooser.heads.pattern.lag else GroupWriter)(chooser, speech)
