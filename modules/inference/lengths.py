"""How long a sentence can sensibly take, before it is spoken: from its text and from the pace of the references.

All lengths are frames of speech tokens. What the numbers rest on: 2,500 recordings in 65 languages and 2,500 synthetic
utterances, with nano's usual lengths of text units. Where a recording's pace is known from another one of its speaker,
1 % are shorter than 0.59 times the expected length and 1 % longer than 1.67 times; of texts below one second half are
0.4 s longer, because the silence around a word counts more there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from modules.gpt.model import SpeechGPT
from modules.text.sentences import estimate_seconds

PACE_RANGE = (0.6, 1.7)
"""How far a reference may move the expected pace: its own transcript may be wrong."""
LONGEST_SECONDS = 40.0
SHORTEST_SECONDS = 0.12
SHORT_SECONDS = 1.0
"""Texts that should take less are the ones that models of speech find hardest."""
_LEAST_SECONDS = 0.2
_LEAST_SHARE = 0.5
_MOST_SHARE, _MOST_SLACK_SECONDS = 1.8, 0.8
_USUAL_SHARES, _USUAL_SLACK_SECONDS = (0.58, 1.5), 0.6
_CAPITALS = regex.compile(r"(?<!\p{L})\p{Lu}{2,6}(?!\p{Ll})")
_DIGIT, _SIGN = regex.compile(r"\p{N}"), regex.compile(r"[%‰&@#+=<>°§№℃℉/\\\p{Sc}\p{Sm}]")
_CAPITAL_SECONDS, _DIGIT_SECONDS, _SIGN_SECONDS = 0.25, 0.4, 0.4


@dataclass(frozen=True)
class Lengths:
    """Frames that a sentence should take (`expected`), that it takes if nothing is wrong with it (`low` to `high`), and
    that it may take at all (`least` to `most`)."""

    expected: float
    low: int
    high: int
    least: int
    most: int

    def is_plausible(self, frames: int) -> bool:
        """Whether nothing is wrong with this length."""
        return self.low <= frames <= self.high

    def forced(self, frames: int) -> "Lengths":
        """The same sentence, made to take exactly so many frames."""
        return Lengths(self.expected, 0, frames, frames, frames)


def expect_lengths(
    text: str, text_ids: Sequence[int], spoken: Sequence[tuple[str, Sequence[int], int, float]], model: SpeechGPT,
    frame_rate: float,
) -> Lengths:  # fmt: skip
    """Lengths of a text.

    Args:
        text_ids: its units.
        spoken: texts, units, frames and weights of the references whose words are known.
        model: knows how long its units usually take.
        frame_rate: Hz.
    """
    by_script, by_units = _normal(text, text_ids, model, frame_rate)
    floor, pace = _LEAST_SECONDS * frame_rate, _pace(spoken, model, frame_rate)
    expected = pace * max(math.sqrt(by_script * by_units), floor)
    # Where script and units disagree, both ends give way: nobody knows which of the two is misled.
    shortest = min(expected, pace * max(min(by_script, by_units), floor))
    slack = pace * _spelling_seconds(text) * frame_rate
    least = max(round(SHORTEST_SECONDS * frame_rate), int(_LEAST_SHARE * shortest))
    most = round(min(_MOST_SHARE * expected + _MOST_SLACK_SECONDS * frame_rate + slack, LONGEST_SECONDS * frame_rate))
    low = max(least, int(_USUAL_SHARES[0] * shortest))
    high = min(most - 1, round(_USUAL_SHARES[1] * expected + _USUAL_SLACK_SECONDS * frame_rate + slack))
    return Lengths(expected, low, high, least, most)


def _normal(text: str, ids: Sequence[int], model: SpeechGPT, frame_rate: float) -> tuple[float, float]:
    """Frames at a normal pace, by the scripts of the letters and by the model's units."""
    by_script = estimate_seconds(text) * frame_rate
    # Units mislead where the tokenizer falls back to bytes, scripts where nothing was spelled out.
    return by_script, model.expected_frames(ids) or by_script


def _pace(
    spoken: Sequence[tuple[str, Sequence[int], int, float]], model: SpeechGPT, frame_rate: float
) -> float:  # fmt: skip
    """How much longer than usual the references take, by weight."""
    if not spoken:
        return 1.0
    took = sum(weight * frames for _, _, frames, weight in spoken)
    usual = sum(weight * math.sqrt(math.prod(_normal(text, ids, model, frame_rate))) for text, ids, _, weight in spoken)
    return min(max(took / max(usual, 1.0), PACE_RANGE[0]), PACE_RANGE[1])


def _spelling_seconds(text: str) -> float:
    """How much longer a text may take than its letters tell: names of letters, long numbers, signs that are words."""
    capitals = sum(len(match) for match in _CAPITALS.findall(text))
    digits, signs = len(_DIGIT.findall(text)), len(_SIGN.findall(text))
    return _CAPITAL_SECONDS * capitals + _DIGIT_SECONDS * digits + _SIGN_SECONDS * signs
