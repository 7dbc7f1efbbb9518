"""One process at a time in the folder of a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from modules.errors import UserError
from modules.hub.space import make_folder, telling_disk

LOCK_NAME = ".download.lock"


@contextmanager
def alone_in(folder: Path, model: str) -> Iterator[None]:
    """Hold a model's folder, which is made if missing, for downloads and checks of this process.

    What fails inside because nothing can be written is told as `telling_disk` does.

    Raises:
        UserError: model_downloading (another process holds it), hub_disk_full, hub_folder_unwritable.
    """
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    make_folder(folder)
    with telling_disk(folder):
        try:
            lock.acquire()
        except Timeout as cause:
            raise UserError(
                "model_downloading",
                "{model} is being downloaded or checked already by another process; wait for it, or stop it first.",
                model=model,
            ) from cause
        try:
            yield
        finally:
            lock.release()
