"""When a sentence counts as failed: words lost, words said twice, no end, no speech, samples at full scale.

The recogniser errs, so every rule asks for more than it gets wrong on source audio; how often each rule is wrong
there, and how often it sees a planted failure, is measured by `calibration` and stands beside every rate.

Shapes: S samples, N expected phones, M heard phones.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.evaluation.alignment import without_tones
from modules.evaluation.failures.paths import JUMP_COST, Path, walk

KINDS = ("lost", "repeated", "runaway", "silent", "clipped")
HEARD_KINDS = ("lost", "repeated")
"""The ones that need an ear; the others need the sound alone."""
SHORTEST_RUN = 6
"""Phones: shorter words may be swallowed in fast speech, and the recogniser alone loses as many."""
RUN_SHARE = 0.2
"""Of the sentence: what is as long as this is a clause of it."""
PHONE_SECONDS = 0.085
_BRIEF = frozenset("jwh")
"""Labels that mostly stand for the colour or the breath of their neighbour, and take hardly any time."""
EDGE_SECONDS = 0.25
TOO_LONG, TOO_SHORT = 2.5, 0.35
LEAST_SPEECH = 0.25
"""Of the expected length: less sound above the silence than this is no speech."""
QUIET_PEAK = 10 ** (-50 / 20)
FULL_SCALE = 0.999
_MATCH_WEIGHT = 2.0
_AGAIN_SHARE = 0.4
_AGAIN_SLACK = 2
"""Phones: the edges of what is said again are often misheard; on source audio nothing comes near."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with one output; None where no ear could tell.

    Args:
        lost_phones: longest run of expected phones that were not heard; again_phones: phones heard twice.
    """

    lost: bool | None
    repeated: bool | None
    runaway: bool
    silent: bool
    clipped: bool
    lost_phones: int = 0
    again_phones: int = 0


def run_threshold(length: int) -> int:
    """Phones that make a run long enough to count, in a sentence of `length` phones."""
    return max(SHORTEST_RUN, math.ceil(RUN_SHARE * length))


def usual_seconds(phones: Sequence[str]) -> float:
    """Usual length of a sentence of these phones, with a little silence at its edges."""
    return EDGE_SECONDS + PHONE_SECONDS * sum(phone not in _BRIEF for phone in phones)


def lost_run(expected: Sequence[str], path: Path) -> int:
    """Length of the longest run of expected phones that were not heard.

    A match alone among misses is chance: only matches that stand next to another one in both sequences count, and one
    of those breaks a run only where it outweighs the misses around it.
    """
    heard = {i for i, _ in solid_matches(path)}
    best = start = 0
    score = top = 0.0
    for i in range(len(expected)):
        score += -_MATCH_WEIGHT if i in heard else 1.0
        if score <= 0:
            score, top, start = 0.0, 0.0, i + 1
        elif score > top:
            top = score
            best = max(best, i + 1 - start - 2 * sum(k in heard for k in range(start, i + 1)))
    return best


def said_again(path: Path) -> int:
    """Length of the stretches that were heard twice; of one that counts, more than half was heard both times."""
    times = Counter(i for i, _ in solid_matches(path))
    total = 0
    for start, end in ((to, origin) for origin, to in path.jumps):
        twice = sum(times[i] >= 2 for i in range(start, end))
        if twice >= _AGAIN_SHARE * (end - start):
            total += end - start
    return total


def solid_matches(path: Path) -> set[tuple[int, int]]:
    """(expected, heard) places of matches that have a matching neighbour on the diagonal."""
    good = {visit for visit, same in zip(path.visits, path.matched, strict=True) if same}
    return {(i, j) for i, j in good if (i - 1, j - 1) in good or (i + 1, j + 1) in good}


def words_gone_wrong(expected: Sequence[str], heard: Sequence[str]) -> tuple[int, int]:
    """(longest run lost, phones said again), tones not counted."""
    wanted, got = without_tones(expected), without_tones(heard)
    back = walk(wanted, got, JUMP_COST)
    again = said_again(back) if back.jumps else 0
    return lost_run(wanted, back if is_repeated(again, len(wanted)) else walk(wanted, got)), again


def is_repeated(again: int, length: int) -> bool:
    """Whether so many phones said again are a failure in a sentence of `length` phones."""
    return again >= run_threshold(length) - _AGAIN_SLACK


def judge_output(
    wav: np.ndarray,
    sample_rate: int,
    usual: float,
    stopped_by: Sequence[str] = (),
    expected: Sequence[str] = (),
    heard: Sequence[str] | None = None,
) -> Verdict:
    """The verdict on wav float32 [S].

    Args:
        usual: seconds that the text usually takes.
        stopped_by: of each piece, see `modules.inference.options.Segment`.
        expected: phones of the text [N]; heard: what the recogniser heard [M], None where it knows no such language.
    """
    lost = repeated = None
    lost_phones = again = 0
    if heard is not None and len(expected):
        lost_phones, again = words_gone_wrong(expected, heard)
        lost, repeated = lost_phones >= run_threshold(len(expected)), is_repeated(again, len(expected))
    return Verdict(
        lost, repeated, is_runaway(len(wav) / sample_rate, usual, stopped_by),
        is_silent(wav, sample_rate, usual), is_clipped(wav), lost_phones, again,
    )  # fmt: skip


def is_runaway(seconds: float, usual: float, stopped_by: Sequence[str] = ()) -> bool:
    """Stopped by a limit or a guard, or far longer than usual."""
    return any(reason in ("limit", "guard") for reason in stopped_by) or seconds > TOO_LONG * max(0.5, usual)


def is_silent(wav: np.ndarray, sample_rate: int, usual: float) -> bool:
    """No sound, far too short, or hardly anything above the silence."""
    seconds = len(wav) / sample_rate
    if seconds < TOO_SHORT * usual or float(np.abs(wav).max(initial=0.0)) < QUIET_PEAK:
        return True
    return speech_seconds(wav, sample_rate) < LEAST_SPEECH * usual


def is_clipped(wav: np.ndarray) -> bool:
    """Whether any sample is at full scale."""
    return bool(np.any(np.abs(wav) >= FULL_SCALE))


def speech_seconds(wav: np.ndarray, sample_rate: int) -> float:
    """Length of all 20 ms frames within 35 dB of the loudest one; a single click is none."""
    frame = sample_rate // 50
    count = len(wav) // frame
    if count == 0:
        return 0.0
    power = np.mean(np.square(wav[: count * frame].reshape(count, frame).astype(np.float64)), axis=1)
    active = power > max(float(power.max()) * 10**-3.5, QUIET_PEAK**2 / 10)
    return float(active.sum()) / 50
