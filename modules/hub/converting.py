"""Makes a safetensors file of a published pickle, which is read as weights only: nothing in it is ever run.

The pickle stays mapped, and tensors go to the new file one by one, so that memory holds one tensor at most.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import Stopped, UserError
from modules.hub.space import telling_disk

if TYPE_CHECKING:
    from torch import Tensor

TEMPORARY = ".tmp"
"""Ending of a file that is being written; one that is left over belongs to a process that was ended."""
_CHUNK_BYTES = 64 << 20
_ZIP = b"PK\x03\x04"
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def convert_pickle(
    pickle: Path,
    target: Path,
    should_stop: Callable[[], bool] = lambda: False,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the tensors of a checkpoint of PyTorch as safetensors; tensors that share memory are written once each.

    The pickle stays where it is. An old target is replaced by a whole new one that was read back and compared, or not
    at all.

    Args:
        on_bytes: gets the bytes written and the bytes of all tensors.

    Raises:
        Stopped.
        UserError: model_pickle_refused (it holds more than weights, or is damaged), model_pickle_odd (no tensors by
            name), model_conversion_wrong, hub_disk_full, hub_folder_unwritable.
    """
    tensors = _read(pickle)
    temporary = target.with_name(target.name + TEMPORARY)
    try:
        with telling_disk(target.parent):
            _write(temporary, tensors, should_stop, on_bytes)
        _compare(temporary, tensors, should_stop)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _read(pickle: Path) -> "dict[str, Tensor]":
    """Names and tensors, the largest elements first so that each begins where its kind may."""
    import torch

    with open(pickle, "rb") as file:
        mapped = file.read(4) == _ZIP  # the older form cannot be mapped
    try:
        state = torch.load(pickle, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as cause:  # torch raises its own UnpicklingError, and any other kind for a damaged archive
        raise UserError(
            "model_pickle_refused",
            "{file} is not read: it holds more than weights, or is damaged ({cause}). Delete it and download it again, "
            "or get the model as safetensors.",
            file=str(pickle),
            cause=" ".join(str(cause).split())[:200] or type(cause).__name__,
        ) from cause
    named = isinstance(state, dict) and state and all(isinstance(name, str) for name in state)
    if not named or not all(_is_plain(value) for value in state.values()):
        raise UserError(
            "model_pickle_odd",
            "{file} is no model: it does not hold tensors by their names. Get the model's own file.",
            file=str(pickle),
        )
    return dict(sorted(state.items(), key=lambda item: (-item[1].element_size(), item[0])))


def _is_plain(value: Any) -> bool:
    import torch

    plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
    return plain and str(value.dtype).removeprefix("torch.") in _DTYPES


def _write(
    path: Path, tensors: "dict[str, Tensor]", should_stop: Callable[[], bool], on_bytes: Callable[[int, int], None]
) -> None:
    """The format: the header's length (8 bytes, little-endian), the header (JSON), the tensors one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        dtype = _DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done = 0
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            for chunk in _bytes(tensor):
                if should_stop():
                    raise Stopped
                file.write(chunk)
                done += len(chunk)
                on_bytes(done, end)
        file.flush()
        os.fsync(file.fileno())


def _bytes(tensor: "Tensor") -> Iterator[memoryview]:
    """The elements in their order, in pieces."""
    import torch

    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    for start in range(0, flat.size, _CHUNK_BYTES):
        yield memoryview(flat[start : start + _CHUNK_BYTES])


def _compare(path: Path, tensors: "dict[str, Tensor]", should_stop: Callable[[], bool]) -> None:
    """Read the new file with the library that will read it later, and compare every tensor bit by bit."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            same = set(file.keys()) == set(tensors)
            for name, tensor in tensors.items() if same else ():
                if should_stop():
                    raise Stopped
                read = file.get_tensor(name)
                # As bytes: NaN is not equal to itself.
                same = same and read.dtype == tensor.dtype and read.shape == tensor.shape
                ours = tensor.detach().contiguous().reshape(-1)
                same = same and torch.equal(read.reshape(-1).view(torch.uint8), ours.view(torch.uint8))
    except (SafetensorError, OSError):
        same = False
    if not same:
        raise UserError(
            "model_conversion_wrong",
            "{file} did not read back as it was written; the disk may be failing. Start again.",
            file=str(path),
        )
