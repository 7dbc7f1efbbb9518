"""Words and characters heard by Whisper, where its weights already lie on this machine; nothing is downloaded."""

import functools
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from modules.corpus.recognition import RATE_HZ, RecognitionOptions, Recognizer
from modules.corpus.whisper_device import Attempt, load_whisper
from modules.corpus.whisper_models import WHISPER_SIZES, find_whisper_model
from modules.data.store import entry_key
from modules.errors import UserError
from modules.evaluation.alignment import EditCounts, count_edits, plain_words, pooled_rate
from modules.evaluation.clips import in_order
from modules.evaluation.ears.hearing import Load
from modules.evaluation.judging import GROUPS, Judge
from modules.evaluation.packages import need
from modules.evaluation.results import Table, percent
from modules.paths import PRETRAINED_MODELS

UNSPACED = frozenset(("zh", "yue", "ja", "th", "lo", "my", "km"))
"""Written without spaces: a line would count as one word."""
_LISTENING = 1.6
"""Of the time for speaking: when a quick judgement no longer listens."""
BEST_FIRST = ("large-v3-turbo", "large-v3", "large-v2", "medium", "small", "base", "tiny")


def local_model() -> Path | None:
    """The best Whisper model on this machine, None where there is none."""
    for size in BEST_FIRST:
        if size in WHISPER_SIZES:
            try:
                return find_whisper_model(size, PRETRAINED_MODELS, reachable=lambda: False)
            except UserError:
                continue
    return None


def text_counts(heard: str, said: str) -> tuple[EditCounts, EditCounts]:
    """Edits of characters and of words, case and punctuation left out."""
    words, truth = plain_words(heard), plain_words(said)
    return count_edits("".join(words), "".join(truth)), count_edits(words, truth)


def whisper_errors(judge: Judge) -> tuple[dict[str, Any], Table]:
    """Character and word errors by language of all groups; a reason where Whisper is missing. Languages that it does
    not know are left out."""
    title, header = "Whisper", ("language", "outputs", "character error", "word error", "floor, characters")
    model = local_model()
    if model is None:
        reason = "no Whisper weights are on this machine (tools.transcribe downloads some)"
        return {"reason": reason}, Table(title, header, ())
    try:
        need("faster_whisper")
    except UserError as error:
        return {"reason": str(error)}, Table(title, header, ())
    found: dict[str, dict[str, list[EditCounts]]] = defaultdict(lambda: defaultdict(list))
    unknown: dict[str, str] = {}
    for group in GROUPS:
        for number, (request, output) in enumerate(judge.say_all(group)):
            if judge.out_of_time(_LISTENING):
                break
            sentence = request.sentence
            if sentence.language in unknown:
                continue
            hearing = _Hearing(judge, model, sentence.language)
            try:
                characters, words = text_counts(hearing(output.key, output.wav), sentence.text)
            except UserError as error:
                if error.code != "asr_language":
                    raise
                unknown[sentence.language] = f"Whisper does not know {sentence.language}"
                continue
            kinds = found[sentence.language]
            kinds["characters"].append(characters)
            if sentence.language not in UNSPACED:
                kinds["words"].append(words)
            if sentence.has_sound:
                source = hearing(sentence.key, lambda rate, clip=sentence: judge.reader.wav(clip, rate))
                characters, words = text_counts(source, sentence.text)
                kinds["floor"].append(characters)
                if sentence.language not in UNSPACED:
                    kinds["word_floor"].append(words)
            judge.progress(f"Whisper, {group} voices", number + 1, len(judge.requests[group]))
    values: dict[str, Any] = {"model": model.name}
    rows: list[tuple[Any, ...]] = []
    for language in in_order(found):
        rates = {name: vars(pooled_rate(counts)) for name, counts in found[language].items()}
        values[language] = rates
        floor = percent(rates["floor"]["rate"]) if "floor" in rates else "unknown"
        words = percent(rates["words"]["rate"]) if "words" in rates else "-"
        rows.append((language, rates["characters"]["items"], percent(rates["characters"]["rate"]), words, floor))
    rows += [(language, 0, "not measured", "-", "-") for language in in_order(unknown)]
    told = "".join(f" {why}." for why in unknown.values())
    if unknown:
        values["unknown"] = unknown
    return values, Table(title, header, tuple(rows), f"Model: {model.name}.{told}")


@functools.lru_cache(maxsize=1)
def _load(folder: Path, attempt: Attempt, threads: int) -> Any:
    """One model for all languages."""
    return load_whisper(folder, attempt, threads)


class _Hearing:
    """One language; recognisers are kept with the judge, what was heard in a ledger."""

    def __init__(self, judge: Judge, model: Path, language: str):
        self.ledger = judge.ledger("whisper")
        self.model, self.language = model, language
        kept: dict[str, Recognizer] = judge.kept.setdefault("whisper", {})
        if language not in kept:
            kept[language] = Recognizer(model, RecognitionOptions(language=language, find_speech=False), load=_load)
        self.recognizer = kept[language]

    def __call__(self, key: str, load: Load) -> str:
        name = entry_key(self.recognizer.identity, key)
        found = self.ledger.get(name)
        if found is None:
            wav = np.asarray(load(RATE_HZ), np.float32)
            found = self.ledger.put(name, {"text": self.recognizer.recognize([wav])[0].text})
        return found["text"]
