"""Whole repositories in the hub library's own cache, where other programs on the machine may have put them already."""

from collections.abc import Sequence
from pathlib import Path

from modules.errors import UserError


def cached_snapshot(repository: str, files: Sequence[str], cache: Path | None = None) -> Path | None:
    """The folder of a repository's files in the hub's local cache, or None; asks nobody. It may be incomplete."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repository, allow_patterns=list(files), local_files_only=True, cache_dir=cache)
    except (OSError, ValueError):
        return None
    return Path(folder)


def download_snapshot(
    repository: str, files: Sequence[str], by_hand: Path, cache: Path | None = None, endpoint: str | None = None
) -> Path:
    """Download a repository's files into the hub's cache; a later call goes on with what an earlier one got.

    Args:
        files: names or patterns.
        by_hand: folder that the message names as the place for files fetched by hand.
        endpoint: where from; None is the library's own choice.

    Raises:
        UserError: hub_download.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(files), cache_dir=cache, endpoint=endpoint))
    except (OSError, ValueError, RuntimeError, errors.HTTPError) as cause:
        raise UserError(
            "hub_download",
            "{repository} could not be downloaded ({cause}). Try again to go on with it, or put its files into "
            "{folder}.",
            repository=repository,
            cause=" ".join(str(cause).split())[:300],
            folder=str(by_hand),
        ) from cause
