"""Lists that a step writes, and writes anew when it runs again, without taking away what a person made of them."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from modules.data.manifest import write_whole

WRITTEN_NAME = ".written.json"
"""Holds, for every list in its folder, the SHA-256 of what the step wrote."""


class OwnLists:
    """The lists of one folder. A list that is not as this class left it was edited, and is kept under another name.

    Args:
        folder: holds the lists; made when the first one is written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.kept: list[Path] = []
        """Where edited lists are now: `NAME.bak`, `NAME.bak2` and so on."""
        self._written = _read(folder / WRITTEN_NAME)

    def write(self, name: str, write: Callable[[Path], None]) -> Path:
        """Replace the list `name` by what `write` puts at the path that it is given; returns the list's path."""
        path = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / f".{name}.new"
        write(new)
        before, after = _digest(path), _digest(new)
        known = self._written.get(name, [])
        if before and before != after and before not in known:
            self.kept.append(_kept_aside(path, before))
        # First the hash, then the list: after a kill between the two, neither of them counts as edited.
        self._remember(name, [*known, after])
        os.replace(new, path)
        self._remember(name, [after])
        return path

    def notes(self) -> list[str]:
        """What a person should know of the lists that were kept."""
        return [f"{path.name.rpartition('.bak')[0]} had been edited; that one is kept as {path}." for path in self.kept]

    def _remember(self, name: str, digests: Sequence[str]) -> None:
        self._written[name] = sorted({digest for digest in digests if digest})
        text = json.dumps(self._written, ensure_ascii=False, sort_keys=True)
        write_whole(self.folder / WRITTEN_NAME, [text.encode("utf-8", "backslashreplace")])


def _kept_aside(path: Path, digest: str) -> Path:
    """A copy of the file under the first free name, or the one that was made before of the same content."""
    number = 1
    while True:
        copy = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
        if not os.path.lexists(copy):
            part = path.with_name(f".{path.name}.bak.part")
            shutil.copyfile(path, part)
            os.replace(part, copy)
            return copy
        if _digest(copy) == digest:
            return copy
        number += 1


def _digest(path: Path) -> str:
    """SHA-256 of a file, empty where there is none."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, list[str]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): [str(digest) for digest in digests] for name, digests in values.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # then every list that is there counts as edited, and is kept
