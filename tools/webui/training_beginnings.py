"""Where the trainings of an experiment begin, and what that means for their knobs. Builds no components."""

from dataclasses import dataclass
from typing import Any

from modules.experiment import Experiment
from tools.webui.form import Form
from tools.webui.settings import fits
from tools.webui.training_look import Look, Looker
from tools.webui.training_steps import STAGES, held_knobs

RESUMING = ("resume", "data_added")


@dataclass(frozen=True)
class Beginnings:
    """Where the trainings of an experiment begin, and what follows from it for their knobs.

    Args:
        shown: control -> its value from now on.
        filled: control -> what was suggested for it last.
        knobs: what those must be set to that a training which goes on cannot change.
        turned: controls and such knobs that are to be turned now.
    """

    shown: dict[str, str]
    filled: dict[str, str]
    knobs: dict[str, Any]
    turned: dict[str, Any]


def find_beginnings(
    looker: Looker, form: Form, experiment: Experiment | None, look: Look, filled: dict, seen: dict, shown: dict
) -> Beginnings:
    """As the disk suggests, unless somebody chose otherwise.

    A choice holds for its experiment, until the training that it was made for has begun.

    Args:
        looker: at the disk.
        form: of the tab.
        experiment: None while the name is no good.
        look: at the experiment, of this moment.
        filled: what was suggested last.
        seen: what the page shows: "experiment", "begun" and "beginnings" as they were.
        shown: control -> what it is set to.
    """
    moved = (experiment.name if experiment is not None else "") != seen.get("experiment")
    chosen, kept, knobs, turned = {}, {}, {}, {}
    for stage in STAGES:
        name = f"{stage}_beginning"
        usual = looker.usual_beginning(experiment, stage) if experiment is not None else "begin"
        begun = look.begun.get(stage) != seen.get("begun", {}).get(stage)
        free = moved or begun or shown[name] == filled.get(name)
        chosen[name], kept[name] = (usual, usual) if free else (shown[name], filled.get(name, ""))
        if chosen[name] != shown[name]:
            turned[name] = chosen[name]
        run = looker.run(experiment, stage) if experiment is not None else None
        if run is None or chosen[name] not in RESUMING:
            continue
        held = {f"{stage}_{option}": value for option, value in held_knobs(run, stage).items()}
        held = {knob: value for knob, value in held.items() if fits(form[knob], value)}
        knobs |= held
        if moved or chosen[name] != seen.get("beginnings", {}).get(name):
            turned |= held
    return Beginnings(chosen, kept, knobs, turned)
