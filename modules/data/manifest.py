"""Lists of utterances: one JSON-lines format inside, the formats people already have outside.

Read: JSON lines (`.jsonl`), the `wav|speaker|LANG|text` lists of GPT-SoVITS (`.list`, `.txt`) and tables with a
header (`.tsv`); UTF-8 with or without BOM. Written: JSON lines and `.list`.
"""

import csv
import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modules.errors import UserError

ListKind = Literal["list", "json", "table"]


@dataclass(frozen=True)
class Utterance:
    """One recording with what is said in it.

    Args:
        audio: path of the sound file.
        speaker: name of the voice.
        language: a tag that is kept but never needed.
        text: what is said.
        split: "train", "dev" or "test" as the list has it; nothing checks the name.
        seconds: length; 0 where unknown.
        licence, source: where the recording comes from.
        confidence: how sure the transcriber was of the text, 0 to 1; -1 where nobody judged it.
    """

    audio: str
    speaker: str
    language: str
    text: str
    split: str = "train"
    seconds: float = 0.0
    licence: str = ""
    source: str = ""
    confidence: float = -1.0


_COLUMNS = {
    "audio": ("audio", "path", "wav", "file"),
    "speaker": ("speaker", "spk"),
    "language": ("language", "lang", "locale"),
    "text": ("text", "transcript", "sentence"),
    "split": ("split",),
    "seconds": ("seconds", "duration"),
    "licence": ("licence", "license"),
    "source": ("source", "source_repo"),
    "confidence": ("confidence",),
}
"""Names under which a table or a JSON line may hold a field; the first one present counts."""
FIELD_NAMES = frozenset(name for names in _COLUMNS.values() for name in names)


def read_manifest(path: str | Path) -> list[Utterance]:
    """The utterances of a `.jsonl`, `.list`, `.txt` or `.tsv` file; any other name is judged by its first line.

    Relative audio paths are taken from the file's folder, or from the working directory where only that one has the
    file. Nothing checks that the audio exists. Blank lines are skipped.

    Raises:
        UserError: manifest_missing, manifest_encoding (not UTF-8), manifest_line (naming file, line and defect).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            "manifest_missing",
            "There is no dataset list {file}; check the path, or run the step that writes it.",
            file=str(path),
        )
    raw = path.read_bytes()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise UserError(
            "manifest_encoding",
            "{file} is not UTF-8 text (line {line}); save it as UTF-8 and try again.",
            file=str(path),
            line=raw[: cause.start].count(b"\n") + 1,
        ) from cause
    # str.splitlines would also cut at U+2028 and U+0085, which occur inside of sentences.
    lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    parse = line_parser(list_kind(path, next((line for line in lines if line.strip()), "")))
    utterances = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            utterance = parse(line)
        except ValueError as cause:
            raise UserError(
                "manifest_line",
                "{file}, line {line}: {defect}. Correct that line, or delete it, and try again.",
                file=str(path),
                line=number,
                defect=str(cause),
            ) from cause
        if utterance is not None:
            utterances.append(dataclasses.replace(utterance, audio=resolve_audio(utterance.audio, path.parent)))
    return utterances


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write JSON lines, whole or not at all; audio inside the file's folder is named relative to it."""
    path = Path(path)
    folder = path.parent.absolute()
    rows = ({**dataclasses.asdict(item), "audio": relative_audio(item.audio, folder)} for item in utterances)
    write_whole(path, ((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows))


def write_list(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write `wav|speaker|LANG|text` lines, whole or not at all; audio paths stay as they are.

    Line breaks become spaces, and so does "|" in the text, because readers of this format cut at every one.

    Raises:
        UserError: manifest_separator if a path, speaker or language contains "|", manifest_line_break for a path with
            a line break.
    """
    write_whole(path, ((_list_line(item) + "\n").encode() for item in utterances))


def _list_line(item: Utterance) -> str:
    fields = listed_fields(item.audio, item.speaker, item.language)
    return "|".join((*fields, " ".join(item.text.replace("|", " ").splitlines())))


def listed_fields(audio: str, speaker: str, language: str) -> tuple[str, str, str]:
    """The first three fields of a `.list` line; only what readers cut at counts as a line break.

    Raises:
        UserError: manifest_separator, manifest_line_break (an audio path, which would name no file without it).
    """
    if re.search(r"[\r\n]", audio):
        raise UserError(
            "manifest_line_break",
            "A .list file cannot hold {value} because of the line break in the name; rename the file, or write .jsonl.",
            value=repr(audio),
        )
    for value in (audio, speaker, language):
        if "|" in value:
            raise UserError(
                "manifest_separator",
                'A .list file cannot hold "{value}" because "|" separates its fields; rename it.',
                value=value,
            )
    return audio, *(" ".join(re.split(r"[\r\n]+", value)) for value in (speaker, language))


def write_whole(path: str | Path, chunks: Iterable[bytes]) -> None:
    """Write the chunks one after the other; the file appears whole or not at all. Missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(chunks)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the result from other users
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def list_kind(path: Path, first_line: str) -> ListKind:
    """What a dataset list holds, by its name, or by its first line where the name does not tell."""
    named: dict[str, ListKind] = {".jsonl": "json", ".json": "json", ".list": "list", ".txt": "list", ".tsv": "table"}
    kind = named.get(path.suffix.lower())
    if kind is not None:
        return kind
    if first_line.lstrip().startswith("{"):
        return "json"
    return "table" if "\t" in first_line and "|" not in first_line else "list"


def line_parser(kind: ListKind) -> Callable[[str], Utterance | None]:
    """The function that turns a line into an utterance; ValueError says what is wrong with the line.

    A table's first line gives None. The audio path is what the line says; see `resolve_audio`.
    """
    if kind == "json":
        return _parse_json
    return _TableParser() if kind == "table" else _parse_list


def _parse_list(line: str) -> Utterance:
    fields = line.split("|", 3)
    if len(fields) != 4:
        raise ValueError(f'expected wav|speaker|LANG|text, found {len(fields) - 1} of the three "|"')
    audio, speaker, language, text = (field.strip() for field in fields)
    if len(audio) > 1 and audio[0] == audio[-1] == '"':
        audio = audio[1:-1]
    return _utterance({"audio": audio, "speaker": speaker, "language": language, "text": text})


def _parse_json(line: str) -> Utterance:
    try:
        values = json.loads(line)
    except ValueError as cause:
        raise ValueError(f"not valid JSON ({cause})") from cause
    if not isinstance(values, dict):
        raise ValueError("a JSON object was expected")
    return _utterance(values)


class _TableParser:
    """Lines of a tab-separated table; the first one names the columns and gives no utterance."""

    def __init__(self) -> None:
        self.header: list[str] | None = None

    def __call__(self, line: str) -> Utterance | None:
        cells = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE))
        if self.header is None:
            self.header = [cell.strip().lower() for cell in cells]
            if not set(self.header) & set(_COLUMNS["audio"]):
                raise ValueError(f"the header needs a column {' or '.join(_COLUMNS['audio'])}")
            return None
        if len(cells) > len(self.header):
            raise ValueError(f"{len(cells)} cells under {len(self.header)} column names")
        values: dict[str, object] = {name: cell.strip() for name, cell in zip(self.header, cells)}
        return _utterance({name: value for name, value in values.items() if value != ""})


