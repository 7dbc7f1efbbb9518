"""The lines of a dataset list, each with the bytes that it came from.

Good lines become rows, others become problems; nothing is thrown away, so that a list can be written back as found.
"""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from modules.data.manifest import ListKind, Utterance, line_parser, list_kind, resolve_audio
from modules.errors import UserError

_BLOCK_BYTES = 1 << 20
_BOM = "\ufeff".encode()
_ENDING = re.compile(rb"(\r\n|\n|\r)")
INVISIBLE = "\ufeff\u200e\u200f\u202a\u202b\u202c"
"""Marks that copying a path from a dialog of Windows, or joining two files, leaves in a line."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a line.

    Args:
        file, line: where; lines count from 1.
        reason: an error that is not raised: code and fields for a translation, `str` for English.
        data: the line as it stands in the file, without its ending.
        fatal: the line gives no utterance. Otherwise this is a note, and the utterance is there.
    """

    file: str
    line: int
    reason: UserError
    data: bytes
    fatal: bool

    @property
    def raw(self) -> str:
        """The line as text; bytes that are no UTF-8 show as the replacement character."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class SourceRow:
    """An utterance and the line that it came from.

    Args:
        number: position among the lines of all files that are not blank, from 0; depends on the files' bytes alone.
        file, line: where; lines count from 1.
        kind: format of the line.
        named: the audio path as the line has it.
        data: the line, without its ending.
        tail: its ending and the blank lines that follow.
        utterance: audio is the path seen from the working directory.
    """

    number: int
    file: str
    line: int
    kind: ListKind
    named: str
    data: bytes
    tail: bytes
    utterance: Utterance


class ListFile:
    """One list, read line by line in bounded memory; iterating gives a `SourceRow` or a `Problem` for each line.

    Args:
        path: the list; relative audio is looked for beside it.
        audio_folder: when given, each audio file is looked for here by its base name instead.
        content: a file to take the bytes from instead of `path`, for instance a copy.
        first: number of the first row.

    After (or during) an iteration `head`, `newline` and `lines` (those not blank) are known.

    Raises:
        UserError: manifest_missing, manifest_encoding (UTF-16 or not text at all).
    """

    def __init__(
        self, path: Path, audio_folder: Path | None = None, content: Path | None = None, first: int = 0
    ) -> None:
        self.path, self.audio_folder, self.content = Path(path), audio_folder, Path(content or path)
        self.first = first
        self.head, self.newline, self.lines = b"", b"", 0
        if not self.content.is_file():
            raise UserError(
                "manifest_missing",
                "There is no dataset list {file}; check the path, or run the step that writes it.",
                file=str(self.path),
            )

    def __iter__(self) -> Iterator[SourceRow | Problem]:
        self.head, self.newline, self.lines = b"", b"", 0
        pending: SourceRow | None = None  # a row is whole only when the blank lines behind it are known
        tail = bytearray()
        self._kind: ListKind | None = None
        with open(self.content, "rb") as file:
            self._refuse_binary(file)
            for line, (data, ending) in enumerate(split_lines(file), start=1):
                self.newline = self.newline or ending
                if line == 1 and data.startswith(_BOM):
                    self.head, data = _BOM, data.removeprefix(_BOM)
                if not data.strip():
                    if pending is None:
                        self.head += data + ending
                    tail += data + ending
                    continue
                found = self._parse(line, data)
                self.lines += 1
                if isinstance(found, Problem):
                    yield found
                elif found is not None:
                    if pending is not None:
                        yield dataclasses.replace(pending, tail=bytes(tail))
                    pending, tail = found, bytearray(ending)
        if pending is not None:
            yield dataclasses.replace(pending, tail=bytes(tail))

    def _refuse_binary(self, file: BinaryIO) -> None:
        block = file.read(4096)
        file.seek(0)
        if b"\0" in block:
            raise UserError(
                "manifest_encoding",
                "{file} is not UTF-8 text (line {line}); save it as UTF-8 and try again.",
                file=str(self.path),
                line=block[: block.index(b"\0")].count(b"\n") + 1,
            )

    def _parse(self, line: int, data: bytes) -> SourceRow | Problem | None:
        """The row of a line that is not blank, what is wrong with it, or None for a table's header."""

        def reject(reason: UserError) -> Problem:
            return Problem(str(self.path), line, reason, data, fatal=True)

        try:
            text = data.decode("utf-8").lstrip(INVISIBLE)
        except UnicodeDecodeError:
            return reject(UserError("line_encoding", "The line is not UTF-8 text; save the list as UTF-8."))
        if self._kind is None:
            self._kind = list_kind(self.path, text)
            self._parser = line_parser(self._kind)
        kind, parse = self._kind, self._parser
        if kind == "list" and text.lstrip().startswith("{") and text.rstrip().endswith("}"):
            kind, parse = "json", line_parser("json")
        if kind == "list" and text.count("|") < 3:
            return reject(
                UserError(
                    "line_fields",
                    'Expected wav|speaker|LANG|text, found {found} of the three "|"; complete the line.',
                    found=text.count("|"),
                )
            )
        try:
            utterance = parse(text)
        except ValueError as cause:
            return reject(
                UserError(
                    "line_invalid",
                    "The line cannot be used: {defect}. Correct it in the list and open the list again.",
                    defect=str(cause),
                )
            )
        if utterance is None:
            return None
        audio = self._find(utterance.audio)
        number = self.first + self.lines
        utterance_here = dataclasses.replace(utterance, audio=audio)
        return SourceRow(number, str(self.path), line, kind, utterance.audio, data, b"", utterance_here)

    def _find(self, named: str) -> str:
        """The path of the audio that a line names, seen from the working directory."""
        named = unquoted(named)
        if self.audio_folder is not None:
            return str(self.audio_folder / PurePosixPath(named.replace("\\", "/")).name)
        return resolve_audio(named, self.path.parent)


def unquoted(path: str) -> str:
    """A path without invisible marks, spaces around it, or quotes that enclose it."""
    path = path.strip().strip(INVISIBLE).strip()
    if len(path) > 2 and path[0] == path[-1] and path[0] in "\"'":
        return path[1:-1]
    return path


def split_lines(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """(line, ending) of a file; an ending is LF, CRLF, CR or, for the last line only, nothing."""
    rest = b""
    while block := file.read(_BLOCK_BYTES):
        rest += block
        held = rest[-1:] == b"\r"  # its "\n" may come with the next block
        pieces = _ENDING.split(rest[:-1] if held else rest)
        rest = pieces.pop() + (b"\r" if held else b"")
        yield from zip(pieces[::2], pieces[1::2], strict=True)
    if rest:
        yield (rest[:-1], b"\r") if rest.endswith(b"\r") else (rest, b"")
