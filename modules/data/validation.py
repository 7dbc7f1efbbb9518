"""A dataset list read forgivingly: each line that can be used is used, each other one is named and kept.

Nothing is ever lost: `write_back` writes a good line exactly as it was found, with its line ending, unless it was
edited, and moves the lines that cannot be used into a file beside the list, with their reasons in a second one.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.data.lines import INVISIBLE, ListFile, Problem, SourceRow, unquoted
from modules.data.manifest import (
    FIELD_NAMES,
    ListKind,
    Utterance,
    list_kind,
    listed_fields,
    relative_audio,
    resolve_audio,
    write_whole,
)
from modules.data.measures import same_content
from modules.errors import UserError

_CODES = {"zh": "zh", "cmn": "zh", "ja": "ja", "jp": "ja", "en": "en", "ko": "ko", "yue": "yue", "zh-yue": "yue"}
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")


@dataclass(frozen=True)
class Checked:
    """What `check_manifest` found.

    Args:
        rows: the usable lines, in order.
        problems: fatal ones and notes, by file and line.
        head: what stands before the first line of the first file: its byte order mark and blank lines.
        newline: the line ending that the first file uses.
    """

    rows: list[SourceRow]
    problems: list[Problem]
    head: bytes = b""
    newline: bytes = b"\n"

    @property
    def utterances(self) -> list[Utterance]:
        """The utterances of the usable lines, in order."""
        return [row.utterance for row in self.rows]

    @property
    def rejected(self) -> list[Problem]:
        """The lines that give no utterance."""
        return [problem for problem in self.problems if problem.fatal]


def check_manifest(
    paths: str | Path | Sequence[str | Path],
    audio_folder: str | Path | None = None,
    *,
    require_audio: bool = True,
    hash_audio: bool = False,
    contents: Sequence[Path] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Checked:
    """Read one or several lists (`.list`, `.txt`, `.jsonl`, `.tsv`), whatever is wrong with some of their lines.

    Fatal: line_encoding, line_fields, line_invalid, line_audio_missing. Notes: line_text_empty, line_language (once
    for each tag of a file), line_duplicate, line_duplicate_content.

    Args:
        paths: the lists, read one after the other.
        audio_folder: when given, it is joined with the base name of each audio path.
        require_audio: False makes line_audio_missing a note.
        hash_audio: look for files of equal bytes too; reads audio, so it takes time.
        contents: files to take the bytes of the lists from instead, for instance copies.
        should_stop: asked while audio is read.

    Raises:
        UserError: manifest_missing, manifest_encoding.
        Stopped: should_stop said so.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    folder = None if audio_folder is None or not str(audio_folder) else Path(audio_folder)
    rows: list[SourceRow] = []
    problems: list[Problem] = []
    head = newline = b""
    first = 0
    for index, path in enumerate(files):
        source = ListFile(path, folder, contents[index] if contents else None, first)
        start, found = len(problems), []
        for item in source:
            if isinstance(item, Problem):
                problems.append(item)
            elif os.path.isfile(item.utterance.audio):
                found.append(item)
            else:
                problems.append(_problem(item, _missing(item.utterance.audio), fatal=require_audio))
                if not require_audio:
                    found.append(item)
        problems += [*_text_notes(found), *_language_notes(found)]
        problems[start:] = sorted(problems[start:], key=lambda problem: problem.line)
        rows += found
        first += source.lines
        if index == 0:
            head, newline = source.head, source.newline
    problems += duplicate_notes(rows, hash_audio=hash_audio, should_stop=should_stop)
    order = {str(path): index for index, path in reversed(list(enumerate(files)))}
    problems.sort(key=lambda problem: (order[problem.file], problem.line))
    return Checked(rows, problems, head, newline or b"\n")


def language_code(tag: str) -> str:
    """ISO 639 code of a LANG field in any spelling: ZH -> zh, JP -> ja, Yue -> yue, en_US -> en, fr -> fr.

    Empty for what is no language (AUTO) and for an empty tag.
    """
    parts = tag.strip().casefold().replace("_", "-").split("-")
    if parts[0] == "all" and len(parts) > 1:
        parts = parts[1:]
    whole = _CODES.get("-".join(parts[:2])) or _CODES.get(parts[0])
    if whole:
        return whole
    return parts[0] if re.fullmatch("[a-z]{2,3}", parts[0]) else ""


