"""Sentences and phrases per language, from text that a Debian machine can install.

Sources, each used if it is there: the fortune files, LibreOffice's help, the Debian handbook, transcripts of a
manifest, files of the user, a small phrase book, and for Chinese phrases composed of dictionary words. Everything is
cleaned, cut to a length that a small model can learn, and listed once.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from modules.corpus import phrasebook
from modules.corpus.pinyin import HANZI
from modules.errors import UserError

LETTERS = (8, 90)  # characters of a phrase in an alphabet
HANZI_COUNT = (4, 28)  # hanzi of a Chinese phrase
SHARE = Path("/usr/share")
FOLDERS = {
    "fortunes": {"en": "games/fortunes", "de": "games/fortunes/de", "es": "games/fortunes/es", "zh": "games/fortunes"},
    "handbook": {
        language: f"doc/debian-handbook/html/{tag}"
        for language, tag in (("en", "en-US"), ("de", "de-DE"), ("es", "es-ES"), ("zh", "zh-CN"))
    },
    "help": {
        language: f"libreoffice/help/{tag}/text"
        for language, tag in (("en", "en-US"), ("de", "de"), ("es", "es"), ("zh", "zh-CN"))
    },
}
# Drawings, code, name lists, verse in old Chinese, and what nobody wants a demonstration to say.
_SKIPPED_FORTUNES = frozenset(
    "art ascii-art asciiart perl translate-me translations drugs men-women ethnic knghtbrd chinese tang300 song100 off "
    "song channel-debian.fortunes beilagen namen doppelsinnig pintadas.fortunes".split()
)
_CHINESE_FORTUNES = ("chinese",)
_SKIPPED_TAGS = frozenset("script style pre code header aside nav button label title tt table footer".split())
_BLOCK_TAGS = frozenset("p li h1 h2 h3 h4 td dd dt div br".split())
_VOID_TAGS = frozenset("br img input meta link hr".split())
_ESCAPES = re.compile(r"\x1b?\[[0-9;]*m|\x1b\[[0-9;?]*[A-Za-z]")
_QUOTES = str.maketrans(
    {"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "’": "'", "‘": "'", "`": "'", "´": "'", "–": "-", "—": "-", "\u00a0": " ", "…": ".",
     "\u200b": "", "\u00ad": "", "\ufeff": ""}
)  # fmt: skip
_ALPHABET = re.compile(r"^[A-Za-zÀ-ÖØ-öø-ÿœŒß0-9 .,?!'¿¡;:\-]+$")
_CHINESE = re.compile(r"^[\u4e00-\u9fff0-9，。？！、；：]+$")
_UNWANTED = re.compile(
    r"://|www\.|\.(?:com|org|net|html?|txt|exe|py|gz)\b|\w[/\\_=<>@#]\w|--|\.\.|[A-Za-z]\d|\d[A-Za-z]{3,}", re.I
)
_TRANSLITERATED = re.compile(r"[a-zß](?:oe|ae)[a-z]", re.I)  # umlauts written in ASCII teach wrong spellings
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(¿¡]*[A-ZÀ-Þ0-9])|(?<=[。？！])")
_CLAUSE_END = re.compile(r"(?<=[,;:])\s+|(?<=[，；：、])")
_COMMON = {
    "en": frozenset("the of and to a in is it you that for on are with as be this was have or by not but can your".split()),
    "de": frozenset("der die und das in den von zu ist ein nicht sie es mit dem im sich auf eine für wird als auch wenn man".split()),
    "es": frozenset("de la que el en y los se del un las por con no una para es al lo como más pero su le si".split()),
}  # fmt: skip


@dataclass(frozen=True)
class Phrase:
    """A text to speak and the package or file it came from."""

    text: str
    language: str
    source: str


def phrase_key(text: str) -> str:
    """What makes two phrases the same: their letters and digits, without case, spaces and punctuation."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def clean_phrases(text: str, language: str) -> list[str]:
    """The usable phrases of a paragraph, in order; what is code, a path or mostly symbols is left out."""
    text = unicodedata.normalize("NFC", _ESCAPES.sub("", text)).translate(_QUOTES)
    text = re.sub(r"([,;:?!])\1+", r"\1", text)
    text = re.sub(r"\s+", "" if language == "zh" else " ", _join_hanzi(text)).strip()
    cut = _cut_chinese if language == "zh" else _cut_alphabet
    return [phrase for sentence in _SENTENCE_END.split(text) if sentence for phrase in cut(sentence.strip(), language)]


def _join_hanzi(text: str) -> str:
    return re.sub(r"(?<=[\u4e00-\u9fff，。？！、；：])\s+|\s+(?=[\u4e00-\u9fff])", "", text)


def _cut_alphabet(sentence: str, language: str) -> list[str]:
    sentence = re.sub(r"\s+-\s+", ", ", sentence).strip(" \"'-*,;:").replace('"', "")
    if len(sentence) <= LETTERS[1]:
        pieces = [sentence]
    else:
        pieces = _pack(_CLAUSE_END.split(sentence), LETTERS[1], " ")
    pieces = [piece.strip(" ,;:-") for piece in pieces]
    return [piece for piece in pieces if _is_readable(piece, language)]


def _pack(clauses: list[str], limit: int, joint: str) -> list[str]:
    packed: list[str] = []
    for clause in clauses:
        if packed and len(packed[-1]) + len(joint) + len(clause) <= limit:
            packed[-1] += joint + clause
        else:
            packed.append(clause)
    return packed


