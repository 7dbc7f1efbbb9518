"""Watching over speech while it comes into being: endless tails, endless pauses, circles.

None of it draws anything: speech that nothing is wrong with is the same with and without a watch.
"""

from typing import Literal, NamedTuple

from modules.gpt.choosing import DecodeOptions
from modules.gpt.loops import LoopDetector, PhoneLoops, Quiet
from modules.gpt.reading import Pointer

StoppedBy = Literal["eos", "limit", "guard"]

_LOST = 4
"""Silence of so many longest pauses, with text left to say: the place was lost."""
_UNSURE = 2
"""How much longer a tail must be where the end of the text is only guessed."""


class Outcome(NamedTuple):
    """What becomes of a frame: whether it was the last, how many of the last frames do not count, and whether this one
    is left out."""

    stopped_by: StoppedBy | None = None
    cut: int = 0
    left_out: bool = False


_GO_ON = Outcome()


class Watch:
    """Follows frame after frame.

    - After the end of the text (where the pointer stands at it; without a pointer after `usual_frames`) a silence of
      `tail_frames` ends the speech; twice that where the end is only guessed.
    - Of a pause `pause_frames` count; if it does not end at all, the speech is stopped.
    - Content or phones that go round in circles stop it.

    Args:
        options: of decoding; a rule whose number is 0 is off, `guard` switches the last one.
        quiet: what silence is.
        phones: whether the model says phones.
        pointer: where the text is read, None for models without one.
    """

    def __init__(self, options: DecodeOptions, quiet: Quiet, phones: bool = False, pointer: Pointer | None = None):
        self._options, self._quiet, self._pointer = options, quiet, pointer
        self._loops = LoopDetector(quiet=quiet.codes) if options.guard else None
        longest = {"longest": 2 * options.pause_frames} if options.pause_frames else {}
        self._phones = PhoneLoops(quiet.phone, **longest) if options.guard and phones else None
        self._frames = self._silence = 0
        self._heard = False

    def add(self, code: int, phone: int | None = None) -> Outcome:
        """The next frame's content, and its phone where the model says it."""
        quiet = self._quiet.holds(code, phone)
        self._frames += 1
        self._silence = self._silence + 1 if quiet else 0
        self._heard |= not quiet
        if self._loops is not None and self._loops.update(code, quiet):
            # One round of the pattern may be speech; what repeats it is not.
            return Outcome("guard", self._loops.length)
        if self._phones is not None and phone is not None and self._phones.update(phone):
            return Outcome("guard", self._phones.length)
        return self._pause() if self._silence else _GO_ON

    def _pause(self) -> Outcome:
        """What becomes of a frame of silence."""
        o = self._options
        tail = o.tail_frames * (1 if self._pointer is not None and not self._pointer.most else _UNSURE)
        if tail and self._silence >= tail and self._frames >= o.min_frames and self._finished:
            return Outcome("eos")
        if not o.pause_frames or self._silence <= o.pause_frames:
            return _GO_ON
        if self._silence >= _LOST * o.pause_frames:
            return Outcome("guard", self._silence)
        return Outcome(left_out=True)

    @property
    def _finished(self) -> bool:
        """Whether all of the text was said, as far as anybody knows; nothing is said by silence alone."""
        if not self._heard:
            return False
        if self._pointer is not None:
            return self._pointer.at_end
        return 0 < self._options.usual_frames <= self._frames
