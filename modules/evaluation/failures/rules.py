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

from modules.audio.loudness import frame_power
from modules.evaluation.alignment import without_tones
from modules.evaluation.failures.paths import JUMP_COST, Path, walk
from modules.inference.finishing import raw_levels

KINDS = ("lost", "repeated", "runaway", "silent", "clipped")
HEARD_KINDS = ("lost", "repeated")
"""The ones that need an ear; for the others the sound alone tells something."""
SHORTEST_RUN, LONGEST_RUN = 6, 12
"""Phones: shorter words may be swallowed in fast speech, and the recogniser alone loses as many; what is as long as the
second is a clause in a text of any length."""
RUN_SHARE = 0.2
"""Of the sentence, between those two: what is as long as this is a clause of it."""
LOST_SHARE = 0.45
"""Of all phones of a text that is no shorter than a run: so many that were not heard are lost, however scattered."""
EXTRA_RUN = 8
"""Phones in a row that were heard and that the text does not explain."""
PHONE_SECONDS = 0.085
_BRIEF = frozenset("jwh")
"""Labels that mostly stand for the colour or the breath of their neighbour, and take hardly any time."""
EDGE_SECONDS = 0.25
TOO_LONG, TOO_SHORT = 2.5, 0.35
LEAST_SPEECH = 0.25
"""Of the expected length: less sound above the silence than this is no speech."""
QUIET_PEAK = 10 ** (-50 / 20)
QUIET_RAW_RMS = 10 ** (-50 / 20)
"""Of the decoder's sound before it is levelled, which would lift hiss to the loudness of speech."""
FULL_SCALE = 0.999
FLAT_SHARE = 0.002
"""Of all samples before levelling: a waveform that is flat at its peak for longer was cut there."""
_MATCH_WEIGHT = 2.0
_AGAIN_SHARE = 0.4
_AGAIN_SLACK = 2
"""Phones: the edges of what is said again are often misheard; on source audio nothing comes near."""


@dataclass(frozen=True)
class RawSound:
    """The decoder's sound before it is levelled, see `modules.inference.finishing.raw_levels`. Its peak tells nothing:
    the decoder is not limited to full scale, and levelling brings down what is above it."""

    rms: float
    flat_share: float


@dataclass(frozen=True)
class Verdict:
    """What is wrong with one output; None where no ear could tell.

    Args:
        lost_phones: longest run of expected phones that were not heard; again_phones: phones heard twice;
            extra_phones: longest run of heard phones that the text does not explain; lost_share: of all its phones.
    """

    lost: bool | None
    repeated: bool | None
    runaway: bool
    silent: bool
    clipped: bool
    lost_phones: int = 0
    again_phones: int = 0
    extra_phones: int = 0
    lost_share: float = 0.0


@dataclass(frozen=True)
class Words:
    """What was heard against the text: longest run lost, phones said again, longest run of others, share lost; and
    whether what was said again is a failure."""

    lost: int
    again: int
    extra: int
    lost_share: float
    repeated: bool = False


def run_threshold(length: int) -> int:
    """Phones that make a run long enough to count, in a text of `length` phones; of a short text all of them."""
    return min(max(1, length), max(SHORTEST_RUN, min(LONGEST_RUN, math.ceil(RUN_SHARE * length))))


def usual_seconds(phones: Sequence[str]) -> float:
    """Usual length of a sentence of these phones, with a little silence at its edges."""
    return EDGE_SECONDS + PHONE_SECONDS * sum(phone not in _BRIEF for phone in phones)


def lost_run(expected: Sequence[str], path: Path) -> int:
    """Length of the longest run of expected phones that were not heard.

    A match alone among misses is chance: only matches that stand next to another one in both sequences count, and one
    of those breaks a run only where it outweighs the misses around it.
    """
    heard = {i for i, _ in matches_that_count(path, len(expected))}
    return _longest_run([-1 if i in heard else 1 for i in range(len(expected))])


def extra_run(heard: Sequence[str], path: Path, length: int) -> int:
    """Length of the longest run of heard phones [M] that a text of `length` phones does not explain. What stands where
    another phone was expected is a mistake, of the voice or of the ear, and not more than the text has."""
    right = {j for _, j in matches_that_count(path, length)}
    instead = {j for _, j in path.visits} - right
    return _longest_run([-1 if j in right else 0 if j in instead else 1 for j in range(len(heard))])


def _longest_run(signs: Sequence[int]) -> int:
    """Length of the longest run of 1, where -1 breaks a run only if it outweighs what is around it; 0 counts for
    neither."""
    best = start = 0
    score = top = 0.0
    for i, sign in enumerate(signs):
        score += -_MATCH_WEIGHT if sign < 0 else float(sign)
        if score <= 0:
            score, top, start = 0.0, 0.0, i + 1
        elif score > top:
            top = score
            run = signs[start : i + 1]
            best = max(best, run.count(1) - run.count(-1))
    return best


def said_again(path: Path, length: int = SHORTEST_RUN) -> int:
    """Length of the stretches that were heard twice; of one that counts, two fifths at the least were heard both
    times."""
    times = Counter(i for i, _ in matches_that_count(path, length))
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


