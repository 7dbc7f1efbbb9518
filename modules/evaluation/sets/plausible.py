"""Texts that make models babble: one word, one letter, digits, abbreviations, emoji, 300 characters without a stop.

The verdict needs no ear: speech of a length that the text can have.
"""

from collections import defaultdict
from typing import Any

from modules.evaluation.clips import Clip
from modules.evaluation.failures.rules import is_clipped, is_runaway, is_silent, speech_seconds, usual_seconds
from modules.evaluation.judging import Judge, Request
from modules.evaluation.results import Finding, Table
from modules.evaluation.sets.shipped import entry_clip, load_set
from modules.evaluation.shares import share_of

_NOTE = "Plausible: from a third to two and a half times the usual length of its phones, ended by itself, with speech."


def judge_plausible(judge: Judge) -> Finding:
    """Every text once, the voices in turn."""
    wanted = judge.options.languages
    entries = [entry for entry in load_set("plausible") if not wanted or entry["language"] in wanted]
    voices, items = judge.taken_voices("plausible", len(entries)), []
    for number, entry in enumerate(entries):
        if judge.out_of_time():
            break
        items.append(_item(judge, entry, voices[number % len(voices)].reference))
        judge.progress("odd short and long texts", number + 1, len(entries))
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for item in items:
        kinds[item["kind"]].append(item)
    shares = {kind: share_of(item["plausible"] for item in members) for kind, members in kinds.items()}
    total = share_of(item["plausible"] for item in items)
    values = {"items": items, "all": total.values(), **{kind: share.values() for kind, share in shares.items()}}
    rows = [(kind, str(share), _wrong(kinds[kind])) for kind, share in shares.items()]
    table = Table("Speech of a plausible length", ("texts", "plausible", "not plausible"), tuple(rows), _NOTE)
    return Finding("plausible", values, (table,) if rows else ())


def _item(judge: Judge, entry: dict[str, Any], reference: Clip) -> dict[str, Any]:
    """A text that is refused is not spoken, however good the reference."""
    clip = entry_clip(entry)
    item = {"kind": entry["kind"], "language": clip.language, "text": clip.text, "voice": reference.speaker}
    output = judge.attempt("plausible", Request(clip, reference))
    if output is None:
        return {**item, "plausible": False, "why": "refused"}
    rate = judge.speaker.synthesizer.sample_rate
    wav, usual = output.wav(rate), usual_seconds(clip.phones)
    faults = {
        "too long": is_runaway(output.seconds, usual, output.stopped_by),
        "too short or silent": is_silent(wav, rate, usual, output.raw),
        "clipped": is_clipped(wav, output.raw),
    }
    why = ", ".join(name for name, told in faults.items() if told)
    return {
        **item,
        "plausible": not why,
        "why": why,
        "wav": output.path.name,
        "seconds": output.seconds,
        "usual_seconds": usual,
        "speech_seconds": speech_seconds(wav, rate),
        "stopped_by": list(output.stopped_by),
    }


def _wrong(items: list[dict[str, Any]]) -> str:
    return "; ".join(f"{item['text'][:24]} ({item['why']})" for item in items if not item["plausible"]) or "-"
