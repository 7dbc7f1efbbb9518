"""Downloads from a hub that fails in every way: what arrives is right, or the old file stays and the reason is told."""

import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.errors import Stopped, UserError
from modules.hub import space
from modules.hub.catalogue import Entry
from modules.hub.downloading import DownloadReport, download
from modules.hub.inventory import state_of
from modules.hub.judging import verify
from modules.hub.locking import alone_in
from modules.hub.notes import read_notes, write_note
from modules.hub.source import HubSource, save_source
from tests.hub.hub_server import COMMIT, Hub, entry_of, running

LARGE = b"\x08" + bytes(range(256)) * 400
FILES = {"config.json": b'{"a": 1}', "speech.onnx": LARGE}
QUICK = (0.01, 0.01, 0.01)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running(FILES) as hub:
        yield hub


def get(entry: Entry, models: Path, hub: Hub, **more: object) -> DownloadReport:
    return download(entry, models, HubSource(hub.endpoint), pauses=QUICK, **more)


def refused(entry: Entry, models: Path, hub: Hub, **more: object) -> UserError:
    with pytest.raises(UserError) as caught:
        get(entry, models, hub, **more)
    return caught.value


def put(path: Path, content: bytes) -> None:
    """A file that somebody puts there a while later."""
    path.write_bytes(content)
    os.utime(path, (time.time() + 5, time.time() + 5))


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "tiny" / name).read_bytes() for name in FILES if (folder / "tiny" / name).is_file()}


@pytest.mark.parametrize("pinned", [True, False])
def test_a_download_is_complete_and_known_afterwards(pinned: bool, hub: Hub, tmp_path: Path) -> None:
    entry, told = entry_of(FILES, pinned), []
    assert state_of(entry, tmp_path).state == "missing"
    report = get(entry, tmp_path, hub, on_progress=lambda done, total, file: told.append((done, total, file)))
    assert content(tmp_path) == FILES
    assert set(report.fetched) == set(FILES) and report.fetched_bytes == sum(map(len, FILES.values()))
    state = state_of(entry, tmp_path)
    assert (state.state, state.checked) == ("present", "pinned" if pinned else "hub")
    note = read_notes(tmp_path / "tiny")["speech.onnx"]
    assert note.sha256 == hashlib.sha256(LARGE).hexdigest() and note.revision == COMMIT
    assert told[-1][0] == told[-1][1] == report.fetched_bytes and all(done <= total for done, total, _ in told)
    before = len(hub.asked)
    assert get(entry, tmp_path, hub).fetched == () and len(hub.asked) == before
    assert [path.name for path in (tmp_path / "tiny").glob("*.part*")] == []


