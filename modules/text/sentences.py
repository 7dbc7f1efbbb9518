"""Cutting text of any language into pieces that are spoken one after another.

No language tag is needed: sentence ends come from the Unicode property STerm, the length of a piece is
estimated in seconds of speech from the scripts of its letters, and pieces that are too short to be a
sentence (an abbreviation, an initial) are merged with their neighbour.

`auto` is our own way; `cut0` to `cut5` are the six ways of GPT-SoVITS under their known names. Every way
treats a line break as the end of a piece and drops pieces without a letter or digit.
"""

import unicodedata
from collections.abc import Callable
from functools import lru_cache

import regex

from modules.errors import UserError

CUTS = ("auto", "cut0", "cut1", "cut2", "cut3", "cut4", "cut5")

SENTENCE_SECONDS = 10.0
"""A piece of `auto` is never estimated longer than this: near the longest clips that a model hears in training."""
MERGE_SECONDS = 1.6
"""`auto` merges shorter pieces with a neighbour: very short texts are the hardest for a language model of speech."""
LIMIT_SECONDS = 24.0
"""The same cap for the other ways, which promise to leave the text alone as far as possible."""
TINY_SECONDS = 0.3
FIFTY = 50

_CLOSERS = r"""[\p{Pe}\p{Pf}"'’]*"""
_WIDE_END = r"[[\p{STerm}…‥]--[.!?]]"  # needs no space behind it
_END = regex.compile(
    rf"(?V1)(?:{_WIDE_END}|[.!?](?=[.!?…]|{_CLOSERS}(?:\s|$|{_WIDE_END})))[\p{{STerm}}…‥~～]*({_CLOSERS})"
)
_OPENERS = {"「": "」", "『": "』", "“": "”", "（": "）", "《": "》", "«": "»", "(": ")", "【": "】"}
_NOT_AN_END = regex.compile(
    r"(?:^|[\s(\[“\"'‘«])(?:\p{L}|\p{N}{1,2}|(?:\p{L}\.)+\p{L}"
    r"|[DM]r|M[rx]s?|Mme|Prof|St|Sra?|Jr|vs|etc|approx|bzw|Nr|No|Fig)\.$"
)
_MARKS = regex.compile(rf"(?V1)(?:(?<!\p{{N}})[.,:]|[.,:](?!\p{{N}})|[[\p{{STerm}}…;、，；：،؛।~～—]--[.]])+{_CLOSERS}")
_CHINESE_STOP = regex.compile(rf"。+{_CLOSERS}")
_ENGLISH_STOP = regex.compile(rf"(?:(?<!\p{{N}})\.|\.(?!\p{{N}}))+{_CLOSERS}")
_CLAUSE = regex.compile(rf"(?V1)(?:[,;:](?=\s)|[.!?](?=\s)|[[、，；：،؛—…\p{{STerm}}]--[.!?]]){_CLOSERS}")
_SPACE = regex.compile(r"\s+")
_GRAPHEME = regex.compile(r"\X")
_SPEAKABLE = regex.compile(r"[\p{L}\p{N}]")
_INVISIBLE = regex.compile(r"(?V1)[[\p{Cc}\p{Cf}\p{Cs}\p{Co}]--[\t\n\u200c\u200d]]")
_LINE_BREAK = regex.compile(r"\r\n|[\n\r\v\f\x85\u2028\u2029]")
_SYLLABARY = r"\p{Ethiopic}\p{Cherokee}\p{Yi}\p{Canadian_Aboriginal}"
_CJK = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}"
_SCRIPT_SECONDS = tuple(
    (regex.compile(pattern), seconds)
    for pattern, seconds in (
        (r"\p{Han}", 0.21),
        (r"[\p{Hiragana}\p{Katakana}]", 0.13),
        (r"\p{Hangul}", 0.18),
        (r"\p{N}", 0.30),
        (rf"[{_SYLLABARY}]", 0.18),
        (rf"(?V1)[\p{{L}}--[{_CJK}{_SYLLABARY}]]", 0.066),
        (r"\p{M}", 0.03),
        (r"(?V1)[\p{STerm}…,;:、，；：،؛]", 0.1),
    )
)
LIMIT_CHARACTERS = 400
"""No piece is longer, whatever its script: a stack of marks must not become an endless sequence."""


