"""One file over HTTP from servers of every kind: what is asked, how often, and what is believed."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from modules.errors import UserError
from modules.hub import fetching
from modules.hub.fetching import Wanted, fetch, make_client, why_silent
from modules.hub.reaching import _door, hub_reachable

DATA = b"\x08" + bytes(range(256)) * 400
SHA256 = hashlib.sha256(DATA).hexdigest()
Answer = Callable[[httpx.Request], httpx.Response]


class Cut(httpx.SyncByteStream):
    """Content that ends with a lost connection."""

    def __init__(self, content: bytes):
        self.content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self.content
        raise httpx.ReadError("cut")


def client(answer: Answer) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True)


def wanted(folder: Path, url: str = "https://a.example/y.onnx", **more: object) -> Wanted:
    return Wanted(url, folder / "y.onnx", "y.onnx", "people/model", **more)


def refused(answer: Answer, what: Wanted, pauses: tuple[float, ...] = ()) -> UserError:
    with pytest.raises(UserError) as caught:
        fetch(client(answer), what, pauses=pauses)
    return caught.value


def test_a_server_without_ranges_that_cuts_again_and_again_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_WORTH_BYTES", 1000)
    count = itertools.count()

    def answer(request: httpx.Request) -> httpx.Response:
        size = (9000, 10)[next(count) % 2]
        return httpx.Response(200, headers={"content-length": "100000"}, stream=Cut(DATA[:size]))

    assert refused(answer, wanted(tmp_path), (0, 0, 0)).code == "hub_cut"
    assert next(count) <= 6


def test_a_download_that_gets_on_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_WORTH_BYTES", 1000)

    def answer(request: httpx.Request) -> httpx.Response:
        begun = int(request.headers.get("range", "bytes=0-")[6:-1])
        headers = {"etag": '"A"', "content-range": f"bytes {begun}-{len(DATA) - 1}/{len(DATA)}"}
        return httpx.Response(206 if begun else 200, headers=headers, stream=Cut(DATA[begun : begun + 5000]))

    assert fetch(client(answer), wanted(tmp_path), pauses=(0, 0)).sha256 == SHA256


def test_another_source_gives_the_rest_of_a_file_whose_hash_is_known(tmp_path: Path) -> None:
    first = {"content-length": str(len(DATA)), "etag": '"A"'}
    sent: list[int] = []

    def second(request: httpx.Request) -> httpx.Response:
        begun = int(request.headers.get("range", "bytes=0-")[6:-1])
        if request.headers.get("if-range") not in (None, '"B"'):
            begun = 0
        sent.append(len(DATA) - begun)
        headers = {"etag": '"B"', "content-range": f"bytes {begun}-{len(DATA) - 1}/{len(DATA)}"}
        return httpx.Response(206 if begun else 200, headers=headers, content=DATA[begun:])

    for name, more, expected in (("pinned", {"sha256": SHA256}, 100), ("open", {}, len(DATA))):
        sent.clear()
        folder = tmp_path / name
        cut = refused(lambda request: httpx.Response(200, headers=first, stream=Cut(DATA[:-100])),
                      wanted(folder, **more))  # fmt: skip
        assert cut.code == "hub_cut"
        fetch(client(second), wanted(folder, "https://b.example/y.onnx", **more), pauses=(0,))
        assert sent == [expected] and (folder / "y.onnx").read_bytes() == DATA


def test_a_rest_that_does_not_fit_is_refused_by_the_hash(tmp_path: Path) -> None:
    first = {"content-length": str(len(DATA)), "etag": '"A"'}
    what = {"sha256": SHA256}
    refused(lambda request: httpx.Response(200, headers=first, stream=Cut(DATA[:-100])), wanted(tmp_path, **what))

    def other(request: httpx.Request) -> httpx.Response:
        headers = {"content-range": f"bytes {len(DATA) - 100}-{len(DATA) - 1}/{len(DATA)}"}
        return httpx.Response(206, headers=headers, content=b"!" * 100)

    assert refused(other, wanted(tmp_path, "https://b.example/y.onnx", **what)).code == "hub_hash_wrong"
    assert not list(tmp_path.glob("*.part*"))


def test_the_size_of_the_catalogue_holds_where_the_server_tells_none(tmp_path: Path) -> None:
    class Some(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield DATA[:70]

    assert refused(lambda request: httpx.Response(200, stream=Some()), wanted(tmp_path, size_bytes=99)).code == (
        "hub_size_wrong"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_was_told_on_a_way_without_encryption_is_not_believed(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "a.example":
            return httpx.Response(302, headers={"location": "http://b.example/y"})
        if request.url.host == "b.example":
            return httpx.Response(302, headers={"location": "https://c.example/y", "x-linked-etag": f'"{SHA256}"'})
        return httpx.Response(200, content=DATA)

    error = refused(answer, wanted(tmp_path))
    assert error.code == "hub_odd_answer" and "without encryption" in str(error)


@pytest.mark.parametrize(
    "proxy", ["socks://user:secret@127.0.0.1:1080/", "http://user:secret@127.0.0.1:abc", "odd://x"]
)
def test_a_proxy_that_is_none_is_named_without_its_password(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(UserError) as caught:
        make_client()
    assert caught.value.code == "hub_proxy_bad" and "secret" not in str(caught.value)
    assert proxy.rpartition("@")[2].rpartition("//")[2] in str(caught.value)
    hub_reachable(0.05, "https://a.example")  # whatever it finds, it does not crash


def test_socks_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1")
    make_client().close()
    assert _door("https://a.example") == ("127.0.0.1", 1080)
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1")
    assert _door("https://a.example") == ("127.0.0.1", 80)


def test_silence_is_told_in_the_words_of_the_network() -> None:
    def failing(cause: Exception) -> Answer:
        def answer(request: httpx.Request) -> httpx.Response:
            raise cause

        return answer

    assert why_silent(client(failing(httpx.ConnectError("reset  by\npeer"))), "https://a.example") == "reset by peer"
    assert why_silent(client(failing(httpx.RemoteProtocolError(""))), "https://a.example") == "RemoteProtocolError"
    assert why_silent(client(failing(httpx.ReadTimeout("slow"))), "https://a.example") == ""
    assert why_silent(client(lambda request: httpx.Response(500)), "https://a.example") == ""
