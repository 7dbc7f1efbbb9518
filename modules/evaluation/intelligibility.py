"""Is it understood? Phone errors of outputs by the judge's recogniser, and English words by pocketsphinx.

The truth is the phones of the source audio of the same sentence. The floor is the recogniser's own error on that
source audio; chance is its error against the phones of another sentence.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from modules.data.store import entry_key
from modules.errors import UserError
from modules.evaluation.alignment import EditCounts, count_edits, plain_words, pooled_rate, without_tones
from modules.evaluation.clips import Clip, in_order, own_reference
from modules.evaluation.ears.hearing import Load
from modules.evaluation.ears.whisper import whisper_errors
from modules.evaluation.english import SAMPLE_RATE, EnglishListener
from modules.evaluation.judging import GROUPS, Judge, Request
from modules.evaluation.results import Finding, Table, percent
from modules.evaluation.speaking import Spoken

CLOSED_SET = 72
LEAST_CHOICES = 12
"""Sentences to choose among, however few are spoken."""
_NOTE = (
    "Floor: the recogniser on the source audio (synthetic voices), or, of sentences that were only written, its stored "
    "error on them. Chance: outputs against another sentence, where the language has one. Toneless: "
    "tone digits of Mandarin left out. Bad: sentences with more than half of their phones wrong. In brackets: 95 % "
    "interval over sentences."
)


def judge_intelligibility(judge: Judge) -> Finding:
    """Every ear that there is, all groups of voices; an ear that is missing is told as such."""
    values: dict = {}
    tables = []
    for group in GROUPS:
        if judge.requests[group]:
            values[group], table = _phones(judge, group)
            tables.append(table)
    values["recordings"], table = _recordings(judge)
    tables += [table] if table.rows else []
    try:
        values["english"], table = _english(judge, EnglishListener())
        tables.append(table)
    except UserError as error:
        values["english"] = {"reason": str(error)}
    values["whisper"], table = whisper_errors(judge)
    return Finding("intelligibility", values, (*tables, *([table] if table.rows else [])))


def phone_counts(judge: Judge, phones: Sequence[str], key: str, load: Load) -> tuple[EditCounts, EditCounts, list[str]]:
    """Edits of what the recogniser hears in the sound of `load`, with and without tones; what it heard."""
    heard = judge.ear.hear(key, load)
    return count_edits(heard, phones), count_edits(without_tones(heard), without_tones(phones)), heard


def _phones(judge: Judge, group: str) -> tuple[dict, Table]:
    spoken = judge.say_all(group)
    by_language: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    items, reasons = [], {}
    for number, (request, output) in enumerate(spoken):
        sentence = request.sentence
        reason = judge.ear.deaf(sentence.language) or ("" if sentence.phones else _unread(judge))
        if reason:
            reasons[sentence.language] = reason
            items.append(_item(request, output, None, None))
            continue
        counts, plain, heard = phone_counts(judge, sentence.phones, output.key, output.wav)
        kinds, source = by_language[sentence.language], None
        kinds["output"].append(counts)
        kinds["sentences"].append(sentence.key)
        kinds["plain"].append(plain)
        if sentence.has_sound:
            load = partial(judge.reader.wav, sentence)
            source, plain_source, _ = phone_counts(judge, sentence.phones, sentence.key, load)
            kinds["floor"].append(source)
            kinds["plain_floor"].append(plain_source)
        if (other := _another(spoken, number)) is not None:
            kinds["chance"].append(count_edits(heard, other.phones))
        items.append(_item(request, output, counts, source))
        judge.progress(f"hearing phones, {group} voices", number + 1, len(spoken))
    rows, values = [], {"items": items}
    for language in in_order([*by_language, *reasons]):
        if language in by_language:
            said = [request.sentence.key for request, _ in spoken if request.sentence.language == language]
            stored = judge.ear.floor(language) if judge.ear.knows_sentences(said) else None
            row, values[language] = _language_row(language, by_language[language], stored)
            rows.append(row)
        else:
            count = sum(item["language"] == language for item in items)
            values[language] = {"output": None, "reason": reasons[language], "items": count}
            rows.append((language, count, "not measured", *["-"] * 7))
    header = "language outputs error floor toneless floor inserted deleted bad chance".split()
    told = " ".join(f"{language}: {reason}." for language, reason in reasons.items())
    return values, Table(f"Phone error, {group} voices", tuple(header), tuple(rows), f"{_NOTE} {told}".strip())


def _unread(judge: Judge) -> str:
    return judge.reading.reason or "nothing reads this language into phones"


def _language_row(language: str, kinds: dict[str, list], stored: dict | None) -> tuple[tuple, dict]:
    sentences = kinds.pop("sentences")
    # A sentence that several voices say is one draw; so is its floor.
    rates = {name: vars(pooled_rate(counts, clusters=sentences)) for name, counts in kinds.items()}
    if "floor" not in rates and stored:
        rates |= {"floor": stored["error"], "plain_floor": stored["toneless"]}
    rates.setdefault("chance", None)
    output = rates["output"]
    if len(set(sentences)) < 2:  # one sentence does not tell how others would differ
        output |= {"low": None, "high": None}
    bad = sum(count.rate > 0.5 for count in kinds["output"]) / len(kinds["output"])
    ends = "-" if output["low"] is None else f"{100 * output['low']:.0f}-{100 * output['high']:.0f}"
    chance = percent(rates["chance"]["rate"]) if rates["chance"] else "-"
    floors = [percent(rates[name]["rate"]) if name in rates else "unknown" for name in ("floor", "plain_floor")]
    row = (
        language, output["items"], f"{percent(output['rate'])} ({ends})", floors[0], percent(rates["plain"]["rate"]),
        floors[1], percent(output["insertions"]), percent(output["deletions"]), percent(bad), chance,
    )  # fmt: skip
    return row, {**rates, "bad": bad}


def _another(spoken: list[tuple[Request, Spoken]], number: int) -> Clip | None:
    """The sentence of another output in the same language; None where there is no other, for the error against the
    sentence itself is no chance."""
    mine = spoken[number][0].sentence
    for step in range(1, len(spoken)):
        other = spoken[(number + step) % len(spoken)][0].sentence
        if other.language == mine.language and other.text != mine.text and other.phones:
            return other
    return None


def _item(request: Request, output: Spoken, counts: EditCounts | None, source: EditCounts | None) -> dict:
    return {
        "text": request.sentence.text,
        "language": request.sentence.language,
        "voice": request.reference.speaker,
        "wav": output.path.name,
        "error": counts.rate if counts else None,
        "edits": [counts.edits, counts.length] if counts else None,
        "floor": source.rate if source else None,
        "stopped_by": output.stopped_by,
    }


def _recordings(judge: Judge) -> tuple[dict, Table]:
    """The recogniser on people, where a corpus of recordings is among those given: how far it can be trusted there."""
    rows, values = [], {}
    for language in judge.languages:
        if judge.ear.deaf(language):
            continue
        clips = [c for c in judge.test_clips if c.source == "recorded" and c.language == language and c.phones]
        clips = sorted(clips, key=lambda c: c.key)[: judge.options.count]
        counts = [phone_counts(judge, c.phones, c.key, partial(judge.reader.wav, c))[:2] for c in clips]
        if counts:
            full, plain = (pooled_rate(kind) for kind in zip(*counts))
            values[language] = {"error": full.rate, "toneless": plain.rate, "items": full.items}
            rows.append((language, full.items, percent(full.rate), percent(plain.rate)))
    note = "Phones of these are eSpeak's reading of the transcript, not what the person said; an upper bound."
    header = ("language", "clips", "error", "toneless")
    return values, Table("The recogniser on recordings of people", header, tuple(rows), note)


def _english(judge: Judge, listener: EnglishListener) -> tuple[dict, Table]:
    """Open word error and choice among the closed set, for source and outputs."""
    known = [c for c in judge.lines("en") if len(plain_words(c.text)) >= 3 and listener.knows(c.text)]
    known = known[: min(CLOSED_SET, max(judge.options.count, LEAST_CHOICES))]
    if not known:
        reason = "there is no English sentence that pocketsphinx knows"
        return {"reason": reason}, Table("English by pocketsphinx", ("voices",), (), reason)
    listener.expect([clip.text for clip in known])
    hearing = _Hearing(judge, listener, known)
    rows, values = [], {"sentences": len(known)}
    for name, wavs in _english_wavs(judge, known[: judge.options.count or len(judge.real_voices)]).items():
        heard = []
        for key, load, clip in wavs:
            place = known.index(clip)
            found = hearing(key, place, load)
            heard.append({**found, "right": found["which"] == place})
            judge.progress(f"hearing English, {name}", len(heard), len(wavs))
        errors = pooled_rate([EditCounts(*item["edits"]) for item in heard])
        right = sum(item["right"] for item in heard) / max(1, len(heard))
        values[name] = {"word_error": vars(errors), "chosen_right": right}
        rows.append((name, len(heard), percent(errors.rate), percent(right)))
    note = f"Closed set: which of the {len(known)} sentences was said (chance {percent(1 / len(known))})."
    header = ("sound", "outputs", "word error", "right of closed set")
    return values, Table("English by pocketsphinx", header, tuple(rows), note)


def _english_wavs(judge: Judge, known: list[Clip]) -> dict[str, list]:
    """By name, (key, function that gives the sound at a rate, sentence) of all that could be spoken."""
    found: dict[str, list] = {}
    voices: dict[str, list[Clip | None]] = {}
    if all(clip.has_sound for clip in known):
        found["source audio"] = [(clip.key, partial(judge.reader.wav, clip), clip) for clip in known]
        voices["synthetic voices"] = [own_reference(clip, judge.synthetic) for clip in known]
    if real := judge.real_voices:
        voices["real voices"] = [real[number % len(real)].reference for number in range(len(known))]
    if not voices:
        said = {request.sentence.key: request.reference for request, _ in judge.say_all("given")}
        known = [clip for clip in known if clip.key in said]
        voices["given voices"] = [said[clip.key] for clip in known]
    for name, references in voices.items():
        spoken = []
        for number, (clip, reference) in enumerate(zip(known, references, strict=True)):
            output = judge.attempt("english", Request(clip, reference or clip))
            spoken += [(output.key, output.wav, clip)] if output else []
            judge.progress(f"speaking English, {name}", number + 1, len(known))
        if spoken:
            found[name] = spoken
    return found


class _Hearing:
    """Hears once and remembers."""

    def __init__(self, judge: Judge, listener: EnglishListener, known: list[Clip]):
        self.ledger = judge.ledger("english")
        self.listener, self.known = listener, known
        self.set_key = entry_key(*(clip.text for clip in known))

    def __call__(self, key: str, number: int, load: Load) -> dict:
        name = entry_key(self.set_key, key)
        found = self.ledger.get(name)
        if found is None:
            wav = load(SAMPLE_RATE)
            counts = count_edits(self.listener.words(wav), plain_words(self.known[number].text))
            edits = [counts.substitutions, counts.insertions, counts.deletions, counts.length]
            found = self.ledger.put(name, {"edits": edits, "which": self.listener.which(wav)})
        return found
