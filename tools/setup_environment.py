"""Make `.venv` and keep it in step with the requirement files.

    python tools/setup_environment.py          what the page needs
    python tools/setup_environment.py --dev    what the tests need as well

Called by `go-webui` and `go-tests` with any Python 3.11+, before anything is installed: so it uses the
standard library alone and starts pip as a process (the one place beside `tools/jobs.py` that starts one).
A stamp in `.venv`, written after pip has succeeded, holds the hash of what was installed: an unchanged
set is skipped at once, an interrupted one is taken up again.
"""

import argparse
import contextlib
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
NEEDED_GIB = 7  # the Linux build of torch brings its CUDA libraries: 6 GB unpacked


class SetupError(Exception):
    """The set-up cannot go on; the message says why and what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Set up, and return the exit status: 0 ready, 1 with a message on stderr, 130 stopped by hand."""
    parser = argparse.ArgumentParser(description="Make .venv and install what is missing in it.")
    parser.add_argument("--dev", action="store_true", help="also what the tests need")
    options = parser.parse_args(arguments)
    try:
        prepare(ROOT, "requirements-dev.txt" if options.dev else "requirements.txt")
    except SetupError as problem:
        print(f"\nGPT-SoVITS2 could not be set up.\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe set-up was stopped. The next start takes it up again.", file=sys.stderr)
        return 130
    return 0


def prepare(root: Path, requirements: str) -> None:
    """Make `root/.venv` if there is none that works, and install `requirements` if they changed.

    Raises:
        SetupError: this computer is not supported, or the environment or an installation failed.
    """
    python = venv_python(root)
    if _is_current(root, python, requirements):
        return
    problem = unsupported(platform.system(), platform.machine(), sys.version_info[:2], struct.calcsize("P") * 8)
    if problem:
        raise SetupError(problem)
    with _locked(root / ".venv.lock"):
        if not works(python):
            _make_venv(root, python)
        if not _is_current(root, python, requirements):
            _install(root, python, requirements)


def unsupported(system: str, machine: str, version: tuple[int, ...], bits: int) -> str:
    """Why this program cannot run on such a computer, or an empty string if it can."""
    if tuple(version) < OLDEST_PYTHON:
        found = ".".join(map(str, version))
        return f"Python 3.11 or newer is needed; this is {found}. Install a newer one from python.org."
    if bits != 64:
        return "A 64-bit Python is needed; this one is 32-bit. Install the 64-bit one from python.org."
    if system == "Darwin" and machine == "x86_64":
        return (
            "Macs with an Intel processor are not supported: PyTorch is no longer published for them.\n"
            "If this Mac has an Apple processor, its Python is an Intel build: install the universal one from\n"
            "python.org, delete the folder .venv, and start again."
        )
    return ""


def venv_python(root: Path) -> Path:
    """The interpreter inside `root/.venv`."""
    return root / ".venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def works(python: Path, needs: str = "sys, pip") -> bool:
    """Whether this interpreter starts, is new enough and can import `needs`. A half-made one cannot."""
    probe = f"import sys, {needs}; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    try:
        return subprocess.run([str(python), "-c", probe], capture_output=True).returncode == 0
    except OSError:
        return False


def fingerprint(root: Path, requirements: str) -> str:
    """A hash of the requirement file, of all that it includes by `-r`, and of the constraints."""
    digest = hashlib.sha256()
    waiting, seen = [requirements, "constraints.txt"], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        lines = (root / name).read_text(encoding="utf-8").splitlines()
        digest.update("\n".join([name, *lines, ""]).encode())
        waiting += [line[3:].strip() for line in lines if line.startswith("-r ")]
    return digest.hexdigest()


def stamp_path(root: Path, requirements: str) -> Path:
    """Where the fingerprint of the last finished installation of this file is kept."""
    return root / ".venv" / f".installed-{Path(requirements).stem}"


def _is_current(root: Path, python: Path, requirements: str) -> bool:
    stamp = stamp_path(root, requirements)
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != fingerprint(root, requirements):
        return False
    runs_inside = Path(sys.prefix).resolve() == (root / ".venv").resolve()  # then it works: saves a process
    return runs_inside or works(python)


def _make_venv(root: Path, python: Path) -> None:
    if works(python, needs="sys"):  # made by another tool or cut off half-way: only pip is missing
        if subprocess.run([str(python), "-m", "ensurepip"]).returncode == 0:
            return
        raise SetupError("The environment in .venv has no pip and could not get it. Delete .venv and start again.")
    print("Making a Python environment in .venv ...", flush=True)
    free_gib = shutil.disk_usage(root).free / 2**30
    if free_gib < NEEDED_GIB:
        raise SetupError(
            f"Only {free_gib:.1f} GB are free here; about {NEEDED_GIB} GB are needed. Free some and retry."
        )
    result = subprocess.run([sys.executable, "-m", "venv", "--clear", str(root / ".venv")])
    if result.returncode != 0:
        raise SetupError(
            "Python could not make the environment (its own words are above).\n"
            "On Debian and Ubuntu install the package python3-venv; elsewhere check that the folder can be written."
        )


def _install(root: Path, python: Path, requirements: str) -> None:
    print(f"Installing {requirements} (the first time several GB: some minutes) ...", flush=True)
    stamp = stamp_path(root, requirements)
    stamp.unlink(missing_ok=True)
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    result = subprocess.run([*command, "-r", requirements, "-c", "constraints.txt"], cwd=root)
    if result.returncode != 0:
        raise SetupError(
            "pip could not install the packages (its own words are above). Most often this computer is offline:\n"
            "check the connection, a proxy or a firewall, and the free space on the disk. Then start again;\n"
            "what is already downloaded is kept."
        )
    stamp.write_text(fingerprint(root, requirements), encoding="utf-8")
    if sys.platform == "win32" and shutil.which("nvidia-smi"):
        print("An NVIDIA card was found. README.md, 'CUDA on Windows', tells how to use it.")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two starts at once do not install into one folder. A kill releases it."""
    with path.open("w", encoding="utf-8") as file:
        if os.name == "nt":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # msvcrt gives up after ten seconds; an install takes longer
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
