"""Japanese text as katakana, the form that eSpeak NG's `ja` voice reads.

Words and their pronunciation (particles, long vowels) come from fugashi with the dictionary UniDic; numbers with their
counters, and Latin letters, are read here.
"""

import functools
import importlib.util

import regex as re

_DIGITS = "ゼロ イチ ニ サン ヨン ゴ ロク ナナ ハチ キュー".split()
_GROUPS = ("", "マン", "オク", "チョー")
_HUNDREDS = {1: "ヒャク", 3: "サンビャク", 6: "ロッピャク", 8: "ハッピャク"}
_THOUSANDS = {1: "セン", 3: "サンゼン", 8: "ハッセン"}
_DAYS = {1: "ツイタチ", 2: "フツカ", 3: "ミッカ", 4: "ヨッカ", 5: "イツカ", 6: "ムイカ", 7: "ナノカ", 8: "ヨーカ", 9: "ココノカ",
         10: "トーカ", 14: "ジューヨッカ", 20: "ハツカ", 24: "ニジューヨッカ"}  # fmt: skip
# counter -> (sound, last digit -> whole ending); "*" the ending after ten
_COUNTERS: dict[str, tuple[str, dict[str, str]]] = {
    "年": ("ネン", {"4": "ヨネン"}),
    "月": ("ガツ", {"4": "シガツ", "7": "シチガツ", "9": "クガツ"}),
    "時間": ("ジカン", {"4": "ヨジカン", "7": "シチジカン", "9": "クジカン"}),
    "時": ("ジ", {"4": "ヨジ", "7": "シチジ", "9": "クジ"}),
    "分": ("フン", {"1": "イップン", "3": "サンプン", "4": "ヨンプン", "6": "ロップン", "8": "ハップン", "*": "ジュップン"}),
    "人": ("ニン", {"4": "ヨニン"}),
    "円": ("エン", {"4": "ヨエン"}),
    "歳": ("サイ", {"1": "イッサイ", "8": "ハッサイ", "*": "ジュッサイ"}),
    "個": ("コ", {"1": "イッコ", "6": "ロッコ", "8": "ハッコ", "*": "ジュッコ"}),
    "回": ("カイ", {"1": "イッカイ", "6": "ロッカイ", "8": "ハッカイ", "*": "ジュッカイ"}),
    "階": ("カイ", {"1": "イッカイ", "3": "サンガイ", "6": "ロッカイ", "8": "ハッカイ", "*": "ジュッカイ"}),
    "冊": ("サツ", {"1": "イッサツ", "8": "ハッサツ", "*": "ジュッサツ"}),
    "本": ("ホン", {"1": "イッポン", "3": "サンボン", "6": "ロッポン", "8": "ハッポン", "*": "ジュッポン"}),
    "匹": ("ヒキ", {"1": "イッピキ", "3": "サンビキ", "6": "ロッピキ", "8": "ハッピキ", "*": "ジュッピキ"}),
    "枚": ("マイ", {}), "台": ("ダイ", {}), "番": ("バン", {}), "度": ("ド", {}), "秒": ("ビョー", {}), "名": ("メー", {}),
    "週間": ("シューカン", {"1": "イッシューカン", "8": "ハッシューカン", "*": "ジュッシューカン"}),
    "%": ("パーセント", {}),
}  # fmt: skip
_SPAN = re.compile(rf"(\d+)(?:\.(\d+))?({'|'.join(sorted(_COUNTERS, key=len, reverse=True))}|日)?|([A-Za-z]+)")
_LETTERS = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        "エー ビー シー ディー イー エフ ジー エイチ アイ ジェー ケー エル エム エヌ オー ピー キュー アール エス ティー ユー ブイ "
        "ダブリュー エックス ワイ ゼット".split(),
        strict=True,
    )
)
_PLACE = "Ω"  # stands for a number while the sentence is analysed
_ATTACHED = frozenset(("助詞", "助動詞", "接尾辞"))
_MARKS = {
    "。": ".",
    "、": ",",
    "，": ",",
    "？": "?",
    "！": "!",
    "；": ",",
    "：": ",",
    ".": ".",
    ",": ",",
    "?": "?",
    "!": "!",
    "・": " ",
}
# What the dictionary reads stiffly or wrong.
_RESPELLED = {"お母さん": "おかあさん", "母さん": "かあさん", "お父さん": "おとうさん", "父さん": "とうさん", "お兄さん": "おにいさん",
              "兄さん": "にいさん", "お姉さん": "おねえさん", "姉さん": "ねえさん", "私": "わたし", "明日": "あした"}  # fmt: skip
