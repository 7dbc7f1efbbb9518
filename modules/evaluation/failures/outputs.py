"""The part `failures`: how many sentences lose words, say them twice, do not end, are silent or clip.

Beside every rate stands its floor: the same rule on source audio of the same sentences, or, for sentences that were
only written, the false alarms that the calibration found in their languages.
"""

from collections import defaultdict
from typing import Any

from modules.data.store import entry_key
from modules.evaluation.failures.calibration import EITHER
from modules.evaluation.failures.rules import KINDS, Verdict, judge_output, raw_sound, usual_seconds
from modules.evaluation.judging import GROUPS, Judge, Request
from modules.evaluation.results import Finding, Table
from modules.evaluation.shares import clustered_share, shown_share
from modules.evaluation.speaking import Spoken
from modules.inference.finishing import trim
from modules.text.sentences import estimate_seconds

RULES = "3"
"""Part of the key of a verdict; goes up when a rule changes."""
_NOTE = (
    "In brackets: 95 % interval over voices, and failures of sentences. Floor: the same rule on source audio, of the "
    "sentences that were judged. Lost and repeated are told where the recogniser knows the language."
)


def judge_failures(judge: Judge) -> Finding:
    """All groups together and apart, with guards and, where asked for, without."""
    passes = {"on": "on", "off": "off"} if judge.options.guards == "both" else {judge.options.guards or "default": ""}
    values: dict[str, Any] = {}
    tables = []
    for name, guards in passes.items():
        items = [item for group in GROUPS for item in _items(judge, group, guards)]
        found = {"items": items, **_rates(items), "languages": {}, "groups": {}}
        sound, took = (sum(item[key] for item in items) for key in ("seconds", "took_seconds"))
        found["real_time_factor"] = took / sound if sound else None
        for key in ("language", "group"):
            for member in dict.fromkeys(item[key] for item in items):
                found[f"{key}s"][member] = _rates([item for item in items if item[key] == member])
        values[name] = found
        tables.append(_table(name, found))
    values["deaf"] = {language: why for language in judge.languages if (why := judge.ear.deaf(language))}
    return Finding("failures", values, tuple(tables))


def verdict_of(judge: Judge, request: Request, output: Spoken) -> Verdict:
    """The verdict on one output."""
    sentence = request.sentence
    heard = None
    if sentence.phones and not judge.ear.deaf(sentence.language):
        heard = judge.ear.hear(output.key, output.wav)
    rate = judge.speaker.synthesizer.sample_rate
    usual = length_of(judge, request)
    return judge_output(output.wav(rate), rate, usual, output.stopped_by, sentence.phones, heard, output.raw)


def length_of(judge: Judge, request: Request) -> float:
    """Seconds that the sentence usually takes: as the source audio says it, else by its phones, else by its letters."""
    sentence = request.sentence
    if sentence.has_sound:
        return len(trim(judge.reader.wav(sentence, 16000), 16000)) / 16000
    return usual_seconds(sentence.phones) if sentence.phones else max(0.5, estimate_seconds(sentence.text))


def _items(judge: Judge, group: str, guards: str) -> list[dict[str, Any]]:
    items = []
    for request, output in judge.say_all(group, guards):
        sentence = request.sentence
        verdict = verdict_of(judge, request, output)
        items.append(
            {
                "group": group,
                "language": sentence.language,
                "text": sentence.text,
                "voice": request.reference.speaker,
                "wav": output.path.name,
                "stopped_by": list(output.stopped_by),
                "seconds": output.seconds,
                "took_seconds": output.took_seconds,
                **{kind: getattr(verdict, kind) for kind in KINDS},
                "lost_phones": verdict.lost_phones,
                "again_phones": verdict.again_phones,
                "extra_phones": verdict.extra_phones,
                EITHER: None if verdict.lost is None else verdict.lost or verdict.repeated,
                "phones": len(sentence.phones),
                "source": _floor(judge, request),
            }
        )
        judge.progress(f"looking for failures, {group} voices", len(items), len(judge.requests[group]))
    return items


def _floor(judge: Judge, request: Request) -> dict[str, Any] | None:
    """The verdict on source audio; for written sentences the share of false alarms; None where neither is known."""
    sentence = request.sentence
    if not sentence.has_sound:
        stored = judge.ear.floor(sentence.language) if judge.ear.knows_sentences([sentence.key]) else None
        alarms = stored["false_alarms"] if stored else {}
        return {kind: seen / of for kind, (seen, of) in alarms.items() if of} or None
    ledger = judge.ledger("source_verdicts")
    deaf = bool(judge.ear.deaf(sentence.language)) or not sentence.phones
    # The calibration decides whether the ear is asked, and may be made or changed later.
    key = entry_key("rules", RULES, judge.ear.identity, "deaf" if deaf else "heard", sentence.key)
    found = ledger.get(key)
    if found is None:
        heard = None if deaf else judge.ear.hear(sentence.key, lambda rate: judge.reader.wav(sentence, rate))
        wav = judge.reader.wav(sentence, 16000)
        usual = length_of(judge, request)
        verdict = judge_output(wav, 16000, usual, (), sentence.phones, heard, raw_sound(wav))
        either = None if verdict.lost is None else verdict.lost or verdict.repeated
        found = ledger.put(key, {**{kind: getattr(verdict, kind) for kind in KINDS}, EITHER: either})
    return found


def _rates(items: list[dict[str, Any]]) -> dict[str, Any]:
    """By kind: the share with its interval over voices, and the floor of the sentences that have a verdict."""
    rates = {}
    for kind in (*KINDS, EITHER):
        judged = [item for item in items if item[kind] is not None]
        floors = [item["source"][kind] for item in judged if item["source"] and item["source"].get(kind) is not None]
        share = clustered_share([item[kind] for item in judged], [item["voice"] for item in judged])
        rates[kind] = {**share, "floor": sum(floors) / len(floors) if floors else None}
    return rates


def _table(name: str, found: dict[str, Any]) -> Table:
    rows = []
    parts: dict[str, dict[str, Any]] = defaultdict(dict, {"all": found})
    parts.update(found["groups"])
    parts.update(found["languages"])
    for part, rates in parts.items():
        cells = []
        for kind in (*KINDS, EITHER):
            share, floor = rates[kind], rates[kind]["floor"]
            told = f"; floor {100 * floor:.1f} %" if floor is not None and share["of"] else ""
            cells.append(f"{shown_share(share)}{told}")
        rows.append((part, *cells))
    title = {"default": "Failures", "on": "Failures, guards on", "off": "Failures, guards off"}[name]
    return Table(title, ("sentences", *KINDS, "lost or repeated"), tuple(rows), _NOTE)
