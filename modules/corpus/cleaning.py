"""Paragraphs of any source to phrases that a small model can learn: letters, length and language are checked."""

import unicodedata
from collections import Counter

import regex as re

from modules.corpus.languages import HAN, HANGUL, KANA, LANGUAGES, Language

LONGEST_WORD = {"de": 30, "nl": 28, "ru": 26, "pl": 26, "tr": 26, "sv": 28}
_ESCAPES = re.compile(r"\x1b?\[[0-9;]*m|\x1b\[[0-9;?]*[A-Za-z]")
_QUOTES = str.maketrans(
    {"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "’": "'", "‘": "'", "`": "'", "´": "'", "–": "-", "—": "-", "\u00a0": " ", "…": ".",
     "\u202f": " ", "\u200b": "", "\u00ad": "", "\ufeff": ""}
)  # fmt: skip
_WIDE_MARKS = str.maketrans(",?!;:", "，？！；：")
_UNWANTED = re.compile(
    r"://|www\.|\.(?:com|org|net|html?|txt|exe|py|gz)\b|\w[/\\_=<>@#]\w|--|\.\.|[A-Za-z]\d|\d[A-Za-z]{3,}", re.I
)
_CAMEL = re.compile(r"\p{Ll}\p{Lu}|\p{L}[;:]\S|\d[;:]\p{L}")
# What nobody wants a demonstration to say.
_UNWELCOME = re.compile(
    r"porn|\bsex\b(?! (?:stycken|år|timmar|av|dagar))|\bsexo\b|\bsesso\b|seks|секс|порн|\bfuck|\bshit|\bfick|scheiß|"
    r"\bputa|mierda|\bmerda|\bkurw|\bchuj|хуй|бляд|pierdol|\bcazzo|\bcul\b|\bculo\b|\bnazis?\b|hitler|гитлер|\bnigg|"
    r"\bhure\b|色情|做爱|セックス",
    re.I,
)
# Accents and umlauts written in ASCII teach wrong spellings.
_MISSPELT = {
    "de": re.compile(r"[a-zß](?:oe|ae)[a-z]", re.I),
    "it": re.compile(r"(?<!\b[Pp]o|\b[Mm]o)(?<=[aeiou])'(?!\w)"),
}
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(¿¡]*[\p{Lu}\p{Lo}0-9])|(?<=[。？！])")
_CLAUSE_END = re.compile(r"(?<=[,;:])\s+|(?<=[，；：、])")
_WIDE = rf"{HAN}{KANA}，。？！、；："
_WIDE_GAP = re.compile(rf"(?<=[{_WIDE}])\s+|\s+(?=[{HAN}{KANA}])")
_SQUEEZED = re.compile(r"([,;:?!！？，、])\1+")
_PATTERNS = {
    tag: re.compile(
        rf"^[{row.letters}{row.letters.upper() if row.spaced else ''}0-9 .,?!'¿¡;:\-]+$"
        if row.spaced
        else rf"^[{row.letters}0-9，。？！、；：ー]+$"
    )
    for tag, row in LANGUAGES.items()
}
_SPEAKERS = {  # function word -> the languages that have it
    word: [row.tag for row in LANGUAGES.values() if word in row.words]
    for word in frozenset().union(*(row.words for row in LANGUAGES.values()))
}
_ANY_ALPHABET = re.compile(r"^[\p{L}\p{M}0-9 .,?!'¿¡;:\-।؟،]+$")


def phrase_key(text: str) -> str:
    """What makes two phrases the same: their letters and digits, without case, spaces and punctuation."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def clean_phrases(text: str, language: str, strict: bool = False) -> list[str]:
    """The usable phrases of a paragraph, in order; what is code, a path or mostly symbols is left out.

    `strict` asks for a function word of the language in every phrase, not only in the longer ones.
    """
    row = LANGUAGES.get(language, Language(language, ""))
    text = unicodedata.normalize("NFC", _ESCAPES.sub("", text)).translate(_QUOTES)
    text = _SQUEEZED.sub(r"\1", text)
    text = re.sub(r"\s+", " ", _WIDE_GAP.sub("", text)).strip()
    cut = _cut_spaced if row.spaced else _cut_wide
    found = [phrase for sentence in _SENTENCE_END.split(text) if sentence for phrase in cut(sentence.strip(), row)]
    if strict and row.words:
        return [phrase for phrase in found if any(word in row.words for word in _words(phrase))]
    return found


def _words(phrase: str) -> list[str]:
    return re.findall(r"[\p{L}\p{M}]+", phrase.lower())


def _cut_spaced(sentence: str, row: Language) -> list[str]:
    sentence = re.sub(r"\s+-\s+", ", ", sentence).strip(" \"'-*,;:").replace('"', "")
    if len(sentence) <= row.bounds[1]:
        pieces = [sentence]
    else:
        pieces = _pack(_CLAUSE_END.split(sentence), row.bounds[1], " ")
    pieces = [piece.strip(" ,;:-") for piece in pieces]
    return [piece for piece in pieces if _is_readable(piece, row)]


def _pack(clauses: list[str], limit: int, joint: str) -> list[str]:
    packed: list[str] = []
    for clause in clauses:
        if packed and len(packed[-1]) + len(joint) + len(clause) <= limit:
            packed[-1] += joint + clause
        else:
            packed.append(clause)
    return packed


def _is_readable(piece: str, row: Language) -> bool:
    shortest, longest = row.bounds
    pattern = _PATTERNS.get(row.tag, _ANY_ALPHABET)
    if not shortest <= len(piece) <= longest or not pattern.match(piece) or _has_code(piece):
        return False
    letters = sum(c.isalpha() for c in piece)
    if letters < 0.65 * len(piece) or sum(c.isdigit() for c in piece) > 6:
        return False
    words = _words(piece)
    if len(words) < 2 or max(map(len, words)) > LONGEST_WORD.get(row.tag, 24) or letters / len(words) > 11:
        return False
    if sum(word.isupper() and len(word) > 1 for word in piece.split()) > 1:
        return False
    misspelt = _MISSPELT.get(row.tag)
    if misspelt and misspelt.search(piece):
        return False
    return _looks_like(words, row)


def _has_code(piece: str) -> bool:
    return bool(_UNWANTED.search(piece) or _CAMEL.search(piece) or _UNWELCOME.search(piece)) or ". ." in piece


def _looks_like(words: list[str], row: Language) -> bool:
    """Help pages hold untranslated paragraphs: another language's function words must not outnumber this one's."""
    if not row.words:
        return True
    counts = Counter(tag for word in words if word in _SPEAKERS for tag in _SPEAKERS[word])
    own = counts[row.tag]
    return own >= max(counts.values(), default=0) and (own > 0 or len(words) < 5)


def _cut_wide(sentence: str, row: Language) -> list[str]:
    sentence = sentence.translate(_WIDE_MARKS).strip("，；：、")
    sentence = re.sub(r"[\"'《》「」『』【】（）()\s]", "", sentence)
    if row.tag == "ja":
        sentence = sentence.replace("，", "、")
    if _count(sentence, row) > row.bounds[1]:
        pieces = _pack(_CLAUSE_END.split(sentence), row.bounds[1], "")
    else:
        pieces = [sentence]
    pieces = [piece.strip("，；：、") for piece in pieces]
    return [piece for piece in pieces if _is_readable_wide(piece, row)]


def _count(text: str, row: Language) -> int:
    return len(re.findall(rf"[{row.letters}]", text))


def _is_readable_wide(piece: str, row: Language) -> bool:
    count = _count(piece, row)
    if not row.bounds[0] <= count <= row.bounds[1] or not _PATTERNS[row.tag].match(piece):
        return False
    if sum(c.isdigit() for c in piece) > 6 or _UNWELCOME.search(piece):
        return False
    if row.tag == "ja":
        return bool(re.search(r"[\u3040-\u309f]", piece))  # without hiragana it is Chinese or a bare name
    return is_simplified(piece)


def is_simplified(text: str) -> bool:
    """Whether every hanzi is in GB 2312 (traditional and rare characters are not)."""
    try:
        "".join(re.findall(rf"[{HAN}]", text)).encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def is_common_hanzi(character: str) -> bool:
    """Whether a character is one of the 3,755 of GB 2312's first level, the frequent ones."""
    try:
        code = character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return len(code) == 2 and 0xB0 <= code[0] <= 0xD7


def is_hangul(text: str) -> bool:
    """Whether a word is written in Hangul syllables alone."""
    return bool(re.fullmatch(rf"[{HANGUL}]+", text))
