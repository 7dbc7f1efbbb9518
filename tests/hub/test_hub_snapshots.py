"""The source of downloads holds for the models of recognition and separation too."""

from pathlib import Path

import pytest

from modules.corpus.separation_models import load_separators
from modules.corpus.whisper_models import find_whisper_model
from modules.errors import UserError
from modules.hub import snapshots
from modules.hub.reaching import hub_reachable
from modules.hub.source import HubSource, save_source
from tools.webui.model_check import _source_reachable


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Where the hub's library was asked to download from; it never has anything."""
    asked: list[object] = []

    def snapshot(repository: str, **more: object) -> str:
        if not more.get("local_files_only"):
            asked.append(more.get("endpoint"))
        raise OSError("nothing here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return asked


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (HubSource("https://hf-mirror.com"), "https://hf-mirror.com"),
        (HubSource("https://modelscope.cn"), None),  # does not serve the hub's library
    ],
)
def test_whisper_and_demucs_come_from_the_set_source(
    source: HubSource, expected: str | None, endpoints: list[object], tmp_path: Path
) -> None:
    save_source(tmp_path, source)
    with pytest.raises(UserError) as caught:
        find_whisper_model("tiny", tmp_path, reachable=lambda: True)
    assert caught.value.code == "hub_download"
    with pytest.raises(UserError):
        load_separators("htdemucs", tmp_path, reachable=lambda: True)
    assert endpoints == [expected, expected]


def test_the_set_source_is_knocked_at(monkeypatch: pytest.MonkeyPatch, endpoints: list[object], tmp_path: Path) -> None:
    doors: list[tuple[str, int]] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "modules.hub.reaching.can_connect", lambda host, port, seconds: bool(doors.append((host, port)))
    )
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    save_source(tmp_path, HubSource("https://example.org:444"))
    with pytest.raises(UserError, match="cannot be reached"):
        find_whisper_model("tiny", tmp_path)
    with pytest.raises(UserError, match="cannot be reached"):
        load_separators("htdemucs", tmp_path)
    assert not _source_reachable(tmp_path)
    assert doors == [("example.org", 444)] * 3 and endpoints == []


def test_offline_keeps_every_address_away_but_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("modules.hub.reaching.can_connect", lambda *args: True)
    assert hub_reachable(endpoint="http://127.0.0.1:80") and hub_reachable(endpoint="http://localhost")
    assert not hub_reachable() and not hub_reachable(endpoint="https://127.example.org")


def test_a_failing_library_is_told_with_the_place_for_files(endpoints: list[object], tmp_path: Path) -> None:
    assert snapshots.cached_snapshot("a/b", ["x"]) is None
    with pytest.raises(UserError, match="nothing here") as caught:
        snapshots.download_snapshot("a/b", ["x"], tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_what_the_hubs_library_fails_with_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    def snapshot(repository: str, **more: object) -> str:
        raise errors.HTTPError("cut")  # of the library beneath it, and no OSError

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(UserError) as caught:
        snapshots.download_snapshot("a/b", ["*"], tmp_path)
    assert caught.value.code == "hub_download"
