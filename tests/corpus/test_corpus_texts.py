"""Cleaning rules, sources, splits of texts."""

import struct
from pathlib import Path

import numpy as np
import pytest

from modules.corpus.cleaning import clean_phrases, is_common_hanzi, is_hangul, is_simplified, phrase_key
from modules.corpus.composed import composed_chinese, composed_japanese
from modules.corpus.languages import LANGUAGES
from modules.corpus.sources import SOURCES, html_paragraphs, message_pairs, text_licences
from modules.corpus.splits import held_count, text_split
from modules.corpus.texts import (
    SOURCE_WEIGHTS,
    Phrase,
    choose_texts,
    distinct,
    file_phrases,
    gather_all,
    gather_texts,
    installed_phrases,
    phrase_weight,
    word_phrases,
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


@pytest.mark.parametrize(
    ("language", "text", "kept"),
    [
        ("ja", "私は 学校へ行きます。「はい」と言った！", ["私は学校へ行きます。", "はいと言った！"]),
        ("ja", "今天天气很好。", []),
        ("ja", "Debian を使います。", []),
        ("ko", "오늘은 날씨가 좋아요. Linux 를 써요.", ["오늘은 날씨가 좋아요."]),
        ("ru", "Сегодня хорошая погода. Use the source.", ["Сегодня хорошая погода."]),
        ("pl", "Źdźbło trawy jest zielone.", ["Źdźbło trawy jest zielone."]),
        ("fr", "Où est l’église ? Elle est là.", ["Où est l'église ?", "Elle est là."]),
        ("fr", "This is the text that nobody has translated.", []),
        ("pt", "Não é o que você quer.", ["Não é o que você quer."]),
        ("it", "The book is on the table for you.", []),
        ("tr", "Bu ağaç çok güzel.", ["Bu ağaç çok güzel."]),
        ("eu", "Kaixo guztioi, zer moduz?", ["Kaixo guztioi, zer moduz?"]),
    ],
)
def test_every_script_has_its_rules(language: str, text: str, kept: list[str]) -> None:
    assert clean_phrases(text, language) == kept


def test_every_language_has_a_row_of_its_own() -> None:
    assert set("en zh ja ko de fr es it pt ru nl pl".split()) <= set(LANGUAGES)
    assert all(len(row.words) > 25 for row in LANGUAGES.values() if row.letters.startswith("abc"))
    assert is_hangul("한국어") and not is_hangul("한국 a")


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


def catalogue(pairs: list[tuple[str, str]]) -> bytes:
    """A compiled gettext catalogue."""
    strings = [[text.encode() + b"\0" for text in column] for column in zip(*pairs, strict=True)]
    start = 28 + 16 * len(pairs)
    tables, data = b"", b""
    for column in strings:
        for text in column:
            tables += struct.pack("<2I", len(text) - 1, start + len(data))
            data += text
    return struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0) + tables + data


def test_translations_of_a_game_are_read_for_both_languages(tmp_path: Path) -> None:
    pairs = [("", "Content-Type: text/plain"), ("A <i>dragon</i> is in the lake!", "Un dragon est dans le lac !"),
             ("Same in both of them.", "Same in both of them.")]  # fmt: skip
    assert list(message_pairs(catalogue(pairs))) == pairs
    assert list(message_pairs(b"\0" * 20)) == []
    for tag in ("fr", "de"):
        folder = tmp_path / f"games/wesnoth/1.16/locale/{tag}/LC_MESSAGES"
        folder.mkdir(parents=True)
        (folder / "x.mo").write_bytes(catalogue(pairs))
    assert [p.text for p in installed_phrases("fr", tmp_path)] == ["Un dragon est dans le lac !"]
    assert [p.text for p in installed_phrases("en", tmp_path)] == [
        "A dragon is in the lake!",
        "Same in both of them.",
    ]


def test_every_source_names_its_licence() -> None:
    licences = text_licences()
    assert all(licences.values())
    assert {source.name for source in SOURCES} | set(SOURCE_WEIGHTS) <= set(licences)


def test_frequent_words_stand_alone() -> None:
    found = word_phrases([Phrase("the dog sees the cat", "en", "a"), Phrase("The dog.", "en", "a")], "en", 2)
    assert [phrase_key(p.text) for p in found] == ["the", "dog"]
    assert word_phrases([Phrase("我们", "zh", "a")], "zh") == []


def test_short_phrases_are_taken_sooner() -> None:
    short, long = (Phrase("ab " * count, "fr", "wesnoth") for count in (8, 30))
    assert phrase_weight(short) > 3 * phrase_weight(long)
    assert phrase_weight(short) > phrase_weight(Phrase(short.text, "fr", "help"))


def test_gathering_side_by_side_gives_the_same(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("The boat is in the harbour.\n", encoding="utf-8")
    requests = [(tag, [file], ["I am the man."], 0, [tmp_path]) for tag in ("en", "pt")]
    alone = [gather_texts(*request) for request in requests]
    assert list(gather_all(requests, 2)) == alone
    assert {"file", "transcript", "phrasebook", "words"} == {p.source for p in alone[0]}


def test_composed_phrases_make_characters_frequent(tmp_path: Path) -> None:
    pytest.importorskip("pypinyin")
    pytest.importorskip("fugashi")
    found = "".join(composed_chinese(0))
    assert sum(found.count(c) >= 4 for c in "银绿猫窗借") == 5
    assert composed_japanese(tmp_path) == []
    (tmp_path / "edict").mkdir()
    lines = ["新聞 [しんぶん] /(n) newspaper/(P)/", "学校 [がっこう] /(n) school/(P)/", "罕字 [かんじ] /(n) rare/",
             "電車(P);電驛 [でんしゃ(P);でんえき] /(n) train/(P)/"]  # fmt: skip
    (tmp_path / "edict/edict").write_bytes("\n".join(lines).encode("euc_jp", "ignore"))
    assert {c for text in composed_japanese(tmp_path) for c in text} >= set("新聞学校")


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
