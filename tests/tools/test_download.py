"""`tools.download`: what it lists and says before it downloads, what it leaves behind as a job, how it ends."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.hub.catalogue import Entry, load_catalogue
from modules.progress import ProgressReader
from tests.hub.hub_server import Hub, entry_of, running
from tools import download as tool

FILES = {"config.json": b'{"a": 1}', "speech.onnx": b"\x08" + b"sound" * 9000}
Run = Callable[..., int]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running(FILES) as hub:
        yield hub


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> dict[str, Entry]:
    """The two models that the preset base needs, small; the second may not be used commercially."""
    entries = {
        "bge-m3": entry_of(FILES, name="bge-m3", terms="Keep its notice."),
        "mhubert-147": entry_of(
            FILES, pinned=False, name="mhubert-147", licence="CC-BY-NC-SA-4.0", non_commercial=True, terms="No trade."
        ),
    }
    monkeypatch.setattr("modules.hub.catalogue.load_catalogue", lambda: entries)
    monkeypatch.setattr(tool, "load_catalogue", lambda: entries)
    return entries


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    return lambda *flags: tool.main([*flags, "--models", str(tmp_path / "models"), "--endpoint", hub.endpoint])


def test_all_of_a_preset_is_downloaded_and_its_licences_and_size_are_told_before(
    run: Run, catalogue: dict[str, Entry], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--preset", "base", "--accept-licence", "--job", str(tmp_path / "job")) == 0
    said = capsys.readouterr().out
    assert "licence MIT (https://example.org/licence): Keep its notice." in said
    assert "licence CC-BY-NC-SA-4.0" in said and "No trade." in said
    assert said.index("to download from") < said.index("bge-m3: downloaded: config.json, speech.onnx")
    for name in ("bge-m3", "mhubert-147"):
        for file, content in FILES.items():
            assert (tmp_path / "models" / name / file).read_bytes() == content
    progress = ProgressReader(tmp_path / "job" / "events.jsonl").read()
    assert progress.stopped_by == "done" and "MB" in progress.message
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    assert [(model["name"], model["state"], model["checked"]) for model in result["models"]] == [
        ("bge-m3", "present", "pinned"),
        ("mhubert-147", "present", "hub"),
    ]
    hub.asked.clear()
    assert run("--preset", "base") == 0  # all there: no licence to accept, nobody asked
    assert hub.asked == []


def test_a_licence_that_was_not_accepted_stops_all_before_the_first_byte(
    run: Run, catalogue: dict[str, Entry], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--preset", "base", "--job", str(tmp_path / "job")) == 2
    assert "--accept-licence" in capsys.readouterr().err
    assert hub.asked == [] and not (tmp_path / "models").exists()
    assert ProgressReader(tmp_path / "job" / "events.jsonl").read().error["code"] == "model_licence"


def test_a_failure_is_told_with_exit_code_2(
    run: Run, catalogue: dict[str, Entry], hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fails = [404]
    assert run("bge-m3") == 2
    assert "127.0.0.1 has no config.json of people/model" in capsys.readouterr().err
    assert run("gigantic") == 2
    assert "bge-m3, mhubert-147" in capsys.readouterr().err


def test_a_stop_from_the_page_ends_with_exit_code_3(
    run: Run, catalogue: dict[str, Entry], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.progress.StepProgress.should_stop", lambda self: bool(hub.asked))
    assert run("bge-m3", "--job", str(tmp_path / "job")) == 3
    assert ProgressReader(tmp_path / "job" / "events.jsonl").read().stopped_by == "stop"


def test_the_list_tells_state_size_licence_and_whose_word_a_hash_is(
    run: Run, catalogue: dict[str, Entry], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bge-m3") == 0
    capsys.readouterr()
    assert run("--list") == 0
    first, second = capsys.readouterr().out.split("mhubert-147", 1)
    assert "present (hashes of the catalogue)" in first and "MIT" in first and "by the hub's word" not in first
    assert (
        "missing" in second and "not for commercial use" in second and "hash by the hub's word: config.json" in second
    )
    assert run("--list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert [(row["name"], row["state"], row["licence"]) for row in rows] == [
        ("bge-m3", "present", "MIT"),
        ("mhubert-147", "missing", "CC-BY-NC-SA-4.0"),
    ]
    assert rows[1]["missing_bytes"] == catalogue["mhubert-147"].total_bytes


def test_the_list_names_what_to_fetch_by_hand(
    run: Run, catalogue: dict[str, Entry], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models" / "bge-m3").mkdir(parents=True)
    (tmp_path / "models" / "bge-m3" / "config.json").write_bytes(FILES["config.json"])
    assert run("--list", "bge-m3") == 0
    said = capsys.readouterr().out
    assert f"missing in {tmp_path / 'models' / 'bge-m3'}:" in said
    assert f"speech.onnx (1 MB) {hub.endpoint}/people/model/resolve/" in said and "config.json (" not in said


def test_a_broken_setting_hinders_only_downloads(
    catalogue: dict[str, Entry], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models, flags = tmp_path / "models", ["--models", str(tmp_path / "models")]
    (models / "bge-m3").mkdir(parents=True)
    (models / "hub.json").write_text("{", encoding="utf-8")
    assert tool.main(["--list", *flags]) == 0 and tool.main(["bge-m3", *flags]) == 2
    assert "hub.json cannot be read" in capsys.readouterr().err
    for name, content in FILES.items():
        (models / "bge-m3" / name).write_bytes(content)
    assert tool.main(["bge-m3", "--verify", *flags]) == 0 and tool.main(["bge-m3", *flags]) == 0
    assert hub.asked == []


def test_a_check_tells_what_waits_to_be_converted(
    run: Run, catalogue: dict[str, Entry], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue["bge-m3"] = entry_of({"a.bin": b"\x80ab"}, name="bge-m3", convert=(("a.bin", "a.safetensors"),))
    (tmp_path / "models" / "bge-m3").mkdir(parents=True)
    (tmp_path / "models" / "bge-m3" / "a.bin").write_bytes(b"\x80ab")
    assert run("bge-m3", "--verify") == 0
    said = capsys.readouterr().out
    assert "a.bin: good" in said and "waits to be converted: a.bin; python -m tools.download bge-m3" in said


def test_the_real_catalogue_can_be_listed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in load_catalogue())


def test_a_check_names_what_is_damaged_and_ends_with_exit_code_2(
    run: Run, catalogue: dict[str, Entry], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bge-m3") == 0 and run("bge-m3", "--verify") == 0
    assert "bge-m3/speech.onnx: good, by hashes of the catalogue" in capsys.readouterr().out
    path = tmp_path / "models" / "bge-m3" / "speech.onnx"
    path.write_bytes(b"\x08" + b"noise" * 9000)
    assert run("bge-m3", "--verify") == 2
    assert "bge-m3/speech.onnx are damaged" in capsys.readouterr().err
    assert run("bge-m3") == 0 and path.read_bytes() == FILES["speech.onnx"]
    assert "bge-m3: replaced: speech.onnx" in capsys.readouterr().out


def test_an_address_is_used_once_or_remembered(
    run: Run, catalogue: dict[str, Entry], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--list") == 0 and not (tmp_path / "models").exists()
    assert run("--remember") == 0
    assert json.loads((tmp_path / "models" / "hub.json").read_text()) == {"endpoint": hub.endpoint}
    assert tool.main(["bge-m3", "--models", str(tmp_path / "models")]) == 0
    assert tool.main(["bge-m3", "--models", str(tmp_path / "models"), "--endpoint", "nowhere"]) == 2
    assert "hf-mirror.com" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--remember"], ["--verify"]])
def test_a_command_without_a_matter_is_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(flags)


def test_a_preset_that_needs_nothing_is_done_at_once(run: Run, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--preset", "nano") == 0
    assert "nano" in capsys.readouterr().out and hub.asked == []
