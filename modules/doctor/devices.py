"""Checks of PyTorch and of what it computes on: its build, the driver, every device, number formats."""

import ctypes
import sys
from collections.abc import Iterator
from typing import Any

from modules.doctor.findings import Finding, cause_of
from modules.doctor.system import SET_UP, size_text

DRIVER_LIBRARIES = {"win32": "nvcuda.dll", "linux": "libcuda.so.1"}
NEW_DRIVER = "Install a newer driver from the maker of the graphics card; until then the program computes on the CPU."
CUDA_BUILD = "To use the GPU install a CUDA build of torch, see https://pytorch.org/get-started/locally."


def check_torch(torch: Any = None, driver: tuple[int, int] | None = None, ask_driver: bool = True) -> Iterator[Finding]:
    """Torch's build against the driver.

    Args:
        torch: the module; imported when left out, so that a broken one is told.
        driver: newest CUDA version that the driver supports, None without a driver; asked for unless `ask_driver` is
            False.
    """
    if torch is None:
        import torch as installed

        torch = installed
    if ask_driver:
        driver = driver_cuda()
    built = torch.version.cuda
    told = f"torch {torch.__version__}, {f'built for CUDA {built}' if built else 'built without CUDA'}"
    if driver is not None:
        told += f"; the driver supports CUDA {driver[0]}.{driver[1]}"
    if driver is not None and not built:
        yield Finding("PyTorch", "warning", f"{told}: the NVIDIA card is not used.", CUDA_BUILD)
    elif built and driver is not None and not torch.cuda.is_available():
        older = driver < tuple(map(int, built.split(".")[:2]))
        reason = "the driver is too old for this build" if older else "CUDA cannot be started"
        yield Finding("PyTorch", "warning", f"{told}: {reason}.", NEW_DRIVER)
    else:
        yield Finding("PyTorch", "ok", told)


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA version that the NVIDIA driver supports; None where there is no driver."""
    name = DRIVER_LIBRARIES.get(sys.platform)
    if name is None:
        return None
    try:
        library, version = ctypes.CDLL(name), ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(version)) != 0 or version.value <= 0:
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000, version.value % 1000 // 10


def check_devices(torch: Any = None) -> Iterator[Finding]:
    """Every device with its memory; each has to compute something right."""
    if torch is None:
        import torch as installed

        torch = installed
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        yield _check_gpu(torch, index)
    if not count and torch.backends.mps.is_available():
        yield _check_computes(torch, "mps", "Apple GPU (mps)")
    threads = torch.get_num_threads()
    told = f"CPU, {threads} threads"
    if not count and not torch.backends.mps.is_available():
        told += "; no GPU: enough to speak with nano and to train it; base presets need a GPU"
    yield Finding("Device", "ok", told)


def _check_gpu(torch: Any, index: int) -> Finding:
    label = f"cuda:{index}"
    try:
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        label = f"{properties.name} (cuda:{index}), {size_text(free)} free of {size_text(total)}"
        return _check_computes(torch, f"cuda:{index}", label)
    except (RuntimeError, AssertionError) as cause:
        return Finding("Device", "problem", f"{label} cannot be used ({cause_of(cause)}).", NEW_DRIVER)


def _check_computes(torch: Any, device: str, label: str) -> Finding:
    """A product of matrices there and here: a build without this card's architecture fails only now."""
    try:
        ours = torch.arange(64.0).reshape(8, 8)
        theirs = (ours.to(device) @ ours.to(device)).cpu()
        if torch.allclose(theirs, ours @ ours):
            return Finding("Device", "ok", label)
        told = f"{label} computes wrong results."
    except RuntimeError as cause:
        told = f"{label} does not compute ({cause_of(cause)})."
    return Finding("Device", "problem", told, "Start the page with --device cpu; update the driver and torch.")


def check_number_formats() -> Finding:
    """Whether trainings may use bfloat16, which halves their memory."""
    from modules.runtime import bf16_supported, device_label, pick_device

    device = pick_device("auto")
    if bf16_supported(device):
        return Finding("bf16", "ok", f"{device_label(device)} computes in bfloat16")
    return Finding("bf16", "ok", f"{device_label(device)} has no bfloat16; trainings use float32")


__all__ = ["CUDA_BUILD", "SET_UP", "check_devices", "check_number_formats", "check_torch", "driver_cuda"]
