"""Folders of runs: what is in one when a training begins there."""

import shutil
from pathlib import Path
from typing import Any

import psutil

from modules.checkpoint import load_training_state
from modules.config import differing_keys
from modules.errors import UserError
from modules.training.events import EVENTS_NAME, read_events

CHECKPOINT_NAME = "checkpoint"
STOP_NAME = "stop"
WEIGHTS_FOLDER = "weights"


def set_aside(folder: Path) -> Path | None:
    """Rename a run folder, so that another run can begin in its place; returns its new name, None if there is none.

    Finished weights that the run put elsewhere move into its subfolder `weights`: nobody should take them for those of
    the run that begins.

    Raises:
        UserError: not_a_run for a folder that holds something else.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    if not has_checkpoint(folder) and not (folder / EVENTS_NAME).exists():
        raise UserError(
            "not_a_run", "{folder} is no folder of a training; choose another folder for --output.", folder=folder
        )
    number = 1
    while (kept := folder.with_name(f"{folder.name}-earlier{number}")).exists():
        number += 1
    kept = folder.rename(kept)
    written = {
        str(file) for event in read_events(kept) if event["kind"] == "weights" for file in event.get("files") or ()
    }
    for file in map(Path, sorted(written)):
        if file.parent != folder and folder not in file.parents and file.is_file():
            (kept / WEIGHTS_FOLDER).mkdir(exist_ok=True)
            shutil.move(file, kept / WEIGHTS_FOLDER / file.name)
    return kept


def has_checkpoint(folder: Path) -> bool:
    """Whether a training in this folder can be resumed."""
    return (folder / f"{CHECKPOINT_NAME}.safetensors").exists()


def open_run(
    folder: Path, *, resume: bool, run_config: dict[str, Any] | None, data: str, data_added: bool
) -> dict[str, Any] | None:
    """The state to go on from; None where a run begins. For the arguments see `modules.training.loop.train`.

    Raises:
        UserError: run_exists, resume_config_differs, resume_data_differs, checkpoint_unreadable.
    """
    if not has_checkpoint(folder):
        return None
    if not resume:
        raise UserError(
            "run_exists",
            "{folder} holds a training already; resume it, start over, or choose another folder.",
            folder=folder,
        )
    state = load_training_state(folder / f"{CHECKPOINT_NAME}.safetensors")
    _refuse_other_config(state["run_config"], run_config, folder)
    if data and state.get("data", data) != data:
        if not data_added:
            raise UserError(
                "resume_data_differs",
                "The data of the training in {folder} have changed; say that data were added, or start over.",
                folder=folder,
            )
        state["loader"]["position"] = 0
        state["seconds"] = 0.0  # a limit of minutes is for what is trained from here on
    return state


def stop_is_asked(folder: Path) -> bool:
    """Whether a stop is asked of this process: a file older than the process was meant for an earlier one."""
    path = folder / STOP_NAME
    return path.exists() and path.stat().st_mtime >= psutil.Process().create_time() - 1.0


def _known(given: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """`given` without what `saved` does not name."""
    return {
        name: _known(value, saved[name]) if isinstance(value, dict) and isinstance(saved[name], dict) else value
        for name, value in given.items()
        if name in saved
    }


def _refuse_other_config(saved: dict[str, Any] | None, given: dict[str, Any] | None, folder: Path) -> None:
    # A setting that the run's version did not know yet cannot have been another one.
    keys = differing_keys(saved, _known(given, saved)) if saved is not None and given is not None else []
    if keys:
        raise UserError(
            "resume_config_differs",
            "{folder} was trained with other settings: {keys}; give the same ones or choose another folder.",
            folder=folder,
            keys=", ".join(keys),
        )