def _utterance(values: dict[str, object]) -> Utterance:
    """Check and convert the fields under any of their names; others are ignored."""
    fields: dict[str, object] = {"speaker": "", "language": "", "text": ""}
    for field, names in _COLUMNS.items():
        name = next((name for name in names if values.get(name) is not None), None)
        if name is None:
            continue
        value = values[name]
        if field == "seconds":
            value = _number(value, name, "a length in seconds", 0, math.inf)
        elif field == "confidence":
            value = _number(value, name, "a number from 0 to 1, or -1 for unknown", 0, 1, unknown=-1.0)
        elif not isinstance(value, str):
            raise ValueError(f"{name} must be text, not {value!r}")
        fields[field] = value
    if not fields.get("audio"):
        raise ValueError("the audio path is missing")
    return Utterance(**fields)  # type: ignore[arg-type]


def _number(value: object, name: str, kind: str, low: float, high: float, unknown: float | None = None) -> float:
    """A finite number from low to high, or exactly `unknown`; tables hold numbers as text."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if number == unknown or (math.isfinite(number) and low <= number <= high):
            return number
    raise ValueError(f"{name} must be {kind}, not {value!r}")


def resolve_audio(audio: str, folder: Path) -> str:
    """The path of `audio` seen from the working directory. A name that no file can have is no error here."""
    if "\\" in audio and os.sep == "/" and not os.path.exists(folder / audio):
        audio = audio.replace("\\", "/")  # a list written on Windows
    if Path(audio).is_absolute() or (audio[1:3] == ":/" and audio[:1].isalpha()):
        return audio
    if not os.path.exists(folder / audio) and os.path.exists(audio):
        return audio
    return str(folder / audio)


def relative_audio(audio: str, folder: Path) -> str:
    """`audio` as a manifest in `folder` names it; the inverse of `resolve_audio` for files that exist."""
    path = Path(audio)
    if not path.is_absolute():
        if not os.path.exists(path):
            return audio
        path = path.absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
