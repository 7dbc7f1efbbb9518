"""Pickles of the hub become safetensors with the same tensors; one that holds more than weights is never run."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modules.errors import Stopped, UserError
from modules.hub.catalogue import Entry
from modules.hub.converting import convert_pickle
from modules.hub.downloading import _remove, download
from modules.hub.inventory import state_of
from modules.hub.judging import verify
from modules.hub.notes import read_notes
from modules.hub.source import HubSource
from tests.hub.hub_server import Hub, entry_of, pickled, running

CONVERT = {"convert": (("pytorch_model.bin", "model.safetensors"),)}
NOWHERE = HubSource("http://127.0.0.1:9")


class Code:
    """Runs a command when it is unpickled by a reader that allows it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo run > was_run",)


def states() -> dict[str, torch.Tensor]:
    return {
        "embeddings.weight": torch.randn(7, 4),
        "half": torch.randn(3).half(),
        "brain": torch.randn(5).bfloat16(),
        "ids": torch.arange(6).reshape(1, 6),
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 2),
        "nan": torch.tensor([float("nan"), 1.0]),
        "turned": torch.randn(4, 6).T,
    }


def convert(value: object, folder: Path, **save: object) -> Path:
    torch.save(value, folder / "a.bin", **save)
    convert_pickle(folder / "a.bin", folder / "a.safetensors")
    return folder / "a.safetensors"


