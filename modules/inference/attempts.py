"""Is what was spoken plausible speech, and if not, which of several tries is?

Every rule looks at what any model gives: how it ended, how long it is, how much of it is silence, its level. None knows
what was said.

Shapes: S samples.
"""

import math
from collections.abc import Callable
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


def keep_best(attempt: Callable[[int], Attempt], seed: int) -> tuple[Attempt, int]:
    """Try with `seed` and, as long as something is wrong, `RETRIES` times with others that follow from it.

    Returns:
        The first attempt without an alarm, else the cheapest; and how often it was tried again.
    """
    tries: list[Attempt] = []
    for number in range(RETRIES + 1):
        tries.append(attempt((seed + 7_919 * number) % MAX_SEED))
        if not tries[-1].alarms:
            return tries[-1], number
    return min(tries, key=lambda tried: tried.cost), RETRIES


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
