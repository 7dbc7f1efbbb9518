"""The catalogue, what presets need of it, where it comes from, and what a quick look at a folder tells."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modules.config import load_preset
from modules.errors import ConfigError, UserError
from modules.hub.catalogue import find_entry, is_safe_name, load_catalogue
from modules.hub.formats import complaint
from modules.hub.inventory import state_of
from modules.hub.needs import missing_models, needed_models
from modules.hub.source import MIRRORS, HubSource, load_source, save_source, source_from
from tests.hub.hub_server import entry_of

ENTRY = {
    "name": "a",
    "purpose_key": "k",
    "purpose": "p",
    "repository": "x/y",
    "revision": "main",
    "files": [{"name": "config.json", "size_bytes": 2}],
    "licence": "MIT",
    "licence_url": "u",
}


def test_the_catalogue_holds_what_the_presets_ask_for() -> None:
    entries = load_catalogue()
    assert {"bge-m3", "mhubert-147", "cn-hubert-large", "w2v-bert-2.0", "qwen2-0.5b"} <= set(entries)
    assert {"s3-v1-50hz", "s3-v1-25hz", "s3-v2-25hz", "s3-v3-25hz"} <= set(entries)
    assert entries["mhubert-147"].non_commercial and entries["mhubert-147"].licence == "CC-BY-NC-SA-4.0"
    assert [name for name, entry in entries.items() if entry.non_commercial] == ["mhubert-147"]
    for entry in entries.values():
        assert entry.licence and entry.licence_url.startswith("https://") and entry.terms and entry.purpose
        assert all(file.size_bytes for file in entry.files)
        kept = {entry.kept_name(file.name) for file in entry.files}
        assert not any(name.endswith((".bin", ".pt")) for name in kept)


def test_a_hash_is_known_only_together_with_the_size() -> None:
    for entry in load_catalogue().values():
        for file in entry.files:
            assert file.size_exact or not file.sha256, file.name
    assert all(load_catalogue()[name].pinned for name in ("bge-m3", "w2v-bert-2.0", "s3-v2-25hz"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../a"},
        {"files": []},
        {"files": [{"name": "../../config.json", "size_bytes": 2}]},
        {"files": [{"name": "/etc/passwd", "size_bytes": 2}]},
        {"files": [{"name": "a.json", "size_bytes": 2, "sha256": "abc"}]},
        {"files": [{"name": "a.json", "size_bytes": -2}]},
        {"files": [{"name": "a.json", "size_bytes": 2}, {"name": "a.json", "size_bytes": 2}]},
        {"revision": "v1.0"},
        {"repository": "../../x"},
        {"modelscope": "x"},
        {"convert": [["a.bin", "../b.safetensors"]]},
        {"convert": [["a.bin"]]},
        {"unknown": 1},
        {"licence": None},
    ],
)
def test_a_catalogue_is_read_strictly(wrong: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps([ENTRY]))
    assert list(load_catalogue(path)) == ["a"]
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{**ENTRY, **wrong}]))
    with pytest.raises(ConfigError):
        load_catalogue(other)
    other.write_text(json.dumps([{key: value for key, value in ENTRY.items() if key != "files"}]))
    with pytest.raises(ConfigError):
        load_catalogue(other)


def test_names_that_leave_the_folder_are_not_safe() -> None:
    assert all(is_safe_name(name) for name in ("config.json", "onnx/model.onnx", "a_b-c.1"))
    for name in ("", "..", "a/../b", "/a", "a\\b", "C:a", "nul", "CON.json", ".hidden", "a//../b", "a b"):
        assert not is_safe_name(name), name


def test_an_unknown_model_is_refused_with_the_names() -> None:
    with pytest.raises(UserError, match="mhubert-147") as caught:
        find_entry("gigantic")
    assert caught.value.code == "model_unknown"


@pytest.mark.parametrize(
    ("preset", "names"),
    [
        ("nano", []),
        ("base", ["bge-m3", "mhubert-147"]),
        ("base-wide", ["bge-m3", "mhubert-147"]),
        ("base-s3", ["bge-m3", "s3-v2-25hz"]),
        ("base-qwen2", ["qwen2-0.5b", "mhubert-147"]),
    ],
)
def test_what_a_preset_needs_is_named_with_its_size(preset: str, names: list[str], tmp_path: Path) -> None:
    assert needed_models(load_preset(preset)) == names
    missing = missing_models(load_preset(preset), tmp_path)
    assert [one.entry.name for one in missing] == names
    assert all(one.bytes == one.entry.total_bytes and one.files == one.entry.files for one in missing)


def test_what_is_whole_is_not_missing(tmp_path: Path) -> None:
    entry = entry_of({"config.json": b"{}", "model.onnx": b"\x08abc"}, name="bge-m3")
    other = entry_of({"config.json": b"{}"}, name="mhubert-147")
    catalogue = {"bge-m3": entry, "mhubert-147": other}
    (tmp_path / "bge-m3").mkdir()
    (tmp_path / "bge-m3" / "config.json").write_bytes(b"{}")
    first, _ = missing_models(load_preset("base"), tmp_path, catalogue)
    assert [file.name for file in first.files] == ["model.onnx"] and first.bytes == 4
    (tmp_path / "bge-m3" / "model.onnx").write_bytes(b"\x08abc")
    assert [one.entry.name for one in missing_models(load_preset("base"), tmp_path, catalogue)] == ["mhubert-147"]


def test_a_file_that_cannot_be_right_is_told_by_a_quick_look(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_file({"a": torch.ones(9)}, folder / "model.safetensors")
    whole = (folder / "model.safetensors").read_bytes()
    entry = entry_of({"model.safetensors": b"other"}, pinned=False)
    assert state_of(entry, tmp_path).state == "present"
    for content in (whole[:-1], whole + b"x", whole[:30], b"\xff" * 40, b"<html>", b"version https://git-lfs"):
        (folder / "model.safetensors").write_bytes(content)
        state = state_of(entry, tmp_path)
        assert state.state == "damaged" and [name for name, _ in state.damaged] == ["model.safetensors"]
    (folder / "model.safetensors").write_bytes(b"")
    assert state_of(entry, tmp_path).state == "missing"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("a.json", b' {"a": 1}', b'{"a": '),
        ("a.onnx", b"\x08\x07rest", b"PK\x03\x04"),
        ("a.bin", b"PK\x03\x04rest", b"hello"),
        ("a.txt", b"anything", b"<!DOCTYPE html>"),
    ],
)
def test_formats_are_told_by_their_beginning(name: str, good: bytes, bad: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(good)
    assert complaint(path) is None
    path.write_bytes(bad)
    assert complaint(path)


def test_the_source_is_a_setting_of_the_folder(tmp_path: Path) -> None:
    assert load_source(tmp_path) == HubSource("https://huggingface.co")
    save_source(tmp_path, source_from("HF-Mirror.com"))
    assert load_source(tmp_path) == HubSource("https://hf-mirror.com") and load_source(tmp_path).name == "hf-mirror.com"
    save_source(tmp_path, source_from(" http://localhost:8080/hub/ "))
    assert load_source(tmp_path).endpoint == "http://localhost:8080/hub"
    (tmp_path / "hub.json").write_text('{"endpoint": 3}')
    with pytest.raises(UserError) as caught:
        load_source(tmp_path)
    assert caught.value.code == "hub_setting_broken"


@pytest.mark.parametrize("text", ["", "ftp://a", "example.org", "http://", "https://a?b", "https://a:x", "https://a b"])
def test_what_is_no_address_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hf-mirror.com") as caught:
        source_from(text)
    assert caught.value.code == "hub_endpoint_invalid"
    with pytest.raises(UserError):
        save_source(tmp_path, HubSource(text))
    assert not list(tmp_path.iterdir())


def test_modelscope_has_paths_and_revisions_of_its_own() -> None:
    entry = load_catalogue()["s3-v2-25hz"]
    there = HubSource(MIRRORS["modelscope.cn"])
    assert there.url(entry, "a.onnx") == "https://modelscope.cn/models/iic/CosyVoice2-0.5B/resolve/master/a.onnx"
    assert there.snapshots_endpoint is None
    here = HubSource(MIRRORS["hf-mirror.com"])
    assert here.url(entry, "a.onnx") == f"https://hf-mirror.com/{entry.repository}/resolve/{entry.revision}/a.onnx"
    assert here.snapshots_endpoint == "https://hf-mirror.com"
