"""Which files the edits of a dataset were written to, so that an export never takes away what somebody else wrote."""

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EDITED_SUFFIX = ".edited"


def edited_path(listed: Path) -> Path:
    """Where an edited list goes if nobody says where: beside the list, under a name that no step writes."""
    return listed.with_name(f"{listed.stem.removesuffix(EDITED_SUFFIX)}{EDITED_SUFFIX}.list")


@dataclass(frozen=True)
class Exported:
    """What `DatasetEditor.export` wrote.

    Args:
        file: the list.
        rejected: the lines that gave no row, if there are any.
        backup: a copy of the file that lay there before, if it was somebody else's.
    """

    file: Path
    rejected: Path | None
    backup: Path | None


class Exports:
    """The content, by its hash, that each file may have without being somebody else's.

    Args:
        sources: the lists that were opened.
        header: the journal's first record; copies of the content that it names are kept.
    """

    def __init__(self, sources: Sequence[Path], header: Mapping[str, Any]):
        self.sources = list(sources)
        self._ours: dict[str, set[str]] = {}
        for path, source in zip(self.sources, header["sources"], strict=True):
            self._ours.setdefault(os.path.realpath(path), set()).add(source["sha256"])
        self._opened = set(self._ours)

    def record(self, path: Path, chunks: Iterable[bytes]) -> dict[str, Any]:
        """The journal's record of an export that is about to be written."""
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
        source = os.path.realpath(path) in self._opened
        return {"kind": "export", "file": str(path.absolute()), "sha256": digest.hexdigest(), "source": source}

    def note(self, record: Mapping[str, Any]) -> None:
        """Take over a record of the journal. Raises KeyError, TypeError: this is none."""
        self._ours.setdefault(os.path.realpath(record["file"]), set()).add(record["sha256"])

    def keep_other(self, path: Path, coming: str) -> Path | None:
        """Copy the file that lies at `path` to the first free `NAME.bak`, `NAME.bak2`, ... if it is somebody else's.

        Args:
            path: where an export goes.
            coming: hash of what will be written; a file that holds just that needs no copy.

        Returns:
            The copy, or None where nothing is lost.

        Raises:
            OSError: it cannot be read or copied.
        """
        if not path.is_file():
            return None
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest == coming or digest in self._ours.get(os.path.realpath(path), ()):
            return None
        for number in itertools.count(1):
            copy = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
            if not os.path.lexists(copy):
                break
        shutil.copy2(path, copy)
        return copy
