"""Lines that change the language half way: is each part recognised?"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modules.audio.resample import resample
from modules.corpus.espeak import SAMPLE_RATE
from modules.corpus.voices import VoiceSet
from modules.evaluation.alignment import without_tones
from modules.evaluation.clips import Clip
from modules.evaluation.failures.calibration import Hearing
from modules.evaluation.failures.paths import walk
from modules.evaluation.judging import Judge, Request
from modules.evaluation.results import Finding, Table, percent
from modules.evaluation.sets.readings import PhoneReader
from modules.evaluation.sets.shipped import entry_clip, load_set
from modules.evaluation.shares import mean_interval, share_of

RECOGNISED = 0.5
"""A part counts as recognised below this phone error; unrelated speech reaches about 0.85."""
_NOTE = (
    "Error: mean phone error of the parts in that language, tones not counted. Both: lines of which each part has less "
    "than half of its phones wrong{floor}."
)


def part_errors(parts: Sequence[Sequence[str]], heard: Sequence[str]) -> list[float]:
    """Phone error of each part of a line that was heard as a whole: what was not heard of it, and what was heard
    between its first and its last phone without belonging there."""
    expected = [label for part in parts for label in without_tones(part)]
    path = walk(expected, without_tones(heard))
    errors, start = [], 0
    for part in parts:
        own = [(j, good) for (i, j), good in zip(path.visits, path.matched) if start <= i < start + len(part)]
        right = sum(good for _, good in own)
        inserted = own[-1][0] - own[0][0] + 1 - len(own) if own else 0
        errors.append((len(part) - right + inserted) / max(1, len(part)))
        start += len(part)
    return errors


def source_shares(recognizer: Hearing, reader: PhoneReader, voices: VoiceSet) -> dict[str, tuple[int, int]]:
    """Of each pair of languages, (lines of which both parts are recognised, lines) in eSpeak NG's reading of them, one
    voice a line: the floor of `judge_switching`."""
    found: dict[str, tuple[int, int]] = {}
    for number, entry in enumerate(load_set("switching")):
        parts = entry["parts"]
        voice = voices.speakers[number % len(voices.speakers)].settings
        spoken = [reader.speak(part.get("reading") or part["text"], part["language"], voice) for part in parts]
        if any(speech is None or not len(speech.samples) for speech in spoken):
            continue
        wav = np.concatenate([speech.samples.astype(np.float32) / 32768 for speech in spoken])
        heard = recognizer.hear([resample(wav, SAMPLE_RATE, recognizer.sample_rate)])[0]
        right = max(part_errors([entry_clip(part).phones for part in parts], heard)) < RECOGNISED
        pair = "-".join(sorted(part["language"] for part in parts))
        seen, of = found.get(pair, (0, 0))
        found[pair] = (seen + right, of + 1)
    return found


def judge_switching(judge: Judge) -> Finding:
    """Every line in one voice, the voices in turn; lines with a language that no ear knows are told apart."""
    wanted = judge.options.languages
    lines = [[entry_clip(part) for part in entry["parts"]] for entry in load_set("switching")]
    if wanted:
        lines = [parts for parts in lines if {part.language for part in parts} <= set(wanted)]
    voices, items = judge.some_voices(), []
    for number, parts in enumerate(lines):
        if judge.out_of_time():
            break
        item = _item(judge, parts, voices[number % len(voices)].reference)
        items += [item] if item else []
        judge.progress("changing languages", number + 1, len(lines))
    heard = [item for item in items if item["errors"]]
    pairs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for item in items:
        pairs[item["pair"]].append(item)
    both = share_of(item["both"] for item in items)
    known_pairs = {item["pair"] for item in heard}
    stored = [counts for pair, counts in judge.ear.switching().items() if pair in known_pairs]
    floor = sum(seen for seen, _ in stored) / sum(of for _, of in stored) if stored else None
    values = {"items": items, "both": {**both.values(), "floor": floor}, "pairs": {}, "heard": len(heard)}
    rows = []
    for pair, members in pairs.items():
        known = [item for item in members if item["errors"]]
        if not known:
            rows.append((pair, len(members), "-", "-", f"not measured: {members[0]['reason']}"))
            values["pairs"][pair] = {"both": None, "reason": members[0]["reason"]}
            continue
        means = [mean_interval(item["errors"][language] for item in known)["mean"] for language in pair.split("-")]
        share = share_of(item["both"] for item in known)
        values["pairs"][pair] = {"errors": means, "both": share.values()}
        rows.append((pair, len(known), *map(percent, means), str(share)))
    told = "" if floor is None else f"; of source audio {percent(floor)} of the lines"
    header = ("pair", "lines", "error, first", "error, second", "both")
    table = Table("Changing the language within a line", header, tuple(rows), _NOTE.format(floor=told))
    return Finding("switching", values, (table,) if rows else ())


def _item(judge: Judge, parts: list[Clip], reference: Clip) -> dict[str, Any] | None:
    """None where the line was refused."""
    text = " ".join(part.text for part in parts)
    languages = sorted(part.language for part in parts)
    output = judge.attempt("switching", Request(replace(parts[0], text=text), reference))
    if output is None:
        return None
    item = {"pair": "-".join(languages), "text": text, "voice": reference.speaker, "wav": output.path.name}
    reason = next((why for part in parts if (why := judge.ear.deaf(part.language))), "")
    if reason:
        return {**item, "errors": None, "both": None, "reason": reason}
    errors = part_errors([part.phones for part in parts], judge.ear.hear(output.key, output.wav))
    by_language = {part.language: error for part, error in zip(parts, errors, strict=True)}
    return {**item, "errors": by_language, "both": max(errors) < RECOGNISED}
