"""The frame of a step: its progress, its exit code, and what a person is told when it does not come to its end."""

import contextlib
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from modules.data.manifest import write_whole
from modules.errors import Stopped, UserError
from modules.progress import REFUSED_EXIT, STOPPED_EXIT, StepProgress

say: Callable[[str], None] = functools.partial(print, flush=True)
"""Tells a person a line at once, also where the output is a file or a pipe."""


def run_step(
    work: Callable[[StepProgress], None],
    job: Path | None,
    *,
    stopped: str = "stopped; run it again to go on",
    say: Callable[[str], None] = say,
    error_text: Callable[[UserError], str] = str,
    finishes: bool = False,
) -> int:
    """Do the work of a step; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped.

    Args:
        work: gets the progress to report to, and calls its `finish`.
        job: run folder of the job that this is, if it is one.
        stopped: said when somebody stopped the step, here or from the page.
        say: gets a line on the progress every few seconds.
        error_text: what is said of a mistake.
        finishes: the first Ctrl-C asks the step to save what it has and to stop, as the page's button does; the second
            ends it at once. For steps that ask `should_stop` often.
    """
    try:
        with StepProgress(job, say=say) as progress, _asking_first(progress) if finishes else contextlib.nullcontext():
            work(progress)
    except UserError as error:
        print(error_text(error), file=sys.stderr)
        return REFUSED_EXIT
    except (Stopped, KeyboardInterrupt):
        print(stopped, file=sys.stderr)
        return STOPPED_EXIT
    return 0


@contextlib.contextmanager
def _asking_first(progress: StepProgress) -> Iterator[None]:
    """Turn the first Ctrl-C into a wish to stop. Only the main thread may say what a signal does, and a step that was
    started to go on at Ctrl-C (in the background of a script) does so."""
    here, usual = os.getpid(), signal.default_int_handler

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, usual)
        if os.getpid() != here:
            return  # a process that reads data for this one, and hears of the end from it
        progress.ask_to_stop()
        print("saving, then stopping; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return
    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def error_line(error: UserError) -> str:
    """A mistake in one line, marked as an error."""
    return f"error: {' '.join(str(error).split())}"


def write_found(target: Path, found: dict[str, Any]) -> None:
    """Write what a tool has found as JSON, whole or not at all.

    Raises:
        UserError: output_unwritable.
    """
    text = json.dumps(found, ensure_ascii=False, indent=2) + "\n"
    try:
        write_whole(target, [text.encode("utf-8", "backslashreplace")])
    except OSError as cause:
        raise UserError(
            "output_unwritable", "{file} cannot be written; choose another place.", file=str(target)
        ) from cause
