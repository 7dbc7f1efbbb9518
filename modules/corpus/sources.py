"""Where texts come from: files of Debian packages, each with its licence, read if they are there.

Most packages are installed below /usr/share; of games only the translations are wanted, so their packages can be
unpacked into a folder of their own (`dpkg -x`), which is then given as a further `share`.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import regex as re

SHARE = Path("/usr/share")
# Drawings, code, name lists, verse in old Chinese, and what nobody wants a demonstration to say.
SKIPPED_FORTUNES = frozenset(
    "art ascii-art asciiart perl translate-me translations drugs men-women ethnic knghtbrd chinese brasil tang300 song100 "
    "off song channel-debian.fortunes beilagen namen doppelsinnig pintadas.fortunes banner formiche figures".split()
)
_SKIPPED_TAGS = frozenset(
    "script style pre code header aside nav button label title tt table footer info screen output".split()
)
_BLOCK_TAGS = frozenset("p li h1 h2 h3 h4 td dd dt div br item section".split())
_VOID_TAGS = frozenset("br img input meta hr".split())
_INLINE = re.compile(r"</?(?:a|span|b|i|em|strong|font|meta|link|img|input|acronym|cite|var|u)(?:\s[^>]*)?/?>", re.I)
_ESCAPES = re.compile(r"\x1b?\[[0-9;]*m|\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Source:
    """A kind of package.

    Attributes:
        name: stands in the store's licence line.
        packages: what to install.
        licence: of the texts.
        tags: language -> what replaces {} in the patterns.
        patterns: globs below a share folder.
        read: paragraphs of one file.
    """

    name: str
    packages: str
    licence: str
    tags: dict[str, str]
    patterns: tuple[str, ...]
    read: Callable[[Path, str], Iterator[str]]


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
            self.flush()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCK_TAGS and not self._skipped:
            self.flush()

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
        elif tag in _BLOCK_TAGS:
            self.flush()

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._text += data

    def flush(self) -> None:
        if self._text.strip():
            self.found.append(self._text)
        self._text = ""


def html_paragraphs(html: str) -> list[str]:
    """The visible paragraphs of a page, without code, tables, menus and scripts."""
    parser = _Paragraphs()
    parser.feed(_INLINE.sub("", html))  # half of all tags, and none of them matters
    parser.flush()
    return parser.found


def message_pairs(data: bytes) -> Iterator[tuple[str, str]]:
    """(original, translation) of a compiled gettext catalogue (the layout is in the GNU gettext manual)."""
    magic, _, count, originals, translations = struct.unpack_from("<5I", data)
    if magic != 0x950412DE:
        return
    for index in range(count):
        texts = []
        for table in (originals, translations):
            length, start = struct.unpack_from("<2I", data, table + 8 * index)
            texts.append(data[start : start + length].split(b"\0")[0].decode("utf-8", "ignore"))
        yield texts[0], texts[1]


def _page(file: Path, language: str) -> Iterator[str]:
    yield from html_paragraphs(file.read_text(encoding="utf-8", errors="ignore"))


def _messages(file: Path, language: str) -> Iterator[str]:
    for original, translation in message_pairs(file.read_bytes()):
        text = original.rpartition("^")[2] if language == "en" else translation
        if original and (language == "en" or translation != original):
            text = re.sub(r"<[^>]*>|\\\w|[_~*]", "", text)
            yield from re.split(r"\n\s*\n|(?<=[.!?。！？])\s*\n", text)


def _fortune(file: Path, language: str) -> Iterator[str]:
    text = _ESCAPES.sub("", file.read_text(encoding="utf-8", errors="ignore"))
    for fortune in re.split(r"^%.*$", text, flags=re.M):
        body = re.split(r"^\s*(?:--|\[\w|—)", fortune, maxsplit=1, flags=re.M)[0]
        yield from re.split(r"\n\s*\n", body)


def _same(tags: str) -> dict[str, str]:
    return {part.partition(":")[0]: part.partition(":")[2] or part for part in tags.split()}


SOURCES: tuple[Source, ...] = (
    Source(
        "fortunes",
        "fortunes fortunes-br fortunes-cs fortunes-de fortunes-es fortunes-it fortunes-pl fortunes-ru fortunes-zh",
        "quotations; collections under BSD, GPL-2, GPL-2+, GPL-3+ and in the public domain",
        _same("en:* de:de/* es:es/* it:it/* pl:pl/* ru:ru/* cs:cs/* pt:brasil zh:chinese"),
        ("games/fortunes/{}",),
        _fortune,
    ),
    Source(
        "wesnoth",
        "wesnoth-1.16-{did,dm,dw,ei,httt,l,low,nr,sof,sota,sotbe,thot,trow,tsg,ttb,utbs}",
        "GPL-2+",
        _same("en:de de es fr it ja ko nl pl pt:pt_BR ru zh:zh_CN tr sv cs"),
        ("games/wesnoth/1.16/locale/{}/LC_MESSAGES/*.mo",),
        _messages,
    ),
    Source(
        "handbook",
        "debian-handbook",
        "GPL-2+ or CC-BY-SA-3.0",
        _same(
            "en:en-US de:de-DE es:es-ES zh:zh-CN fr:fr-FR it:it-IT ja:ja-JP ko:ko-KR nl:nl-NL pl:pl-PL pt:pt-BR ru:ru-RU "
            "tr:tr-TR sv:sv-SE cs:cs-CZ"
        ),
        ("doc/debian-handbook/html/{}/**/*.html",),
        _page,
    ),
    Source(
        "gnome",
        "gnome-user-docs",
        "CC-BY-SA-3.0",
        _same("en:C de es fr it ja ko nl pl pt:pt_BR ru zh:zh_CN tr sv cs"),
        ("help/{}/gnome-help/*.page",),
        _page,
    ),
    Source(
        "help",
        "libreoffice-help-{en-us,de,es,zh-cn,fr,it,pt-br,ru,nl,pl,ja,ko,tr,sv,cs}",
        "MPL-2.0",
        _same("en:en-US de es zh:zh-CN fr it ja ko nl pl pt:pt-BR ru tr sv cs"),
        ("libreoffice/help/{}/text/**/*.html",),
        _page,
    ),
    Source(
        "debian",
        "debian-faq-* debian-reference-* developers-reference-* maint-guide-* aptitude-doc-*",
        "GPL-2+; the FAQ: copies and derived works under its own notice",
        _same("en de es zh:zh-cn fr it ja ko nl pl pt ru cs"),
        (
            "doc/debian/FAQ/{0}/*.html",
            "debian-reference/*.{0}.html",
            "developers-reference/{0}/*.html",
            "doc/maint-guide-{0}/html/*.{0}.html",
            "doc/aptitude/html/{0}/*.html",
        ),
        _page,
    ),
)
OTHER_LICENCES = {
    "phrasebook": "written for this project, MIT",
    "transcript": "as the recordings (CC0, CC-BY, Apache-2.0)",
    "composed": "words of pypinyin's phrase dictionary, MIT",
    "words": "single words, no licence needed",
    "edict": "words of EDICT, CC-BY-SA-3.0, Electronic Dictionary Research and Development Group",
    "switch": "joined from the sources above",
    "file": "the user's own",
}


def text_licences() -> dict[str, str]:
    """Source name -> licence of its texts, for model cards."""
    return {source.name: source.licence for source in SOURCES} | OTHER_LICENCES


def installed_paragraphs(language: str, share: Path = SHARE) -> Iterator[tuple[str, str]]:
    """(source name, paragraph) of the packages below `share` for `language`; nothing when none is there."""
    for source in SOURCES:
        tag = source.tags.get(language)
        if tag is None:
            continue
        for pattern in source.patterns:
            for file in sorted(share.glob(pattern.format(tag))):
                if _is_wanted(file, source.name, language):
                    yield from ((source.name, paragraph) for paragraph in source.read(file, language))


def _is_wanted(file: Path, source: str, language: str) -> bool:
    if not file.is_file() or file.suffix in (".dat", ".u8"):
        return False
    return source != "fortunes" or language in ("zh", "pt") or file.name not in SKIPPED_FORTUNES
