"""Checks of models: missing, damaged and whole ones, and a hub that cannot be reached."""

import json
from pathlib import Path

import pytest

from modules.config import load_preset
from modules.doctor.encoders import check_encoders
from modules.doctor.hub import check_hub
from modules.doctor.presets import check_hashes, check_presets, check_weight_files, trained_weights
from modules.hub.locking import alone_in
from modules.hub.source import HubSource, save_source
from tests.webui.models_helpers import SPEECH, TEXT, entries, place


def found(models: Path, name: str, asked: str = "") -> tuple[str, str]:
    (finding,) = check_presets([name], models, asked, entries())
    return finding.state, f"{finding.told} {finding.remedy}"


def weights(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("gpt", "vits2"):
        (folder / f"{name}.safetensors").touch()


def test_nano_must_be_whole(tmp_path: Path) -> None:
    state, told = found(tmp_path, "nano")
    assert state == "problem" and "gpt.safetensors, vits2.safetensors" in told and "Restore" in told
    weights(tmp_path / "nano")
    assert found(tmp_path, "nano")[0] == "ok"


def test_what_an_optional_preset_lacks_is_a_problem_only_where_it_is_asked_for(tmp_path: Path) -> None:
    assert found(tmp_path, "base")[0] == "ok" and "Optional" in found(tmp_path, "base")[1]
    state, told = found(tmp_path, "base", "base")
    assert state == "problem" and "bge-m3 (10 kB)" in told and "tools.download --preset base" in told
    place(tmp_path, "bge-m3", TEXT)
    place(tmp_path, "mhubert-147", SPEECH)
    assert found(tmp_path, "base", "base")[0] == "warning" and "Train it" in found(tmp_path, "base", "base")[1]
    weights(tmp_path / "base")
    assert found(tmp_path, "base", "base")[0] == "ok"
    place(tmp_path, "bge-m3", {"text.onnx": b"<html>"})
    assert found(tmp_path, "base")[0] == "warning" and found(tmp_path, "base", "base")[0] == "problem"
    assert found(tmp_path, "no-such")[0] == "problem"


def test_content_is_compared_with_its_hashes(tmp_path: Path) -> None:
    place(tmp_path, "bge-m3", TEXT)
    place(tmp_path, "mhubert-147", {**SPEECH, "speech.onnx": SPEECH["speech.onnx"][:-1] + b"?"})
    text, speech = check_hashes(load_preset("base"), tmp_path, entries())
    assert text.state == "ok" and "catalogue" in text.told
    assert speech.state == "problem" and "tools.download mhubert-147" in speech.remedy


def test_a_download_that_goes_on_is_waited_for(tmp_path: Path) -> None:
    place(tmp_path, "bge-m3", TEXT)
    with alone_in(tmp_path / "bge-m3", "bge-m3"):
        (finding,) = check_hashes(load_preset("base"), tmp_path, entries())
    assert finding.state == "warning" and "another process" in finding.told


def test_weights_that_were_trained_here_are_seen(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    place(tmp_path, "bge-m3", TEXT)
    place(tmp_path, "mhubert-147", SPEECH)
    for part in ("gpt", "vits2"):
        (tmp_path / part).mkdir()
        save_file({"x": torch.zeros(1)}, tmp_path / part / "a.safetensors", {"lineage": json.dumps({"preset": "base"})})
        (tmp_path / part / "b.safetensors").write_bytes(b"no weights")
        trained = trained_weights(tmp_path / "gpt", tmp_path / "vits2")
        (finding,) = check_presets(["base"], tmp_path, "base", entries(), trained)
        both = part == "vits2"
        assert (finding.state, "both are needed" in finding.told) == (("ok", False) if both else ("warning", True))
    assert trained == {"base": (1, 1)} and "trained here: 1 GPT and 1 VITS2" in finding.told
    assert "Train" not in finding.remedy


def test_a_damaged_weight_file_is_named(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(4)}, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-3])
    (only,) = check_weight_files(tmp_path)
    assert only.state == "problem" and "cut.safetensors" in only.told


def test_encoders_that_are_not_there_are_told_one_by_one(tmp_path: Path) -> None:
    import torch

    findings = list(check_encoders(load_preset("base"), tmp_path, torch.device("cpu")))
    assert [(finding.name, finding.state) for finding in findings] == [
        ("Text encoder", "problem"), ("Speech encoder", "problem"),
    ]  # fmt: skip
    assert all("tools.download --verify --preset base" in finding.remedy for finding in findings)


@pytest.mark.parametrize(("reached", "state"), [(True, "ok"), (False, "warning")])
def test_the_hub_is_asked_at_the_address_that_is_set(tmp_path: Path, reached: bool, state: str) -> None:
    save_source(tmp_path, HubSource("https://mirror.example"))
    asked = []
    finding = check_hub(tmp_path, lambda endpoint: asked.append(endpoint) or reached)
    assert finding.state == state and asked == ["https://mirror.example"]
    (tmp_path / "hub.json").write_text("{", encoding="utf-8")
    assert check_hub(tmp_path).state == "warning"
