"""What a step over many files has done so far, one JSON line per result, so that a killed run goes on where it ended.

The key of a line says what was done to which content (`content_key`): a changed file or another model is a new key,
and the old line is simply never asked for again.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from modules.errors import UserError


class Journal:
    """Results by key, kept in a file that only grows.

    Args:
        path: the file; made when the first result is added. A line that a kill cut short is skipped.
        fresh: forget what is in it.
    """

    def __init__(self, path: Path, fresh: bool = False):
        self.path = path
        if fresh:
            path.unlink(missing_ok=True)
        self._results = dict(_read(path))

    def get(self, key: str) -> dict[str, Any] | None:
        """The result under that key, or None."""
        return self._results.get(key)

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result; it is on disk when this returns."""
        self._results[key] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "result": result}, ensure_ascii=False).encode("utf-8") + b"\n"
        with open(self.path, "ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # a kill cut the last line short; do not glue this one to it
            file.write(line)

    def __len__(self) -> int:
        return len(self._results)


def content_key(path: Path, settings: str) -> str:
    """Hash of a file's bytes and of what is done to them.

    Raises:
        UserError: file_unreadable.
    """
    try:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as cause:
        raise UserError(
            "file_unreadable",
            "{file} cannot be opened ({cause}); check that it exists and that you may read it.",
            file=str(path),
            cause=cause.strerror or str(cause),
        ) from cause
    return hashlib.sha256(f"{content}\n{settings}".encode()).hexdigest()


def _read(path: Path) -> list[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = json.loads(line)
            found.append((str(entry["key"]), dict(entry["result"])))
        except (ValueError, TypeError, KeyError):
            continue
    return found
