"""Model files from the hub's local cache or, where it can be reached, from the hub itself.

A machine without a network is told so within two seconds, before anything is retried.
"""

import queue
import socket
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from modules.errors import UserError

_KNOCK_SECONDS = 2.0


def hub_reachable(seconds: float = _KNOCK_SECONDS) -> bool:
    """Whether the hub (or the proxy on the way to it) takes a connection; answers within `seconds`."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    return can_connect(*_door(constants.ENDPOINT), seconds)


def can_connect(host: str, port: int, seconds: float = _KNOCK_SECONDS) -> bool:
    """Whether a TCP connection succeeds within `seconds`, looking up the name included."""
    answer: queue.Queue[bool] = queue.Queue()

    def knock() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            answer.put(True)
        except (OSError, ValueError):  # a UnicodeError for a name that is none
            answer.put(False)

    # A thread, because looking up a name knows no time limit.
    threading.Thread(target=knock, daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return False


def cached_snapshot(repository: str, files: Sequence[str], cache: Path | None = None) -> Path | None:
    """The folder of a repository's files in the hub's local cache, or None; asks nobody. It may be incomplete."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repository, allow_patterns=list(files), local_files_only=True, cache_dir=cache)
    except (OSError, ValueError):
        return None
    return Path(folder)


def download_snapshot(repository: str, files: Sequence[str], by_hand: Path, cache: Path | None = None) -> Path:
    """Download a repository's files into the hub's cache; a later call goes on with what an earlier one got.

    Args:
        files: names or patterns.
        by_hand: folder that the message names as the place for files fetched by hand.

    Raises:
        UserError: hub_download.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(files), cache_dir=cache))
    except (OSError, ValueError, RuntimeError) as cause:
        raise UserError(
            "hub_download",
            "{repository} could not be downloaded ({cause}). Try again to go on with it, or put its files into {folder}.",
            repository=repository,
            cause=" ".join(str(cause).split())[:300],
            folder=str(by_hand),
        ) from cause


def _door(endpoint: str) -> tuple[str, int]:
    """Host and port to knock at for an address: its own, or those of the proxy that is set for it."""
    target = urlsplit(endpoint)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return target.hostname or "", target.port or (443 if target.scheme == "https" else 80)
