"""Sentences that the tools wrote down in English, told again in the reader's language.

A job leaves text behind: why it left a file out, what it is doing. Most of it comes from a closed set: the sentences
of the errors, and the few that are listed here. A text is looked up among their English templates, its fields are read
out of it, and it is said anew. What fits no template stays as it is.
"""

import functools
import re
import string
from collections.abc import Mapping
from types import MappingProxyType

from modules.errors import UserError, retold
from tools.webui.messages import Messages, Translator

REMARKS = (
    "told.already_sliced",
    "told.bars_left_out",
    "told.clips",
    "told.crashed",
    "told.device_memory",
    "told.downloading",
    "told.duplicates",
    "told.failed",
    "told.file_bad_json",
    "told.file_cut",
    "told.file_empty",
    "told.file_hash",
    "told.file_header",
    "told.file_header_long",
    "told.file_no_tensor",
    "told.file_not_checkpoint",
    "told.file_not_json",
    "told.file_not_onnx",
    "told.file_other",
    "told.file_pointer",
    "told.file_size",
    "told.file_unreadable",
    "told.file_web_page",
    "told.lines",
    "told.low_confidence",
    "told.memory",
    "told.no_speech",
    "told.no_words",
    "told.precision_other",
    "told.repeated",
    "told.silence",
    "told.sound",
    "told.too_long",
    "told.unreadable",
)
"""What tools say besides their errors, with their own English words."""
_RETOLD_FIELDS = frozenset({"cause", "problem"})
"""Fields that hold another such sentence."""
_NUMBER = re.compile(r"\d+")


class _Given(str):
    """A field as it stood in the text: written as it is, whatever the template wants done with it."""

    def __format__(self, spec: str) -> str:
        return str(self)

    def __repr__(self) -> str:
        return str(self)


def retell(text: str, say: Translator) -> str:
    """A sentence of a tool in the reader's language; the text itself if it is none of the known ones."""
    return _retold(text, say)[0]


def kind_of(text: str) -> str:
    """The same for all texts that differ in their fields only, such as the name of a file."""
    found = _find(text)
    return found[0] if found is not None else text


def retell_error(error: UserError, say: Translator) -> UserError:
    """An error whose cause is such a sentence, with the cause in the reader's language."""
    causes = {name: retell(str(error.fields[name]), say) for name in _RETOLD_FIELDS & set(error.fields)}
    return retold(error.code, str(error), {**error.fields, **causes})


def _retold(text: str, say: Translator, depth: int = 0) -> tuple[str, bool]:
    found = _find(text)
    if found is None:
        return text, False
    key, fields = found
    values = {
        name: _retold(value, say, depth + 1)[0] if name in _RETOLD_FIELDS and depth < 2 else value
        for name, value in fields.items()
    }
    return say(key, **{name: _Given(value) for name, value in values.items()}), True


@functools.lru_cache(maxsize=4096)
def _find(text: str) -> tuple[str, Mapping[str, str]] | None:
    """The key of the template that a text was made of, and its fields."""
    for key, pattern in _patterns():
        if (match := pattern.fullmatch(text)) is not None:
            return key, MappingProxyType(match.groupdict())
    return None


@functools.cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Those that begin with fixed letters first, then those with the most of them: they leave the least to chance."""
    table = Messages().tables["en"]
    wanted = {key: text for key, text in table.items() if key.startswith("error.") or key in REMARKS}
    return tuple(
        (key, _pattern(text))
        for key, text in sorted(
            wanted.items(), key=lambda item: (item[1].startswith("{"), -_fixed_letters(item[1]), item[0])
        )
        if _fixed_letters(text) > 0
    )


def _fixed_letters(template: str) -> int:
    return sum(len(literal) for literal, *_ in string.Formatter().parse(template))


def _pattern(template: str) -> re.Pattern[str]:
    parts, seen = [], set()
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(re.escape(literal))
        if name is not None:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>.*?)")
            seen.add(name)
    return re.compile("".join(parts), re.DOTALL)