def clean_text(text: str) -> str:
    """NFC text with one kind of line break and without control, bidi and lone surrogate characters.

    Joiners (U+200C, U+200D) stay: Persian and the scripts of India spell with them.
    """
    text = _LINE_BREAK.sub("\n", text)
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text))


def is_speakable(text: str) -> bool:
    """Whether the text holds at least one letter or digit."""
    return _SPEAKABLE.search(text) is not None


def estimate_seconds(text: str) -> float:
    """Rough time that reading the text aloud takes, in seconds, from the scripts of its letters alone.

    Used for limits and for merging, never for timing: a factor of two either way is expected.
    """
    return sum(map(_character_seconds, text))


@lru_cache(maxsize=16384)
def _character_seconds(character: str) -> float:
    return next((seconds for pattern, seconds in _SCRIPT_SECONDS if pattern.match(character)), 0.0)


def split_text(text: str, cut: str = "auto") -> list[str]:
    """Cut text into pieces to speak one by one.

    Args:
        text: any language or mixture, any length.
        cut: one of `CUTS`. `cut0` none, `cut1` every four clauses, `cut2` about every 50 characters,
            `cut3` after 。, `cut4` after an English full stop, `cut5` after every punctuation mark.

    Returns:
        At least one piece; each holds a letter or digit, has no line break and no outer white space.

    Raises:
        UserError: text_empty, text_unspeakable, cut_unknown.
    """
    if cut not in CUTS:
        raise UserError(
            "cut_unknown", "There is no way to cut called {cut}; choose one of {valid}.", cut=cut, valid=", ".join(CUTS)
        )
    text = clean_text(text)
    if not text.strip():
        raise UserError("text_empty", "There is no text to speak; type at least one word.")
    pieces = []
    for line in text.split("\n"):
        line = " ".join(line.split())
        if is_speakable(line):
            pieces.extend(_WAYS[cut](line))
    if not pieces:
        raise UserError(
            "text_unspeakable", "The text holds only punctuation or symbols; add at least one letter or digit."
        )
    return pieces


def _auto(line: str) -> list[str]:
    return _cap(_merge(_sentences(line), MERGE_SECONDS, SENTENCE_SECONDS), SENTENCE_SECONDS)


def _finish(pieces: list[str]) -> list[str]:
    """What follows each of the six ways: tiny pieces merged, endless ones capped."""
    return _cap(_merge(pieces, TINY_SECONDS, LIMIT_SECONDS), LIMIT_SECONDS)


def _none(line: str) -> list[str]:
    return _finish([line])


def _every_four(line: str) -> list[str]:
    clauses = _split_after(line, _MARKS)
    return _finish(["".join(clauses[i : i + 4]) for i in range(0, len(clauses), 4)])


def _every_fifty(line: str) -> list[str]:
    pieces, held = [], ""
    for clause in _split_after(line, _MARKS):
        held += clause
        if len(held) > FIFTY:
            pieces.append(held)
            held = ""
    if held and pieces and len(held) < FIFTY:
        pieces[-1] += held
    elif held:
        pieces.append(held)
    return _finish(pieces)


def _at_chinese_stop(line: str) -> list[str]:
    return _finish(_split_after(line, _CHINESE_STOP))


def _at_english_stop(line: str) -> list[str]:
    return _finish(_split_after(line, _ENGLISH_STOP))


def _at_every_mark(line: str) -> list[str]:
    return _finish(_split_after(line, _MARKS))


_WAYS: dict[str, Callable[[str], list[str]]] = {
    "auto": _auto,
    "cut0": _none,
    "cut1": _every_four,
    "cut2": _every_fifty,
    "cut3": _at_chinese_stop,
    "cut4": _at_english_stop,
    "cut5": _at_every_mark,
}


def _split_after(line: str, mark: regex.Pattern) -> list[str]:
    """The line cut behind every match; nothing is lost, so the pieces join to the line."""
    pieces, start = [], 0
    for match in mark.finditer(line):
        if match.end() > start:
            pieces.append(line[start : match.end()])
            start = match.end()
    if start < len(line):
        pieces.append(line[start:])
    return pieces