def same(read: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> bool:
    return set(read) == set(state) and all(
        read[name].dtype == tensor.dtype and torch.equal(read[name].nan_to_num(9), tensor.nan_to_num(9))
        if tensor.is_floating_point()
        else torch.equal(read[name], tensor)
        for name, tensor in state.items()
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_every_tensor_is_kept(zipped: bool, tmp_path: Path) -> None:
    state = states()
    path = convert(state, tmp_path, _use_new_zipfile_serialization=zipped)
    assert same(load_file(path), state)
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert header["__metadata__"] == {"format": "pt"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.safetensors"]


def test_tensors_that_share_memory_are_written_once_each(tmp_path: Path) -> None:
    table = torch.randn(6, 3)
    state = {"in.weight": table, "out.weight": table, "row": table[2]}
    assert same(load_file(convert(state, tmp_path)), state)


@pytest.mark.parametrize(
    "value", [{"a": 1}, {"state_dict": {"a": torch.ones(1)}}, [torch.ones(1)], {}, {1: torch.ones(1)}]
)
def test_what_holds_no_tensors_by_name_is_no_model(value: object, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        convert(value, tmp_path)
    assert caught.value.code == "model_pickle_odd"


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ({"weight": torch.ones(2), "extra": Code()}, Code()):
        with pytest.raises(UserError, match="more than weights") as caught:
            convert(value, tmp_path)
        assert caught.value.code == "model_pickle_refused"
    assert not (tmp_path / "was_run").exists() and not list(tmp_path.glob("*.safetensors*"))


def test_a_damaged_pickle_is_refused_and_the_old_file_kept(tmp_path: Path) -> None:
    path = convert({"a": torch.ones(500)}, tmp_path)
    old = path.read_bytes()
    whole = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError) as caught:
        convert_pickle(tmp_path / "a.bin", path)
    assert caught.value.code == "model_pickle_refused" and path.read_bytes() == old


def test_a_stop_and_a_failing_disk_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(states(), tmp_path / "a.bin")
    with pytest.raises(Stopped):
        convert_pickle(tmp_path / "a.bin", tmp_path / "a.safetensors", lambda: True)
    monkeypatch.setattr(
        "modules.hub.converting._bytes", lambda tensor: [b"\0" * tensor.numel() * tensor.element_size()]
    )
    with pytest.raises(UserError) as caught:
        convert_pickle(tmp_path / "a.bin", tmp_path / "a.safetensors")
    assert caught.value.code == "model_conversion_wrong"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.fixture(scope="module")
def published() -> tuple[dict[str, bytes], torch.Tensor]:
    """A tiny model of the shape of BGE-M3 as it is published, and its states for the ids 0, 5, 6, 2."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, pad_token_id=1,
        max_position_embeddings=12, type_vocab_size=1, architectures=["XLMRobertaModel"],
    )  # fmt: skip
    model = XLMRobertaModel(config, add_pooling_layer=True).eval()
    with torch.no_grad():
        expected = model(torch.tensor([[0, 5, 6, 2]])).last_hidden_state
    files = {"config.json": config.to_json_string().encode(), "pytorch_model.bin": pickled(model.state_dict())}
    return files, expected


@pytest.fixture
def hub(published: tuple[dict[str, bytes], torch.Tensor]) -> Iterator[Hub]:
    with running(published[0]) as hub:
        yield hub


@pytest.mark.parametrize("pinned", [True, False])
def test_a_published_model_is_converted_and_says_the_same(
    pinned: bool, hub: Hub, published: tuple[dict[str, bytes], torch.Tensor], tmp_path: Path
) -> None:
    from transformers import XLMRobertaModel

    entry = entry_of(published[0], pinned, **CONVERT)
    report = download(entry, tmp_path, HubSource(hub.endpoint))
    assert report.converted == ("model.safetensors",)
    folder = tmp_path / "tiny"
    assert not (folder / "pytorch_model.bin").exists()
    model = XLMRobertaModel.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([[0, 5, 6, 2]])).last_hidden_state, published[1])
    note = read_notes(folder)["model.safetensors"]
    assert note.source == "pytorch_model.bin"
    assert note.source_sha256 == hashlib.sha256(published[0]["pytorch_model.bin"]).hexdigest()
    state = state_of(entry, tmp_path)
    assert (state.state, state.checked) == ("present", "pinned" if pinned else "hub")
    assert download(entry, tmp_path, NOWHERE).fetched == ()


def test_a_pickle_put_there_by_hand_is_converted_without_a_network(
    published: tuple[dict[str, bytes], torch.Tensor], tmp_path: Path
) -> None:
    entry, folder = entry_of(published[0], **CONVERT), tmp_path / "tiny"
    folder.mkdir()
    for name, content in published[0].items():
        (folder / name).write_bytes(content)
    state = state_of(entry, tmp_path)
    assert (state.state, state.missing, state.unconverted) == ("partial", (), ("pytorch_model.bin",))
    assert download(entry, tmp_path, NOWHERE).converted == ("model.safetensors",)
    assert state_of(entry, tmp_path).state == "present" and not (folder / "pytorch_model.bin").exists()


def test_a_wrong_pickle_put_there_by_hand_is_never_read(
    hub: Hub, published: tuple[dict[str, bytes], torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entry, folder = entry_of(published[0], **CONVERT), tmp_path / "tiny"
    folder.mkdir()
    bad = pickled({"a": Code()})
    (folder / "pytorch_model.bin").write_bytes(bad + b"\0" * (len(published[0]["pytorch_model.bin"]) - len(bad)))
    report = download(entry, tmp_path, HubSource(hub.endpoint))
    assert report.replaced == ("pytorch_model.bin",) and report.converted == ("model.safetensors",)
    assert not (tmp_path / "was_run").exists()


def test_a_pickle_in_place_of_published_safetensors_is_taken(
    published: tuple[dict[str, bytes], torch.Tensor], tmp_path: Path
) -> None:
    """A model that is published as safetensors too may come from somewhere as its pickle."""
    listed = {"config.json": published[0]["config.json"], "model.safetensors": b"another content, with its own hash"}
    entry: Entry = entry_of(listed, **CONVERT)
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name, content in published[0].items():
        (folder / name).write_bytes(content)
    assert download(entry, tmp_path, NOWHERE).converted == ("model.safetensors",)
    assert state_of(entry, tmp_path).state == "present"
    assert download(entry, tmp_path, NOWHERE).fetched == ()


def test_an_unfinished_conversion_is_done_again(
    hub: Hub, published: tuple[dict[str, bytes], torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, folder = entry_of(published[0], **CONVERT), tmp_path / "tiny"
    with monkeypatch.context() as patch:
        patch.setattr("modules.hub.downloading.hash_file", lambda *args: 1 / 0)  # ended before the note was written
        with pytest.raises(ZeroDivisionError):
            download(entry, tmp_path, HubSource(hub.endpoint))
    assert (folder / "pytorch_model.bin").exists() and (folder / "model.safetensors").exists()
    assert download(entry, tmp_path, NOWHERE).converted == ("model.safetensors",)
    assert not (folder / "pytorch_model.bin").exists()
    assert read_notes(folder)["model.safetensors"].checked == "pinned"


def test_a_pickle_that_is_in_use_goes_with_the_next_run(
    published: tuple[dict[str, bytes], torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, folder = entry_of(published[0], **CONVERT), tmp_path / "tiny"
    folder.mkdir()
    for name, content in published[0].items():
        (folder / name).write_bytes(content)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "in use")

    with monkeypatch.context() as patch:
        patch.setattr("modules.hub.downloading._remove", lambda path: None)
        assert download(entry, tmp_path, NOWHERE).converted == ("model.safetensors",)
    assert (folder / "pytorch_model.bin").exists() and state_of(entry, tmp_path).state == "present"
    assert [check.name for check in verify(entry, tmp_path)] == ["config.json", "model.safetensors"]
    (folder / "model.safetensors.tmp").write_bytes(b"half")  # of a process that was ended
    assert download(entry, tmp_path, NOWHERE).converted == ()
    assert sorted(path.name for path in folder.glob("*model*")) == ["model.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr("modules.hub.downloading.Path.unlink", refuse)
        _remove(folder / "model.safetensors")
    assert state_of(entry, tmp_path).state == "present"
