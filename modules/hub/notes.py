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
BY_HAND = "by hand"
"""The origin of a file that was there when somebody looked first."""
_CLOCK_SECONDS = 0.01

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
        damaged: a later check found another content; size and hash above are those of the right one (0 and empty if
            not known).
        bad_bytes, bad_mtime: size and time of that other content's file, by which it is known again.
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
    bad_bytes: int = 0
    bad_mtime: float = 0.0

    def tells_damage_of(self, path: Path) -> bool:
        """Whether the file that lies there is the very one that was found damaged."""
        if not self.damaged:
            return False
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime) == (self.bad_bytes, self.bad_mtime)


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


def measure_of(path: Path, note: FileNote | None) -> FileNote | None:
    """A note as far as it is a measure of the file that lies there.

    Of a file that was put there by hand and that no hash is known of, the note tells only what somebody saw, perhaps
    while it was still being copied. So it ends with a newer or longer file.
    """
    if note is None or note.origin != BY_HAND or note.checked != "format":
        return note
    try:
        status = path.stat()
    except OSError:
        return note
    newer = status.st_mtime > note.time + _CLOCK_SECONDS
    return None if newer or status.st_size > (note.size_bytes or status.st_size) else note


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
    return round(time.time(), 3)


def _write(folder: Path, notes: dict[str, FileNote]) -> None:
    values: dict[str, Any] = {name: asdict(note) for name, note in sorted(notes.items())}
    write_json(folder / NOTES_NAME, {"files": values})
