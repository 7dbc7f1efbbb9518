"""Where a step over many files puts what it makes of each, and the list of those it left out."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from modules.checkpoint import write_atomic
from modules.errors import UserError

REJECTED_NAME = "rejected.jsonl"


def mirrored(files: Sequence[Path], root: Path, suffix: str) -> list[Path]:
    """For every file the relative path of its result: the folders and names under `root`, with another suffix.

    Two files that differ in their suffix alone (a.mp3, a.wav) would meet; the later one keeps its own suffix as a part
    of the name (a.wav.flac).
    """
    root = root if root.is_dir() else root.parent
    taken: set[str] = set()
    targets = []
    for file in files:
        relative = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
        target = relative.with_name(relative.stem + suffix)
        if str(target).casefold() in taken:  # some file systems take A.wav and a.wav for one
            target = relative.with_name(relative.name + suffix)
        taken.add(str(target).casefold())
        targets.append(target)
    return targets


def without_results(files: Iterable[Path], source: Path, output: Path) -> list[Path]:
    """The files without those that an earlier run put into `output`, when that lies inside of the input folder.

    Raises:
        UserError: output_is_input.
    """
    output = output.absolute()
    source = source.absolute()
    folder = source if source.is_dir() else source.parent
    if output.resolve() == folder.resolve():
        raise UserError(
            "output_is_input",
            "{folder} is the folder of the recordings too, which must stay as they are; choose another output folder.",
            folder=str(output),
        )
    return [file for file in files if not file.absolute().is_relative_to(output)]


def write_rejected(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write what was left out as JSON lines, each with `file` and `reason`; an empty file tells that all was good."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # A file name that is not valid UTF-8 comes from the system with lone surrogates.
    write_atomic(path, text.encode("utf-8", "backslashreplace"))
