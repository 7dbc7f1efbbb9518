"""Judges the files of a model that are there already: put there by hand, or by a download long ago."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from modules.hub.catalogue import CatalogueFile, Entry
from modules.hub.formats import complaint
from modules.hub.hashing import hash_file
from modules.hub.inventory import entry_folder
from modules.hub.notes import Checked, FileNote, now, read_notes, write_note

BY_HAND = "by hand"


@dataclass(frozen=True)
class FileCheck:
    """What was found of a file.

    Args:
        name: as it lies here.
        problem: empty for a good one.
        checked: by what a good one was judged.
    """

    name: str
    size_bytes: int
    problem: str = ""
    checked: Checked = "format"


def verify(
    entry: Entry,
    models: Path,
    on_progress: Callable[[int, int, str], None] = lambda done, total, file: None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    only_new: bool = False,
) -> list[FileCheck]:
    """Hash the files that are there, and compare them with the catalogue or with what was written down of them.

    Of a file that nothing is known of, only the format can be judged. What is found is written down, so that a later
    check has a measure and a quick look sees the damage. Files that are not there are no matter of this function.

    Args:
        on_progress: gets the bytes done, the bytes of all, and the file.
        only_new: pass over files that something good is written down of.

    Raises:
        Stopped.
    """
    folder = entry_folder(entry, models)
    notes = read_notes(folder)
    pickles = {pickle for pickle, _ in entry.convert}
    names = list(dict.fromkeys([*(entry.kept_name(file.name) for file in entry.files), *sorted(pickles)]))
    there = {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
    if only_new:
        there = {name: size for name, size in there.items() if name not in notes or notes[name].damaged}
    done, total = 0, sum(there.values())
    checks = []
    for name, size in there.items():
        begun = done

        def tell(part: int, begun: int = begun, name: str = name) -> None:
            on_progress(begun + part, total, name)

        listed = next((file for file in entry.files if file.name == name), CatalogueFile(name, 0))
        check = _judge(folder, listed, notes.get(name), lambda path, tell=tell: hash_file(path, should_stop, tell)[0])
        checks.append(check)
        done = begun + size
    return checks


def _judge(folder: Path, file: CatalogueFile, note: FileNote | None, hashed: Callable[[Path], str]) -> FileCheck:
    path = folder / file.name
    if note and note.source:  # made here of a pickle, so it is not the published one
        file = CatalogueFile(file.name, 0)
    size, expected = path.stat().st_size, file.sha256 or (note.sha256 if note else "")
    checked: Checked = "pinned" if file.sha256 else note.checked if note and note.sha256 else "format"
    problem, found = complaint(path) or "", ""
    if not problem and file.size_exact and file.size_bytes and size != file.size_bytes:
        problem = f"it has {size} bytes instead of {file.size_bytes}"
    if not problem:
        found = hashed(path)
        if expected and found != expected:
            problem = f"its hash begins with {found[:12]}, not {expected[:12]}"
    if note is None or note.damaged != bool(problem):
        known = note or FileNote(size, "", checked, BY_HAND, time=now())
        write_note(folder, file.name, replace(known, sha256=expected or found, checked=checked, damaged=bool(problem)))
    return FileCheck(file.name, size, problem, checked)
