"""What the hub answers to a request for a file: what it states of it, and what an answer that is none means."""

import re
from dataclasses import dataclass

import httpx

from modules.errors import UserError

_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_TOTAL = re.compile(r"bytes (\d+)-\d+/(\d+)")
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_LOGIN_PAGE = 511  # of a network that wants a login first


class BusyError(Exception):
    """The place answers that it cannot answer now; asking again may help."""


@dataclass(frozen=True)
class Stated:
    """What an answer tells of the whole file.

    Args:
        size_bytes: 0 = not told.
        sha256, blob_sha1: of its content, as the hub states them (files in large storage; all others by the hash that
            git gives them); empty = not told.
        revision: commit that the hub took the file from.
        etag: mark that a later request may name to get the rest of the same content; only a strong one.
        start: where the content that follows begins.
    """

    size_bytes: int
    sha256: str
    blob_sha1: str
    revision: str
    etag: str
    start: int

    @property
    def identity(self) -> str:
        """What tells this content from another; empty if nothing does."""
        return self.sha256 or self.blob_sha1 or self.etag


def stated_in(response: httpx.Response) -> Stated:
    """What an answer and the redirections on the way to it tell. The first that tells something is the hub itself."""
    answers = [*response.history, response]
    revision = next((a.headers["x-repo-commit"] for a in answers if "x-repo-commit" in a.headers), "")
    marks = [_bare(a.headers["x-linked-etag"]) for a in answers if "x-linked-etag" in a.headers]
    # Another server's mark may look like a hash and be none, so it counts only beside the hub's own headers.
    marks += [_bare(a.headers["etag"]) for a in answers if "x-repo-commit" in a.headers and "etag" in a.headers]
    linked = next((int(a.headers["x-linked-size"]) for a in answers if a.headers.get("x-linked-size", "").isdigit()), 0)
    start, total = 0, 0
    if match := _TOTAL.fullmatch(response.headers.get("content-range", "")):
        start, total = int(match[1]), int(match[2])
    elif "content-encoding" not in response.headers and response.headers.get("content-length", "").isdigit():
        total = int(response.headers["content-length"])
    etag = response.headers.get("etag", "")
    return Stated(
        size_bytes=total or linked,
        sha256=next((mark for mark in marks if _SHA256.fullmatch(mark)), ""),
        blob_sha1=next((mark for mark in marks if _SHA1.fullmatch(mark)), ""),
        revision=revision if _SHA1.fullmatch(revision) else "",
        etag=etag if etag.startswith('"') else "",
        start=start if response.status_code == httpx.codes.PARTIAL_CONTENT else 0,
    )


def refuse_other_answers(response: httpx.Response, repository: str, file: str) -> None:
    """Let only the file itself pass.

    Raises:
        BusyError: another try may help.
        UserError: hub_gated, hub_file_missing, hub_web_page, hub_odd_answer.
    """
    status, host = response.status_code, response.url.host
    if status in _BUSY:
        raise BusyError(f"{status} {response.reason_phrase}".strip())
    if status in (401, 403):
        raise UserError(
            "hub_gated",
            "{host} does not give {file} of {repository} to everybody (answer {status}): its publisher asks for an "
            "account and a consent. Get the file there in a browser and put it into the model's folder, or choose "
            "another source.",
            host=host,
            file=file,
            repository=repository,
            status=status,
        )
    if status in (404, 410):
        raise UserError(
            "hub_file_missing",
            "{host} has no {file} of {repository}. Choose another source of downloads; a mirror may lack it.",
            host=host,
            file=file,
            repository=repository,
        )
    kind = response.headers.get("content-type", "").lower()
    if status == _LOGIN_PAGE or kind.startswith(("text/html", "application/xhtml")):
        raise web_page(host, file)
    if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        raise odd_answer(host, file, f"{status} {response.reason_phrase}".strip())
    if status == httpx.codes.PARTIAL_CONTENT and response.headers.get("content-encoding", "identity") != "identity":
        raise odd_answer(host, file, "a part of it came in another encoding")
    # What the hub states of a file is worth as much as the way that it came, every step of it.
    schemes = [answer.url.scheme for answer in (*response.history, response)]
    if "https" in schemes and "http" in schemes[schemes.index("https") :]:
        raise odd_answer(host, file, "it was sent on to an address without encryption")


def web_page(host: str, file: str) -> UserError:
    """A page came where a file was asked for."""
    return UserError(
        "hub_web_page",
        "A web page came from {host} instead of {file}: this network may want a login first, or a proxy is in the way. "
        "Open the address in a browser, log in, and start again.",
        host=host,
        file=file,
    )


def odd_answer(host: str, file: str, cause: object) -> UserError:
    """An answer that no hub gives."""
    return UserError(
        "hub_odd_answer",
        "{host} answered in a way that no hub does when asked for {file} ({cause}). Check the address of the source.",
        host=host,
        file=file,
        cause=" ".join(str(cause).split())[:200],
    )


def _bare(mark: str) -> str:
    """A mark without its quotes, and without the sign that it is a weak one."""
    return mark.removeprefix("W/").strip('"').lower()
