"""Short everyday phrases that books lack: greetings, answers, numbers, dates, times, letters, and the same words as a
statement, a question and an exclamation.

The words lie in `books/LANGUAGE.toml`; templates are filled with all their words, so that a language gets several
hundred phrases.
"""

import functools
import itertools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.corpus.languages import LANGUAGES

_FOLDER = Path(__file__).parent / "books"
_EMOJI = "😀 😊 👍 ❤️ 🎉 😂 🙏 🚀 🌞 😢 ✨ 🔥".split()
_YEARS = (1066, 1492, 1789, 1848, 1914, 1969, 1989, 1999, 2001, 2008, 2012, 2024)
_LARGE = (*range(110, 1000, 37), *range(1100, 10000, 613))


@dataclass(frozen=True)
class Triple:
    """The same words, said in three ways."""

    statement: str
    question: str
    exclamation: str


def book_languages() -> list[str]:
    """The languages with a phrase book."""
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


@functools.lru_cache(maxsize=32)
def _book(language: str) -> dict[str, Any]:
    return tomllib.loads((_FOLDER / f"{language}.toml").read_text(encoding="utf-8"))


def phrases(language: str) -> list[str]:
    """The phrases of `language`, in a fixed order; empty for a language without a book."""
    if language not in book_languages():
        return []
    book, marks = _book(language), LANGUAGES[language].marks
    full, ask, shout = marks
    found: list[str] = []
    for phrase in book["short"]:
        found += [full.format(phrase), shout.format(phrase), ask.format(phrase), phrase]
    found += [full.format(number) for number in range(101)]
    found += [f"{number}" for number in _LARGE]
    found += [full.format(day) for day in book["days"]]
    found += [question.format(thing) for question, thing in itertools.product(book["ask"], book["things"])]
    found += [text for triple in triples(language) for text in (triple.statement, triple.question, triple.exclamation)]
    found += [*_dates(book), *_times(book), *_letters(book, full), *book["extra"]]
    found += _with_emoji(book["short"], marks)
    return list(dict.fromkeys(found))


def triples(language: str) -> list[Triple]:
    """The same words as statement, question and exclamation, about 180 a language; none without a book."""
    if language not in book_languages():
        return []
    book, (full, ask, shout) = _book(language), LANGUAGES[language].marks
    found = []
    for head, tail in itertools.product(book["heads"], book["tails"]):
        text = " ".join(head.format(tail).split())
        text = text[:1].upper() + text[1:]
        found.append(Triple(full.format(text), ask.format(text), shout.format(text)))
    return found


def carriers(language: str) -> list[str]:
    """Sentences with {} for words of another language; none without a book."""
    return list(_book(language)["carriers"]) if language in book_languages() else []


def short_phrases(language: str) -> list[str]:
    """Greetings, answers and names of things without marks, to be said within other sentences."""
    return [*_book(language)["short"], *_book(language)["things"]] if language in book_languages() else []


def _dates(book: dict[str, Any]) -> list[str]:
    return [
        book["date"].format(day=1 + (7 * index + year) % 28, month=month, year=year)
        for year, (index, month) in itertools.product(_YEARS, enumerate(book["months"]))
    ]


def _times(book: dict[str, Any]) -> list[str]:
    hours = book.get("hours", range(2, 13))
    return [
        pattern.format(h=hour, m=10 + (13 * index + 7 * number) % 50)
        for number, pattern in enumerate(book["times"])
        for index, hour in enumerate(hours)
    ]


def _letters(book: dict[str, Any], full: str) -> list[str]:
    letters, things = book["letters"], book["things"]
    if not letters:
        return []
    found = [text for letter in letters for text in (full.format(letter), letter)]
    for index, letter in enumerate(letters):
        pattern = book["spell"][index % len(book["spell"])]
        found.append(pattern.format(letter, things[index % len(things)].split()[-1]))
        row = [letters[(index * step + step) % len(letters)] for step in (3, 5, 7)]
        found.append(full.format(("、" if full.endswith("。") else ", ").join(row)))
    return found


def _with_emoji(words: list[str], marks: tuple[str, str, str]) -> list[str]:
    found = []
    for index, phrase in enumerate(words):
        emoji = _EMOJI[index % len(_EMOJI)]
        found.append(f"{marks[index % 3].format(phrase)} {emoji}" if index % 4 else f"{emoji} {phrase}")
    return found
