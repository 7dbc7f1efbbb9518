"""Runs a tool as `python -m TOOL ...` does, but holds it in the middle: for looks at a job that surely runs.

    python -m tests.webui.held_tool GATE tools.slice --input ...

While the file GATE exists, the tool waits after the first piece of work that it tells of.
"""

import functools
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.progress import StepProgress

LOOK_SECONDS = 0.05


def hold(gate: Path) -> None:
    """Let every step of this process wait at the gate."""
    told: Callable[..., None] = StepProgress.update

    @functools.wraps(told)
    def update(progress: StepProgress, done: int, *others: Any, **named: Any) -> None:
        told(progress, done, *others, **named)
        while done and gate.exists() and not progress.should_stop():
            time.sleep(LOOK_SECONDS)

    StepProgress.update = update


if __name__ == "__main__":
    path, module, *arguments = sys.argv[1:]
    hold(Path(path))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
