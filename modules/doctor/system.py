"""Checks of the machine: Python, packages, memory, folders, disk, port."""

import contextlib
import importlib.metadata
import platform
import re
import shutil
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from modules.doctor.findings import Finding

OLDEST_PYTHON = (3, 11)
GIB = 1 << 30
LITTLE_MEMORY_BYTES, TOO_LITTLE_MEMORY_BYTES = 3 * GIB, GIB
LITTLE_DISK_BYTES, TOO_LITTLE_DISK_BYTES = 5 * GIB, GIB // 2
SET_UP = "Run go-webui.sh (Windows: go-webui.bat) once more, which installs what is missing."
_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;]+)\s*(?:;(.*))?$")
_IN_PLACE_OF = {"onnxruntime": ("onnxruntime-gpu",)}
"""Builds under another name that give the same module."""
_SHOWN = 6


def check_python(
    version: tuple[int, ...] = tuple(sys.version_info[:3]), bits: int = struct.calcsize("P") * 8
) -> Finding:
    """Whether this Python can run the program."""
    told = f"{'.'.join(map(str, version))}, {bits} bit, {platform.system()} {platform.machine()}"
    if version[:2] < OLDEST_PYTHON or bits != 64:
        return Finding("Python", "problem", told, "Install a 64-bit Python 3.11 or newer from python.org.")
    return Finding("Python", "ok", told)


def check_packages(
    requirements: Path,
    constraints: Path,
    version_of: Callable[[str], str] = importlib.metadata.version,
) -> Iterator[Finding]:
    """The installed packages against what the program needs, and against the versions that were tested together.

    Args:
        requirements: names with ranges; one of these that is missing or out of range is a problem.
        constraints: exact versions of everything; another one is worth a warning.
        version_of: tells the installed version of a package, or raises PackageNotFoundError.
    """
    wanted = _requirements(requirements)
    missing, outside = [], []
    for name, accepts in wanted.items():
        found = _installed(name, version_of)
        if found is None:
            missing.append(name)
        elif not accepts(found):
            outside.append(f"{name} {found}")
    if missing:
        yield Finding("Packages", "problem", f"Missing: {', '.join(missing)}.", SET_UP)
    if outside:
        yield Finding("Packages", "problem", f"Of a version that does not fit: {', '.join(outside)}.", SET_UP)
    pins = _pins(constraints)
    others = []
    for name, pinned in pins.items():
        found = _installed(name, version_of)
        # A torch of another build ("2.11.0+cu128") is the same version.
        if found is not None and found.partition("+")[0] != pinned.partition("+")[0]:
            others.append(f"{name} {found} (tested: {pinned})")
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        yield Finding(
            "Packages", "warning", f"Other versions than those tested: {', '.join(others[:_SHOWN])}{more}.",
            f"If something fails, install the tested ones: pip install -r {requirements.name} -c {constraints.name}",
        )  # fmt: skip
    if not (missing or outside or others):
        yield Finding("Packages", "ok", f"All {len(wanted)} needed ones, in the tested versions.")


def _requirements(path: Path) -> dict[str, Callable[[str], bool]]:
    """Name -> whether a version is in its range, of the lines of a requirements file that apply to this machine."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion

    found: dict[str, Callable[[str], bool]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            requirement = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:
            continue  # empty, a comment, or a flag of pip
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue

        def accepts(version: str, requirement: Requirement = requirement) -> bool:
            try:
                return requirement.specifier.contains(version, prereleases=True)
            except InvalidVersion:
                return False

        found[requirement.name] = accepts
    return found


def _pins(path: Path) -> dict[str, str]:
    from packaging.markers import InvalidMarker, Marker

    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := _PIN.match(line.strip()):
            with contextlib.suppress(InvalidMarker):
                if not match[3] or Marker(match[3].strip()).evaluate():
                    found[match[1]] = match[2]
    return found


def _installed(name: str, version_of: Callable[[str], str]) -> str | None:
    for known in (name, *_IN_PLACE_OF.get(name.lower(), ())):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return version_of(known)
    return None


def check_memory(free_bytes: int | None = None, total_bytes: int | None = None) -> Finding:
    """Whether there is memory for the smallest model; asks the system unless it is told."""
    if free_bytes is None or total_bytes is None:
        import psutil

        memory = psutil.virtual_memory()
        free_bytes, total_bytes = memory.available, memory.total
    told = f"{size_text(free_bytes)} free of {size_text(total_bytes)}"
    if free_bytes < TOO_LITTLE_MEMORY_BYTES:
        return Finding("Memory", "problem", told, "Close other programs: even the preset nano needs about 1 GB.")
    if free_bytes < LITTLE_MEMORY_BYTES:
        return Finding("Memory", "warning", told, "Close other programs before a training.")
    return Finding("Memory", "ok", told)


def check_folder(name: str, folder: Path) -> Iterator[Finding]:
    """Whether files can be written to a folder, or the folder be made, and how much room there is. Leaves no trace."""
    what = f"Folder {name}"
    place = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    if place is None or not place.is_dir():
        yield Finding(what, "problem", f"{place or folder} is not a folder.", "Move that file away, or choose another.")
        return
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"doctor")
    except OSError as cause:
        told = f"{folder} cannot be written to ({cause.strerror or cause})."
        yield Finding(what, "problem", told, "Give yourself the right to write there, or choose another folder.")
        return
    free = shutil.disk_usage(place).free
    told = f"{folder} can be written to, {size_text(free)} free"
    if free < TOO_LITTLE_DISK_BYTES:
        yield Finding(what, "problem", told, "Free some space on that disk.")
    elif free < LITTLE_DISK_BYTES:
        yield Finding(what, "warning", told, "Enough to speak; free some space before a training or a download.")
    else:
        yield Finding(what, "ok", told)


def check_port(host: str, port: int) -> Finding:
    """Whether the page can be served where it usually is."""
    if port_is_free(host, port):
        return Finding("Port of the page", "ok", f"{port} of {host} is free")
    return Finding(
        "Port of the page", "warning", f"{port} of {host} is in use.",
        "Perhaps the page runs already; otherwise start it with --port and another number.",
    )  # fmt: skip


def port_is_free(host: str, port: int) -> bool:
    """Whether nothing else listens there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def size_text(count: float) -> str:
    """Bytes for people: "3.4 GB", "12 MB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if count < 100 * unit else f"{count / unit:.0f} {name}"
    return f"{count / 1e3:.0f} kB"


def sizes_text(sizes: Mapping[str, int]) -> str:
    """Names with their sizes."""
    return ", ".join(f"{name} ({size_text(count)})" for name, count in sizes.items())
