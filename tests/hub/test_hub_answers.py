"""What the hub's headers tell of a file, and which answers are none."""

import httpx
import pytest

from modules.errors import UserError
from modules.hub.answers import BusyError, refuse_other_answers, stated_in
from tests.hub.hub_server import COMMIT

SHA256, BLOB = "a" * 64, "b" * 40


def response(
    status: int = 200, url: str = "https://cdn.example.org/f", before: httpx.Response | None = None, **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    made = httpx.Response(status, headers=named, request=httpx.Request("GET", url))
    made.history = [before] if before else []
    return made


def test_the_hubs_own_word_comes_before_that_of_its_storage() -> None:
    hub = response(
        302, "https://hub.example.org/f", etag=f'"{BLOB}"', x_linked_etag=f'"{SHA256}"', x_repo_commit=COMMIT
    )
    stated = stated_in(response(before=hub, etag=f'"{"c" * 64}"', content_length="12"))
    assert (stated.sha256, stated.blob_sha1, stated.revision, stated.size_bytes) == (SHA256, BLOB, COMMIT, 12)
    assert stated.etag == f'"{"c" * 64}"'  # by which the storage knows its content again


def test_a_mark_of_a_server_that_is_no_hub_is_no_hash() -> None:
    stated = stated_in(response(etag=f'"{SHA256}"', content_length="12"))
    assert (stated.sha256, stated.blob_sha1) == ("", "") and stated.identity == f'"{SHA256}"'
    assert stated_in(response(etag='W/"weak"')).identity == ""


def test_sizes_are_of_the_whole_file() -> None:
    part = stated_in(response(206, content_range="bytes 5-9/10", content_length="5"))
    assert (part.start, part.size_bytes) == (5, 10)
    assert stated_in(response(content_encoding="gzip", content_length="5")).size_bytes == 0
    assert stated_in(response(x_linked_size="77")).size_bytes == 77


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "hub_gated"),
        (404, "hub_file_missing"),
        (511, "hub_web_page"),
        (400, "hub_odd_answer"),
        (204, "hub_odd_answer"),
    ],
)
def test_answers_that_are_no_file(status: int, code: str) -> None:
    with pytest.raises(UserError) as caught:
        refuse_other_answers(response(status), "x/y", "f")
    assert caught.value.code == code


def test_a_page_and_a_way_without_encryption_are_refused() -> None:
    with pytest.raises(UserError, match="web page"):
        refuse_other_answers(response(content_type="text/html; charset=utf-8"), "x/y", "f")
    with pytest.raises(UserError, match="without encryption"):
        refuse_other_answers(response(url="http://a.org/f", before=response(302)), "x/y", "f")
    refuse_other_answers(response(url="http://a.org/f", before=response(302, "http://b.org/f")), "x/y", "f")
    with pytest.raises(UserError, match="another encoding"):
        refuse_other_answers(response(206, content_encoding="gzip"), "x/y", "f")
    with pytest.raises(BusyError):
        refuse_other_answers(response(503), "x/y", "f")
