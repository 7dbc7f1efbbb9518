"""Lines in two languages, made on purpose: two sentences side by side, or words of one language within the other's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.corpus import phrasebook
from modules.corpus.languages import LANGUAGES
from modules.corpus.readings import without_emoji
from modules.corpus.splits import text_split
from modules.corpus.texts import Phrase, phrase_split

_SHORT_SECONDS = 2.0
_PLAIN = frozenset(("wesnoth", "phrasebook", "transcript", "file"))  # manuals and jokes hold other languages
_TRIES = 400  # held-out lines must fall into their split by their own hash too, which about one in 17 does


@dataclass(frozen=True)
class Switched:
    """One line: its text, and (text, language) of each part as it is spoken."""

    text: str
    parts: tuple[tuple[str, str], ...]


def languages_of(tag: str) -> list[str]:
    """The languages of a tag such as "en" or "en+de"."""
    return tag.split("+")


def switched_lines(
    pair: tuple[str, str], texts: dict[str, Sequence[Phrase]], split: str, count: int, rng: np.random.Generator
) -> list[Switched]:
    """`count` lines (fewer where texts are few) whose sentences and whole text belong to `split`."""
    pools = [[p.text for p in texts.get(tag, ()) if _is_short(p) and phrase_split(p) == split] for tag in pair]
    found: dict[str, Switched] = {}
    for _ in range(_TRIES * count):
        if len(found) == count or not all(pools):
            break
        first = int(rng.integers(2))
        line = _carried(pair, first, rng) if rng.random() < 0.5 else _side_by_side(pair, first, pools, rng)
        if line is not None and text_split(line.text) == split:
            found.setdefault(line.text, line)
    return list(found.values())


def _is_short(phrase: Phrase) -> bool:
    row = LANGUAGES.get(phrase.language)
    if row is None or phrase.source not in _PLAIN or without_emoji(phrase.text) != phrase.text:
        return False
    return 0.4 <= len(phrase.text) / row.pace <= _SHORT_SECONDS


def _side_by_side(pair: tuple[str, str], first: int, pools: list[list[str]], rng: np.random.Generator) -> Switched:
    parts = []
    for index in (first, 1 - first):
        text = pools[index][int(rng.integers(len(pools[index])))]
        mark = LANGUAGES[pair[index]].marks[0].format("")
        parts.append((text if text[-1] in ".?!。？！" else text + mark, pair[index]))
    joint = " " if any(LANGUAGES[tag].spaced for tag in pair) and rng.random() < 0.8 else ""
    if all(LANGUAGES[tag].spaced for tag in pair):
        joint = " "
    return Switched(joint.join(text for text, _ in parts), tuple(parts))


def _carried(pair: tuple[str, str], first: int, rng: np.random.Generator) -> Switched | None:
    outer, inner = pair[first], pair[1 - first]
    carriers, words = phrasebook.carriers(outer), phrasebook.short_phrases(inner)
    if not carriers or not words:
        return None
    carrier = carriers[int(rng.integers(len(carriers)))]
    word = words[int(rng.integers(len(words)))]
    before, _, after = carrier.partition("{}")
    parts = [(before.strip(), outer)] if before.strip() else []
    if any(c.isalpha() for c in after):
        parts += [(word, inner), (after.strip(), outer)]
    else:
        parts.append((word + after.strip(), inner))
    return Switched(carrier.format(word), tuple(parts))
