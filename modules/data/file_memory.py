"""What was in a file, remembered by its path, size and times, so that a later run need not read it again."""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modules.data.manifest import write_whole
from modules.errors import UserError

SETTLED_SECONDS = 3.0
"""A file that changed this shortly before it was read may change again without any of its times telling (FAT counts
in two seconds), so it is not remembered."""

Stamp = tuple[int, int, int]


class FileMemory:
    """Content hashes and lengths of files.

    Args:
        files: what earlier runs wrote; where several know a file, the last one counts. A damaged one knows nothing.
    """

    def __init__(self, files: Iterable[Path] = ()):
        self._known: dict[str, list[Any]] = {}
        for file in files:
            self._known.update(_read(file))
        self._met: dict[str, list[Any]] = {}

    def content(self, path: str | Path) -> str:
        """sha256 of the file's bytes, hex. Raises UserError: file_unreadable."""
        return self._entry(path)[3]

    def seconds(self, path: str | Path) -> float | None:
        """Length noted down by `note_seconds`, None where nobody did or the file changed since."""
        name = os.path.abspath(path)
        entry = self._met.get(name) or self._known.get(name)
        return entry[4] if entry and entry[:3] == list(stamp(path) or ()) else None

    def note_seconds(self, path: str | Path, seconds: float) -> None:
        """Remember the length of a file with its content; a file that was not read is not remembered."""
        if entry := self._met.get(os.path.abspath(path)):
            entry[4] = seconds

    def stamp(self, path: str | Path) -> Stamp:
        """Size and times that the file had when `content` told of it."""
        return tuple(self._entry(path)[:3])

    def save(self, file: Path) -> None:
        """Write what is known of the files that were met, but for those that changed just before."""
        newest = (time.time() - SETTLED_SECONDS) * 1e9
        settled = {name: entry for name, entry in self._met.items() if max(entry[1:3]) < newest}
        write_whole(file, [json.dumps(settled, separators=(",", ":")).encode()])

    def _entry(self, path: str | Path) -> list[Any]:
        name = os.path.abspath(path)
        if name not in self._met:
            now = stamp(path)
            known = self._known.get(name)
            if known is None or now is None or known[:3] != list(now):
                known = _look(path)
            self._met[name] = known
        return self._met[name]


def stamp(path: str | Path) -> Stamp | None:
    """Size, and times of the last change of content and of status (where the system has it), in ns."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _look(path: str | Path) -> list[Any]:
    try:
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as cause:
        raise UserError(
            "file_unreadable",
            "{file} cannot be opened ({cause}); check that it exists and that you may read it.",
            file=str(path),
            cause=str(cause),
        ) from cause
    # The times from before reading: a change while it was read shows as another stamp later.
    return [before.st_size, before.st_mtime_ns, before.st_ctime_ns, content, None]


def _read(file: Path) -> dict[str, list[Any]]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {name: entry for name, entry in values.items() if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 5 and isinstance(entry[3], str)
