"""What happens with odd references and odd texts: it must work, or be refused with a reason; never crash or babble."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from modules.errors import UserError
from modules.evaluation.clips import Clip
from modules.evaluation.judging import Judge
from modules.evaluation.results import Finding, Table
from modules.evaluation.sound import clipped_share
from modules.inference.options import SpeakOptions
from modules.inference.voice import Voice, load_reference
from modules.text.sentences import estimate_seconds

TEXTS = {
    "one word": "Hi",
    "one letter": "A",
    "one hanzi": "好",
    "a number": "1984",
    "long number": "The code is 4815162342.",
    "mixed languages": "Das ist ein Test, this is a test, esto es una prueba, 这是一个测试。",
    "switch inside a sentence": "我们下周 meeting 的时候再说 budget 的问题。",
    "repeated words": "no no no no no no no no",
    "repeated sentence": "It is late. It is late. It is late.",
    "tongue twister": "She sells sea shells by the sea shore, the shells she sells are surely sea shells.",
    "no punctuation": "this goes on and on without a stop and then on and on again and nobody knows where it ends",
    "only punctuation": "?!...",
    "emoji": "Good morning 😀🎉",
    "only emoji": "😀🎉",
    "empty": "   ",
    "another script": "Привет, как дела?",
    "capital letters": "THE NASA AND THE FBI",
    "address": "Write to info@example.org or see https://example.org/a?b=c.",
    "very long": "The rain fell on the old town, and the people went home early. " * 8,
    "line breaks": "First line\nsecond line\n\nthird line",
    "control characters": "Hello\u0000 wor\u200bld\u202e!",
    "special tokens": "<|endoftext|> [EOS] <s> hello",
}
PACE = (0.33, 3.0)


def judge_odd(judge: Judge) -> Finding:
    """Texts with one good reference, then one good text with odd references.

    Raises:
        UserError: judge_too_few_voices, judge_no_sentence.
    """
    # A missing model is told here, not counted as a refusal.
    good = judge.taken_voices("odd", 1)[0].reference
    rows = _odd_references(judge)
    line = judge.some_lines("odd")[0].text if rows else ""
    texts = [_try_text(judge, good, name, text) for name, text in TEXTS.items()]
    references = _references(judge, rows, line)
    values = {"texts": texts, "references": references}
    values["crashes"] = sum(item["result"].startswith("CRASH") for item in texts + references)
    header = ("case", "result", "seconds", "expected", "stopped by", "remark")
    keys = ("name", "result", "seconds", "expected", "stopped_by", "remark")
    tables = [
        Table(title, header, tuple(tuple(item.get(key, "") for key in keys) for item in items))
        for title, items in (("Odd texts", texts), ("Odd references", references))
        if items
    ]
    return Finding("odd", values, tuple(tables))


def _try_text(judge: Judge, good: Clip, name: str, text: str) -> dict[str, Any]:
    def attempt() -> tuple[np.ndarray, list[str], str]:
        spoken = judge.speaker.say(text, [(good, 1.0)], judge.options.seed)
        loops = f"a phrase {spoken.longest_loop} times" if spoken.longest_loop >= 4 else ""
        return spoken.wav(judge.speaker.synthesizer.sample_rate), list(spoken.stopped_by), loops

    return {"name": name, **_outcome(judge, text, attempt)}


def _odd_references(judge: Judge) -> list[dict[str, str]]:
    """Rows of the manifest of `--speech` that are no plain clips."""
    folder = judge.options.speech
    if folder is None or not (folder / "manifest.tsv").is_file():
        return []
    with open(folder / "manifest.tsv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row for row in rows if row.get("kind") in ("odd", "mix", "long")]


def _references(judge: Judge, rows: list[dict[str, str]], line: str) -> list[dict[str, Any]]:
    results = []
    for row in rows:
        path = Path(judge.options.speech) / row["path"]
        results.append({"name": row["path"], **_try_reference(judge, path, row.get("transcript", ""), line)})
        judge.progress("odd references", len(results), len(rows))
    return results


def _try_reference(judge: Judge, path: Path, said: str, line: str) -> dict[str, Any]:
    synthesizer = judge.speaker.synthesizer

    def attempt() -> tuple[np.ndarray, list[str], str]:
        reference = load_reference(path, said, 1.0, synthesizer.preset.audio)
        segments = list(synthesizer.speak(Voice((reference,)), line, SpeakOptions(seed=judge.options.seed)))
        wav = synthesizer.join(segments, 0.3)
        return wav, [segment.stopped_by for segment in segments], ", ".join(note.code for note in reference.notes)

    return _outcome(judge, line, attempt)


def _outcome(judge: Judge, text: str, attempt) -> dict[str, Any]:
    try:
        wav, stopped_by, remark = attempt()
    except UserError as error:
        return {"result": f"refused: {error.code}"}
    except Exception as error:
        # The question here is whether anything else than a UserError can come out, so all is caught and shown.
        return {"result": f"CRASH: {type(error).__name__}: {str(error)[:80]}"}
    seconds = len(wav) / judge.speaker.synthesizer.sample_rate
    expected = estimate_seconds(text)
    result = "spoken"
    if not np.isfinite(wav).all() or clipped_share(wav) > 0:
        result = "BAD SAMPLES"
    elif not PACE[0] <= seconds / max(0.3, expected) <= PACE[1]:
        result = "spoken, odd length"
    return {
        "result": result,
        "seconds": round(seconds, 2),
        "expected": round(expected, 2) if math.isfinite(expected) else None,
        "stopped_by": ", ".join(sorted(set(stopped_by))),
        "remark": remark,
    }
