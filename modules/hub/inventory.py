"""What is there of a published model, told from names, sizes and first bytes: nothing is hashed, so it is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modules.hub.catalogue import CatalogueFile, Entry
from modules.hub.formats import complaint
from modules.hub.notes import FileNote, measure_of, read_notes

State = Literal["present", "partial", "missing", "damaged"]
PART = ".part"
"""Ending of a file that is still being downloaded."""


@dataclass(frozen=True)
class EntryState:
    """What is there of an entry.

    Args:
        state: "damaged" when a file is there but cannot be right; "partial" when some are missing, or a pickle waits to
            be converted.
        bytes_there: of its files, finished or not.
        bytes_total: of all files as they will lie here, as far as it is known.
        missing: what has to be downloaded, damaged files included.
        missing_bytes: of these, less what is there of them already.
        damaged: (file, what is wrong with it).
        unconverted: pickles that wait to be converted; `tools.download` does it without a network.
        checked: by what the files were judged, the weakest of all; "nothing" for those put there by hand and not
            looked at since.
    """

    state: State
    bytes_there: int
    bytes_total: int
    missing: tuple[CatalogueFile, ...] = ()
    missing_bytes: int = 0
    damaged: tuple[tuple[str, str], ...] = ()
    unconverted: tuple[str, ...] = ()
    checked: Literal["pinned", "hub", "format", "nothing"] = "nothing"


def entry_folder(entry: Entry, models: Path) -> Path:
    """Where the files of an entry lie."""
    return Path(models) / entry.name


def part_bytes(folder: Path, file: CatalogueFile) -> int:
    """How much of a file an unfinished download has brought."""
    return _size(folder / (file.name + PART))


def state_of(entry: Entry, models: Path) -> EntryState:
    """What is there of an entry. Asks nobody, changes nothing."""
    folder = entry_folder(entry, models)
    notes = _measures(folder)
    there, total, left = 0, 0, 0
    missing: list[CatalogueFile] = []
    damaged: list[tuple[str, str]] = []
    unconverted: list[str] = []
    checks: set[str] = set()
    for file in entry.files:
        kept = entry.kept_name(file.name)
        size = _size(folder / kept)
        problem = _complaint(folder / kept, file, notes.get(kept)) if size else None
        if problem:
            damaged.append((kept, problem))
        if size and not problem:
            checks.add(notes[kept].checked if kept in notes and not notes[kept].damaged else "nothing")
            there, total = there + size, total + size
            continue
        pickles = [name for name, made in entry.convert if made == kept]
        pickle = next((name for name in pickles if _is_whole(folder / name, entry, notes.get(name))), None)
        if pickle:
            unconverted.append(pickle)
            there, total = there + _size(folder / pickle), total + _size(folder / pickle)
            continue
        begun = part_bytes(folder, file)
        missing.append(file)
        there, total, left = there + begun, total + file.size_bytes, left + max(0, file.size_bytes - begun)
    state: State = "present"
    if damaged:
        state = "damaged"
    elif missing or unconverted:
        state = "partial" if there else "missing"
    weakest = next((check for check in ("nothing", "format", "hub", "pinned") if check in checks), "nothing")
    return EntryState(
        state, there, max(total, there), tuple(missing), left, tuple(damaged), tuple(unconverted), weakest
    )


def _measures(folder: Path) -> dict[str, FileNote]:
    """The notes that are a measure of what lies there now."""
    found = {name: measure_of(folder / name, note) for name, note in read_notes(folder).items()}
    return {name: note for name, note in found.items() if note is not None}


def _is_whole(path: Path, entry: Entry, note: FileNote | None) -> bool:
    listed = next((file for file in entry.files if file.name == path.name), CatalogueFile(path.name, 0))
    return _size(path) > 0 and _complaint(path, listed, note) is None


def _complaint(path: Path, file: CatalogueFile, note: FileNote | None) -> str | None:
    """What is wrong with a file that is there; None if nothing is seen."""
    size = _size(path)
    if note and note.tells_damage_of(path):
        return "its content is not the right one"
    # After a damage another file may lie here that nobody has judged yet.
    expected = note.size_bytes if note and not note.damaged else 0
    if path.name == file.name and file.size_exact and file.size_bytes and not (note and note.source):
        expected = file.size_bytes
    problem = complaint(path)
    if problem is None and expected and size != expected:
        problem = f"it has {size} bytes instead of {expected}"
    return problem


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
