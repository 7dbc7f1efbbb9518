"""Speech while it comes into being: from the steps of a pattern to frames, and when to stop.

Whatever the pattern, callers count in frames.

Shape letters: S sentences, n rows, K codebooks, G frames of a step, W = G * K places of a step, H hidden.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from modules.gpt.choosing import FrameChooser
from modules.gpt.patterns import IGNORED
from modules.gpt.watching import StoppedBy, Watch

__all__ = ["DelayWriter", "GroupWriter", "Speech", "StoppedBy", "Writer", "writer_of"]


class Speech:
    """Frames of a sentence so far, and why there are no more.

    Args:
        limit: most frames.
        watch: notices what goes wrong; None: nobody looks.
        on_frame: see `Decoder.generate`.
        tokens: which streams of a frame are those of the tokens.
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
        self.complete = False
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
        """The next frame is complete; its content is known already, and so is whether it counts."""
        place = len(self.frames)
        self.frames.append(frame)
        if self.on_frame is not None and place < len(self.content) and place not in self._left_out:
            self.on_frame(len(self.frames), torch.tensor(frame[self._tokens]))

    def kept(self) -> list[int]:
        """The places of the frames that count."""
        said = range(min(len(self.frames), len(self.content)))
        return [place for place in said if place not in self._left_out]


class Writer(Protocol):
    """Makes a step of every hidden state, for all sentences; a sentence that has come to its end is `complete`."""

    def write(self, hidden: Tensor) -> Tensor:
        """hidden [n, H] -> the steps [S, W] that were drawn from it. Those of complete sentences mean nothing."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these sentences alone."""


class GroupWriter:
    """Whole frames, G a step."""

    def __init__(self, chooser: FrameChooser, speeches: Sequence[Speech]):
        self.chooser, self.speeches = chooser, list(speeches)

    def keep(self, rows: Sequence[int]) -> None:
        """See `Writer`."""
        self.chooser.keep(rows)
        self.speeches = [self.speeches[row] for row in rows]

    def write(self, hidden: Tensor) -> Tensor:
        """See `Writer`."""
        heads, chooser, step = self.chooser.heads, self.chooser, []
        for _ in range(heads.pattern.group_size):
            ending = [chooser.must_end(row) for row in range(len(self.speeches))]
            rows = [frame.repeat_interleave(len(hidden) // len(frame), 0) for frame in step]
            frames = chooser.frame(heads.place(hidden, rows))
            step.append(frames)
            for row, frame in enumerate(frames.tolist()):
                self._take(row, None if ending[row] or frame[0] == heads.pattern.end_code else frame)
            if all(speech.complete for speech in self.speeches):
                break
        return step[0] if len(step) == 1 else torch.cat(step, 1)

    def _take(self, row: int, frame: list[int] | None) -> None:
        speech, pattern = self.speeches[row], self.chooser.heads.pattern
        if speech.complete:
            return
        if frame is None:
            speech.add_content(None)
        else:
            if self.chooser.pointers is not None:
                self.chooser.pointers[row].advance(frame[-1])
            speech.add_content(frame[pattern.content], frame[0] if pattern.phones else None)
            speech.add_frame(frame)
        speech.complete = speech.stopped_by is not None


class DelayWriter:
    """Stream k of a frame is drawn k steps after its content. After the last content the other streams follow."""

    def __init__(self, chooser: FrameChooser, speeches: Sequence[Speech]):
        self.chooser, self.speeches = chooser, list(speeches)
        self.streams = chooser.heads.pattern.streams
        self._begun: list[list[list[int]]] = [[] for _ in speeches]

    def keep(self, rows: Sequence[int]) -> None:
        """See `Writer`."""
        self.chooser.keep(rows)
        self.speeches, self._begun = ([of[row] for row in rows] for of in (self.speeches, self._begun))

    def write(self, hidden: Tensor) -> Tensor:
        """See `Writer`."""
        chooser = self.chooser
        drawn = [chooser.first(hidden), *(chooser.stream(k, hidden, ()) for k in range(1, self.streams))]
        steps = torch.stack(drawn, 1).tolist()
        for row, step in enumerate(steps):
            self._take(row, step)
        return torch.tensor(steps, device=hidden.device)

    def _take(self, row: int, step: list[int]) -> None:
        """Give a sentence what was drawn for it, and empty the places of the step that nothing belongs to."""
        speech, begun = self.speeches[row], self._begun[row]
        older = list(begun)
        if speech.stopped_by is None:
            code = None if step[0] == self.chooser.heads.pattern.end_code else step[0]
            speech.add_content(code)
            if code is not None:
                begun.append([code])
            else:
                step[0] = IGNORED
        else:
            step[0] = IGNORED
        due = {len(frame) for frame in older}
        for frame in older:
            frame.append(step[len(frame)])
        for stream in range(1, self.streams):
            if stream not in due:
                step[stream] = IGNORED
        while begun and len(begun[0]) == self.streams:
            speech.add_frame(begun.pop(0))
        speech.complete = speech.stopped_by == "guard" or (speech.stopped_by is not None and not begun)


def writer_of(chooser: FrameChooser, speeches: Sequence[Speech]) -> Writer:
    """The writer of the model's pattern."""
    return (DelayWriter if chooser.heads.pattern.lag else GroupWriter)(chooser, speeches)
