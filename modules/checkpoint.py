"""Weights and training states as safetensors: plain tensors plus JSON, never a pickle.

Every file is written beside its place and renamed, so a crash leaves the old file whole.
"""

import dataclasses
import errno
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modules.errors import UserError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Lineage:
    """Where weights come from."""

    preset: str
    stage: str
    step: int
    epoch: int
    parent_hash: str = ""


@dataclass(frozen=True)
class Weights:
    """Loaded weights: floating tensors as float32 on the CPU, the config they were trained with, their lineage."""

    state: dict[str, Tensor]
    config: dict[str, Any]
    lineage: Lineage


def save_weights(
    path: Path | str,
    state: dict[str, Tensor],
    config: dict[str, Any],
    lineage: Lineage,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write inference weights with their config and lineage, atomically.

    Args:
        state: a state dict; tied tensors are stored once per name.
        config: JSON values, enough to build the module.
        dtype: stored type of floating tensors (float16 halves the file); None keeps each as it is.
    """
    tensors = {name: t.to(dtype) if dtype is not None and t.is_floating_point() else t for name, t in state.items()}
    metadata = {
        "format": "weights",
        "version": str(FORMAT_VERSION),
        "config": json.dumps(config, ensure_ascii=False),
        "lineage": json.dumps(dataclasses.asdict(lineage), ensure_ascii=False),
    }
    return _write(Path(path), tensors, metadata)


def load_weights(path: Path | str) -> Weights:
    """Read what `save_weights` wrote; floating tensors become float32.

    Raises:
        UserError: weights_missing, weights_unreadable.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            "weights_missing", "There is no weight file {file}; choose another or train one first.", file=path
        )
    try:
        tensors, metadata = _read(path)
        config = json.loads(metadata["config"])
        lineage = Lineage(**json.loads(metadata["lineage"]))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as cause:
        raise UserError(
            "weights_unreadable",
            "{file} is not a weight file of this program or is damaged ({cause}); choose another.",
            file=path,
            cause=str(cause),
        ) from cause
    state = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    return Weights(state, config, lineage)


def load_stage(path: Path | str, *keys: str, stage: str) -> Weights:
    """`load_weights` of a file whose config must hold `keys`; `stage` is what a person calls such weights.

    Raises:
        UserError: weights_missing, weights_unreadable, weights_wrong_stage.
    """
    weights = load_weights(path)
    if any(key not in weights.config for key in keys):
        raise wrong_stage(path, stage)
    return weights


def wrong_stage(path: Path | str, stage: str) -> UserError:
    """What is told of a file that does not hold the weights of a stage."""
    return UserError(
        "weights_wrong_stage",
        "{file} does not hold {stage} weights; choose a file written by its training.",
        file=str(path),
        stage=stage,
    )


def file_hash(path: Path | str) -> str:
    """sha256 of a file's bytes, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_training_state(folder: Path | str, name: str, tensors_and_scalars: Any) -> Path:
    """Write a nested state (dicts, lists, tuples, tensors, numpy arrays, JSON scalars, bytes) to one file, atomically.

    Dict keys may be strings, integers or None, as optimizers use them. Types, dtypes and values come back exactly.

    Returns:
        `folder/name.safetensors`.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(tensors_and_scalars, tensors)
    metadata = {"format": "training-state", "version": str(FORMAT_VERSION), "tree": json.dumps(tree)}
    return _write(Path(folder) / f"{name}.safetensors", tensors, metadata)


def load_training_state(path: Path | str) -> Any:
    """Read what `save_training_state` wrote; tensors are on the CPU.

    Raises:
        UserError: checkpoint_missing, checkpoint_unreadable.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("checkpoint_missing", "There is no checkpoint {file}; start without resuming.", file=path)
    try:
        tensors, metadata = _read(path)
        return _unpack(json.loads(metadata["tree"]), tensors)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as cause:
        raise UserError(
            "checkpoint_unreadable",
            "{file} is not a checkpoint of this program or is damaged ({cause}); delete it and start anew.",
            file=path,
            cause=str(cause),
        ) from cause


def write_atomic(path: Path | str, data: bytes) -> Path:
    """Replace a file's content in one go: readers see the old bytes or the new ones, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return path


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A fixed temporary name: what a kill leaves behind is overwritten by the next save instead of piling up.
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file(_separate(tensors), temporary, metadata)
    except SafetensorError as cause:
        if "os error 28" in str(cause):  # the library's own words for a full disk
            raise OSError(errno.ENOSPC, str(cause)) from cause
        raise
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return path


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors of which no two share memory, as safetensors demands."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return separate


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt", device="cpu") as file:
        # Cloned: a tensor that maps the file would change or crash when the file is replaced by a later save.
        names = list(file.keys())
        return {name: file.get_tensor(name).clone() for name in names}, file.metadata() or {}


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON tree of `value`: scalars as themselves, everything else as {kind: content}; tensors go to `tensors`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        name = f"t{len(tensors):06d}"
        tensors[name] = value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        bad = [key for key in value if not (key is None or isinstance(key, str | int))]
        if bad:
            raise TypeError(f"a state's keys are strings or integers, not {bad[0]!r}")
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(item, tensors) for item in value]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    raise TypeError(f"a training state cannot hold a {type(value).__name__}")


def _unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    (kind, content), *rest = tree.items()
    if rest:
        raise ValueError("malformed state tree")
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    if kind == "list":
        return [_unpack(item, tensors) for item in content]
    if kind == "tuple":
        return tuple(_unpack(item, tensors) for item in content)
    if kind == "bytes":
        return bytes.fromhex(content)
    raise ValueError(f"unknown kind {kind} in the state tree")