_HIRAGANA = {code: code + 0x60 for code in range(ord("ぁ"), ord("ゖ") + 1)}
# A small vowel that makes no sound together with what stands before it; the voice has no reading for it.
_LONE_SMALL = re.compile(r" ?(?<![フヴウクグトドテデツスズシジチイヒ])([ァィゥェォ])")
_FULL = str.maketrans("ァィゥェォ", "アイウエオ")
_KANA = re.compile(r"[\u3040-\u30ffー]+")


@functools.lru_cache(maxsize=1)
def can_read_japanese() -> bool:
    """Whether the reading package and its dictionary are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("fugashi", "unidic_lite"))


def number_kana(digits: str) -> str:
    """The reading of a string of decimal digits; zero-led and very long ones digit by digit."""
    if len(digits) > 16 or (len(digits) > 1 and digits[0] == "0"):
        return "".join(_DIGITS[int(d)] for d in digits)
    value = int(digits)
    if value == 0:
        return _DIGITS[0]
    groups = []
    while value:
        value, part = divmod(value, 10000)
        groups.append(part)
    spoken = "".join(
        _group_kana(part, place) + _GROUPS[place] for place, part in reversed(list(enumerate(groups))) if part
    )
    return spoken.replace("イチチョー", "イッチョー").replace("ハチチョー", "ハッチョー")


def _group_kana(part: int, place: int) -> str:
    thousands, hundreds, tens, ones = part // 1000, part // 100 % 10, part // 10 % 10, part % 10
    spoken = ""
    if thousands:
        spoken += "イッセン" if thousands == 1 and place else _THOUSANDS.get(thousands, _DIGITS[thousands] + "セン")
    if hundreds:
        spoken += _HUNDREDS.get(hundreds, _DIGITS[hundreds] + "ヒャク")
    if tens:
        spoken += ("" if tens == 1 else _DIGITS[tens]) + "ジュー"
    return spoken + (_DIGITS[ones] if ones else "")


def counted_kana(digits: str, counter: str) -> str:
    """The reading of a number with its counter, such as 3 and 本."""
    value = int(digits)
    if counter == "日":
        return _DAYS.get(value, number_kana(digits) + "ニチ")
    if counter == "人" and value in (1, 2):
        return ("ヒトリ", "フタリ")[value - 1]
    sound, special = _COUNTERS.get(counter, (counter, {}))
    last, ten = digits[-1], len(digits) > 1 and digits[-1] == "0" and digits[-2] != "0"
    if last in special:
        head = number_kana(digits[:-1] + "0") if len(digits) > 1 and int(digits[:-1]) else ""
        return head + special[last]
    if ten and "*" in special:
        return number_kana(digits).removesuffix("ジュー") + special["*"]
    return number_kana(digits) + sound


def _span_kana(match: re.Match) -> str:
    whole, part, counter, letters = match.groups()
    if letters:
        return "".join(_LETTERS[letter] for letter in letters.lower())
    if part:
        tail = "".join(_DIGITS[int(d)] for d in part)
        return number_kana(whole) + "テン" + tail + (_COUNTERS.get(counter, ("ニチ", {}))[0] if counter else "")
    return counted_kana(whole, counter) if counter else number_kana(whole)


def kana_reading(text: str) -> str:
    """`text` in katakana with spaces between phrases and ASCII marks; "" where a word has no reading.

    Needs fugashi and unidic-lite (corpus-building extras).
    """
    for word, kana in _RESPELLED.items():
        text = text.replace(word, kana)
    spans = [_span_kana(match) for match in _SPAN.finditer(text)]
    spoken: list[str] = []
    before = ""
    for word in _tagger()(_SPAN.sub(_PLACE, text)):
        surface, kind, before_this = word.surface, word.feature.pos1, before
        before = kind
        if surface in _MARKS:
            spoken.append(_MARKS[surface])
            continue
        if set(surface) == {_PLACE}:
            reading = "".join(spans.pop(0) for _ in surface)
        else:
            reading = word.feature.pron or surface
            if not _KANA.fullmatch(reading):
                if any(c.isalnum() for c in surface):
                    return ""
                continue
        joined = bool(spoken) and (kind in _ATTACHED or before_this == "接頭辞" or not spoken[-1][-1:].isalpha())
        spoken.append(reading if joined or not spoken else " " + reading)
    text = "".join(mark + " " if mark in ".,?!" else mark for mark in spoken).strip().translate(_HIRAGANA)
    return _LONE_SMALL.sub(
        lambda match: match.group(1).translate(_FULL), re.sub(r" (?=[ァィゥェォャュョッー])", "", text)
    )


@functools.lru_cache(maxsize=1)
def _tagger():
    import fugashi  # a tool for building corpora, absent at run time

    return fugashi.Tagger()
