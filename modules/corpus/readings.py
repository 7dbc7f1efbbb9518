"""What a voice is given to read: emoji taken out, hanzi as pinyin, kanji as kana."""

from dataclasses import dataclass

import regex as re

from modules.corpus.kana import can_read_japanese, kana_reading
from modules.corpus.pinyin import Syllable, hanzi_syllables

CHINESE_VOICE = "cmn-latn-pinyin"
_EMOJI = re.compile(r"[\p{Extended_Pictographic}\U0001F1E6-\U0001F1FF\U0001F3FB-\U0001F3FF\uFE0F\u200D\u20E3]+")
# Languages of manifests whose name differs from the voice that reads them; "" = no voice reads it right.
VOICE_OF_LANGUAGE = {
    "en": "en-us",
    "zh": CHINESE_VOICE,
    "zh-CN": CHINESE_VOICE,
    "zh-TW": CHINESE_VOICE,
    "cmn": CHINESE_VOICE,
    "zh-HK": "",  # Cantonese in hanzi: the voice needs readings that we do not have
    "sv-SE": "sv",
    "ga-IE": "ga",
    "pa-IN": "pa",
    "hy-AM": "hy",
    "nn-NO": "nb",
    "tw": "",
    "th": "",
    "fr": "fr",
    "es": "es",
    "pt": "pt-br",
}


@dataclass(frozen=True)
class Reading:
    """The input of a voice.

    Attributes:
        voice: eSpeak's name of it.
        text: what it reads.
        tones: (1-based position in `text`, tone) of each Mandarin syllable.
    """

    voice: str
    text: str
    tones: tuple[tuple[int, int], ...] = ()


def voice_name(language: str) -> str:
    """The eSpeak voice for a language tag, "" where none reads it right."""
    if language == "ja":  # the voice reads kana only, so it needs the reading package
        return "ja" if can_read_japanese() else ""
    if language in VOICE_OF_LANGUAGE:
        return VOICE_OF_LANGUAGE[language]
    return language.lower()


def without_emoji(text: str) -> str:
    """`text` as it is said: pictures are seen and not heard."""
    return re.sub(r"\s+", " ", _EMOJI.sub(" ", text)).strip()


def read(text: str, language: str) -> Reading:
    """What the voice of `language` is given for `text`."""
    voice, text = voice_name(language), without_emoji(text)
    if voice == CHINESE_VOICE:
        return Reading(voice, *_pinyin_text(hanzi_syllables(text)))
    if voice == "ja":
        return Reading(voice, kana_reading(text))
    return Reading(voice, text)


def _pinyin_text(syllables: list[Syllable]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The voice's input and the tone by 1-based position of each syllable in it."""
    text, tones = "", []
    for syllable in syllables:
        tones.append((len(text) + 1, syllable.tone))
        text += f"{syllable.spelling}{syllable.tone}{syllable.pause} "
    return text, tuple(tones)
