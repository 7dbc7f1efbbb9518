"""Sentences and phrases per language: installed packages, the user's files, transcripts, a phrase book, single words.

Everything is cleaned (`modules.corpus.cleaning`), cut to a length that a small model can learn, and listed once.
"""

import math
import multiprocessing
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import regex as re

from modules.corpus import phrasebook
from modules.corpus.cleaning import clean_phrases, phrase_key
from modules.corpus.composed import composed_chinese, composed_japanese
from modules.corpus.kana import can_read_japanese, kana_reading
from modules.corpus.languages import LANGUAGES, Language
from modules.corpus.readings import without_emoji
from modules.corpus.sources import SHARE, installed_paragraphs
from modules.corpus.splits import text_split
from modules.errors import UserError

# How likely a phrase of a source is taken: help pages repeat themselves, stories and transcripts are plain language.
SOURCE_WEIGHTS = {
    "fortunes": 0.8,
    "wesnoth": 1.0,
    "handbook": 0.25,
    "gnome": 0.25,
    "help": 0.12,
    "debian": 0.12,
    "phrasebook": 0.8,
    "words": 0.5,
    "transcript": 3.0,
    "file": 3.0,
    "composed": 0.6,
    "edict": 0.6,
}
_OF_LANGUAGE = {("zh", "fortunes"): 0.15, ("ru", "fortunes"): 0.3, ("pl", "fortunes"): 0.4}  # half verse, or chat logs
_EASY_SECONDS, _FALL_SECONDS = 2.3, 1.6
_MANUALS = frozenset(("help", "debian", "handbook", "gnome"))  # with names of menus and untranslated pieces
FREQUENT_WORDS = 1500


@dataclass(frozen=True)
class Phrase:
    """A text to speak and the package or file it came from."""

    text: str
    language: str
    source: str


def installed_phrases(language: str, share: Path = SHARE) -> Iterator[Phrase]:
    """Phrases of the installed packages for `language`; nothing when none is installed."""
    for source, paragraph in installed_paragraphs(language, share):
        for text in clean_phrases(paragraph, language, strict=source in _MANUALS):
            yield Phrase(text, language, source)


def file_phrases(path: Path, language: str) -> Iterator[Phrase]:
    """Phrases of a UTF-8 text file, or of every .txt file of a folder.

    Raises:
        UserError: there is no such file.
    """
    if not path.exists():
        raise UserError("text_file_missing", "The text file {file} cannot be read; check the path.", file=str(path))
    for file in sorted(path.rglob("*.txt")) if path.is_dir() else [path]:
        for line in file.read_text(encoding="utf-8-sig", errors="ignore").splitlines():
            for text in clean_phrases(line, language):
                yield Phrase(text, language, "file")


def book_phrases(language: str) -> Iterator[Phrase]:
    """The phrase book, uncut."""
    for text in phrasebook.phrases(language):
        yield Phrase(text, language, "phrasebook")


def word_phrases(phrases: Iterable[Phrase], language: str, count: int = FREQUENT_WORDS) -> list[Phrase]:
    """The words that are frequent in `phrases`, each as an utterance of its own; none for scripts without spaces."""
    row = LANGUAGES.get(language)
    if row is None or not row.spaced:
        return []
    words = Counter(
        word.casefold() for p in phrases for word in re.findall(r"[\p{L}\p{M}]+(?:'[\p{L}\p{M}]+)?", p.text)
    )
    shortest = 1 if language == "ko" else 3
    frequent = [
        word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0])) if len(word) >= shortest
    ]
    return [Phrase(_word_text(word, index, row), language, "words") for index, word in enumerate(frequent[:count])]


def _word_text(word: str, index: int, row: Language) -> str:
    text = word[:1].upper() + word[1:] if index % 3 else word
    return text if index % 4 == 0 else row.marks[0].format(text)


def gather_texts(
    language: str,
    files: Sequence[Path] = (),
    transcripts: Sequence[str] = (),
    seed: int = 0,
    shares: Sequence[Path] = (SHARE,),
    held_out: Collection[str] = (),
) -> list[Phrase]:
    """All distinct phrases for a language, the more natural sources first; none whose key is held out."""
    found: list[Phrase] = list(book_phrases(language))
    for path in files:
        found += file_phrases(path, language)
    found += [
        Phrase(phrase, language, "transcript") for text in transcripts for phrase in clean_phrases(text, language)
    ]
    for share in shares:
        found += installed_phrases(language, share)
    if language == "zh":
        found += [Phrase(text, language, "composed") for text in composed_chinese(seed)]
    if language == "ja":
        found += [Phrase(text, language, "edict") for share in shares for text in composed_japanese(share, seed)]
    found += word_phrases([p for p in found if p.source != "phrasebook"], language)
    found = [phrase for phrase in distinct(found) if phrase_key(phrase.text) not in held_out]
    if language == "ja" and can_read_japanese():
        found = [phrase for phrase in found if kana_reading(without_emoji(phrase.text))]
    return found


def gather_all(requests: Sequence[tuple], processes: int = 1) -> Iterator[list[Phrase]]:
    """`gather_texts` of each tuple of arguments, in order; languages are read side by side."""
    if processes < 2 or len(requests) < 2:
        yield from (gather_texts(*request) for request in requests)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(_gather_one, requests)


def _gather_one(request: tuple) -> list[Phrase]:
    return gather_texts(*request)


def phrase_split(phrase: Phrase) -> str:
    """The split of a phrase. Transcripts of training recordings are heard in training, so they stay there."""
    return "train" if phrase.source == "transcript" else text_split(phrase.text)


def distinct(phrases: Iterable[Phrase]) -> list[Phrase]:
    """The phrases in order without repetitions. Phrases of the book differ by punctuation too."""
    seen: set[str] = set()
    kept: list[Phrase] = []
    for phrase in phrases:
        key = phrase.text if phrase.source == "phrasebook" else phrase_key(phrase.text)
        if key and key not in seen:
            seen.add(key)
            kept.append(phrase)
    return kept


def choose_texts(phrases: Sequence[Phrase], count: int, rng: np.random.Generator) -> list[Phrase]:
    """`count` phrases by weight, without repetition while there are enough (Efraimidis and Spirakis, 2006)."""
    if not phrases:
        return []
    weights = np.array([phrase_weight(phrase) for phrase in phrases])
    order: list[int] = []
    while len(order) < count:
        keys = np.log(rng.random(len(phrases))) / weights
        order += np.argsort(-keys)[: count - len(order)].tolist()
    return [phrases[index] for index in order]


def phrase_weight(phrase: Phrase) -> float:
    """How likely a phrase is taken: by source, and short ones sooner, because a small model reads from many of them."""
    weight = _OF_LANGUAGE.get((phrase.language, phrase.source), SOURCE_WEIGHTS.get(phrase.source, 1.0))
    row = LANGUAGES.get(phrase.language)
    seconds = len(phrase.text) / (row.pace if row else 14.0)
    return weight * math.exp(-max(seconds - _EASY_SECONDS, 0.0) / _FALL_SECONDS)
