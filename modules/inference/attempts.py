"""Is what was spoken plausible speech, and if not, which of several tries is?

Every rule looks at what any model gives: how it ended, how long it is, how much of it is silence, its level. None knows
what was said.

Shapes: S samples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from modules.gpt.decode import Generated
from modules.inference.finishing import raw_levels
from modules.inference.lengths import Lengths
from modules.inference.options import MAX_SEED
from modules.speech.grouped import PROSODY_STREAM

RETRIES = 2
Alarm = Literal["guard", "limit", "length", "unfinished", "silent", "clipped"]
ALARM_COSTS: dict[Alarm, float] = {
    "guard": 2.0,
    "limit": 2.0,
    "length": 0.5,
    "unfinished": 1.0,
    "silent": 6.0,
    "clipped": 1.0,
}
"""What an alarm adds to the distance from the expected length, which is counted in nepers."""
_SILENT_SHARE = 0.9
_PAUSES_SHARE = 0.5
_SILENT_LEVEL = 10 ** (-50 / 20)
"""Root mean square below which a decoder has said nothing: speech leaves it some 25 dB above that."""
_ACTIVE_DB = 35.0
_ACTIVE_SHARE = 0.3
_FRAMES_PER_SECOND = 50
_FLAT_SHARE = 0.005


@dataclass(frozen=True)
class Attempt:
    """One try at a sentence: its codes, the seed that they were drawn with, the decoder's raw sound [S] (None where the
    codes were enough to tell that it failed), what is wrong, and how bad that is."""

    generated: Generated
    seed: int
    raw: np.ndarray | None = None
    alarms: tuple[Alarm, ...] = ()
    cost: float = 0.0


def judged(attempt: Attempt, lengths: Lengths, alarms: tuple[Alarm, ...]) -> Attempt:
    """The attempt with these alarms and what they cost."""
    generated = attempt.generated
    cost = abs(math.log((len(generated.codes) + 1) / (lengths.expected + 1)))
    cost += 2 * max(0.0, generated.quiet - _PAUSES_SHARE) + sum(ALARM_COSTS[alarm] for alarm in alarms)
    return Attempt(generated, attempt.seed, attempt.raw, alarms, cost)


def keep_best(
    attempt: Callable[[Sequence[int], Sequence[int]], Sequence[Attempt]], seeds: Sequence[int]
) -> list[tuple[Attempt, int]]:
    """Try every sentence with its seed and, as long as something is wrong with it, `RETRIES` times with others that
    follow from it.

    Args:
        attempt: tries the sentences of these numbers with these seeds.
        seeds: one for each sentence.

    Returns:
        Of each sentence the first attempt without an alarm, else the cheapest; and how often it was tried again.
    """
    tries: list[list[Attempt]] = [[] for _ in seeds]
    for number in range(RETRIES + 1):
        wrong = [i for i, tried in enumerate(tries) if not tried or tried[-1].alarms]
        if not wrong:
            break
        for i, tried in zip(wrong, attempt(wrong, [retry_seed(seeds[i], number) for i in wrong]), strict=True):
            tries[i].append(tried)
    kept = [tried[-1] if not tried[-1].alarms else min(tried, key=lambda one: one.cost) for tried in tries]
    return [(best, len(tried) - 1) for best, tried in zip(kept, tries, strict=True)]


def retry_seed(seed: int, number: int) -> int:
    """The seed of try `number`, from 0."""
    return (seed + 7_919 * number) % MAX_SEED


def code_alarms(generated: Generated, lengths: Lengths, pitched: bool = False) -> tuple[Alarm, ...]:
    """What the codes alone tell. `pitched`: they say the pitch of each frame, and the voice has one."""
    found: list[Alarm] = []
    if generated.stopped_by != "eos":
        found.append(generated.stopped_by)
    if not lengths.is_plausible(len(generated.codes)):
        found.append("length")
    if not generated.finished:
        found.append("unfinished")
    voiceless = pitched and not generated.codes[:, PROSODY_STREAM].any()
    if not len(generated.codes) or generated.quiet > _SILENT_SHARE or voiceless:
        found.append("silent")
    return tuple(found)


def sound_alarms(raw: np.ndarray, sample_rate: int, least_seconds: float) -> tuple[Alarm, ...]:
    """What the decoder's raw sound [S] tells; `least_seconds`: the shortest plausible speech of this text."""
    found: list[Alarm] = []
    levels = raw_levels(raw)
    broken = not np.isfinite(raw).all()
    if broken or levels["raw_rms"] < _SILENT_LEVEL or active_seconds(raw, sample_rate) < _ACTIVE_SHARE * least_seconds:
        found.append("silent")
    if levels["raw_flat_share"] > _FLAT_SHARE:
        found.append("clipped")
    return tuple(found)


def active_seconds(wav: np.ndarray, sample_rate: int) -> float:
    """Length of all that lies within 35 dB of the loudest 20 ms of wav [S]."""
    size = max(1, sample_rate // _FRAMES_PER_SECOND)
    count = len(wav) // size
    if not count:
        return 0.0
    power = np.mean(np.square(wav[: count * size].reshape(count, size), dtype=np.float64), axis=1)
    return float(np.sum(power > power.max() * 10 ** (-_ACTIVE_DB / 10))) / _FRAMES_PER_SECOND