def test_after_a_cut_only_the_rest_is_sent(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [8, 30_000]  # the small file whole, the large one in pieces
    assert get(entry_of(FILES), tmp_path, hub).fetched_bytes == 8 + len(LARGE)
    assert hub.sent("speech.onnx") == [30_000, len(LARGE) - 30_000]
    assert [asked.range for asked in hub.asked if asked.status == 206] == ["bytes=30000-"]
    assert content(tmp_path) == FILES


def test_after_too_many_cuts_the_next_run_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [8, 10_000, 10_000, 10_000, 10_000]
    error = refused(entry_of(FILES), tmp_path, hub)
    assert error.code == "hub_cut" and error.fields["done"] == "0.0" and "go on" in str(error)
    state = state_of(entry_of(FILES), tmp_path)
    assert state.state == "partial" and state.bytes_there == 40_008
    assert state.missing_bytes == len(LARGE) - 40_000
    get(entry_of(FILES), tmp_path, hub)
    assert sum(hub.sent("speech.onnx")) == len(LARGE)
    assert content(tmp_path) == FILES


def test_a_file_that_changed_meanwhile_begins_anew(hub: Hub, tmp_path: Path) -> None:
    for plain in (False, True):
        hub.plain, models = plain, tmp_path / str(plain)
        hub.files["speech.onnx"] = LARGE
        hub.cuts = [8, 50_000, 0, 0, 0]
        assert refused(entry_of(FILES, pinned=False), models, hub).code == "hub_cut"
        hub.files["speech.onnx"] = changed = b"\x08" + b"z" * len(LARGE)
        hub.asked.clear()
        get(entry_of(FILES, pinned=False), models, hub)
        assert content(models)["speech.onnx"] == changed
        assert hub.sent("speech.onnx")[-1] == len(changed)


def test_a_server_without_ranges_begins_anew(hub: Hub, tmp_path: Path) -> None:
    hub.resumes, hub.cuts = False, [8, 50_000]
    get(entry_of(FILES), tmp_path, hub)
    assert hub.sent("speech.onnx") == [50_000, len(LARGE)]
    assert content(tmp_path) == FILES


def test_a_part_that_is_whole_already_is_only_checked(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [8, 50_000, 0, 0, 0]
    refused(entry_of(FILES), tmp_path, hub)
    (tmp_path / "tiny" / "speech.onnx.part").write_bytes(LARGE)
    hub.asked.clear()
    get(entry_of(FILES), tmp_path, hub)
    assert hub.asked == [] and content(tmp_path) == FILES


@pytest.mark.parametrize("pinned", [True, False])
def test_a_wrong_content_is_refused_and_the_old_file_kept(pinned: bool, hub: Hub, tmp_path: Path) -> None:
    entry = entry_of(FILES, pinned)
    get(entry, tmp_path, hub)
    old = b"\x08old"
    (tmp_path / "tiny" / "speech.onnx").write_bytes(old)  # has another size: damaged
    assert state_of(entry, tmp_path).state == "damaged"
    hub.files["speech.onnx"] = b"\x08" + b"!" * (len(LARGE) - 1)
    error = refused(entry, tmp_path, hub)
    assert error.code == ("hub_hash_wrong" if pinned else "hub_hash_changed")
    assert (tmp_path / "tiny" / "speech.onnx").read_bytes() == old
    assert not (tmp_path / "tiny" / "speech.onnx.part").exists()
    hub.files["speech.onnx"] = LARGE
    assert get(entry, tmp_path, hub).replaced == ("speech.onnx",)
    assert content(tmp_path) == FILES


def test_another_size_is_refused_before_it_comes(hub: Hub, tmp_path: Path) -> None:
    hub.files["speech.onnx"] = LARGE * 3
    assert refused(entry_of(FILES), tmp_path, hub).code == "hub_size_wrong"
    assert not list((tmp_path / "tiny").glob("*.part*"))


def test_a_web_page_is_no_model(hub: Hub, tmp_path: Path) -> None:
    hub.page = True
    error = refused(entry_of(FILES), tmp_path, hub)
    assert error.code == "hub_web_page" and "log in" in str(error)
    hub.page, hub.plain = False, True
    hub.files["config.json"] = b"<!DOCTYPE html><p>no such"  # a page that calls itself a file
    assert refused(entry_of(FILES, pinned=False), tmp_path, hub).code == "hub_web_page"
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "hub_gated"), (403, "hub_gated"), (404, "hub_file_missing"), (511, "hub_web_page"), (418, "hub_odd_answer")],
)
def test_what_a_hub_refuses_is_told_at_once(status: int, code: str, hub: Hub, tmp_path: Path) -> None:
    hub.fails = [status] * 9
    assert refused(entry_of(FILES), tmp_path, hub).code == code
    assert len(hub.asked) == 1


