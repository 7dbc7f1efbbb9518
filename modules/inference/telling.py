"""What a synthesis tells while it works, and whether it should go on."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from modules.errors import Stopped
from modules.inference.options import Progress, Segment

ProgressCallback = Callable[[Progress], None]
StopCallback = Callable[[], bool]


@dataclass
class Told:
    """Progress and stop of one synthesis.

    Args:
        total: sentences.
        on_progress: called at the start of each batch of sentences and at every frame of its first one.
        should_stop: asked at every step.
    """

    total: int
    on_progress: ProgressCallback | None = None
    should_stop: StopCallback | None = None
    seconds_done: float = field(default=0.0, init=False)

    def check(self) -> None:
        """Raises Stopped when it should stop."""
        if self.should_stop is not None and self.should_stop():
            raise Stopped

    def begin(self, index: int) -> None:
        """The sentence `index`, from 0, is next. Raises Stopped."""
        self.check()
        self._tell(index, 0)

    def frames_of(self, index: int) -> Callable[[int, Tensor], None] | None:
        """For `Request.on_frame` of the sentence."""
        if self.on_progress is None:
            return None
        return lambda frames, codes: self._tell(index, frames)

    def add(self, segment: Segment) -> None:
        """A sentence is done."""
        self.seconds_done += segment.seconds

    def _tell(self, index: int, frames: int) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(index + 1, self.total, frames, self.seconds_done))
