"""Cleaning rules, sources, splits of texts."""

from pathlib import Path

import numpy as np
import pytest

from modules.corpus.phrasebook import phrases
from modules.corpus.splits import held_count, text_split
from modules.corpus.synthetic import choose_texts
from modules.corpus.texts import (
    Phrase,
    clean_phrases,
    distinct,
    file_phrases,
    html_paragraphs,
    installed_phrases,
    is_common_hanzi,
    is_simplified,
    phrase_key,
)
from modules.errors import UserError


def test_paragraphs_become_sentences() -> None:
    found = clean_phrases("The cat\n  sat down.  “Why not?” he asked the dog.", "en")
    assert found == ["The cat sat down.", "Why not?", "he asked the dog."] or found == [
        "The cat sat down.",
        "Why not? he asked the dog.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "See /usr/share/doc for it.",
        "Visit http://example.org/page now",
        "if (x == 3) { return; }",
        "run apt-get --force now please",
        "The file.txt is here today",
        "#### ---- ****",
        "one",
        "1234567 8901 23",
        "der Hund und die Katze sind nicht da",
    ],
)
def test_code_paths_and_other_languages_are_dropped(text: str) -> None:
    assert clean_phrases(text, "en") == []


def test_long_sentences_are_cut_at_commas_and_stay_within_bounds() -> None:
    text = ", ".join(f"and the man number {word} walked to the old house" for word in ("one", "two", "three", "four"))
    found = clean_phrases(text + ".", "en")
    assert len(found) > 1 and all(8 <= len(phrase) <= 90 for phrase in found)


def test_chinese_is_simplified_and_of_moderate_length() -> None:
    assert clean_phrases("今天 天气很好。我们去公园吧！", "zh") == ["今天天气很好。", "我们去公园吧！"]
    assert clean_phrases("這是傳統漢字的句子。", "zh") == []
    assert clean_phrases("请使用 apt 命令安装软件", "zh") == []
    assert is_simplified("汉字") and not is_simplified("漢字")
    assert is_common_hanzi("的") and not is_common_hanzi("a") and not is_common_hanzi("龘")


def test_visible_paragraphs_of_a_page() -> None:
    page = "<head><title>x</title></head><body><p>One <b>two</b>.</p><pre>code()</pre><p>Three&amp;four</p></body>"
    assert [p.strip() for p in html_paragraphs(page)] == ["One two.", "Three&four"]


def test_sources_are_used_if_they_are_there(tmp_path: Path) -> None:
    assert list(installed_phrases("en", tmp_path)) == []
    fortunes = tmp_path / "games" / "fortunes"
    fortunes.mkdir(parents=True)
    (fortunes / "wisdom").write_text("\x1b[33mThe early bird is tired.\x1b[m\n\t\t-- Nobody\n%\nYou can not win.\n")
    (fortunes / "wisdom.dat").write_bytes(b"\0\1")
    handbook = tmp_path / "doc/debian-handbook/html/en-US"
    handbook.mkdir(parents=True)
    (handbook / "a.html").write_text("<p>This is the manual of a house.</p>")
    assert [(p.source, p.text) for p in installed_phrases("en", tmp_path)] == [
        ("fortunes", "The early bird is tired."),
        ("fortunes", "You can not win."),
        ("handbook", "This is the manual of a house."),
    ]


def test_own_text_file_and_folder(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("﻿The boat is in the harbour.\nA second line for you.\n", encoding="utf-8")
    expected = ["The boat is in the harbour.", "A second line for you."]
    assert [p.text for p in file_phrases(file, "en")] == expected
    assert [p.text for p in file_phrases(tmp_path, "en")] == expected
    with pytest.raises(UserError) as caught:
        list(file_phrases(tmp_path / "none.txt", "en"))
    assert caught.value.code == "text_file_missing"


def test_phrases_are_listed_once() -> None:
    found = [Phrase(text, "en", "a") for text in ("The cat is here.", "the cat is here", "A dog is here.")]
    assert [p.text for p in distinct(found)] == ["The cat is here.", "A dog is here."]


@pytest.mark.parametrize("language", ["en", "de", "es", "zh"])
def test_the_phrase_book_has_numbers_questions_and_exclamations(language: str) -> None:
    found = phrases(language)
    assert len(found) > 500 and len(found) == len(set(found))
    assert any(p.endswith(("?", "？")) for p in found) and any(p.endswith(("!", "！")) for p in found)
    assert any(p.startswith("42") for p in found)


def test_the_split_of_a_text_ignores_case_and_punctuation() -> None:
    assert text_split("Hello, World!") == text_split("hello world")
    counts = {"train": 0, "dev": 0, "test": 0}
    for number in range(2000):
        counts[text_split(f"sentence {number}")] += 1
    assert counts["train"] > 1600 and 60 < counts["dev"] < 200 and 60 < counts["test"] < 200


def test_held_out_counts() -> None:
    assert held_count(18000) == 540 and held_count(3000) == 150 and held_count(50) == 5


def test_heavier_sources_are_taken_first_without_repetition() -> None:
    pool = [Phrase(f"text {i}", "en", "help" if i % 2 else "fortunes") for i in range(400)]
    chosen = choose_texts(pool, 150, np.random.default_rng(0))
    assert len({p.text for p in chosen}) == 150
    assert sum(p.source == "fortunes" for p in chosen) > 95
    assert len(choose_texts(pool, 500, np.random.default_rng(0))) == 500
    assert phrase_key("Ä b!") == "äb"
