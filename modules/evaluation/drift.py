"""Does the pace drift? Speech tokens of outputs against what the model's own statistics foretell for their texts.

A model that loses its place takes more or fewer tokens the longer a sentence is, or the later it stands in a text.
"""

import math
from typing import Any

import numpy as np

from modules.evaluation.judging import GROUPS, Judge, Request
from modules.evaluation.results import Finding, Table
from modules.evaluation.sets.shipped import written_clip
from modules.evaluation.shares import mean_interval, shown_ends
from modules.text.sentences import split_text

PASSAGE_SENTENCES = 6
PASSAGES = 4
_NOTE = (
    "Tokens over those that the model's statistics foretell for the text. By length: change of the logarithm with "
    "every doubling of the text. By place: the last sentences of passages of {count} against their first ones."
)


def judge_drift(judge: Judge) -> Finding:
    """By the length of a sentence, over all outputs; by its place in a text, over a few passages."""
    items = _sentences(judge)
    if not items:
        spoken = any(judge.say_all(group) for group in GROUPS)
        reason = "the model holds no statistics of its text units" if spoken else "nothing was spoken"
        return Finding("drift", {"items": [], "ratio": None, "reason": reason}, ())
    ratios = [item["ratio"] for item in items]
    slope = slope_interval([item["units"] for item in items], ratios)
    places = _passages(judge)
    late = [math.log(passage[-1] / passage[0]) for passage in places if len(passage) > 1 and passage[0] and passage[-1]]
    values = {
        "items": items,
        "ratio": mean_interval(ratios),
        "deviation": float(np.std(np.log(ratios))),
        "by_length": slope,
        "by_place": {**mean_interval(late), "passages": places},
    }
    shown = values["ratio"]
    rows = [("ratio", _interval(shown)), ("deviation of its logarithm", f"{values['deviation']:.3f}")]
    rows += [
        ("by length, a doubling", _interval(slope)),
        ("by place, last against first", _interval(values["by_place"])),
    ]
    note = _NOTE.format(count=PASSAGE_SENTENCES)
    return Finding("drift", values, (Table("Tokens of a text", ("measure", "value"), tuple(rows), note),))


def slope_interval(units: list[int], ratios: list[float], resamples: int = 500) -> dict[str, float | int | None]:
    """Slope of log ratio over log2 units by least squares, with a 95 % bootstrap interval."""
    x, y = np.log2(np.maximum(1, units)), np.log(np.maximum(1e-6, ratios))
    if len(x) < 5 or np.ptp(x) < 0.5:
        return {"mean": None, "low": None, "high": None, "count": len(x)}
    rng, slopes = np.random.default_rng(0), []
    for _ in range(resamples):
        drawn = rng.integers(len(x), size=len(x))
        if np.ptp(x[drawn]) > 0:
            slopes.append(np.polyfit(x[drawn], y[drawn], 1)[0])
    low, high = np.percentile(slopes, (2.5, 97.5))
    return {"mean": float(np.polyfit(x, y, 1)[0]), "low": float(low), "high": float(high), "count": len(x)}


def _sentences(judge: Judge) -> list[dict[str, Any]]:
    items = []
    for group in GROUPS:
        for request, output in judge.say_all(group):
            usual = judge.speaker.usual_frames(request.sentence.text)
            if usual > 0 and output.frames > 0:
                item = {"language": request.sentence.language, "units": output.text_units, "wav": output.path.name}
                items.append({**item, "ratio": output.frames / usual})
    return items


def _passages(judge: Judge) -> list[list[float]]:
    """Ratio of each sentence of passages, a passage a language."""
    voices, found = judge.some_voices(), []
    for number, language in enumerate(judge.languages[:PASSAGES]):
        if judge.out_of_time():
            break
        lines = [clip.text for clip in judge.lines(language)[:PASSAGE_SENTENCES]]
        text = " ".join(line if line[-1] in ".!?。！？" else f"{line}." for line in lines)
        reference = voices[number % len(voices)].reference
        output = judge.attempt("drift", Request(written_clip(text, language, ()), reference)) if text else None
        if output is None:
            continue
        usual = [judge.speaker.usual_frames(piece) for piece in split_text(text)]
        counts = [len(codes) for codes in output.content()]
        if len(usual) == len(counts) and all(usual):
            found.append([count / expected for count, expected in zip(counts, usual)])
        judge.progress("passages", number + 1, min(PASSAGES, len(judge.languages)))
    return found


def _interval(found: dict[str, Any]) -> str:
    if found["mean"] is None:
        return "-"
    return f"{found['mean']:+.3f} ({shown_ends(found)}; {found['count']})"
