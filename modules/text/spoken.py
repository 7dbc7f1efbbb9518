"""What of a text is spoken: words, their marks and signs that have a name, and not the pictures between them.

Models are trained on texts that came through here, and are handed such texts: many marks mean the same pause, and a
small model should meet one of each kind.
"""

import unicodedata

import regex

SPOKEN = "spoken text 3"
"""Changes when the same text comes out otherwise: what was made of it before is made anew then."""
_NAMED = r"[\u2100-\u214f\u3200-\u33ff°]"
"""Signs that are read aloud although Unicode calls them symbols: №, ℃, ㎏, ㈱."""
_ARROWS = r"\u2190-\u21ff\u27f0-\u27ff\u2900-\u297f"
_PICTURE = rf"(?V1)[[\p{{So}}\p{{Emoji_Modifier}}\p{{Me}}\p{{Cn}}{_ARROWS}]--{_NAMED}]|[©®™]"
_UNSPOKEN = regex.compile(rf"(?:(?:{_PICTURE})[\ufe00-\ufe0f\u200d]*)+|[\ufe00-\ufe0f]+")
_LOOSE = regex.compile(r"\s+(?=[\p{STerm},;:…、，；：、!?])")
_SPACE = regex.compile(r"\s+")
_CLOSERS = regex.compile(r"[\s\p{Pe}\p{Pf}\"'’*_]+$")
_ENDED = regex.compile(r"[\p{STerm}…‥,;:、，；：،؛\p{Pd}~～]$")
_WIDE_COMMA = regex.compile(r"(?<=[\p{Han}\p{Hiragana}\p{Katakana}ー])\s*,\s*(?=[\p{Han}\p{Hiragana}\p{Katakana}])")
_WIDE = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}ー]$")


_PLAIN = str.maketrans(
    dict.fromkeys('“”„‟«»"「」『』《》〈〉\u200b\u00ad\ufeff')
    | dict.fromkeys("’‘‛`´ʼ", "'")
    | dict.fromkeys("\u00a0\u202f\u2009\u3000", " ")
    | {"…": ".", "‥": ".", "—": ", ", "―": ", "}
)
_BRACKETS = regex.compile(r"\s*[()\[\]{}（）［］【】〔〕]+\s*")
_EMPTY = regex.compile(r"[(\[{（［【〔]\s*[)\]}）］】〕]")
_APART = regex.compile(r"(?:\s+[-–~]+)+\s+|\s*–\s*(?=\D)|(?<=\D)\s*–\s*")
_MINUS = regex.compile(r"(?<!\S)–(?=\d)")
_DOUBLED = regex.compile(
    r"\s*[,，]\s*(?=[\p{STerm},;:、，；：])|(?<=[\p{STerm};:；：、，،؛])\s*[,，]+(?:\s+(?=\p{Han})|(?=\s|$|\w))|^[\s,，]+"
)
_MANY = regex.compile(r"([,;:?!？！，、.。])\1+")


def _plain(text: str) -> str:
    """One mark of each kind: no double quotes, straight apostrophes, brackets and dashes as commas, no mark twice."""
    text = _MINUS.sub("-", unicodedata.normalize("NFC", text).translate(_PLAIN))
    text = _BRACKETS.sub(", ", _APART.sub(", ", text))
    text = _LOOSE.sub("", _SPACE.sub(" ", text)).replace("–", "-")
    text = _SPACE.sub(" ", _MANY.sub(r"\1", _DOUBLED.sub("", text))).strip()
    return _WIDE_COMMA.sub("，", text).rstrip(" ,，、;:；：-–") or text


def spoken_text(text: str) -> str:
    """The text as it is handed to the models, and as they are trained on it.

    Emoji, dingbats, arrows and other pictures are left out (a model of speech that meets bytes it never saw babbles),
    and a text that has no mark at its end gets a full stop, so that the end is seen to be one. Quotes go, and brackets
    and dashes become the comma that they sound like.
    """
    # Pictures first: what they leave of a bracket is plain text like any other. Where one stood alone between words,
    # they stay apart.
    text = _plain(_EMPTY.sub(" ", _UNSPOKEN.sub(_gap, text)))
    bare = _CLOSERS.sub("", text)
    if not bare or _ENDED.search(bare):
        return text
    return text.rstrip() + ("。" if _WIDE.search(bare) else ".")


def _gap(match: regex.Match) -> str:
    """A space for what stood there, but nothing for what only changes the look of the sign before it."""
    return "" if regex.fullmatch(r"[\ufe00-\ufe0f\u20e3]+", match[0]) else " "
