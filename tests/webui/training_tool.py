"""Runs a tool as `python -m TOOL ...` does, with tiny models, and with the experiments of a folder of the test.

    python -m tests.webui.training_tool FOLDER tools.train_gpt --store ...

While the file FOLDER/gate exists, a training waits after the first steps that it tells of.
"""

import functools
import runpy
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import modules.config
from modules.experiment import Experiment
from modules.progress import StepProgress
from tests.tiny import tiny_preset

LOOK_SECONDS = 0.05


def keep_in(folder: Path) -> None:
    """Let experiments lie in the folder instead of the project's."""
    Experiment.__init__.__defaults__ = (folder / "logs", folder / "GPT_weights", folder / "SoVITS_weights")


def hold(gate: Path) -> None:
    """Let every training of this process wait at the gate."""
    told = StepProgress.pass_on

    @functools.wraps(told)
    def pass_on(progress: StepProgress, event: Mapping[str, Any]) -> None:
        told(progress, event)
        while event["kind"] == "step" and gate.exists() and not progress.should_stop():
            time.sleep(LOOK_SECONDS)

    StepProgress.pass_on = pass_on


if __name__ == "__main__":
    folder, module, *arguments = sys.argv[1:]
    keep_in(Path(folder))
    modules.config.load_preset = lambda name: tiny_preset()
    hold(Path(folder) / "gate")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
