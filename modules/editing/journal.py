"""A journal of edits: JSON lines that are on disk before the edit counts as made.

Several editors, in one process or in many, may use one journal: each holds the lock while it reads what the others
wrote and appends its own line. The lock is the system's, so a killed process leaves none behind.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from modules.errors import UserError

JOURNAL_NAME = "edits.jsonl"
_LOCK_NAME = "edits.lock"


class Journal:
    """The journal in a folder, and how far this editor has read it.

    Args:
        folder: made when missing.

    Raises:
        UserError: edits_unwritable when the folder cannot be made.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / JOURNAL_NAME
        self._offset = 0
        self._lines = 0
        self._first = b""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise self._unwritable(cause) from cause

    @property
    def lines(self) -> int:
        """How many lines were read and appended, the header included."""
        return self._lines

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else reads or appends meanwhile. Must not be nested."""
        try:
            file = open(self.folder / _LOCK_NAME, "ab")  # noqa: SIM115 - closed below
        except OSError as cause:
            raise self._unwritable(cause) from cause
        with file:
            unlock = _lock(file)
            try:
                yield
            finally:
                unlock()

    def read_new(self) -> list[dict[str, Any]]:
        """The records that were appended since the last call; a last line that a kill cut short is not there yet.

        Raises:
            UserError: edits_damaged (a line that is no record), edits_restarted (another journal lies there now).
        """
        if not self.path.is_file():
            if self._first:
                raise self._restarted()
            return []
        with open(self.path, "rb") as file:
            # The first line has an id of its own, and no journal ever gets shorter.
            if self._first and (file.readline() != self._first or file.seek(0, os.SEEK_END) < self._offset):
                raise self._restarted()
            file.seek(self._offset)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        records = []
        for line in data.splitlines(keepends=True):
            records.append(self._record(line))
            self._first = self._first or line
            self._lines += 1
        self._offset += len(data)
        return records

    def append(self, record: dict[str, Any]) -> None:
        """Add a record; it is on disk when this returns. All of the file must have been read, under the lock.

        Raises:
            UserError: edits_unwritable (the journal is then as it was), edits_restarted.
        """
        line = (json.dumps(record, ensure_ascii=True) + "\n").encode()
        try:
            with open(self.path, "r+b" if self.path.exists() else "w+b") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    raise self._restarted()
                file.truncate(self._offset)  # the rest of a line that a kill cut short
                file.seek(self._offset)
                try:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(self._offset)
                    raise
        except OSError as cause:
            raise self._unwritable(cause) from cause
        self._offset += len(line)
        self._lines += 1
        self._first = self._first or line

    @property
    def aside(self) -> Path:
        """The first free `edits-N.jsonl`: where `set_aside` would put the journal."""
        number = 1
        while (aside := self.folder / f"edits-{number}.jsonl").exists():
            number += 1
        return aside

    def set_aside(self) -> Path:
        """Rename the journal to `aside`, and begin anew."""
        aside = self.aside
        self.path.rename(aside)
        self._offset, self._lines, self._first = 0, 0, b""
        return aside

    def remove(self) -> None:
        """Delete the journal, and begin anew."""
        self.path.unlink(missing_ok=True)
        self._offset, self._lines, self._first = 0, 0, b""

    def damaged(self, line: int) -> UserError:
        """The error for a line, counted from 1, that cannot be replayed."""
        return UserError(
            "edits_damaged",
            "The edits in {file} are damaged from line {line} on and cannot be opened. Move them into a "
            "side file, or delete them; either way the list opens without them.",
            file=str(self.path),
            line=line,
        )

    def _record(self, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as cause:
            raise self.damaged(self._lines + 1) from cause
        if not isinstance(record, dict):
            raise self.damaged(self._lines + 1)
        return record

    def _restarted(self) -> UserError:
        return UserError(
            "edits_restarted",
            "The edits in {folder} were started over in another tab; open the dataset again.",
            folder=str(self.folder),
        )

    def _unwritable(self, cause: OSError) -> UserError:
        return UserError(
            "edits_unwritable",
            "{file} cannot be written ({cause}), so the edit was not made; free some space or choose another folder.",
            file=str(self.path),
            cause=str(cause),
        )


def _lock(file: BinaryIO):
    """Hold the system's lock on an open file; gives the function that releases it."""
    try:
        import fcntl
    except ImportError:
        return _lock_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks; the revision numbers still catch most conflicts
    return lambda: None  # closing the file releases it


def _lock_windows(file: BinaryIO):
    import msvcrt

    file.seek(0)
    while True:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # waits ten seconds at most
        except OSError:
            continue
        break

    def unlock() -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

    return unlock
