"""Whether the place that models come from can be reached, told within two seconds and before anything is retried."""

import ipaddress
import queue
import socket
import threading
import urllib.request
from urllib.parse import urlsplit

_KNOCK_SECONDS = 2.0


def hub_reachable(seconds: float = _KNOCK_SECONDS, endpoint: str | None = None) -> bool:
    """Whether the hub (or the proxy on the way to it) takes a connection; answers within `seconds`.

    Args:
        endpoint: another address than that of the hub's own library. HF_HUB_OFFLINE keeps every address away, but for
            those of this very machine.
    """
    from huggingface_hub import constants

    endpoint = endpoint or constants.ENDPOINT
    try:
        host, port = _door(endpoint)
    except ValueError:  # a port that is none
        return False
    return not kept_offline(endpoint) and can_connect(host, port, seconds)


def kept_offline(endpoint: str) -> bool:
    """Whether HF_HUB_OFFLINE keeps an address away."""
    from huggingface_hub import constants

    try:
        return bool(constants.HF_HUB_OFFLINE) and not is_this_machine(_door(endpoint)[0])
    except ValueError:
        return bool(constants.HF_HUB_OFFLINE)


def can_connect(host: str, port: int, seconds: float = _KNOCK_SECONDS) -> bool:
    """Whether a TCP connection succeeds within `seconds`, looking up the name included."""
    answer: queue.Queue[bool] = queue.Queue()

    def knock() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            answer.put(True)
        except (OSError, ValueError, OverflowError):  # a UnicodeError for a name that is none
            answer.put(False)

    # A thread, because looking up a name knows no time limit.
    threading.Thread(target=knock, daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return False


def is_this_machine(host: str) -> bool:
    """Whether an address never leaves this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _door(endpoint: str) -> tuple[str, int]:
    """Host and port to knock at for an address: its own, or those of the proxy that is set for it.

    Raises:
        ValueError: one of the two addresses is none.
    """
    target = urlsplit(endpoint)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    usual = 1080 if target.scheme.startswith("socks") else 443 if target.scheme == "https" else 80
    return target.hostname or "", target.port or usual
