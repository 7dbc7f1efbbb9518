"""What the tests of the dataset tab share: filled forms, and jobs that look as their tools would have left them."""

import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.errors import UserError
from modules.progress import StepProgress
from tools.jobs import Job, JobStore
from tools.webui.dataset_folders import (
    DatasetFolders,
)
from tools.webui.messages import Messages

ENGLISH = Messages().translator("en")


def form(folders: DatasetFolders, **values: object) -> dict[str, object]:
    """Values of the boxes and of the options with which every step begins."""
    return {**folders.boxes(), "dataset_name": folders.name, **values}


class Recorder(JobStore):
    """A store whose jobs are folders alone: started, never run."""

    def _launch(self, job: Job) -> bool:
        return False


def jobs_in(folder: Path) -> JobStore:
    return Recorder(folder / "jobs")


def finish(job: Job, result: dict | None = None, error: UserError | None = None) -> None:
    """Let a job look as its tool would have left it."""
    try:
        with StepProgress(job.folder) as progress:
            progress.reject("take <1>.wav", "it is broken")
            if error is not None:
                raise error
            progress.finish(result or {})
    except UserError:
        pass
    values = json.loads((job.folder / "config.json").read_text(encoding="utf-8"))
    values |= {"pid": 1, "process_created": time.time() - 5, "ended": time.time(), "exit_code": 2 if error else 0}
    (job.folder / "config.json").write_text(json.dumps(values), encoding="utf-8")


def refused(function: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        function()
    return caught.value.code


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def rectangles(svg: str, kind: str) -> list[ElementTree.Element]:
    return [node for node in parsed(svg).iter() if node.tag.endswith("rect") and node.get("class") == kind]
