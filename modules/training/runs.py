"""Folders of runs."""

from pathlib import Path


def set_aside(folder: Path) -> Path | None:
    """Rename a run folder, so that another run can begin in its place; returns its new name, None if there is none."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    number = 1
    while (kept := folder.with_name(f"{folder.name}-earlier{number}")).exists():
        number += 1
    return folder.rename(kept)
