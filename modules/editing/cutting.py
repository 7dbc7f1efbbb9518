"""Joining clips and cutting them, with their texts. Sources are only read; what is made is new 16-bit mono wav."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from modules.errors import UserError

SHORTEST_PART_SECONDS = 0.1
LONGEST_GAP_SECONDS = 10.0
_NO_SPACES = (
    *((0x2E80, 0x312F), (0x31C0, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFE30, 0xFE4F)),
    *((0xFF00, 0xFFEF), (0x1B000, 0x1B16F), (0x20000, 0x3FFFF)),
)
"""Han, kana, bopomofo and their punctuation: scripts without spaces between words. Hangul has spaces."""
_SMALL_KANA = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ")
_CLINGING = ("Pe", "Pf", "Po", "Mn", "Mc", "Me", "Cf", "Lm")
"""Categories of characters that belong to the one before: closing marks, accents, the long vowel mark."""


def join_clips(paths: Sequence[str | Path], target: Path, gap_seconds: float = 0.0) -> float:
    """Write the clips one after the other, with silence of gap_seconds between them.

    At the clips' own sample rate; where they differ, at the highest of them.

    Returns:
        Seconds of the new clip.

    Raises:
        UserError: option_invalid for a gap out of bounds; like `modules.audio.io.read` for the clips.
    """
    import torch

    from modules.audio.io import probe, read, write

    if not 0 <= gap_seconds <= LONGEST_GAP_SECONDS:
        raise UserError(
            "option_invalid",
            "{name} is {value}; choose a number from {low} to {high}.",
            name="gap_seconds",
            value=gap_seconds,
            low=0,
            high=LONGEST_GAP_SECONDS,
        )
    sample_rate = max(probe(path).sample_rate for path in paths)
    gap = torch.zeros(round(gap_seconds * sample_rate))
    pieces = []
    for path in paths:
        pieces += [gap, read(path, sample_rate)]
    wav = torch.cat(pieces[1:])
    write(target, wav, sample_rate)
    return len(wav) / sample_rate


def cut_clip(path: str | Path, at_seconds: float, first: Path, second: Path) -> tuple[float, float]:
    """Write what lies before and after at_seconds, at the clip's own rate; both files appear, or none.

    Returns:
        Seconds of the two parts.

    Raises:
        UserError: split_outside when a part would be shorter than 0.1 s; like `modules.audio.io.read`.
    """
    from modules.audio.io import probe, read, write

    sample_rate = probe(path).sample_rate
    wav = read(path, sample_rate)
    seconds = len(wav) / sample_rate
    if not SHORTEST_PART_SECONDS <= at_seconds <= seconds - SHORTEST_PART_SECONDS:
        raise UserError(
            "split_outside",
            "{file} lasts {seconds:.2f} s; split it at least {margin} s from its start and its end.",
            file=str(path),
            seconds=seconds,
            margin=SHORTEST_PART_SECONDS,
        )
    at = round(at_seconds * sample_rate)
    write(first, wav[:at], sample_rate)
    try:
        write(second, wav[at:], sample_rate)
    except BaseException:
        first.unlink(missing_ok=True)
        raise
    return at / sample_rate, (len(wav) - at) / sample_rate


def join_texts(texts: Sequence[str]) -> str:
    """The texts one after the other: a space between them, but none between scripts that have none."""
    joined = ""
    for text in (text.strip() for text in texts):
        if joined and text and not (_unspaced(joined[-1]) and _unspaced(text[0])):
            joined += " "
        joined += text
    return joined


def divide_text(text: str, share: float) -> tuple[str, str]:
    """The text in two at the word boundary nearest to `share` (0 to 1) of its characters.

    All of it goes to one side when that is nearer than any boundary.
    """
    text = text.strip()
    places = [0, *(place for place in range(1, len(text)) if _may_cut(text[place - 1], text[place])), len(text)]
    place = min(places, key=lambda place: abs(place - share * len(text)))
    return text[:place].strip(), text[place:].strip()


def _may_cut(before: str, after: str) -> bool:
    if after.isspace():
        return False
    if before.isspace():
        return True
    if not (_unspaced(before) or _unspaced(after)):
        return False
    clings = unicodedata.category(after) in _CLINGING or after in _SMALL_KANA
    return not clings and unicodedata.category(before) not in ("Ps", "Pi")


def _unspaced(character: str) -> bool:
    code = ord(character)
    return any(low <= code <= high for low, high in _NO_SPACES)
