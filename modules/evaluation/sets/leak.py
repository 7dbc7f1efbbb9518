"""Do words of the reference leak into the output?

What the recogniser hears in the reference's own recording is looked for in what it hears in the output, apart from what
the text itself explains. Chance is the same search for the words of other references.
"""

from collections.abc import Sequence
from typing import Any

from modules.evaluation.alignment import without_tones
from modules.evaluation.clips import Clip
from modules.evaluation.failures.paths import JUMP_COST, walk
from modules.evaluation.failures.rules import solid_matches
from modules.evaluation.judging import GROUPS, Judge
from modules.evaluation.results import Finding, Table
from modules.evaluation.shares import share_of

UTTERANCES = 100
LEAKED_PHONES = 4
"""Phones in a row that the output has in common with the reference and not with its text."""
CHANCE_REFERENCES = 5
_NOTE = (
    "Leaked: {phones} phones in a row, or more, that the output shares with its reference and that its text does not "
    "explain. Chance: the same with other references."
)


def leaked_run(expected: Sequence[str], heard: Sequence[str], reference: Sequence[str]) -> int:
    """Longest run of phones that `heard` has in common with `reference`, where the text `expected` explains none."""
    wanted, got, other = (without_tones(labels) for labels in (expected, heard, reference))
    explained = {j for _, j in solid_matches(walk(wanted, got, JUMP_COST))}
    best = 0
    row = [0] * (len(other) + 1)
    for j, sound in enumerate(got):
        before, row = row, [0] * (len(other) + 1)
        if j in explained:
            continue
        for k, label in enumerate(other, 1):
            if sound == label:
                row[k] = before[k - 1] + 1
                best = max(best, row[k])
    return best


def judge_leak(judge: Judge) -> Finding:
    """Up to a hundred outputs of all groups."""
    items: list[dict[str, Any]] = []
    references = _references(judge)
    for group in GROUPS:
        for request, output in judge.say_all(group):
            sentence = request.sentence
            if len(items) >= UTTERANCES or not sentence.phones or judge.ear.deaf(sentence.language):
                continue
            heard = judge.ear.hear(output.key, output.wav)
            own = references[request.reference.key]
            others = [phones for key, phones in references.items() if key != request.reference.key and phones != own]
            chance = [leaked_run(sentence.phones, heard, other) for other in others[:CHANCE_REFERENCES]]
            run = leaked_run(sentence.phones, heard, own)
            items.append(
                {
                    "group": group,
                    "language": sentence.language,
                    "text": sentence.text,
                    "voice": request.reference.speaker,
                    "wav": output.path.name,
                    "run": run,
                    "leaked": run >= LEAKED_PHONES,
                    "chance_runs": chance,
                }
            )
    leaked = share_of(item["leaked"] for item in items)
    chance = share_of(run >= LEAKED_PHONES for item in items for run in item["chance_runs"])
    values = {"items": items, "leaked": leaked.values(), "chance": chance.values()}
    if not items:
        why = judge.ear.reason or "the judge's recogniser knows none of the languages"
        return Finding("leak", {**values, "reason": why}, ())
    rows = (("leaked", str(leaked)), ("chance", str(chance)))
    table = Table("Words of the reference in the output", ("", "outputs"), rows, _NOTE.format(phones=LEAKED_PHONES))
    return Finding("leak", values, (table,))


def _references(judge: Judge) -> dict[str, list[str]]:
    """What is heard in every reference, by its key."""
    found: dict[str, list[str]] = {}
    if judge.ear.recognizer is None:
        return found
    clips: dict[str, Clip] = {}
    for group in GROUPS:
        clips |= {request.reference.key: request.reference for request in judge.requests[group][: 2 * UTTERANCES]}
    for key, clip in clips.items():
        found[key] = judge.ear.hear(key, lambda rate, clip=clip: judge.reader.wav(clip, rate))
    return found
