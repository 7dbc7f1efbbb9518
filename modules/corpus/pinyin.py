"""Chinese text as pinyin syllables with tone digits, the form that eSpeak NG's `cmn-latn-pinyin` voice reads.

The readings and the tone changes between neighbours (third tones, 一, 不) are pypinyin's. eSpeak's events carry no
tone, so the digit of every syllable is kept for the labels.
"""

import re
from dataclasses import dataclass

HANZI = re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf\u3007]")
_SYLLABLE = re.compile(r"^[a-zv]+[1-5]$")
_DIGITS = "零一二三四五六七八九"
_UNITS = ("", "十", "百", "千")
_GROUPS = ("", "万", "亿", "万亿")
# Syllables that the voice spells in English, and what comes nearest.
_SPOKEN = {
    "n": "en",
    "ng": "en",
    "hng": "heng",
    "hm": "hen",
    "m": "mu",
    "r": "er",
    "ê": "ei",
    "lve": "lue",
    "nve": "nue",
    "xiong": "xong",
    "qiong": "qong",
    "jiong": "jong",
    "wong": "weng",
}
_PUNCTUATION = {"。": ".", "，": ",", "、": ",", "；": ",", "：": ",", "？": "?", "！": "!", "…": ".", "—": ","}
_MARKS = frozenset(".,?!;:")


@dataclass(frozen=True)
class Syllable:
    """One syllable: `spelling` without the digit, `tone` 1 to 5 (5 neutral), the `pause` mark that follows or ""."""

    spelling: str
    tone: int
    pause: str = ""


def number_reading(digits: str) -> str:
    """The hanzi that read a string of decimal digits aloud; years and long or zero-led strings digit by digit."""
    if len(digits) > 12 or (len(digits) > 1 and digits[0] == "0"):
        return "".join(_DIGITS[int(d)] for d in digits)
    value = int(digits)
    if value == 0:
        return "零"
    groups = []
    while value:
        value, part = divmod(value, 10000)
        groups.append(part)
    spoken = ""
    for place in range(len(groups) - 1, -1, -1):
        part = groups[place]
        if part == 0:
            continue
        if spoken and (part < 1000 or groups[place + 1] == 0):
            spoken += "零"
        spoken += _group_reading(part) + _GROUPS[place]
    return spoken[1:] if spoken.startswith("一十") else spoken


def _group_reading(part: int) -> str:
    spoken, gap = "", False
    for place, digit in zip(range(3, -1, -1), f"{part:04d}", strict=True):
        if digit == "0":
            gap = bool(spoken)
            continue
        spoken += ("零" if gap else "") + _DIGITS[int(digit)] + _UNITS[place]
        gap = False
    return spoken


def spoken_hanzi(text: str) -> str:
    """`text` with its digits written out in hanzi (four digits before 年 are read one by one)."""
    text = re.sub(r"(\d{4})(?=年)", lambda m: "".join(_DIGITS[int(d)] for d in m.group()), text)
    text = re.sub(r"(\d+(?:\.\d+)?)%", r"百分之\1", text)
    text = re.sub(r"(?<=\d)\.(\d+)", lambda m: "点" + "".join(_DIGITS[int(d)] for d in m.group(1)), text)
    return re.sub(r"\d+", lambda m: number_reading(m.group()), text)


def hanzi_syllables(text: str) -> list[Syllable]:
    """The syllables of a Chinese text with surface tones. Letters and symbols without a reading are left out.

    Needs pypinyin (a corpus-building extra).
    """
    from pypinyin import Style, lazy_pinyin  # a tool for building corpora, absent at run time

    parts = lazy_pinyin(
        spoken_hanzi(text),
        style=Style.TONE3,
        neutral_tone_with_five=True,
        tone_sandhi=True,
        errors=lambda run: list(run),
    )
    syllables: list[Syllable] = []
    for part in parts:
        mark = _PUNCTUATION.get(part, part)
        if mark in _MARKS and syllables:
            last = syllables[-1]
            syllables[-1] = Syllable(last.spelling, last.tone, last.pause or mark)
        part = part.replace("ü", "v")
        if _SYLLABLE.match(part):
            spelling = part[:-1]
            syllables.append(Syllable(_SPOKEN.get(spelling, spelling), int(part[-1])))
    return syllables
