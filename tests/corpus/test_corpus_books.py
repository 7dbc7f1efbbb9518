"""The phrase books, and lines in two languages."""

import numpy as np
import pytest

from modules.corpus.languages import LANGUAGES
from modules.corpus.phrasebook import book_languages, carriers, phrases, short_phrases, triples
from modules.corpus.splits import text_split
from modules.corpus.switching import languages_of, switched_lines
from modules.corpus.texts import Phrase

TWELVE = "en zh ja ko de fr es it pt ru nl pl".split()


def test_the_twelve_languages_have_a_book() -> None:
    assert book_languages() == sorted(TWELVE)
    assert phrases("tr") == triples("tr") == carriers("tr") == short_phrases("tr") == []


@pytest.mark.parametrize("language", TWELVE)
def test_a_book_has_numbers_questions_and_exclamations(language: str) -> None:
    found = phrases(language)
    assert len(found) > 1000 and len(found) == len(set(found))
    assert any(p.endswith(("?", "？")) for p in found) and any(p.endswith(("!", "！")) for p in found)
    assert {str(number) for number in range(101)} <= {p.rstrip(".。") for p in found}
    assert any("1999" in p for p in found)  # dates
    assert any(not c.isascii() and c in "😀😊👍🎉" for p in found for c in p)
    assert not any("{" in p for p in found)


@pytest.mark.parametrize("language", TWELVE)
def test_the_same_words_are_said_in_three_ways(language: str) -> None:
    found = triples(language)
    assert len({t.statement for t in found}) >= 150
    for triple in found:
        ways = (triple.statement, triple.question, triple.exclamation)
        assert len({"".join(c for c in way if c.isalnum()) for way in ways}) == 1
        assert len({text_split(way) for way in ways}) == 1
        assert triple.question[-1] in "?？" and triple.exclamation[-1] in "!！"


@pytest.mark.parametrize("language", [tag for tag in TWELVE if tag != "zh"])
def test_single_letters_are_spoken(language: str) -> None:
    found = set(phrases(language))
    letters = {"ru": "БЯ", "ko": "가하", "ja": "あカ"}.get(language, "BZ")
    assert all(letter in found for letter in letters)


@pytest.mark.parametrize("pair", [("en", "de"), ("zh", "ja"), ("en", "ko"), ("fr", "ru")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_lines_in_two_languages_belong_to_one_split(pair: tuple[str, str], split: str) -> None:
    texts = {tag: [Phrase(text, tag, "phrasebook") for text in phrases(tag)] for tag in pair}
    found = switched_lines(pair, texts, split, 30, np.random.default_rng(0))
    assert found == switched_lines(pair, texts, split, 30, np.random.default_rng(0))
    assert len({line.text for line in found}) == len(found) == 30
    for line in found:
        assert text_split(line.text) == split
        assert {tag for _, tag in line.parts} == set(pair)
        squeezed = "".join(text for text, _ in line.parts).replace(" ", "")
        assert squeezed == line.text.replace(" ", "")


def test_tags_of_pairs() -> None:
    assert languages_of("en") == ["en"] and languages_of("en+de") == ["en", "de"]
    assert all("{}" in mark for row in LANGUAGES.values() for mark in row.marks)
