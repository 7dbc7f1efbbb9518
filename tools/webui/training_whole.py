"""Formatting, both trainings and the scoring with one press: what of it is left to do. Knows no components."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.errors import UserError
from modules.experiment import Experiment
from tools.webui.presets import quantises
from tools.webui.steps import Work, existing_path
from tools.webui.training_state import Features, read_features, read_run
from tools.webui.training_steps import (
    CODES,
    STAGES,
    Pretrained,
    check_beginning,
    extract_work,
    pick_work,
    train_work,
)


@dataclass(frozen=True)
class Whole:
    """What follows each other (`works`), and the stages that are left out because they are over (`over`)."""

    works: tuple[Work, ...]
    over: tuple[str, ...]


def whole_works(values: Mapping[str, Any], experiment: Experiment, files: Pretrained, device: str = "auto") -> Whole:
    """Formatting, both trainings and the scoring; no formatting where no list is named but features are there.

    Where the speech tokens are learned with a decoder that begins from nothing, they are made between the trainings.

    A training that has made all that was asked for is left out while its data are the same. One that goes on after a
    formatting is told that data may have been added.

    Raises:
        UserError: as the single works do, and as `check_beginning` does; training_is_over when no training is left.
    """
    works = [extract_work(values, experiment, files, device=device)] if _formats(values, experiment) else []
    between = quantises(files.preset) and not files.begins("vits2")
    features = _known(experiment)
    same = features is not None and not (works and _is_newer(values, experiment))
    over, reason = [], None
    for stage in STAGES:
        chosen = dict(values)
        name = f"{stage}_beginning"
        run = read_run(experiment.run(stage))
        if works and run is not None and chosen.get(name) == "resume":
            chosen[name] = "data_added"
        work = train_work(stage, chosen, experiment, files, device)
        try:
            data = "" if works or features is None else features.fingerprint_for(stage)
            check_beginning(stage, chosen, experiment, data)
        except UserError as error:
            known = run is not None and features is not None and run.data in ("", features.fingerprint_for(stage))
            if error.code != "training_is_over" or not (same and known):
                raise
            over.append(stage)
            reason = error
        else:
            if stage == "gpt" and between:
                works.append(extract_work(values, experiment, files, CODES, device))
            works.append(work)
    if len(over) == len(STAGES) and reason is not None:
        raise reason
    return Whole((*works, pick_work(experiment, files, device)), tuple(over))


def _formats(values: Mapping[str, Any], experiment: Experiment) -> bool:
    if str(values.get("extract_source") or "").strip():
        return True
    features = read_features(experiment.features)
    return features is None or not features.heard.clips


def _known(experiment: Experiment) -> Features | None:
    """The features as they are now; formatting tells what is wrong with damaged ones."""
    try:
        return read_features(experiment.features)
    except UserError:
        return None


def _is_newer(values: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether the list was written after it was formatted, so that formatting may find other lines in it."""
    listed: Path = existing_path(values.get("extract_source"))
    formatted = max((path.stat().st_mtime for path in experiment.features.glob("*.arrow")), default=0.0)
    return listed.stat().st_mtime > formatted
