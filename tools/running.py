"""The frame of a step: its progress, its exit code, and what a person is told when it does not come to its end."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

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
) -> int:
    """Do the work of a step; returns the exit code: 0 done, 2 a mistake in the input, 3 stopped.

    Args:
        work: gets the progress to report to, and calls its `finish`.
        job: run folder of the job that this is, if it is one.
        stopped: said when somebody stopped the step, here or from the page.
        say: gets a line on the progress every few seconds.
        error_text: what is said of a mistake.
    """
    try:
        with StepProgress(job, say=say) as progress:
            work(progress)
    except UserError as error:
        print(error_text(error), file=sys.stderr)
        return REFUSED_EXIT
    except (Stopped, KeyboardInterrupt):
        print(stopped, file=sys.stderr)
        return STOPPED_EXIT
    return 0


def error_line(error: UserError) -> str:
    """A mistake in one line, marked as an error."""
    return f"error: {' '.join(str(error).split())}"
