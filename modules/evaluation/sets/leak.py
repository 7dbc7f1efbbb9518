"""Do words of the reference leak into the output?

What the recogniser hears in the reference's own recording is looked for in what it hears in the output, apart from what
the text itself explains. Chance is the same search for the words of other references.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from modules.evaluation.alignment import without_tones
from modules.evaluation.clips import Clip
from modules.evaluation.failures.paths import JUMP_COST, walk
from modules.evaluation.failures.rules import solid_matches
from modules.evaluation.judging import GROUPS, Judge, Request
from modules.evaluation.results import Finding, Table
from modules.evaluation.shares import clustered_share, shown_share
from modules.evaluation.speaking import Spoken

UTTERANCES = 100
LEAKED_PHONES = 4
"""Phones in a row that the output has in common with the reference and not with its text."""
CHANCE_REFERENCES = 5
Asked = tuple[str, Request, Spoken]
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
    """Up to a hundred outputs of groups and languages in turn, those of people first."""
    items = [_item(judge, *asked) for asked in _asked(judge)]
    leaked = clustered_share([item["leaked"] for item in items], [item["voice"] for item in items])
    # The draws of one output hear the same sound: they are tries of its voice, and no more independent than that.
    draws = [(run >= LEAKED_PHONES, item["voice"]) for item in items for run in item["chance_runs"]]
    chance = clustered_share([found for found, _ in draws], [voice for _, voice in draws])
    values = {
        "items": items,
        "leaked": leaked,
        "chance": chance,
        "languages": dict(Counter(item["language"] for item in items)),
        "groups": dict(Counter(item["group"] for item in items)),
    }
    if not items:
        why = judge.ear.reason or "the judge's recogniser knows none of the languages"
        return Finding("leak", {**values, "reason": why}, ())
    rows = (("leaked", shown_share(leaked)), ("chance", shown_share(chance)))
    table = Table("Words of the reference in the output", ("", "outputs"), rows, _NOTE.format(phones=LEAKED_PHONES))
    return Finding("leak", values, (table,))


def _asked(judge: Judge) -> list[Asked]:
    """What is listened to: a group and a language after the other, so that every one has its share of the hundred."""
    if judge.ear.recognizer is None:
        return []
    queues: dict[tuple[str, str], list[Asked]] = {}
    for group in reversed(GROUPS):
        for request, output in judge.say_all(group):
            sentence = request.sentence
            if sentence.phones and not judge.ear.deaf(sentence.language):
                queues.setdefault((group, sentence.language), []).append((group, request, output))
    turns = [(number, asked) for queue in queues.values() for number, asked in enumerate(queue)]
    return [asked for _, asked in sorted(turns, key=lambda turn: turn[0])[:UTTERANCES]]


def _item(judge: Judge, group: str, request: Request, output: Spoken) -> dict[str, Any]:
    sentence = request.sentence
    heard = judge.ear.hear(output.key, output.wav)
    own = _said_in(judge, request.reference)
    others = {r.reference.key: r.reference for r in judge.requests[group] if r.reference.key != request.reference.key}
    foreign = [_said_in(judge, clip) for clip in list(others.values())[: CHANCE_REFERENCES + 1]]
    foreign = [phones for phones in foreign if phones != own][:CHANCE_REFERENCES]
    run = leaked_run(sentence.phones, heard, own)
    return {
        "group": group,
        "language": sentence.language,
        "text": sentence.text,
        "voice": request.reference.speaker,
        "wav": output.path.name,
        "run": run,
        "leaked": run >= LEAKED_PHONES,
        "chance_runs": [leaked_run(sentence.phones, heard, phones) for phones in foreign],
    }


def _said_in(judge: Judge, clip: Clip) -> list[str]:
    """What is heard in a reference."""
    return judge.ear.hear(clip.key, lambda rate: judge.reader.wav(clip, rate))
