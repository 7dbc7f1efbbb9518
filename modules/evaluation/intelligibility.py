"""Is it understood? Phone errors of outputs by the judge's recogniser, and English words by pocketsphinx.

The truth is the phones of the source audio of the same sentence. The floor is the recogniser's own error on that
source audio; chance is its error against the phones of another sentence.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np

from modules.data.store import entry_key
from modules.evaluation.alignment import EditCounts, count_edits, plain_words, pooled_rate, without_tones
from modules.evaluation.clips import LANGUAGES, Clip, own_reference, sentences
from modules.evaluation.english import SAMPLE_RATE, EnglishListener
from modules.evaluation.judging import GROUPS, Judge, Request
from modules.evaluation.results import Finding, Ledger, Table, percent
from modules.evaluation.speaking import Spoken

CLOSED_SET = 72
_NOTE = (
    "Floor: the recogniser on the source audio (synthetic voices). Chance: outputs against another sentence. Toneless: "
    "tone digits of Mandarin left out. Bad: sentences with more than half of their phones wrong. In brackets: 95 % "
    "interval over sentences."
)


def judge_intelligibility(judge: Judge) -> Finding:
    """Both ears, both groups of voices."""
    listener = EnglishListener()  # first, so that a missing package is told before hours of work
    values: dict = {}
    tables = []
    for group in GROUPS:
        if judge.requests[group]:
            values[group], table = _phones(judge, group)
            tables.append(table)
    values["recordings"], table = _recordings(judge)
    tables += [table] if table.rows else []
    values["english"], table = _english(judge, listener)
    return Finding("intelligibility", values, (*tables, table))


def phone_counts(judge: Judge, clip_phones: Sequence[str], wav: np.ndarray) -> tuple[EditCounts, EditCounts, list[str]]:
    """Edits of what the recogniser hears in wav float32 [S] at its rate, with and without tones; what it heard."""
    heard = judge.recognizer.hear([wav])[0]
    plain = count_edits(without_tones(heard), without_tones(clip_phones))
    return count_edits(heard, clip_phones), plain, heard


def _phones(judge: Judge, group: str) -> tuple[dict, Table]:
    rate = judge.recognizer.sample_rate
    spoken = judge.say_all(group)
    by_language: dict[str, dict[str, list[EditCounts]]] = defaultdict(lambda: defaultdict(list))
    items = []
    for number, (request, output) in enumerate(spoken):
        sentence = request.sentence
        counts, plain, heard = phone_counts(judge, sentence.phones, output.wav(rate))
        source, plain_source, _ = phone_counts(judge, sentence.phones, judge.reader.wav(sentence, rate))
        kinds = by_language[sentence.language]
        for name, value in zip(("output", "plain", "floor", "plain_floor"), (counts, plain, source, plain_source)):
            kinds[name].append(value)
        kinds["chance"].append(count_edits(heard, _another(spoken, number).phones))
        items.append(_item(request, output, counts, source))
        judge.progress(f"hearing phones, {group} voices", number + 1, len(spoken))
    rows, values = [], {"items": items}
    for language in LANGUAGES:
        if language in by_language:
            row, values[language] = _language_row(language, by_language[language])
            rows.append(row)
    header = "language outputs error floor toneless floor inserted deleted bad chance".split()
    return values, Table(f"Phone error, {group} unseen voices", tuple(header), tuple(rows), _NOTE)


def _language_row(language: str, kinds: dict[str, list[EditCounts]]) -> tuple[tuple, dict]:
    rates = {name: pooled_rate(counts) for name, counts in kinds.items()}
    output = rates["output"]
    bad = sum(count.rate > 0.5 for count in kinds["output"]) / len(kinds["output"])
    interval = f"{percent(output.rate)} ({100 * output.low:.0f}-{100 * output.high:.0f})"
    row = (
        language, output.items, interval, percent(rates["floor"].rate), percent(rates["plain"].rate),
        percent(rates["plain_floor"].rate), percent(output.insertions), percent(output.deletions), percent(bad),
        percent(rates["chance"].rate),
    )  # fmt: skip
    values = {name: vars(rate) for name, rate in rates.items()}
    return row, {**values, "bad": bad}


def _another(spoken: list[tuple[Request, Spoken]], number: int) -> Clip:
    """The sentence of another output in the same language."""
    mine = spoken[number][0].sentence
    for step in range(1, len(spoken)):
        other = spoken[(number + step) % len(spoken)][0].sentence
        if other.language == mine.language and other.text != mine.text:
            return other
    return mine


def _item(request: Request, output: Spoken, counts: EditCounts, source: EditCounts) -> dict:
    return {
        "text": request.sentence.text,
        "language": request.sentence.language,
        "voice": request.reference.speaker,
        "wav": output.path.name,
        "error": counts.rate,
        "floor": source.rate,
        "stopped_by": output.stopped_by,
    }


def _recordings(judge: Judge) -> tuple[dict, Table]:
    """The recogniser on people, where a corpus of recordings is among those given: how far it can be trusted there."""
    rows, values = [], {}
    rate = judge.recognizer.sample_rate
    for language in LANGUAGES:
        clips = [c for c in judge.test_clips if c.source == "recorded" and c.language == language and c.phones]
        clips = sorted(clips, key=lambda c: c.key)[: judge.options.count]
        counts = [phone_counts(judge, clip.phones, judge.reader.wav(clip, rate))[:2] for clip in clips]
        if counts:
            full, plain = (pooled_rate(kind) for kind in zip(*counts))
            values[language] = {"error": full.rate, "toneless": plain.rate, "items": full.items}
            rows.append((language, full.items, percent(full.rate), percent(plain.rate)))
    note = "Phones of these are eSpeak's reading of the transcript, not what the person said; an upper bound."
    header = ("language", "clips", "error", "toneless")
    return values, Table("The recogniser on recordings of people", header, tuple(rows), note)


def _english(judge: Judge, listener: EnglishListener) -> tuple[dict, Table]:
    """Open word error and choice among the closed set, for source and outputs."""
    known = [clip for clip in sentences(judge.synthetic, "en", judge.options.seed) if listener.knows(clip.text)]
    known = [clip for clip in known if len(plain_words(clip.text)) >= 3][: min(CLOSED_SET, judge.options.count)]
    if not known:
        return {}, Table("English by pocketsphinx", ("voices",), (), "The corpus holds no English sentence for it.")
    listener.expect([clip.text for clip in known])
    hearing = _Hearing(judge, listener, known)
    rows, values = [], {"sentences": len(known)}
    for name, wavs in _english_wavs(judge, known).items():
        heard = []
        for number, (key, load) in enumerate(wavs):
            heard.append(hearing(key, number % len(known), load))
            judge.progress(f"hearing English, {name}", number + 1, len(wavs))
        errors = pooled_rate([EditCounts(*item["edits"]) for item in heard])
        right = sum(item["which"] == number % len(known) for number, item in enumerate(heard)) / max(1, len(heard))
        values[name] = {"word_error": vars(errors), "chosen_right": right}
        rows.append((name, len(heard), percent(errors.rate), percent(right)))
    note = f"Closed set: which of the {len(known)} sentences was said (chance {percent(1 / len(known))})."
    header = ("sound", "outputs", "word error", "right of closed set")
    return values, Table("English by pocketsphinx", header, tuple(rows), note)


def _english_wavs(judge: Judge, known: list[Clip]) -> dict[str, list]:
    """By name, (key, function that gives the sound at 16 kHz) of every sentence in order."""
    found: dict[str, list] = {"source audio": [(c.key, partial(judge.reader.wav, c, SAMPLE_RATE)) for c in known]}
    voices = {"synthetic voices": [own_reference(clip, judge.synthetic) for clip in known]}
    real = judge.voice_tests["real"]
    if real:
        voices["real voices"] = [real[number % len(real)].reference for number in range(len(known))]
    for name, references in voices.items():
        spoken = []
        for clip, reference in zip(known, references, strict=True):
            spoken.append(judge.say(Request(clip, reference or clip)))
            judge.progress(f"speaking English, {name}", len(spoken), len(known))
        found[name] = [(output.key, partial(output.wav, SAMPLE_RATE)) for output in spoken]
    return found


class _Hearing:
    """Hears once and remembers."""

    def __init__(self, judge: Judge, listener: EnglishListener, known: list[Clip]):
        self.ledger = Ledger(judge.folder / "english.jsonl")
        self.listener, self.known = listener, known
        self.set_key = entry_key(*(clip.text for clip in known))

    def __call__(self, key: str, number: int, load) -> dict:
        name = entry_key(self.set_key, key)
        found = self.ledger.get(name)
        if found is None:
            wav = load()
            counts = count_edits(self.listener.words(wav), plain_words(self.known[number].text))
            edits = [counts.substitutions, counts.insertions, counts.deletions, counts.length]
            found = self.ledger.put(name, {"edits": edits, "which": self.listener.which(wav)})
        return found