def test_a_busy_hub_is_asked_again_a_few_times(hub: Hub, tmp_path: Path) -> None:
    hub.fails = [503, 429]
    get(entry_of(FILES), tmp_path, hub)
    assert content(tmp_path) == FILES
    hub.fails = [500] * 9
    error = refused(entry_of(FILES), tmp_path / "other", hub)
    assert error.code == "hub_busy" and "500" in str(error)
    assert len(hub.fails) == 9 - 1 - len(QUICK)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid", "https://10.255.255.1", "http://x..y"]
)
def test_without_a_network_the_answer_comes_within_three_seconds(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        download(entry_of(FILES), tmp_path, HubSource(endpoint))
    assert time.monotonic() - start < 3
    assert caught.value.code == "hub_unreachable"
    assert all(word in str(caught.value) for word in ("config.json, speech.onnx", "1 MB", str(tmp_path / "tiny")))


def test_the_networks_switch_off_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("modules.hub.reaching.can_connect", lambda *args: True)
    with pytest.raises(UserError, match="cannot be reached from here .HF_HUB_OFFLINE is set"):
        download(entry_of(FILES), tmp_path, HubSource("https://example.org"))


def test_a_non_commercial_licence_must_be_accepted(hub: Hub, tmp_path: Path) -> None:
    entry = dataclasses.replace(entry_of(FILES), non_commercial=True, licence="CC-BY-NC-SA-4.0")
    error = refused(entry, tmp_path, hub)
    assert error.code == "model_licence" and "CC-BY-NC-SA-4.0" in str(error) and "--accept-licence" in str(error)
    assert hub.asked == []
    get(entry, tmp_path, hub, accept_licence=True)
    get(entry, tmp_path, hub)  # nothing to download, nothing to accept


def test_a_stop_keeps_what_came(hub: Hub, tmp_path: Path) -> None:
    hub.slow, seen = threading.Event(), []

    def tell(done: int, total: int, file: str) -> None:
        seen.append(done)
        hub.slow.set()

    with pytest.raises(Stopped):
        get(entry_of(FILES), tmp_path, hub, on_progress=tell, should_stop=lambda: len(seen) > 3)
    assert content(tmp_path).keys() <= {"config.json"}
    get(entry_of(FILES), tmp_path, hub)
    assert content(tmp_path) == FILES


def test_two_downloads_of_one_entry_do_not_meet(hub: Hub, tmp_path: Path) -> None:
    hub.slow, errors = threading.Event(), []
    first = threading.Thread(target=lambda: get(entry_of(FILES), tmp_path, hub))
    first.start()
    while not hub.asked:
        time.sleep(0.01)
    try:
        errors.append(refused(entry_of(FILES), tmp_path, hub).code)
    finally:
        hub.slow.set()
        first.join()
    assert errors == ["model_downloading"]
    assert content(tmp_path) == FILES and get(entry_of(FILES), tmp_path, hub).fetched == ()


def test_without_room_nothing_is_begun(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "_SPARE_BYTES", 1 << 60)
    error = refused(entry_of(FILES), tmp_path, hub)
    assert error.code == "hub_no_space" and error.fields["needed"] > 10**12
    assert hub.asked == []


def test_a_full_disk_on_the_way_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("modules.hub.fetching.os.fsync", fail)
    assert refused(entry_of(FILES), tmp_path, hub).code == "hub_disk_full"


@pytest.mark.parametrize("pinned", [True, False])
def test_files_put_there_by_hand_are_checked_and_taken(pinned: bool, hub: Hub, tmp_path: Path) -> None:
    entry = entry_of(FILES, pinned)
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    assert state_of(entry, tmp_path).checked == "nothing"
    report = download(entry, tmp_path, HubSource("http://127.0.0.1:9"))  # needs no network
    assert set(report.taken) == set(FILES) and report.fetched == ()
    assert state_of(entry, tmp_path).checked == ("pinned" if pinned else "format")
    assert read_notes(folder)["speech.onnx"].origin == "by hand"


def test_a_wrong_file_put_there_by_hand_is_replaced(hub: Hub, tmp_path: Path) -> None:
    entry, folder = entry_of(FILES), tmp_path / "tiny"
    folder.mkdir()
    (folder / "speech.onnx").write_bytes(b"\x08" + b"?" * (len(LARGE) - 1))
    assert state_of(entry, tmp_path).state == "partial"  # a quick look cannot see it
    report = get(entry, tmp_path, hub)
    assert report.replaced == ("speech.onnx",) and content(tmp_path) == FILES
    (folder / "speech.onnx").write_text("version https://git-lfs.github.com/spec/v1\n")
    state = state_of(entry, tmp_path)
    assert state.state == "damaged" and "pointer" in state.damaged[0][1]


@pytest.mark.parametrize("pinned", [True, False])
def test_a_check_finds_what_changed_since(pinned: bool, hub: Hub, tmp_path: Path) -> None:
    entry = entry_of(FILES, pinned)
    get(entry, tmp_path, hub)
    told: list[tuple[int, int, str]] = []
    checks = verify(entry, tmp_path, lambda *args: told.append(args))
    assert not any(check.problem for check in checks) and told[-1][0] == told[-1][1]
    damaged = bytearray(LARGE)
    damaged[5000] ^= 1
    (tmp_path / "tiny" / "speech.onnx").write_bytes(damaged)
    assert state_of(entry, tmp_path).state == "present"
    assert [check.name for check in verify(entry, tmp_path) if check.problem] == ["speech.onnx"]
    assert state_of(entry, tmp_path).state == "damaged"  # from now on a quick look knows
    assert get(entry, tmp_path, hub).replaced == ("speech.onnx",)
    assert content(tmp_path) == FILES and state_of(entry, tmp_path).state == "present"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("bad", [b"\x08" + LARGE[:-1], LARGE[:9000], LARGE + b"?", b"<html>"])
def test_a_repaired_file_is_good_again(bad: bytes, known: bool, hub: Hub, tmp_path: Path) -> None:
    """Whether it was downloaded before, or a wrong one is the first that was ever seen."""
    entry, path = entry_of(FILES), tmp_path / "tiny" / "speech.onnx"
    get(entry, tmp_path, hub)
    if not known:
        (tmp_path / "tiny" / "download.json").unlink()
    path.write_bytes(bad)
    assert [check.name for check in verify(entry, tmp_path) if check.problem] == ["speech.onnx"]
    assert state_of(entry, tmp_path).state == "damaged"
    put(path, LARGE)
    state = state_of(entry, tmp_path)
    assert (state.state, state.checked) == ("present", "nothing")  # another file, which nobody has judged
    assert "speech.onnx" in download(entry, tmp_path, HubSource("http://127.0.0.1:9")).taken
    assert not any(check.problem for check in verify(entry, tmp_path))
    assert (state_of(entry, tmp_path).state, state_of(entry, tmp_path).checked) == ("present", "pinned")


def test_a_note_with_a_wrong_size_is_mended(hub: Hub, tmp_path: Path) -> None:
    entry, folder = entry_of(FILES), tmp_path / "tiny"
    get(entry, tmp_path, hub)
    note = read_notes(folder)["speech.onnx"]
    write_note(folder, "speech.onnx", dataclasses.replace(note, size_bytes=4))
    assert state_of(entry, tmp_path).state == "present"
    verify(entry, tmp_path)
    assert read_notes(folder)["speech.onnx"] == note


@pytest.mark.parametrize("first", [LARGE[:5000], b"\x08" + LARGE])
def test_a_file_that_no_hash_is_known_of_is_measured_as_it_is_now(first: bytes, tmp_path: Path) -> None:
    """The first one that was seen may have been one that was still being copied."""
    entry, path = entry_of({"speech.onnx": LARGE}, pinned=False), tmp_path / "tiny" / "speech.onnx"
    path.parent.mkdir()
    path.write_bytes(first)
    assert not any(check.problem for check in verify(entry, tmp_path))
    put(path, LARGE)
    assert (state_of(entry, tmp_path).state, state_of(entry, tmp_path).checked) == ("present", "nothing")
    assert download(entry, tmp_path, HubSource("http://127.0.0.1:9")).taken == ("speech.onnx",)
    assert read_notes(path.parent)["speech.onnx"].size_bytes == len(LARGE)
    assert state_of(entry, tmp_path).checked == "format"


@pytest.mark.parametrize("blocked", ["models", "models/tiny"])
def test_a_file_in_the_place_of_a_folder_is_told(blocked: str, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("")
    error = refused(entry_of(FILES), tmp_path / "models", hub)
    assert error.code == "hub_folder_unwritable" and str(tmp_path / "models" / "tiny") in str(error)
    assert verify(entry_of(FILES), tmp_path / "models") == [] and hub.asked == []


@pytest.mark.parametrize(
    "place", ["hub.space.Path.mkdir", "hub.fetching.os.replace", "hub.notes.write_json", "hub.fetching._write"]
)
def test_a_folder_that_may_not_be_written_to_is_told(
    place: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(f"modules.{place}", refuse)
    error = refused(entry_of(FILES), tmp_path, hub)
    assert error.code == "hub_folder_unwritable" and "Permission denied" in str(error)


def test_a_drive_that_is_not_there_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("modules.hub.space.Path.mkdir", refuse)
    assert refused(entry_of(FILES), tmp_path, hub).code == "hub_folder_unwritable"
    with pytest.raises(UserError, match="No such file"):
        save_source(tmp_path, HubSource())


def test_a_file_in_use_is_told_where_that_happens(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("modules.hub.fetching.os.replace", refuse)
    monkeypatch.setattr("modules.hub.fetching.sys.platform", "win32")
    assert refused(entry_of(FILES), tmp_path, hub).code == "hub_file_in_use"


def test_a_check_and_a_download_do_not_meet(hub: Hub, tmp_path: Path) -> None:
    get(entry_of(FILES), tmp_path, hub)
    with alone_in(tmp_path / "tiny", "tiny"), pytest.raises(UserError) as caught:
        verify(entry_of(FILES), tmp_path)
    assert caught.value.code == "model_downloading"
    assert not any(check.problem for check in verify(entry_of(FILES), tmp_path))


def test_modelscope_is_asked_by_its_own_paths(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HubSource, "is_modelscope", property(lambda self: True))
    get(entry_of(FILES), tmp_path, hub)
    assert any(asked.path.startswith("/models/people/model/resolve/master/") for asked in hub.asked)
    assert content(tmp_path) == FILES
