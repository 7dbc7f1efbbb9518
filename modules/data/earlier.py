"""Results of earlier runs that lie among those of the last one: they stay, because lists may name them, but a step that
is given the folder does not take them for recordings."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from modules.data.manifest import write_whole

EARLIER_NAME = ".earlier.json"
"""Paths, relative to the folder that it lies in, of files that an earlier run made and the last one did not."""


def mark_earlier(folder: Path, names: Iterable[str]) -> None:
    """Tell which files of a results folder are of earlier runs alone: `names`, relative to it, with slashes."""
    path = folder / EARLIER_NAME
    left = sorted({name for name in names if (folder / name).is_file()})
    if left:
        write_whole(path, [json.dumps(left).encode()])
    else:
        path.unlink(missing_ok=True)


def earlier_in(folder: Path) -> set[str]:
    """The absolute paths that the folder's list names; empty without one."""
    try:
        names = json.loads((folder / EARLIER_NAME).read_text(encoding="utf-8"))
        return {os.path.abspath(folder / str(name)) for name in names}
    except (OSError, ValueError, TypeError):
        return set()
