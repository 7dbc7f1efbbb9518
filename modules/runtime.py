"""The device, the number formats it does well, seeds and threads. Nothing is decided on import."""

import functools
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from modules.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes CUDA, then MPS, then the CPU.

    Args:
        name: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        UserError: device_missing, naming what there is.
    """
    available = _available()
    if name == "auto":
        return torch.device(available[0])
    if name in available or (name.startswith("cuda:") and "cuda" in available and _has_cuda_index(name)):
        return torch.device(name)
    raise UserError(
        "device_missing",
        "This machine has no device {device}; choose one of {available}.",
        device=name,
        available=", ".join(("auto", *available)),
    )


def device_label(device: torch.device) -> str:
    """A device's name for people, such as "NVIDIA H100 (cuda:0)" or "CPU × 8" (threads)."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (cuda:{device.index or 0})"
    if device.type == "cpu":
        return f"CPU × {torch.get_num_threads()}"
    return "Apple GPU (mps)" if device.type == "mps" else str(device)


def bf16_supported(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively: emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def set_threads(n: int) -> None:
    """Let torch use `n` CPU threads; 0 keeps its choice."""
    if n > 0:
        torch.set_num_threads(n)
        full_threads.cache_clear()


@functools.cache
def full_threads() -> int:
    """CPU threads that torch may use, as it was at first or `set_threads` said: inside `threads_within` torch itself
    tells another number, and in threads that began meanwhile too."""
    return torch.get_num_threads()


@contextmanager
def threads_within(count: int, afterwards: int) -> Iterator[None]:
    """Let torch use `count` CPU threads in here, and `afterwards` again from then on.

    What is small is slower with several threads than with one, and very much slower beside another busy program: each
    operation then waits for a thread that has no core. `afterwards` is given and not asked for, because other threads
    may be in here at the same time.
    """
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(afterwards)


def rng_state() -> dict:
    """The global generators' states, for `save_training_state`."""
    version, keys, gauss = random.getstate()
    state = {
        "python": [version, list(keys), gauss],
        "numpy": list(np.random.get_state()),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng_state(state: dict) -> None:
    """Undo: put back what `rng_state` took. CUDA states are put back as far as there are such devices."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for index, one in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(one, index)


def _available() -> tuple[str, ...]:
    found = ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return (*found, "cpu")


def _has_cuda_index(name: str) -> bool:
    index = name.removeprefix("cuda:")
    return index.isdigit() and int(index) < torch.cuda.device_count()
