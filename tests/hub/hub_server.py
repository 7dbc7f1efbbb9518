"""A small hub on this machine: answers like huggingface.co, writes down what it was asked, and fails on demand."""

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from modules.hub.catalogue import CatalogueFile, Entry

COMMIT = "c0ffee" + "0" * 34
REPOSITORY = "people/model"
LARGE_BYTES = 1000
"""Larger files lie in large storage, to which the hub redirects."""


@dataclass
class Asked:
    """One request and its answer: what was asked for, from where on, the status, the bytes of content sent."""

    path: str
    range: str | None
    status: int
    sent: int


@dataclass
class Hub:
    """What the hub holds, and how it behaves.

    Args:
        files: by name, of `REPOSITORY`.
        cuts: bytes of content after which the next answers end without a word; used up one by one.
        fails: status of the next answers; used up one by one.
        page: answers everything with a web page.
        plain: states nothing of its own (no hash, no commit), as a simple web server.
        resumes: knows ranges.
        slow: content waits for this event after its first half.
    """

    files: dict[str, bytes]
    endpoint: str = ""
    cuts: list[int] = field(default_factory=list)
    fails: list[int] = field(default_factory=list)
    page: bool = False
    plain: bool = False
    resumes: bool = True
    slow: threading.Event | None = None
    asked: list[Asked] = field(default_factory=list)

    def sent(self, name: str) -> list[int]:
        """Bytes of content of a file, answer by answer."""
        return [asked.sent for asked in self.asked if asked.path.endswith(name) and asked.status in (200, 206)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        """Answered, but not counted: somebody only looks whether the hub is there."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        name = path.rsplit("/", 1)[1]
        if hub.fails:
            return self._send(path, hub.fails.pop(0), b"no", {"Content-Type": "text/plain"})
        if hub.page:
            return self._send(path, 200, b"<!DOCTYPE html><p>Please log in", {"Content-Type": "text/html"})
        known = path.startswith((f"/{REPOSITORY}/resolve/", f"/models/{REPOSITORY}/resolve/", "/storage/"))
        if not known or name not in hub.files:
            return self._send(path, 404, b"Entry not found", {"Content-Type": "text/plain"})
        content = hub.files[name]
        sha256 = hashlib.sha256(content).hexdigest()
        if not path.startswith("/storage/") and not hub.plain:
            if len(content) > LARGE_BYTES:
                headers = {
                    "Location": f"/storage/{name}",
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-ETag": f'"{sha256}"',
                    "X-Linked-Size": str(len(content)),
                }
                return self._send(path, 302, b"", headers)
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            return self._send_content(path, content, {"ETag": f'"{blob}"', "X-Repo-Commit": COMMIT})
        return self._send_content(path, content, {"ETag": f'"{sha256[:32]}"'})

    def _send_content(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, headers["ETag"])
        headers = {"Content-Type": "application/octet-stream", **headers}
        if asked and same and self.hub.resumes:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self._send(path, 416, b"", {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._send(path, 206, content[start:], headers)
        return self._send(path, 200, content, headers)

    def _send(self, path: str, status: int, content: bytes, headers: dict[str, str]) -> None:
        row = Asked(path, self.headers.get("Range"), status, 0)
        self.hub.asked.append(row)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        cut = self.hub.cuts.pop(0) if status in (200, 206) and self.hub.cuts else len(content)
        half = len(content) // 2 if self.hub.slow is not None else 0
        for piece in (content[:half], content[half:cut]):
            self.wfile.write(piece)
            self.wfile.flush()
            row.sent += len(piece)
            if half and self.hub.slow is not None:
                self.hub.slow.wait(5)
        if cut < len(content):
            self.close_connection = True


@contextmanager
def running(files: dict[str, bytes]) -> Iterator[Hub]:
    """A hub with these files, as long as the block lasts."""
    hub = Hub(dict(files))
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *args: None  # a client that leaves is no matter
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.slow is not None:
            hub.slow.set()
        server.shutdown()
        server.server_close()
        thread.join()


def entry_of(files: dict[str, bytes], pinned: bool = True, **more: object) -> Entry:
    """A catalogue entry of these files, with their hashes and sizes or with neither."""
    listed = tuple(
        CatalogueFile(name, len(content), hashlib.sha256(content).hexdigest())
        if pinned
        else CatalogueFile(name, len(content) + 7, size_exact=False)
        for name, content in files.items()
    )
    values = {
        "name": "tiny",
        "purpose_key": "models.purpose_text",
        "purpose": "a test",
        "repository": REPOSITORY,
        "revision": COMMIT,
        "files": listed,
        "licence": "MIT",
        "licence_url": "https://example.org/licence",
    }
    return Entry(**{**values, **more})


def pickled(value: object) -> bytes:
    """What `torch.save` writes."""
    memory = io.BytesIO()
    torch.save(value, memory)
    return memory.getvalue()
