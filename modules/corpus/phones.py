"""One small set of phone labels over all languages.

eSpeak NG writes IPA in many spellings. Labels here are single symbols of a closed set: stress and length are dropped
(frames carry length), diphthongs and other compounds are split into their symbols, rare symbols are merged into
their nearest neighbour, and a Mandarin nucleus carries its tone as a digit ("a1", "i5"). `PAUSE` is silence.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

PAUSE = "_"

_CONSONANTS = "p b t d k ɡ q ʔ c ɟ m n ŋ ɲ f v θ ð s z ʃ ʒ ʂ ʐ ɕ x ɣ h ç β l ʎ r ɾ ɹ ʁ j w ts dz tʃ dʒ tɕ tʂ".split()
_ASPIRATED = "pʰ tʰ kʰ tsʰ tɕʰ tʂʰ".split()
_FURTHER = "ʑ dʑ p͈ t͈ k͈ s͈".split()  # Japanese and Polish; the tense consonants of Korean
_VOWELS = "i ɪ y ʏ e ɛ ø œ a ɑ æ ɐ ə ɚ ɜ ɔ o u ʊ ʌ ɨ ɯ ɤ".split()
_NASAL = {"ã": "aɑɐæʌ", "ɛ̃": "eɛœøiɪyəɜɨ", "ɔ̃": "oɔuʊɒ"}
_TONED = "a o e ə ɚ i ɨ u y".split()
TONES = (1, 2, 3, 4, 5)
INVENTORY: tuple[str, ...] = (
    PAUSE,
    *_CONSONANTS,
    *_ASPIRATED,
    *_VOWELS,
    *_NASAL,
    *(f"{vowel}{tone}" for vowel in _TONED for tone in TONES),
    *_FURTHER,
)
_SINGLE = frozenset(INVENTORY)
_VOWEL_SET = frozenset(_VOWELS)
_LONGEST = 4

# Rare symbol -> nearest symbol of the set ("" drops it).
_MERGE = {
    "g": "ɡ", "ɦ": "h", "ħ": "h", "ʕ": "ʔ", "ʡ": "ʔ", "χ": "x", "ʀ": "ʁ", "ɻ": "ɹ", "ɽ": "ɾ", "ɺ": "ɾ", "ɭ": "l",
    "ɫ": "l", "ɬ": "l", "ɮ": "l", "ʟ": "l", "ɳ": "n", "ɴ": "ŋ", "ɱ": "m", "ʈ": "t", "ɖ": "d", "ɓ": "b", "ɗ": "d",
    "ʄ": "ɟ", "ɠ": "ɡ", "ʛ": "ɡ", "ɸ": "f", "ʝ": "j", "ɥ": "w", "ɰ": "ɣ", "ʋ": "v", "ʙ": "b", "ɢ": "ɡ",
    "ʍ": "w", "ɧ": "ʃ", "ɒ": "ɔ", "ɝ": "ɚ", "ɞ": "ɜ", "ʉ": "u", "ɵ": "ø", "ɘ": "ə", "ɶ": "œ", "ᵻ": "ɪ", "ʲ": "j", "ʷ": "w",
    "ᵊ": "ə", "ʦ": "ts", "ʣ": "dz", "ʧ": "tʃ", "ʤ": "dʒ", "ʨ": "tɕ", "ʰ": "", "ʱ": "", "ˀ": "", "ʼ": "", "ɩ": "ɪ", "ʐ": "ʐ",
    "ɷ": "ʊ", "ɿ": "ɨ", "ʅ": "ɨ", "ɚ": "ɚ",
}  # fmt: skip
_COMPOUND = {"ʈʂ": "tʂ", "dʐ": "dʒ", "ɖʐ": "dʒ", "tɬ": "t"}
# What a voice spells in a way of its own, before anything else.
_SPELLINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "ja": (*((nasal, "ŋ") for nasal in ("ũ", "ĩ", "ẽ", "ã", "õ", "ä̃", "ẽ̞", "õ̞", "ɴ")), ("ᵝ", "")),
    "ko": (
        ("tʃ", "tɕ"),
        ("kh", "kʰ"),
        ("ph", "pʰ"),
        ("th", "tʰ"),
        ("p-", "p͈"),
        ("t-", "t͈"),
        ("q-", "k͈"),
        ("s-", "s͈"),
        ("q", "k"),
    ),
    "ru": (("y", "ɨ"), ("tʃʲ", "tɕ"), ("ɕʲ", "ɕ")),
    "pt-br": (("ʊ̃", "ʊ"), ("ɪ̃", "ɪ")),
    "cs": (("r̝", "rʒ"), ("ř", "rʒ")),
    "sv": (("sx", "ʃ"),),
}
# The Mandarin voice's own spellings.
_MANDARIN = {
    "ts.": "tʂ",
    "s.": "ʂ",
    "i.": "ɨ",
    "i̪": "ɨ",
    "nɡ": "ŋ",
    "ər": "ɚ",
    "χ": "x",
    "o-": "ə",
    "ŋ-": "ŋ",
    "n-": "n",
    "m-": "m",
}
_MANDARIN_VOWEL = {"ɑ": "a", "æ": "a", "ɛ": "e", "ɤ": "ə", "ɔ": "o", "ʊ": "u", "ɪ": "i", "ɐ": "a", "ʌ": "ə", "ɜ": "ə"}
_NUCLEUS_ORDER = ("ɚ", "a", "o", "e", "ə")


class _Columns(Protocol):
    def column(self, name: str) -> list: ...


def normalise_label(label: str, tone: int = 0, voice: str = "") -> list[str]:
    """The symbols of one eSpeak label, in order; `tone` 1-5 marks a Mandarin syllable (the nucleus gets the digit).

    `voice` is eSpeak's name of the voice: some spell a sound in a way of their own.

    Language switches such as "(en)", stress, length and unknown marks vanish, so the list may be empty.
    """
    if label.startswith("("):
        return []
    if tone:
        return _mandarin(label, tone)
    if voice in _SPELLINGS:
        label = unicodedata.normalize("NFC", label)
        for spelling, symbol in _SPELLINGS[voice]:
            label = label.replace(spelling, symbol)
    return _split(label)


def _split(label: str) -> list[str]:
    text = unicodedata.normalize("NFD", label)
    symbols: list[str] = []
    position = 0
    while position < len(text):
        for size in range(_LONGEST, 0, -1):
            chunk = unicodedata.normalize("NFC", text[position : position + size])
            chunk = _COMPOUND.get(chunk, chunk)
            if size > 1 and chunk in _SINGLE and len(text[position : position + size]) == size:
                symbols.append(chunk)
                break
        else:
            size = 1
            _append_single(symbols, text[position])
        position += size
    return symbols


def _append_single(symbols: list[str], mark: str) -> None:
    if mark == "\u0303" and symbols:  # nasal
        for nasal, vowels in _NASAL.items():
            if symbols[-1] in vowels:
                symbols[-1] = nasal
        return
    mark = _MERGE.get(mark, mark)
    if mark in _SINGLE and mark != PAUSE:
        symbols.append(mark)


def _mandarin(label: str, tone: int) -> list[str]:
    for spelling, symbol in _MANDARIN.items():
        label = label.replace(spelling, symbol)
    aspirated = ("h" in label or "ʰ" in label) and label[0] != "h"
    symbols = _split(label.replace("h", "").replace("ʰ", "") if aspirated else label)
    symbols = [_MANDARIN_VOWEL.get(symbol, symbol) for symbol in symbols]
    if aspirated and symbols and symbols[0] + "ʰ" in _SINGLE:
        symbols[0] += "ʰ"
    vowels = [index for index, symbol in enumerate(symbols) if symbol in _TONED]
    if vowels:
        nucleus = vowels[-1]
        for best in _NUCLEUS_ORDER:
            if best in symbols:
                nucleus = symbols.index(best)
                break
        symbols[nucleus] += str(tone)
    return symbols


def split_ipa(text: str, separator: str = "_") -> list[str]:
    """Raw labels of a phoneme string whose words are separated by spaces and labels by `separator`."""
    return [label for word in text.split() for label in word.split(separator) if label]


def label_inventory(stores: _Columns | Iterable[_Columns]) -> list[str]:
    """The labels that occur in the `phones` column of one or several stores, `PAUSE` first, then in a fixed order."""
    if hasattr(stores, "column"):
        stores = [stores]
    found: set[str] = {PAUSE}
    for store in stores:
        for phones in store.column("phones"):
            found.update(phones.split())
    order = {label: index for index, label in enumerate(INVENTORY)}
    return sorted(found, key=lambda label: (order.get(label, len(order)), label))


def collapse(labels: Sequence[str]) -> list[str]:
    """`labels` without pauses that repeat."""
    return [label for index, label in enumerate(labels) if label != PAUSE or index == 0 or labels[index - 1] != PAUSE]