def matches_that_count(path: Path, length: int) -> set[tuple[int, int]]:
    """The solid matches; all matches in a text of `length` phones that is too short for neighbours."""
    if length >= SHORTEST_RUN:
        return solid_matches(path)
    return {visit for visit, same in zip(path.visits, path.matched, strict=True) if same}


def words_gone_wrong(expected: Sequence[str], heard: Sequence[str]) -> tuple[int, int]:
    """(longest run lost, phones said again), tones not counted."""
    found = compare_words(expected, heard)
    return found.lost, found.again


def compare_words(expected: Sequence[str], heard: Sequence[str]) -> Words:
    """What was heard [M] against the phones of the text [N], tones not counted."""
    wanted, got = without_tones(expected), without_tones(heard)
    size, back = len(wanted), walk(wanted, got, JUMP_COST)
    again = said_again(back, size) if back.jumps else 0
    forth = walk(wanted, got)
    repeated = is_repeated(again, size)
    if not repeated and again >= SHORTEST_RUN:
        # Too short for a clause of this text, but long enough to pass for babble behind it: what ways back explain was
        # said twice, and is told as that.
        repeated = extra_run(got, forth, size) >= EXTRA_RUN > extra_run(got, back, size)
    path = back if repeated else forth
    reached = {i for i, _ in matches_that_count(path, size)}
    lost_share = 1 - len(reached) / max(1, size)
    return Words(lost_run(wanted, path), again, extra_run(got, path, size), lost_share, repeated)


def is_lost(words: Words, length: int) -> bool:
    """Whether a clause, or too much of all, is missing in a text of `length` phones."""
    return words.lost >= run_threshold(length) or (length >= SHORTEST_RUN and words.lost_share >= LOST_SHARE)


def is_repeated(again: int, length: int) -> bool:
    """Whether so many phones said again are a failure in a sentence of `length` phones."""
    need = run_threshold(length)
    return again >= need - (_AGAIN_SLACK if need >= SHORTEST_RUN else 0)


def judge_output(
    wav: np.ndarray,
    sample_rate: int,
    usual: float,
    stopped_by: Sequence[str] = (),
    expected: Sequence[str] = (),
    heard: Sequence[str] | None = None,
    raw: RawSound | None = None,
) -> Verdict:
    """The verdict on wav float32 [S].

    Args:
        usual: seconds that the text usually takes.
        stopped_by: of each piece, see `modules.inference.options.Segment`.
        expected: phones of the text [N]; heard: what the recogniser heard [M], None where it knows no such language.
        raw: of the sound before it was levelled; None where it never was.
    """
    lost = repeated = None
    words = Words(0, 0, 0, 0.0)
    if heard is not None and len(expected):
        words = compare_words(expected, heard)
        lost, repeated = is_lost(words, len(expected)), words.repeated
    return Verdict(
        lost,
        repeated,
        is_runaway(len(wav) / sample_rate, usual, stopped_by) or words.extra >= EXTRA_RUN,
        is_silent(wav, sample_rate, usual, raw),
        is_clipped(wav, raw),
        words.lost,
        words.again,
        words.extra,
        words.lost_share,
    )


def is_runaway(seconds: float, usual: float, stopped_by: Sequence[str] = ()) -> bool:
    """Stopped by a limit or a guard, or far longer than usual."""
    return any(reason in ("limit", "guard") for reason in stopped_by) or seconds > TOO_LONG * max(0.5, usual)


def is_silent(wav: np.ndarray, sample_rate: int, usual: float, raw: RawSound | None = None) -> bool:
    """No sound, far too short, or hardly anything above the silence; hiss that was lifted to speech is silence too."""
    seconds = len(wav) / sample_rate
    if raw is not None and raw.rms < QUIET_RAW_RMS:
        return True
    if seconds < TOO_SHORT * usual or float(np.abs(wav).max(initial=0.0)) < QUIET_PEAK:
        return True
    return speech_seconds(wav, sample_rate) < LEAST_SPEECH * usual


def is_clipped(wav: np.ndarray, raw: RawSound | None = None) -> bool:
    """Whether any sample is at full scale; of a sound that was levelled also whether it was flat at its peak before."""
    before = raw is not None and raw.flat_share > FLAT_SHARE
    return before or bool(np.any(np.abs(wav) >= FULL_SCALE))


def raw_sound(wav: np.ndarray) -> RawSound:
    """The levels of a sound [S] that nobody changed."""
    levels = raw_levels(wav)
    return RawSound(levels["raw_rms"], levels["raw_flat_share"])


def speech_seconds(wav: np.ndarray, sample_rate: int) -> float:
    """Length of all 20 ms frames within 35 dB of the loudest one; a single click is none."""
    power = frame_power(wav, sample_rate // 50)
    if not len(power):
        return 0.0
    active = power > max(float(power.max()) * 10**-3.5, QUIET_PEAK**2 / 10)
    return float(active.sum()) / 50