def _sentences(line: str) -> list[str]:
    """Sentences of one line, quotations kept whole when they are short."""
    quoted = _quotations(line)
    pieces, start, span = [], 0, 0
    for match in _END.finditer(line):
        end = match.end()
        while span < len(quoted) and quoted[span][1] < end:
            span += 1
        if span < len(quoted) and quoted[span][0] < end < quoted[span][1]:
            continue  # inside a short quotation
        if _goes_on(line[start:end], bool(match.group(1)), line[end : end + 2]):
            continue
        pieces.append(line[start:end])
        start = end
    if start < len(line):
        pieces.append(line[start:])
    return pieces


def _goes_on(piece: str, quoted: bool, rest: str) -> bool:
    """Whether a sentence mark at the end of `piece` does not end the sentence, judged by what follows."""
    if not rest:
        return False
    if quoted and regex.match(r"[\p{Hiragana}\p{Hangul},，、]", rest):
        return True  # 「はい。」と言った。
    following = rest.lstrip()
    if piece.endswith((".", "…")) and following and following[0].islower():
        return True
    return _NOT_AN_END.search(piece[-12:]) is not None


def _quotations(line: str) -> list[tuple[int, int]]:
    """Outer quotations and brackets that close again within the length of one sentence: (start, end)."""
    spans, position = [], 0
    while position < len(line):
        closer = _OPENERS.get(line[position])
        if closer:
            end = line.find(closer, position + 1, position + 120)
            if end > 0 and estimate_seconds(line[position:end]) < SENTENCE_SECONDS / 2:
                spans.append((position, end + 1))
                position = end
        position += 1
    return spans


def _merge(pieces: list[str], shortest: float, longest: float) -> list[str]:
    """Join pieces shorter than `shortest` seconds with the next one (the last with the one before)."""
    merged: list[str] = []
    lengths: list[float] = []
    for piece in pieces:
        seconds = estimate_seconds(piece)
        previous_short = bool(merged) and (lengths[-1] < shortest or not is_speakable(piece))
        if previous_short and lengths[-1] + seconds <= longest:
            merged[-1] += piece
            lengths[-1] += seconds
        else:
            merged.append(piece)
            lengths.append(seconds)
    if len(merged) > 1 and lengths[-1] < shortest and lengths[-2] + lengths[-1] <= longest:
        last = merged.pop()
        merged[-1] += last
    return [piece.strip() for piece in merged if is_speakable(piece)]


def _cap(pieces: list[str], longest: float) -> list[str]:
    """Cut pieces that are estimated longer than `longest` seconds at clause marks, else spaces, else anywhere."""
    return [part for piece in pieces for part in _cap_one(piece, longest)]


def _cap_one(piece: str, longest: float) -> list[str]:
    seconds = estimate_seconds(piece)
    if seconds <= longest and len(piece) <= LIMIT_CHARACTERS:
        return [piece]
    parts = max(-(-seconds // longest), -(-len(piece) // LIMIT_CHARACTERS))
    target = 0.9 * seconds / parts  # even parts sound better than full ones with a short rest
    packed, held, held_seconds = [], "", 0.0
    for unit in _small_units(piece, longest, (_CLAUSE, _SPACE, _GRAPHEME)):
        unit_seconds = estimate_seconds(unit)
        full = held_seconds + unit_seconds > longest or len(held) + len(unit) > LIMIT_CHARACTERS
        if held and (full or held_seconds >= target):
            packed.append(held)
            held, held_seconds = "", 0.0
        held += unit
        held_seconds += unit_seconds
    packed.append(held)
    return [part.strip() for part in packed if is_speakable(part)]


def _small_units(piece: str, longest: float, marks: tuple[regex.Pattern, ...]) -> list[str]:
    """The piece cut at the first kind of mark, and where that is not enough at the next kinds."""
    units = []
    for unit in _split_after(piece, marks[0]):
        small = estimate_seconds(unit) <= longest and len(unit) <= LIMIT_CHARACTERS
        if small:
            units.append(unit)
        elif len(marks) > 1:
            units.extend(_small_units(unit, longest, marks[1:]))
        else:  # one grapheme of hundreds of marks: nobody writes that, so its end is dropped
            units.append(unit[:8])
    return units
