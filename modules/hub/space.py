"""Room on the disk: asked for before a download, and told of when it runs out on the way."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modules.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_WINDOWS_FULL = 112  # ERROR_DISK_FULL
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


@contextmanager
def telling_full_disk(folder: Path) -> Iterator[None]:
    """Turn the failure to write for want of space into UserError hub_disk_full, which names the folder."""
    try:
        yield
    except OSError as cause:
        if cause.errno in _FULL or getattr(cause, "winerror", None) == _WINDOWS_FULL:
            raise UserError(
                "hub_disk_full",
                "The disk is full, so {folder} could not be completed. Free some space and start again; what is there "
                "is kept.",
                folder=str(folder),
            ) from cause
        raise
