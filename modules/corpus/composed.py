"""Phrases composed of dictionary words, so that every frequent hanzi and kanji occurs often.

Natural text repeats a few hundred characters; a model that has met a character twice cannot read it. Chinese words are
those of pypinyin's phrase dictionary whose characters are all frequent (GB 2312, first level); Japanese ones are the
common words of EDICT.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import regex as re

from modules.corpus.cleaning import is_common_hanzi
from modules.corpus.kana import can_read_japanese, kana_reading

_CHINESE_TWO = (
    "{0}的{1}。",
    "{0}和{1}。",
    "{0}。",
    "{0}，{1}。",
    "我们说{0}，他们说{1}。",
    "这是{0}。",
    "这是{0}，那是{1}。",
    "有人喜欢{0}，有人喜欢{1}。",
    "先{0}，再{1}。",
    "{0}还是{1}？",
    "你知道{0}吗？",
    "{0}，{1}！",
    "从{0}到{1}都很重要。",
    "请写下{0}这个词。",
    "他想起了{0}，也想起了{1}。",
)
_CHINESE_IDIOM = (
    "{0}。",
    "{0}，{1}。",
    "真是{0}！",
    "俗话说，{0}。",
    "{0}，就像{1}一样。",
    "什么叫{0}？",
    "他觉得{0}。",
)
_JAPANESE = (
    "{0}。",
    "{0}と{1}。",
    "{0}の{1}。",
    "{0}、{1}。",
    "これは{0}です。",
    "これは{0}で、あれは{1}です。",
    "{0}ですか、{1}ですか？",
    "{0}はどこですか？",
    "{0}について話しました。",
    "{0}が好きです。",
    "{0}を見てください。",
    "{0}と{1}を書きました。",
    "{0}だけです！",
)
_EDICT = Path("edict/edict")
_KANJI_WORD = re.compile(r"^[\u4e00-\u9fff々]{1,4}$")


def composed_chinese(seed: int = 0, times: int = 4) -> list[str]:
    """Phrases in which each frequent hanzi that the dictionary knows is used at least about `times` times.

    Needs pypinyin (a corpus-building extra).
    """
    from pypinyin.phrases_dict import phrases_dict  # a tool for building corpora, absent at run time

    words = sorted(w for w in phrases_dict if 2 <= len(w) <= 4 and all(map(is_common_hanzi, w)))
    return _composed(words, seed, times, lambda word: _CHINESE_IDIOM if len(word) == 4 else _CHINESE_TWO)


def composed_japanese(share: Path, seed: int = 0, times: int = 6) -> list[str]:
    """Phrases in which the kanji of EDICT's common words are used about `times` times; none where it is absent.

    Words are left out whose reading in a sentence is not the one that the dictionary gives first.
    """
    file = share / _EDICT
    if not file.is_file() or not can_read_japanese():
        return []
    words = []
    for line in file.read_text(encoding="euc_jp", errors="ignore").splitlines():
        match = re.match(r"([^ \[;(]+)[^ \[]* \[([\u3041-\u30ffー]+)[;\](]", line)
        if match and "(P)" in line and _KANJI_WORD.match(match.group(1)) and _is_read_so(*match.groups()):
            words.append(match.group(1))
    return _composed(sorted(set(words)), seed, times, lambda word: _JAPANESE)


def _is_read_so(word: str, reading: str) -> bool:
    spoken = kana_reading(word + "だ").removesuffix("ダ").replace(" ", "")
    return bool(spoken) and _plain_kana(spoken) == _plain_kana(reading)


def _plain_kana(text: str) -> str:
    """Katakana without what spelling and sound disagree about: long vowels."""
    text = "".join(chr(ord(c) + 0x60) if "ぁ" <= c <= "ゖ" else c for c in text)
    text = text.replace("ヂ", "ジ").replace("ヅ", "ズ")
    return re.sub(r"[ーアイウエオ]", "", text)


def _composed(words: Sequence[str], seed: int, times: int, patterns_of: Callable[[str], Sequence[str]]) -> list[str]:
    rng = np.random.default_rng(seed)
    by_character: dict[str, list[str]] = {}
    for word in words:
        for character in dict.fromkeys(word):
            by_character.setdefault(character, []).append(word)
    chosen: list[str] = []
    for character in sorted(by_character):
        # short words are the frequent ones; idioms fill up
        having = sorted(by_character[character], key=lambda w: (len(w) > 2, rng.random()))
        chosen += having[:times]
    chosen = list(dict.fromkeys(chosen))
    order, partners = rng.permutation(len(chosen)), rng.permutation(len(chosen))
    phrases = []
    for index, partner in zip(order, partners, strict=True):
        word = chosen[index]
        patterns = patterns_of(word)
        phrases.append(patterns[int(rng.integers(len(patterns)))].format(word, chosen[partner]))
    return phrases
