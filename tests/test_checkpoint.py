"""Weights and training states come back exactly, and a crash leaves the old file."""

import hashlib
import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from modules import checkpoint
from modules.checkpoint import (
    Lineage,
    file_hash,
    load_training_state,
    load_weights,
    save_training_state,
    save_weights,
    write_atomic,
)
from modules.errors import UserError
from modules.paths import PROJECT_ROOT

LINEAGE = Lineage("nano", "gpt", 7, 2, "ab")


def same(a, b) -> bool:
    """Equality of nested states, with types, dtypes and NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def test_weights_keep_values_config_and_lineage(tmp_path):
    state = {"a": torch.randn(3, 4), "steps": torch.tensor(5), "empty": torch.zeros(0, 2)}
    path = save_weights(tmp_path / "w.safetensors", state, {"hidden": 3, "name": "名"}, LINEAGE)
    weights = load_weights(path)
    assert same(weights.state, {k: state[k] for k in weights.state}) and set(weights.state) == set(state)
    assert weights.config == {"hidden": 3, "name": "名"} and weights.lineage == LINEAGE


def test_dtype_casts_only_floating_tensors(tmp_path):
    state = {"w": torch.randn(8, 8), "ids": torch.arange(70000)}
    path = save_weights(tmp_path / "w.safetensors", state, {}, LINEAGE, torch.float16)
    loaded = load_weights(path).state
    assert torch.equal(loaded["ids"], state["ids"])
    assert loaded["w"].dtype == torch.float32 and torch.equal(loaded["w"], state["w"].half().float())


def test_tied_and_viewed_tensors_are_stored(tmp_path):
    table = nn.Embedding(5, 4)
    head = nn.Linear(4, 5, bias=False)
    head.weight = table.weight
    both = nn.ModuleDict({"table": table, "head": head})
    state = {**both.state_dict(), "view": table.weight[1:3], "turned": table.weight.T}
    loaded = load_weights(save_weights(tmp_path / "w.safetensors", state, {}, LINEAGE)).state
    assert all(torch.equal(loaded[k], state[k]) for k in state)


def test_missing_and_foreign_files_are_told(tmp_path):
    with pytest.raises(UserError, match="nothing.safetensors") as missing:
        load_weights(tmp_path / "nothing.safetensors")
    assert missing.value.code == "weights_missing"
    foreign = tmp_path / "foreign.safetensors"
    for content in (b"", b"PK\x03\x04 not tensors", b"\xff" * 64):
        foreign.write_bytes(content)
        with pytest.raises(UserError) as unreadable:
            load_weights(foreign)
        assert unreadable.value.code == "weights_unreadable"
        with pytest.raises(UserError) as unreadable:
            load_training_state(foreign)
        assert unreadable.value.code == "checkpoint_unreadable"


def test_a_cut_file_is_unreadable(tmp_path):
    path = save_weights(tmp_path / "w.safetensors", {"a": torch.randn(100)}, {}, LINEAGE)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError) as caught:
        load_weights(path)
    assert caught.value.code == "weights_unreadable"


def test_a_training_state_is_no_weight_file(tmp_path):
    path = save_training_state(tmp_path, "checkpoint", {"a": 1})
    with pytest.raises(UserError):
        load_weights(path)


def test_file_hash_is_sha256(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc" * 1000)
    assert file_hash(path) == hashlib.sha256(b"abc" * 1000).hexdigest()


@pytest.mark.parametrize("crash_at", ["save_file", "os.fsync", "os.replace"])
def test_a_crash_while_saving_leaves_the_old_file(tmp_path, monkeypatch, crash_at):
    path = save_weights(tmp_path / "w.safetensors", {"a": torch.ones(4)}, {}, LINEAGE)

    def crash(*arguments, **_):
        if crash_at == "save_file":
            arguments[1].write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        target = checkpoint if crash_at == "save_file" else checkpoint.os
        patch.setattr(target, crash_at.split(".")[-1], crash)
        with pytest.raises(OSError, match="disk full"):
            save_weights(path, {"a": torch.zeros(4)}, {}, LINEAGE)
    assert torch.equal(load_weights(path).state["a"], torch.ones(4))
    save_weights(path, {"a": torch.zeros(4)}, {}, LINEAGE)
    assert torch.equal(load_weights(path).state["a"], torch.zeros(4))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


SAVE_FOREVER = """
import sys, torch
from modules.checkpoint import save_training_state
for i in range(10**6):
    save_training_state(sys.argv[1], "checkpoint", {"step": i, "weights": [torch.full((500, 500), float(i))] * 3})
"""


def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(tmp_path)], cwd=PROJECT_ROOT)
    path, deadline = tmp_path / "checkpoint.safetensors", time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.25)
    os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    state = load_training_state(path)
    assert all((w == state["step"]).all() for w in state["weights"])


def test_loaded_tensors_survive_the_file_being_replaced(tmp_path):
    path = save_weights(tmp_path / "w.safetensors", {"a": torch.ones(4096)}, {}, LINEAGE)
    loaded = load_weights(path).state["a"]
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(loaded, torch.ones(4096))


def test_nested_state_round_trip_is_exact(tmp_path):
    shared = torch.randn(3)
    state = {
        "floats": [0.1, 1e-300, float("inf"), float("nan"), -0.0],
        "keys": {0: "zero", 1: None, None: True, "1": "text"},
        "nothing": {"list": [], "tuple": (), "dict": {}, "text": ""},
        "big": 2**127 + 1,
        "bytes": b"\x00\xff",
        "tuple": (1, (2.0, [3])),
        "tensors": {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)},
        "dtypes": [
            torch.ones(2, 2).to(d) for d in (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool)
        ],
        "shared": [shared, shared, shared[1:]],
        "array": np.arange(624, dtype=np.uint32),
        "rng": np.random.default_rng(3).bit_generator.state,
        "python": random.Random(3).getstate(),
        "torch": torch.get_rng_state(),
        "odd": {"tensor": "not a tensor", "dict": 1},
    }
    path = save_training_state(tmp_path, "checkpoint", state)
    assert path == tmp_path / "checkpoint.safetensors"
    assert same(load_training_state(path), state)


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 1e-3}, {"params": p[1:], "lr": 3e-4}], betas=(0.8, 0.99)),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: torch.optim.Muon(p[:1], lr=0.02),
])  # fmt: skip
def test_optimizer_state_round_trip(tmp_path, make):
    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()

    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    optimizer = make(list(model.parameters()))
    step(model, optimizer)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    loaded = load_training_state(save_training_state(tmp_path, "s", saved))
    assert same(loaded["optimizer"], optimizer.state_dict())
    twin = nn.Linear(4, 4)
    twin.load_state_dict(loaded["model"])
    other = make(list(twin.parameters()))
    other.load_state_dict(loaded["optimizer"])
    step(model, optimizer)
    step(twin, other)
    assert torch.equal(model.weight, twin.weight)


def test_what_cannot_be_stored_is_refused(tmp_path):
    for state in ({"f": print}, {(1, 2): 3}, {"s": {1}}):
        with pytest.raises(TypeError):
            save_training_state(tmp_path, "checkpoint", state)
    assert not list(tmp_path.iterdir())


def test_write_atomic_replaces_or_leaves(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "a" / "f.json", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert write_atomic(path, b"new").read_bytes() == b"new"
