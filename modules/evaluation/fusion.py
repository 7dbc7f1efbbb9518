"""Do blends move from one voice to the other? Ten pairs of unlike voices, five weights, three ways of fusing."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from modules.evaluation.alignment import is_rising, rising_steps
from modules.evaluation.clips import Clip, VoiceTest
from modules.evaluation.judging import Judge
from modules.evaluation.results import Finding, Table, percent
from modules.evaluation.speaking import Spoken
from modules.evaluation.voices import SAMPLE_RATE, centroid

PAIRS = 10
WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Of the first voice."""
NEAR = 0.99
SENTENCES = 2
MODES: dict[str, dict[str, Any]] = {
    "both": {},
    "language model only": {"fuse_decoder": False},
    "decoder only": {"fuse_gpt": False},
}
TOLERANCE = 0.02
"""A step of a similarity curve that falls by less than this is the spread between two outputs, not a fall."""
_NOTE = (
    "Similarity of the mean embedding of {sentences} outputs to either reference, mean over {pairs} pairs. Monotone: "
    "pairs whose both curves never turn by more than {tolerance}; right steps: share of the single steps. With one of "
    "the parts alone, the other part takes the heavier voice."
)


@dataclass(frozen=True)
class Pair:
    """Two voices and how alike their references are."""

    first: Clip
    second: Clip
    similarity: float


def unlike_pairs(tests: list[VoiceTest], embeddings: np.ndarray, count: int) -> list[Pair]:
    """Pairs of the least similar unit embeddings [N, E]; every voice is in one pair at most."""
    scores = embeddings @ embeddings.T
    order = sorted(combinations(range(len(tests)), 2), key=lambda pair: float(scores[pair]))
    used: set[int] = set()
    pairs = []
    for a, b in order:
        if len(pairs) < count and not {a, b} & used:
            used |= {a, b}
            pairs.append(Pair(tests[a].reference, tests[b].reference, float(scores[a, b])))
    return pairs


def judge_fusion(judge: Judge) -> Finding:
    """Curves, equality at the ends, nearness at 0.99.

    Raises:
        UserError: judge_no_sentence, judge_too_few_voices.
    """
    tests = judge.taken_voices("fusion", least=2)
    lines = judge.some_lines("fusion")[:SENTENCES]
    references = {test.speaker: judge.embedder(judge.reader.wav(test.reference, SAMPLE_RATE)) for test in tests}
    pairs = unlike_pairs(tests, np.stack([references[test.speaker] for test in tests]), PAIRS)
    values: dict[str, Any] = {"pairs": [[p.first.speaker, p.second.speaker, p.similarity] for p in pairs]}
    rows, done, total = [], 0, len(MODES) * len(pairs)
    for mode, options in MODES.items():
        curves = []
        for pair in pairs:
            curves.append(_curves(judge, pair, lines, references, options))
            done += 1
            judge.progress("blending voices", done, total)
        values[mode] = _summary(np.array(curves))
        for name, which in (("first", 0), ("second", 1)):
            mean = np.array(curves)[:, which].mean(0)
            monotone, steps = values[mode][f"monotone_{name}"], percent(values[mode]["right_steps"])
            rows.append((f"{mode}, to the {name}", *map(float, mean), monotone, steps))
    ends, table = _ends(judge, pairs, lines)
    values["ends"] = ends
    header = ("way", *(f"{w:.2f} / {1 - w:.2f}" for w in WEIGHTS), "monotone pairs", "right steps")
    note = _NOTE.format(sentences=len(lines), pairs=len(pairs), tolerance=TOLERANCE)
    return Finding("fusion", values, (Table("Blends of two voices", header, tuple(rows), note), table))


def _say(judge: Judge, pair: Pair, weight: float, line: Clip, options: dict[str, Any]) -> Spoken:
    voice = [(pair.first, weight), (pair.second, 1.0 - weight)]
    return judge.speaker.say(line.text, voice, judge.options.seed, **options)


def _curves(
    judge: Judge, pair: Pair, lines: list[Clip], references: dict[str, np.ndarray], options: dict[str, Any]
) -> list[list[float]]:
    """Similarities to the first and to the second voice at each of `WEIGHTS`."""
    blends = []
    for weight in WEIGHTS:
        outputs = [_say(judge, pair, weight, line, options) for line in lines]
        blends.append(centroid([judge.embedder(output.wav(SAMPLE_RATE)) for output in outputs]))
    return [[float(blend @ references[clip.speaker]) for blend in blends] for clip in (pair.first, pair.second)]


def _summary(curves: np.ndarray) -> dict[str, Any]:
    """curves [pairs, 2, weights] -> how many run the right way; the first falls and the second rises."""
    rising = np.stack([curves[:, 0, ::-1], curves[:, 1]], 1)
    steps = [rising_steps(curve) for pair in rising for curve in pair]
    firsts, seconds = ([is_rising(curve, TOLERANCE) for curve in rising[:, which]] for which in (0, 1))
    return {
        "curves": curves.tolist(),
        "monotone_first": int(sum(firsts)),
        "monotone_second": int(sum(seconds)),
        "monotone_both": int(sum(a and b for a, b in zip(firsts, seconds, strict=True))),
        "right_steps": float(sum(steps) / max(1, len(steps) * (curves.shape[-1] - 1))),
    }


def _ends(judge: Judge, pairs: list[Pair], lines: list[Clip]) -> tuple[dict[str, Any], Table]:
    """(1, 0) against the single voice sample for sample; (0.99, 0.01) against it, the tokens kept and not kept."""
    equal, kept, near, near_tokens = [], [], [], []
    for number, pair in enumerate(pairs):
        line = lines[number % len(lines)]
        single = judge.speaker.say(line.text, [(pair.first, 1.0)], judge.options.seed)
        full = _say(judge, pair, 1.0, line, {})
        equal.append(np.array_equal(single.wav(SAMPLE_RATE), full.wav(SAMPLE_RATE)))
        alone = judge.embedder(single.wav(SAMPLE_RATE))
        decoder = _say(judge, pair, NEAR, line, {"fuse_gpt": False})
        both = _say(judge, pair, NEAR, line, {})
        kept.append(float(alone @ judge.embedder(decoder.wav(SAMPLE_RATE))))
        near.append(float(alone @ judge.embedder(both.wav(SAMPLE_RATE))))
        near_tokens.append(both.codes_key == single.codes_key)
    values = {
        "equal": sum(equal),
        "near_decoder": float(np.mean(kept)),
        "near_both": float(np.mean(near)),
        "near_same_tokens": sum(near_tokens),
        "pairs": len(pairs),
    }
    rows = (
        ("1.00 / 0.00 equals the single voice, sample for sample", f"{sum(equal)} of {len(pairs)}"),
        (f"similarity of {NEAR} / 0.01 to the single voice, decoder only", values["near_decoder"]),
        (f"similarity of {NEAR} / 0.01 to the single voice, both", values["near_both"]),
        (f"same speech tokens at {NEAR} / 0.01", f"{sum(near_tokens)} of {len(pairs)}"),
    )
    return values, Table("Ends of a blend", ("law", "found"), rows)
