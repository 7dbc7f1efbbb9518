"""Phone labels and Chinese readings."""

import pytest

from modules.corpus.phones import INVENTORY, PAUSE, label_inventory, normalise_label
from modules.corpus.pinyin import number_reading, spoken_hanzi


def test_the_inventory_is_small_and_without_repetition() -> None:
    assert len(INVENTORY) == len(set(INVENTORY)) <= 150
    assert INVENTORY[0] == PAUSE


@pytest.mark.parametrize(
    ("label", "tone", "symbols"),
    [
        ("ˈoʊ", 0, ["o", "ʊ"]),
        ("uː", 0, ["u"]),
        ("tʃ", 0, ["tʃ"]),
        ("ɑːɹ", 0, ["ɑ", "ɹ"]),
        ("(en)", 0, []),
        ("", 0, []),
        ("ɛ̃", 0, ["ɛ̃"]),
        ("ç", 0, ["ç"]),
        ("ts.", 1, ["tʂ"]),
        ("ts.h", 1, ["tʂʰ"]),
        ("ˈonɡ", 1, ["o1", "ŋ"]),
        ("ˈuo", 2, ["u", "o2"]),
        ("ˈi.", 4, ["ɨ4"]),
        ("ˈɑu", 3, ["a3", "u"]),
        ("h", 4, ["h"]),
    ],
)
def test_labels_are_split_into_the_closed_set(label: str, tone: int, symbols: list[str]) -> None:
    assert normalise_label(label, tone) == symbols
    assert set(symbols) <= set(INVENTORY)


@pytest.mark.parametrize(
    ("label", "voice", "symbols"),
    [
        ("ɯᵝ", "ja", ["ɯ"]),
        ("ˈũ", "ja", ["ŋ"]),
        ("dʑ", "ja", ["dʑ"]),
        ("ˈo̞o̞", "ja", ["o", "o"]),
        ("q-", "ko", ["k͈"]),
        ("q", "ko", ["k"]),
        ("ph", "ko", ["pʰ"]),
        ("tʃʲ", "ru", ["tɕ"]),
        ("ˈy", "ru", ["ɨ"]),
        ("dʲ", "ru", ["d", "j"]),
        ("ɐ̃ʊ̃", "pt-br", ["ã", "ʊ"]),
        ("ʑ", "pl", ["ʑ"]),
        ("tsː", "it", ["ts"]),
        ("œ̃", "fr", ["ɛ̃"]),
        ("r̝", "cs", ["r", "ʒ"]),
        ("y", "", ["y"]),
    ],
)
def test_voices_with_spellings_of_their_own(label: str, voice: str, symbols: list[str]) -> None:
    assert normalise_label(label, voice=voice) == symbols
    assert set(symbols) <= set(INVENTORY)


def test_inventory_of_stores_is_ordered_and_starts_with_the_pause() -> None:
    class Store:
        def column(self, name: str) -> list[str]:
            assert name == "phones"
            return ["t a _ k", "", "a4 n"]

    assert label_inventory(Store()) == ["_", "t", "k", "n", "a", "a4"]
    assert label_inventory([Store(), Store()]) == label_inventory(Store())


@pytest.mark.parametrize(
    ("digits", "reading"),
    [("0", "零"), ("10", "十"), ("12", "十二"), ("42", "四十二"), ("105", "一百零五"), ("10105", "一万零一百零五"),
     ("2000", "二千"), ("007", "零零七"), ("100000", "十万")],
)  # fmt: skip
def test_numbers_are_read_in_chinese(digits: str, reading: str) -> None:
    assert number_reading(digits) == reading


def test_years_are_read_digit_by_digit() -> None:
    assert spoken_hanzi("2021年3月") == "二零二一年三月"
    assert spoken_hanzi("3.5%") == "百分之三点五"
