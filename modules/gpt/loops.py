"""Noticing when a model goes round in circles, and what silence is. Plain numbers, frame by frame."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Quiet:
    """What silence is: the phone of a pause where a model says phones, else content codes that stand for it."""

    codes: frozenset[int] = frozenset()
    phone: int | None = None

    def holds(self, code: int, phone: int | None = None) -> bool:
        """Whether a frame of this content, and of this phone where it is known, is silence."""
        if phone is None or self.phone is None:
            return code in self.codes
        return phone == self.phone


class LoopDetector:
    """Tells when the codes repeat a short pattern longer than speech ever does.

    For every period p it counts how many codes in a row equal the code p before. A pattern counts as a loop after
    `repeats` more rounds and at least `frames` codes; a run of `quiet` codes may be `quiet_factor` times as long.

    Args:
        max_period: longest pattern that is watched, frames.
        repeats: rounds after the first.
        frames: fewest repeated frames (25 are a second at 25 Hz).
        quiet: codes that stand for silence.
        quiet_factor: how much longer silence may last.
    """

    def __init__(
        self,
        max_period: int = 32,
        repeats: int = 4,
        frames: int = 20,
        quiet: Iterable[int] = (),
        quiet_factor: int = 4,
    ):
        periods = np.arange(1, max_period + 1)
        self._limits = np.maximum(repeats * periods, frames)
        self._least = self._limits.min()
        self._runs = np.zeros(max_period, np.int64)
        self._past = np.full(max_period, -1, np.int64)  # past[p - 1] is the code p frames ago
        self._quiet = frozenset(quiet)
        self._quiet_factor = quiet_factor
        self.period = 0
        self.length = 0

    def update(self, code: int, quiet: bool | None = None) -> bool:
        """Take the next code; True when a loop is certain. Then `period` and `length` (repeated frames) tell which.
        `quiet` says whether it is silence, for those who know better than by the code."""
        quiet = code in self._quiet if quiet is None else quiet
        self._runs += 1
        self._runs *= self._past == code
        self._past[1:] = self._past[:-1]
        self._past[0] = code
        if self._runs.max() < self._least:
            return False
        limits = self._limits * self._quiet_factor if quiet else self._limits
        over = np.flatnonzero(self._runs >= limits)
        if not len(over):
            return False
        self.period = int(over[0]) + 1
        self.length = int(self._runs[over[0]])
        return True


class PhoneLoops:
    """Tells when phones go round in circles or one of them never ends, however long each of them is held.

    Phones are compared run by run, so that another rhythm does not hide a loop. Nobody says the same word seven times
    in a row by chance; laughter and drum beats stay below the bounds.

    Args:
        pause: the phone of a pause, which only separates; None: there is none.
        longest: most frames of one phone.
        max_period: longest pattern that is watched, phones.
        repeats: rounds after the first.
        phones: fewest repeated phones.
    """

    def __init__(self, pause: int | None, longest: int = 40, max_period: int = 16, repeats: int = 6, phones: int = 20):
        periods = np.arange(1, max_period + 1)
        self._limits = np.maximum(repeats * periods, phones)
        self._runs = np.zeros(max_period, np.int64)
        self._past = np.full(max_period, -1, np.int64)  # past[p - 1] is the phone p runs ago
        self._starts: list[int] = []
        self._pause, self._longest = pause, longest
        self._last = self._frame = -1
        self.length = 0

    def update(self, phone: int) -> bool:
        """Take the phone of the next frame; True when a loop is certain. Then `length` tells its frames, those of the
        first round or of a phone's usual length left out."""
        self._frame += 1
        begins, self._last = phone != self._last, phone
        if phone == self._pause:
            return False
        if begins:
            self._starts.append(self._frame)
            self._runs = np.where(self._past == phone, self._runs + 1, 0)
            self._past[1:] = self._past[:-1]
            self._past[0] = phone
            over = np.flatnonzero(self._runs >= self._limits)
            if len(over):
                self.length = self._frame + 1 - self._starts[-int(self._runs[over[0]])]
                return True
        held = self._frame + 1 - self._starts[-1]
        self.length = held - self._longest // 4
        return held >= self._longest
