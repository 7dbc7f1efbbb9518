"""Judges the files of a model that are there already: put there by hand, or by a download long ago."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from modules.hub.catalogue import CatalogueFile, Entry
from modules.hub.formats import complaint
from modules.hub.hashing import hash_file
from modules.hub.inventory import entry_folder
from modules.hub.locking import alone_in
from modules.hub.notes import BY_HAND, Checked, FileNote, measure_of, now, read_notes, write_note


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
        UserError: model_downloading (another process works there), hub_disk_full, hub_folder_unwritable.
    """
    folder = entry_folder(entry, models)
    if not folder.is_dir():
        return []
    with alone_in(folder, entry.name):
        return verify_held(entry, models, on_progress, should_stop, only_new=only_new)


def verify_held(
    entry: Entry,
    models: Path,
    on_progress: Callable[[int, int, str], None],
    should_stop: Callable[[], bool],
    *,
    only_new: bool,
) -> list[FileCheck]:
    """`verify` for somebody who holds the folder already."""
    folder = entry_folder(entry, models)
    notes = read_notes(folder)
    pickles = {pickle for pickle, target in entry.convert if not is_leftover(folder, pickle, target, notes)}
    names = list(dict.fromkeys([*(entry.kept_name(file.name) for file in entry.files), *sorted(pickles)]))
    there = {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
    if only_new:
        there = {name: size for name, size in there.items() if not _is_known(folder / name, size, notes.get(name))}
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


def is_leftover(folder: Path, pickle: str, target: str, notes: dict[str, FileNote]) -> bool:
    """Whether a pickle is only there because it could not be removed when its safetensors file was whole."""
    note = notes.get(target)
    if note is None or note.source != pickle or note.damaged:
        return False
    try:
        whole = (folder / target).stat().st_size == note.size_bytes
        return whole and (folder / pickle).stat().st_mtime <= note.time  # a newer one was put there since
    except OSError:
        return False


def _is_known(path: Path, size: int, note: FileNote | None) -> bool:
    """Whether a file was judged, found good, and seems the same still."""
    note = measure_of(path, note)
    return note is not None and not note.damaged and note.size_bytes == size


def _judge(folder: Path, file: CatalogueFile, note: FileNote | None, hashed: Callable[[Path], str]) -> FileCheck:
    path = folder / file.name
    note, status = measure_of(path, note), path.stat()
    if note and note.source:  # made here of a pickle, so it is not the published one
        file = CatalogueFile(file.name, 0)
    size, expected = status.st_size, file.sha256 or (note.sha256 if note else "")
    checked: Checked = "pinned" if file.sha256 else note.checked if note and note.sha256 else "format"
    problem, found = complaint(path) or "", ""
    if not problem and file.size_exact and file.size_bytes and size != file.size_bytes:
        problem = f"it has {size} bytes instead of {file.size_bytes}"
    if not problem:
        found = hashed(path)
        if expected and found != expected:
            problem = f"its hash begins with {found[:12]}, not {expected[:12]}"
    sure = file.size_bytes if file.size_exact else 0
    known = note or FileNote(sure, "", checked, BY_HAND, time=max(now(), status.st_mtime))
    judged = replace(
        known,
        size_bytes=known.size_bytes if problem else size,
        sha256=expected or found,
        checked=checked,
        damaged=bool(problem),
        bad_bytes=size if problem else 0,
        bad_mtime=status.st_mtime if problem else 0.0,
    )
    if judged != note:
        write_note(folder, file.name, judged)
    return FileCheck(file.name, size, problem, checked)
