"""Why a process failed and what to do about it, from what is left of it: its exit code, events and last lines."""

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.errors import UserError, retold
from modules.progress import REFUSED_EXIT

TAIL_BYTES = 65536

# What the last error lines of a log tell, in the order of asking. The remedies stand in the templates.
_GPU_MEMORY = re.compile(r"(CUDA|MPS backend) out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_MEMORY = re.compile(r"MemoryError|[Cc]an(no|')t allocate memory|not enough memory|killed by signal: (Killed|Bus)")
_DISK_FULL = re.compile(r"No space left on device|not enough space on the disk")
_MODULE = re.compile(r"No module named '?([\w.]+)")
_EXCEPTION = re.compile(r"^[\w.]+(Error|Exception|Interrupt)\b")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Remains:
    """What is known of a process that failed."""

    name: str  # for people
    log: Path  # where to read more
    exit_code: int | None = None  # negative: the signal that ended it; None: nobody saw its end
    lines: Sequence[str] = ()  # the last ones of its log, see `error_lines`
    error: dict[str, Any] = field(default_factory=dict)  # its "error" event: error, and code and fields of a UserError
    launch_error: str = ""  # why it could not even be started


def log_tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log; of a line that was drawn over (a progress bar) only the last form."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    drawn = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    return [_COLOURS.sub("", line) for line in (drawn[:-1] if not drawn[-1] else drawn)][-lines:]


def error_lines(path: Path, lines: int) -> list[str]:
    """The end of a log from its last traceback on, without empty lines."""
    tail = [line for line in log_tail(path, 1000) if line.strip()]
    starts = [number for number, line in enumerate(tail) if line.startswith("Traceback ")]
    return tail[starts[-1] if starts else 0 :][-lines:]


def explain_failure(remains: Remains) -> UserError:
    """The cause and the remedy, to be shown (not raised): its own words where it had any, else what its exit and its
    last lines tell."""
    code, lines, error = remains.exit_code, remains.lines, remains.error
    told = str(error.get("error", "")) or remains.launch_error
    name, log = remains.name, remains.log
    if error.get("code"):
        return retold(error["code"], told, error.get("fields", {}))
    if code == REFUSED_EXIT and lines:
        return UserError("job_refused", "{name} could not start: {cause}", name=name, cause=lines[-1])
    if code == 0 and not told:
        return UserError(
            "job_no_result",
            "{name} ended without a result, and without saying why. Start it again; if that does not help, "
            "the end of its log may tell more: {log}",
            name=name,
            log=log,
        )
    if known := known_cause("\n".join([*lines, told]), name, log):
        return known
    if code is not None and -code == getattr(signal, "SIGKILL", 9):
        return UserError(
            "job_killed",
            "{name} was killed, most often because memory ran out. Choose a smaller batch or close other programs.",
            name=name,
            log=log,
        )
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    cause = told or (exceptions or [""])[-1]
    if code is None and not cause:
        return UserError(
            "job_vanished",
            "{name} was cut off: it was killed, memory ran out, or the computer was switched off. Start it "
            "again; if it is cut off again, close other programs or choose a smaller batch. Its log: {log}",
            name=name,
            log=log,
        )
    cause = cause or (f"{lines[-1]} ({_exit_text(code)})" if lines else _exit_text(code))
    return UserError(
        "job_failed",
        "{name} failed: {cause}. Start it again; if it fails again, the end of its log tells more: {log}",
        cause=cause,
        name=name,
        log=log,
    )


def known_cause(evidence: str, name: str, log: Path) -> UserError | None:
    """A cause with a remedy of its own, found in the words of Python, PyTorch or the system; None if there is none.

    Args:
        name, log: of the job, for the sentence.
    """
    if _GPU_MEMORY.search(evidence):
        return UserError(
            "job_gpu_memory",
            "{name} ran out of GPU memory. Choose a smaller batch, or close what else uses the GPU.",
            name=name,
            log=log,
        )
    if _MEMORY.search(evidence):
        return UserError(
            "job_memory",
            "{name} ran out of memory. Choose a smaller batch or close other programs.",
            name=name,
            log=log,
        )
    if _DISK_FULL.search(evidence):
        return UserError(
            "job_disk_full",
            "The disk is full, so {name} ended. Free some space and start it again.",
            name=name,
            log=log,
        )
    if module := _MODULE.search(evidence):
        return UserError(
            "job_module_missing",
            "{name} lacks the package {module}. Run go-webui.sh (Windows: go-webui.bat) again to install it.",
            module=module[1],
            name=name,
            log=log,
        )
    return None


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            pass
    return f"exit code {code if code is None or code < 256 else hex(code)}"