def duplicate_notes(
    rows: Sequence[SourceRow], *, hash_audio: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[Problem]:
    """Notes for the rows whose audio an earlier row has already: the same path or, if asked, the same bytes."""
    paths = [os.path.normcase(os.path.abspath(row.utterance.audio)) for row in rows]
    seen: dict[str, int] = {}
    single = []
    for index, (row, path) in enumerate(zip(rows, paths, strict=True)):
        first = rows[seen.setdefault(path, index)]
        if first is row:
            single.append(index)
            continue
        yield _problem(
            row,
            UserError(
                "line_duplicate",
                "Line {line} of {file} has the same audio; delete one of the two.",
                line=first.line,
                file=first.file,
            ),
        )
    if not hash_audio:
        return
    for later, earlier in same_content([paths[index] for index in single], should_stop).items():
        first = rows[single[earlier]]
        yield _problem(
            rows[single[later]],
            UserError(
                "line_duplicate_content",
                "The audio {audio} of line {line} of {file} has the same content; delete one of the two.",
                audio=first.named,
                line=first.line,
                file=first.file,
            ),
        )


def _text_notes(rows: Sequence[SourceRow]) -> Iterator[Problem]:
    for row in rows:
        if not row.utterance.text.strip():
            yield _problem(row, UserError("line_text_empty", "The line has no text; type what is said."))


def _language_notes(rows: Sequence[SourceRow]) -> Iterator[Problem]:
    """One note for each unknown tag, at its first line: a list in an uncommon language is not full of mistakes."""
    first: dict[str, SourceRow] = {}
    counts: dict[str, int] = {}
    for row in rows:
        tag = row.utterance.language
        if tag and language_code(tag) not in _CODES.values():
            first.setdefault(tag, row)
            counts[tag] = counts.get(tag, 0) + 1
    for tag, row in first.items():
        yield _problem(
            row,
            UserError(
                "line_language",
                "LANG {tag} is none of ZH, JA, EN, KO and YUE; it is kept as it is ({count} lines). Correct it "
                "if it is a slip.",
                tag=tag,
                count=counts[tag],
            ),
        )


def _missing(audio: str) -> UserError:
    return UserError(
        "line_audio_missing",
        "There is no audio file {audio}; restore it, or give the folder that the audio lies in.",
        audio=audio,
    )


def _problem(row: SourceRow, reason: UserError, fatal: bool = False) -> Problem:
    return Problem(row.file, row.line, reason, row.data, fatal)


def write_back(path: str | Path, checked: Checked, utterances: Sequence[Utterance] | None = None) -> Path | None:
    """Write the usable lines to `path` and put the others into files beside it; see `write_rows`.

    Args:
        path: ends in .list, .txt, .jsonl or .json; may be the list that was checked, also if that has no suffix.
        checked: what was found.
        utterances: what the rows of `checked` shall hold now, where some were edited; as many, in the same order.

    Returns:
        The file of the lines that could not be used, or None where there are none.
    """
    wanted = checked.utterances if utterances is None else utterances
    rows = zip(wanted, checked.rows, strict=True)
    opened = sorted({item.file for item in (*checked.rows, *checked.problems)})
    return write_rows(path, rows, checked.rejected, checked.head, checked.newline, opened=opened)


def write_rows(
    path: str | Path,
    rows: Iterable[tuple[Utterance, SourceRow | None]],
    rejected: Sequence[Problem] = (),
    head: bytes = b"",
    newline: bytes = b"\n",
    *,
    opened: Sequence[str | Path] = (),
) -> Path | None:
    """Write a list, whole or not at all. Where the path is a link, the file that it leads to is replaced.

    A row that is as its line has it, in the same format, is written with that line's very bytes. Another row is
    written anew: fields without spaces around them or line breaks inside, the audio as the line spelled it, or by
    its whole path where that spelling would not find it from the new place (JSON lines: relative to the list's
    folder). Members of a JSON line that are unknown here stay.

    Args:
        path: ends in .list, .txt, .jsonl or .json, or is an opened list without a suffix.
        rows: utterances with the line that each came from, None for a new one.
        rejected: their lines are appended to `{path}.rejected.txt` as found, and to `{path}.rejected.jsonl` with file,
            line, code, fields, reason and raw, before the list is written; lines that stand there are not repeated.
        head: what the list begins with; used where the first row keeps its format.
        newline: the line ending of new rows.
        opened: the lists that the rows came from.

    Returns:
        `{path}.rejected.txt`, or None when nothing was rejected.

    Raises:
        UserError: list_format (a name that is no list's), manifest_separator ("|" in a field that cannot have it),
            manifest_line_break (an audio path with one).
    """
    path = Path(path)
    check_list_name(path, opened)
    kept = _keep_rejected(path, rejected) if rejected else None
    write_whole(os.path.realpath(path), list_chunks(path, rows, head, newline))
    return kept


def check_list_name(path: Path, opened: Sequence[str | Path] = ()) -> None:
    """Refuse to write a list under a name that other files have, such as .bashrc. Raises UserError list_format.

    Args:
        path: where a list is to be written.
        opened: lists that are known to be some; they may have no suffix.
    """
    suffix = path.suffix.lower()
    known = not suffix and os.path.realpath(path) in {os.path.realpath(source) for source in opened}
    if not known and suffix not in (".list", ".txt", ".jsonl", ".json"):
        raise _list_format(path)


def _list_format(path: Path) -> UserError:
    return UserError("list_format", "{file} must end in .list, .txt or .jsonl; choose another name.", file=str(path))


def rejected_notes(path: Path) -> Path:
    """Where `write_rows` notes why it left lines out of the list `path`."""
    return path.with_name(path.name + ".rejected.jsonl")


def list_chunks(
    path: Path, rows: Iterable[tuple[Utterance, SourceRow | None]], head: bytes, newline: bytes
) -> Iterator[bytes]:
    """The bytes that `write_rows` writes, in pieces. Raises UserError as `write_rows` does."""
    kind: ListKind | None = None
    ended = True
    for utterance, origin in rows:
        if kind is None:
            first_line = origin.data.decode("utf-8", "replace") if origin is not None else ""
            kind = list_kind(path, first_line)
            if kind == "table":
                raise _list_format(path)  # one without a suffix; tables are only read
            if origin is not None and origin.kind == kind:
                yield head
        same_kind = origin is not None and origin.kind == kind
        tail = origin.tail if origin is not None and same_kind else newline
        yield b"" if ended else newline
        if origin is not None and same_kind and _unedited(utterance, origin, path):
            yield origin.data
        elif kind == "json":
            yield _json_line(utterance, origin, path).encode()
        else:
            yield _list_line(utterance, origin, path).encode()
        yield tail
        ended = tail.endswith((b"\n", b"\r"))


def _unedited(utterance: Utterance, origin: SourceRow, path: Path) -> bool:
    return utterance == origin.utterance and _finds(origin.named, utterance.audio, path)


def _finds(named: str, audio: str, path: Path) -> bool:
    """Whether a list at `path` that says `named` means the file `audio`."""
    found = resolve_audio(unquoted(named), path.parent)
    return found == audio or _whole_path(found) == _whole_path(audio)


def _whole_path(audio: str) -> str:
    return audio if _DRIVE.match(audio) else os.path.abspath(audio)


def _list_line(utterance: Utterance, origin: SourceRow | None, path: Path) -> str:
    audio = _whole_path(utterance.audio)
    if origin is not None and _finds(origin.named, utterance.audio, path):
        audio = origin.named
    fields = [field.strip() for field in listed_fields(audio, utterance.speaker, utterance.language)]
    # Readers that cut at every "|" will not like one in the text, but it is what the person wrote.
    return "|".join([*fields, " ".join(re.split(r"[\r\n]+", utterance.text)).strip()])


def _json_line(utterance: Utterance, origin: SourceRow | None, path: Path) -> str:
    extra = json.loads(origin.data.decode().lstrip(INVISIBLE)) if origin is not None and origin.kind == "json" else {}
    known = dataclasses.asdict(utterance)
    known["audio"] = relative_audio(_whole_path(utterance.audio), path.parent.absolute())
    others = {name: value for name, value in extra.items() if name not in FIELD_NAMES}
    return json.dumps({**known, **others}, ensure_ascii=False)


def _keep_rejected(path: Path, problems: Sequence[Problem]) -> Path:
    """Append the lines to the files beside `path`, except those that an earlier call put there."""
    text_path = path.with_name(path.name + ".rejected.txt")
    reason_path = rejected_notes(path)
    before = text_path.read_bytes() if text_path.is_file() else b""
    reasons = reason_path.read_bytes() if reason_path.is_file() else b""
    there = set(before.splitlines())
    new = [problem for problem in problems if problem.data not in there]
    if new:
        entries = (json.dumps(_entry(problem), ensure_ascii=False, default=str).encode() for problem in new)
        write_whole(reason_path, [reasons, *(entry + b"\n" for entry in entries)])
        write_whole(text_path, [before, *(problem.data + b"\n" for problem in new)])
    return text_path


def _entry(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.file,
        "line": problem.line,
        "code": problem.reason.code,
        "fields": problem.reason.fields,
        "reason": str(problem.reason),
        "raw": problem.raw,
    }