def _is_readable(piece: str, language: str) -> bool:
    if not LETTERS[0] <= len(piece) <= LETTERS[1] or not _ALPHABET.match(piece) or _has_code(piece):
        return False
    letters = sum(c.isalpha() for c in piece)
    if letters < 0.7 * len(piece) or sum(c.isdigit() for c in piece) > 6:
        return False
    words = re.findall(r"[^\W\d_]+", piece.lower())
    if not words or max(map(len, words)) > 24 or sum(map(len, words)) / len(words) > 11 or len(words) < 2:
        return False
    if sum(word.isupper() and len(word) > 1 for word in piece.split()) > 1:
        return False
    if language == "de" and _TRANSLITERATED.search(piece):
        return False
    return _looks_like(words, language)


def _has_code(piece: str) -> bool:
    return bool(_UNWANTED.search(piece)) or ". ." in piece


def _looks_like(words: list[str], language: str) -> bool:
    """Help pages hold untranslated paragraphs: another language's function words must not outnumber this one's."""
    if language not in _COMMON:
        return True
    counts = {name: sum(word in common for word in words) for name, common in _COMMON.items()}
    own = counts.pop(language)
    return own >= max(counts.values()) and (own > 0 or len(words) < 6)


def _cut_chinese(sentence: str, language: str) -> list[str]:
    sentence = sentence.translate(str.maketrans(",?!;:", "，？！；：")).strip("，；：、")
    sentence = re.sub(r"[\"'《》「」『』【】]", "", sentence)
    if len(HANZI.findall(sentence)) > HANZI_COUNT[1]:
        pieces = _pack(_CLAUSE_END.split(sentence), HANZI_COUNT[1], "")
    else:
        pieces = [sentence]
    pieces = [piece.strip("，；：、") for piece in pieces]
    return [piece for piece in pieces if _is_readable_chinese(piece)]


def _is_readable_chinese(piece: str) -> bool:
    count = len(HANZI.findall(piece))
    if not HANZI_COUNT[0] <= count <= HANZI_COUNT[1] or not _CHINESE.match(piece):
        return False
    return sum(c.isdigit() for c in piece) <= 6 and is_simplified(piece)


def is_simplified(text: str) -> bool:
    """Whether every hanzi is in GB 2312, the set of simplified characters in common use."""
    try:
        text.encode("gb2312")
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


class _Paragraphs(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._text = ""
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED_TAGS or (self._skipped and tag not in _VOID_TAGS):
            self._skipped += 1
        elif tag in _BLOCK_TAGS:
            self._flush()

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
        elif tag in _BLOCK_TAGS:
            self._flush()

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._text += data

    def _flush(self) -> None:
        if self._text.strip():
            self.found.append(self._text)
        self._text = ""


def html_paragraphs(html: str) -> list[str]:
    """The visible paragraphs of a page, without code, tables, menus and scripts."""
    parser = _Paragraphs()
    parser.feed(html)
    parser._flush()
    return parser.found


def _fortune_paragraphs(file: Path) -> Iterator[str]:
    text = _ESCAPES.sub("", file.read_text(encoding="utf-8", errors="ignore"))
    for fortune in re.split(r"^%.*$", text, flags=re.M):
        body = re.split(r"^\s*(?:--|\[\w|—)", fortune, maxsplit=1, flags=re.M)[0]
        yield from re.split(r"\n\s*\n", body)


def _fortune_files(folder: Path, language: str) -> list[Path]:
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and f.suffix not in (".dat", ".u8")]
    if language == "zh":
        return [f for f in files if f.name in _CHINESE_FORTUNES]
    return [f for f in files if f.name not in _SKIPPED_FORTUNES]


def installed_phrases(language: str, share: Path = SHARE) -> Iterator[Phrase]:
    """Phrases of the installed packages for `language`; nothing when none is installed."""
    for source, folders in FOLDERS.items():
        folder = share / folders.get(language, "-")
        if not folder.is_dir():
            continue
        if source == "fortunes":
            paragraphs = (p for file in _fortune_files(folder, language) for p in _fortune_paragraphs(file))
        else:
            files = sorted(folder.rglob("*.html"))
            paragraphs = (p for f in files for p in html_paragraphs(f.read_text(encoding="utf-8", errors="ignore")))
        for paragraph in paragraphs:
            for text in clean_phrases(paragraph, language):
                yield Phrase(text, language, source)


def file_phrases(path: Path, language: str) -> Iterator[Phrase]:
    """Phrases of a UTF-8 text file, or of every .txt file of a folder.

    Raises:
        UserError: there is no such file.
    """
    if not path.exists():
        raise UserError("text_file_missing", "The text file {file} cannot be read; check the path.", file=str(path))
    for file in sorted(path.rglob("*.txt")) if path.is_dir() else [path]:
        for line in file.read_text(encoding="utf-8-sig", errors="ignore").splitlines():
            for text in clean_phrases(line, language):
                yield Phrase(text, language, "file")


def book_phrases(language: str) -> Iterator[Phrase]:
    """The phrase book, uncut."""
    for text in phrasebook.phrases(language):
        yield Phrase(text, language, "phrasebook")


def distinct(phrases: Iterable[Phrase]) -> list[Phrase]:
    """The phrases in order without repetitions. Phrases of the book differ by punctuation too."""
    seen: set[str] = set()
    kept: list[Phrase] = []
    for phrase in phrases:
        key = phrase.text if phrase.source == "phrasebook" else phrase_key(phrase.text)
        if key and key not in seen:
            seen.add(key)
            kept.append(phrase)
    return kept
