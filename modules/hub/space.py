"""The disk: room asked for before a download; told of when it runs out on the way, or nothing may be written."""

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modules.disk import is_full
from modules.errors import UserError
from modules.hub.catalogue import CatalogueFile, Entry

_REFUSED = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
_SPARE_BYTES = 64 << 20


def check_space(folder: Path, needed_bytes: int) -> None:
    """Refuse what cannot fit. Raises UserError: hub_no_space."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes + _SPARE_BYTES:
        raise UserError(
            "hub_no_space",
            "{folder} has {free} MB free, but {needed} MB are needed. Free some space, or put the models on another "
            "disk.",
            folder=str(folder),
            free=free // 1_000_000,
            needed=-(-(needed_bytes + _SPARE_BYTES) // 1_000_000),
        )


def room_bytes(entry: Entry, folder: Path, missing: Sequence[CatalogueFile], missing_bytes: int) -> int:
    """How much has to be free for what is left to be done: a pickle is there until its safetensors file is, too.

    Args:
        folder: of the entry.
        missing, missing_bytes: what has to be downloaded (see modules/hub/inventory.py).
    """
    names = {file.name for file in missing}
    again = sum(file.size_bytes for file in missing if entry.kept_name(file.name) != file.name)
    for pickle, target in entry.convert:
        if pickle not in names and (folder / pickle).is_file() and not (folder / target).is_file():
            again += (folder / pickle).stat().st_size
    return missing_bytes + again


@contextmanager
def telling_disk(folder: Path) -> Iterator[None]:
    """Turn the failure to write for want of space or of the right to into a UserError that names the folder.

    Raises:
        UserError: hub_disk_full, hub_folder_unwritable.
    """
    try:
        yield
    except OSError as cause:
        if is_full(cause):
            raise UserError(
                "hub_disk_full",
                "The disk is full, so {folder} could not be completed. Free some space and start again; what is there "
                "is kept.",
                folder=str(folder),
            ) from cause
        if isinstance(cause, _REFUSED) or cause.errno == errno.EROFS:
            raise UserError(
                "hub_folder_unwritable",
                "{folder} cannot be written to ({cause}). Give yourself the right to write there, or start with "
                "--models and another folder.",
                folder=str(folder),
                cause=cause.strerror or cause,
            ) from cause
        raise


def make_folder(folder: Path) -> None:
    """Make a folder that is to be written to. Raises UserError as `telling_disk` does."""
    with telling_disk(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as cause:  # on a drive that is not there
            raise NotADirectoryError(cause.errno, cause.strerror) from cause
