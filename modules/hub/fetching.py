"""Fetches one file over HTTP: goes on with what is there, checks the whole, and only then puts it in its place."""

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from modules.errors import Stopped, UserError
from modules.hub.answers import BusyError, Stated, odd_answer, refuse_other_answers, stated_in, web_page
from modules.hub.formats import complaint, complaint_of_start
from modules.hub.hashing import hash_file
from modules.hub.inventory import PART
from modules.hub.notes import NOTES_NAME, Checked, FileNote, now
from modules.hub.space import telling_disk

PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""Waits before each further try after a cut; as many tries, and no more."""
_WORTH_BYTES = 8 << 20  # a try that brought so much does not count as one without success
_ANSWER_SECONDS = 0.8
_LIMITS = httpx.Timeout(15.0, connect=5.0)


@dataclass(frozen=True)
class Wanted:
    """A file to be fetched.

    Args:
        url: where it is.
        path: where it shall lie.
        file, repository: their names, for messages.
        size_bytes: 0 = not known for certain.
        sha256: of the catalogue; empty = not known.
        known_sha256: what an earlier download wrote down.
    """

    url: str
    path: Path
    file: str
    repository: str
    size_bytes: int = 0
    sha256: str = ""
    known_sha256: str = ""

    @property
    def part(self) -> Path:
        """Where it grows."""
        return self.path.with_name(self.path.name + PART)

    @property
    def marks(self) -> Path:
        """Where it is written down what the part is a part of."""
        return self.path.with_name(self.path.name + PART + ".json")


def make_client() -> httpx.Client:
    """A client for the hub: follows redirections, gives up on a silent connection, uses the proxy that is set.

    Raises:
        UserError: hub_proxy_bad.
    """
    try:
        return httpx.Client(follow_redirects=True, timeout=_LIMITS, headers={"Accept-Encoding": "identity"})
    except (ImportError, ValueError, httpx.InvalidURL) as cause:
        proxies = urllib.request.getproxies()
        named = dict.fromkeys(_without_login(proxies[kind]) for kind in ("all", "https", "http") if kind in proxies)
        raise UserError(
            "hub_proxy_bad",
            "The proxy that is set on this machine cannot be used: {proxy}. Set HTTPS_PROXY and ALL_PROXY to an "
            "address like http://host:port or socks5://host:port, or remove them, and start again.",
            proxy=", ".join(named),
        ) from cause


def _without_login(proxy: str) -> str:
    """The address of a proxy as it may be shown."""
    scheme, mark, rest = proxy.rpartition("//")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def why_silent(client: httpx.Client, url: str) -> str:
    """Why nobody who speaks HTTP is there, in the words of the network; empty if somebody is.

    A firewall may take a connection and drop it. A place that is merely slow counts as there.
    """
    try:
        client.head(url, timeout=_ANSWER_SECONDS, follow_redirects=False)
    except httpx.TimeoutException:
        return ""
    except (httpx.TransportError, httpx.InvalidURL) as cause:
        return " ".join(str(cause).split())[:200] or type(cause).__name__
    return ""


def fetch(
    client: httpx.Client,
    wanted: Wanted,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
    pauses: Sequence[float] = PAUSES_SECONDS,
) -> FileNote:
    """Fetch a file; what was there before is replaced only by one that was checked.

    Args:
        on_bytes: gets the bytes there and the bytes of the whole file (0 = not known).

    Raises:
        Stopped: what came so far stays.
        UserError: hub_cut, hub_busy (what came so far stays), hub_gated, hub_file_missing, hub_web_page,
            hub_odd_answer, hub_size_wrong, hub_hash_wrong, hub_hash_changed, hub_file_broken, hub_disk_full,
            hub_folder_unwritable, hub_file_in_use.
    """
    with telling_disk(wanted.path.parent):
        wanted.path.parent.mkdir(parents=True, exist_ok=True)
        stated = _receive_all(client, wanted, on_bytes, should_stop, pauses)
        note = _check(wanted, stated, should_stop)
        try:
            os.replace(wanted.part, wanted.path)
        except PermissionError as cause:
            if sys.platform != "win32":  # there, a process that has the old one open
                raise
            raise UserError(
                "hub_file_in_use",
                "{file} is in use, so it cannot be replaced. Stop what uses it, then start the download again.",
                file=str(wanted.path),
            ) from cause
        wanted.marks.unlink(missing_ok=True)
    return note


def _receive_all(
    client: httpx.Client,
    wanted: Wanted,
    on_bytes: Callable[[int, int], None],
    should_stop: Callable[[], bool],
    pauses: Sequence[float],
) -> Stated:
    """Try as often as it brings something; returns what the part is now the whole of."""
    tries, most = 0, _size(wanted.part)
    while True:
        try:
            return _receive(client, wanted, on_bytes, should_stop)
        except (httpx.TransportError, BusyError) as cause:
            if isinstance(cause, httpx.UnsupportedProtocol):
                raise odd_answer(httpx.URL(wanted.url).host, wanted.file, cause) from cause
            # Against the most that was ever here: a server that begins anew each time would be asked for ever.
            size = _size(wanted.part)
            tries, most = (0 if size - most >= _WORTH_BYTES else tries + 1), max(most, size)
            if tries > len(pauses):
                raise _given_up(wanted, cause) from cause
            _pause(pauses[max(0, tries - 1)], should_stop)
        except (httpx.HTTPError, httpx.InvalidURL) as cause:
            raise odd_answer(httpx.URL(wanted.url).host, wanted.file, cause) from cause


def _receive(
    client: httpx.Client, wanted: Wanted, on_bytes: Callable[[int, int], None], should_stop: Callable[[], bool]
) -> Stated:
    """Let the part grow to the whole file; returns what it is a part of."""
    (marks, url), begun = _read_marks(wanted), _size(wanted.part)
    if marks and marks.size_bytes and begun == marks.size_bytes:
        on_bytes(begun, begun)
        return marks  # whole already, when somebody stopped it just then
    # Of a file whose hash is known, another source may give the rest: in the end the hash decides.
    elsewhere = bool(wanted.sha256) and url != wanted.url
    headers = {}
    if marks and begun > 0 and (marks.identity or wanted.sha256) and begun < (marks.size_bytes or begun + 1):
        headers["Range"] = f"bytes={begun}-"
        if marks.etag and not elsewhere:
            headers["If-Range"] = marks.etag
    with client.stream("GET", wanted.url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            _forget(wanted)
            raise BusyError("the file has become shorter")
        refuse_other_answers(response, wanted.repository, wanted.file)
        stated = stated_in(response)
        _refuse_size(wanted, stated.size_bytes)
        goes_on = response.status_code == httpx.codes.PARTIAL_CONTENT
        same = bool(marks) and (elsewhere or stated.identity == marks.identity)
        if goes_on and (stated.start != begun or not same):
            _forget(wanted)
            raise BusyError("the file has changed")
        if not goes_on:
            _forget(wanted)
            begun = 0
        if not goes_on or elsewhere:
            wanted.marks.write_text(json.dumps({**asdict(stated), "url": wanted.url}), encoding="utf-8")
        _write(response, wanted, begun, stated.size_bytes, on_bytes, should_stop)
    got = _size(wanted.part)
    if stated.size_bytes and got < stated.size_bytes:
        raise httpx.ReadError(f"{got} of {stated.size_bytes} bytes came")
    return stated


def _write(
    response: httpx.Response,
    wanted: Wanted,
    begun: int,
    total: int,
    on_bytes: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> None:
    done = begun
    on_bytes(done, total)
    with open(wanted.part, "ab" if begun else "wb") as part:
        for chunk in response.iter_bytes():  # as they come, so that a cut loses none
            if not done and complaint_of_start(chunk[:512]) == "it is a web page":
                raise web_page(response.url.host, wanted.file)
            part.write(chunk)
            done += len(chunk)
            on_bytes(done, total)
            if should_stop():
                raise Stopped
        part.flush()
        os.fsync(part.fileno())


def _check(wanted: Wanted, stated: Stated, should_stop: Callable[[], bool]) -> FileNote:
    """Judge the whole file by the best measure there is. A file that is refused is deleted."""
    try:
        _refuse_size(wanted, _size(wanted.part))  # of a source that told none
    except UserError:
        _forget(wanted)
        raise
    sha256, blob_sha1 = hash_file(wanted.part, should_stop)
    if expected := wanted.sha256 or stated.sha256 or stated.blob_sha1:
        found = sha256 if wanted.sha256 or stated.sha256 else blob_sha1
        if found != expected:
            _forget(wanted)
            raise UserError(
                "hub_hash_wrong",
                "{file} of {repository} came damaged or is another one (its hash begins with {found}, not {expected}); "
                "it was not taken, and what was there before is kept. Start again, or choose another source.",
                file=wanted.file,
                repository=wanted.repository,
                found=found[:12],
                expected=expected[:12],
            )
    if refusal := _refusal(wanted, sha256):
        _forget(wanted)
        raise refusal
    checked: Checked = "pinned" if wanted.sha256 else "hub" if expected else "format"
    return FileNote(
        size_bytes=_size(wanted.part),
        sha256=sha256,
        checked=checked,
        origin=wanted.url,
        revision=stated.revision,
        etag=stated.etag,
        time=now(),
    )


def _refusal(wanted: Wanted, sha256: str) -> UserError | None:
    """Why a file is not taken though it came as it was sent."""
    if not wanted.sha256 and wanted.known_sha256 not in ("", sha256):
        return UserError(
            "hub_hash_changed",
            "{file} of {repository} is not the one that was downloaded before (its hash begins with {found}, not "
            "{expected}); it was not taken. If you trust the change, delete {notes} and start again.",
            file=wanted.file,
            repository=wanted.repository,
            found=sha256[:12],
            expected=wanted.known_sha256[:12],
            notes=str(wanted.path.parent / NOTES_NAME),
        )
    problem = complaint(wanted.part, wanted.file)
    if problem:
        return UserError(
            "hub_file_broken",
            "{file} of {repository} came, but {problem}; it was not taken. Choose another source of downloads.",
            file=wanted.file,
            repository=wanted.repository,
            problem=problem,
        )
    return None


def _refuse_size(wanted: Wanted, found: int) -> None:
    """Before gigabytes come (0 = not told): a file of another size cannot be the right one."""
    if wanted.size_bytes and found and wanted.size_bytes != found:
        raise UserError(
            "hub_size_wrong",
            "{file} of {repository} has {found} bytes there instead of {expected}: the source has another version of "
            "it. Choose another source of downloads.",
            file=wanted.file,
            repository=wanted.repository,
            found=found,
            expected=wanted.size_bytes,
        )


def _given_up(wanted: Wanted, cause: Exception) -> UserError:
    """Told after the last try."""
    host = httpx.URL(wanted.url).host
    if isinstance(cause, BusyError):
        return UserError(
            "hub_busy",
            "{host} is overloaded or out of order ({cause}), so {file} could not be fetched. Start again later to go "
            "on, or choose another source.",
            host=host,
            cause=cause,
            file=wanted.file,
        )
    return UserError(
        "hub_cut",
        "The connection to {host} was cut again and again while {file} came ({cause}). {done} MB of it are here; start "
        "again to go on from there.",
        host=host,
        file=wanted.file,
        cause=" ".join(str(cause).split())[:200] or type(cause).__name__,
        done=f"{_size(wanted.part) / 1e6:.1f}",
    )


def _pause(seconds: float, should_stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if should_stop():
            raise Stopped
        time.sleep(min(0.1, left))


def _read_marks(wanted: Wanted) -> tuple[Stated | None, str]:
    """What the part is a part of, and the address that it came from last."""
    try:
        values = json.loads(wanted.marks.read_text(encoding="utf-8"))
        url = str(values.pop("url", ""))
        return Stated(**values), url
    except (OSError, ValueError, TypeError, AttributeError):
        return None, ""


def _forget(wanted: Wanted) -> None:
    wanted.part.unlink(missing_ok=True)
    wanted.marks.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
