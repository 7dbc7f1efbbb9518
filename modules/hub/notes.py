"""What is known of the files of a downloaded model: `download.json` in its folder.

For a file whose hash is not in the catalogue this is the only measure: what the hub stated when it was downloaded
first. A later download or check must agree with it.
"""

import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from modules.progress import write_json

NOTES_NAME = "download.json"

Checked = Literal["pinned", "hub", "format"]
"""By what a file was judged: the hash of the catalogue; the hash that the hub stated; that it is readable, no more."""


@dataclass(frozen=True)
class FileNote:
    """What is known of one file.

    Args:
        sha256: of the file as it lies here.
        checked: see `Checked`.
        origin: the address it came from, or "by hand"; of a converted file, that of its pickle.
        source: the pickle that it was converted from; empty for a published file.
        source_sha256: of that pickle.
        revision: the commit that the hub named.
        etag: the hub's own mark of the content.
        time: Unix seconds.
        damaged: a later check found another content; the hash above is the right one (empty if not known).
    """

    size_bytes: int
    sha256: str
    checked: Checked
    origin: str = ""
    source: str = ""
    source_sha256: str = ""
    revision: str = ""
    etag: str = ""
    time: float = 0.0
    damaged: bool = False


def read_notes(folder: Path) -> dict[str, FileNote]:
    """Notes by file name; empty when there are none, or none that can be read."""
    known = {field.name for field in fields(FileNote)}
    notes = {}
    try:
        values = json.loads((folder / NOTES_NAME).read_text(encoding="utf-8"))["files"]
        for name, value in values.items():
            note = FileNote(**{key: item for key, item in value.items() if key in known})
            if isinstance(note.size_bytes, int) and isinstance(note.sha256, str):
                notes[name] = note
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return notes


def write_note(folder: Path, name: str, note: FileNote) -> None:
    """Add or replace the note of a file."""
    _write(folder, {**read_notes(folder), name: note})


def drop_note(folder: Path, name: str) -> None:
    """Forget a file."""
    notes = read_notes(folder)
    if notes.pop(name, None) is not None:
        _write(folder, notes)


def now() -> float:
    """Unix seconds, rounded as notes keep them."""
    return round(time.time(), 1)


def _write(folder: Path, notes: dict[str, FileNote]) -> None:
    values: dict[str, Any] = {name: asdict(note) for name, note in sorted(notes.items())}
    write_json(folder / NOTES_NAME, {"files": values})
