"""The scores of an experiment's weights: read from its pick.json, and what is done with them. Knows no components."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modules.errors import UserError
from modules.experiment import Experiment
from modules.training.history import Sample, finite_number
from tools.jobs import Job
from tools.webui.run_view import STAGES, saved_weights
from tools.webui.services import Services
from tools.webui.training_steps import Pretrained, pick_work

PICK_NAME = "pick.json"
DISTANCES = {"vits2": "mel", "gpt": "token_loss"}
"""What tells, in a stage's rows, how far it is from what it was trained to do."""
_LARGEST_BYTES = 16 << 20


@dataclass(frozen=True)
class Scored:
    """Weights and their scores; None where one is missing.

    Args:
        file: empty for the weights of the preset.
        bytes, mtime_ns: size and time of change of the file that was heard.
        distance: mel distance of a decoder, token loss of a language model.
        error: why it could not be heard.
        failures: why outputs were no usable speech, and how many of them.
    """

    stage: str
    file: str
    epoch: int
    step: int
    bytes: int
    mtime_ns: int
    phone_error: float | None
    similarity: float | None
    failure_rate: float | None
    score: float | None
    distance: float | None
    error: str
    failures: tuple[tuple[str, int], ...]
    samples: tuple[Sample, ...]

    @property
    def key(self) -> str:
        """Tells the rows of one pick apart."""
        return f"{self.stage}:{self.file}"


@dataclass(frozen=True)
class Pick:
    """All scores of an experiment.

    Args:
        lines: how many were spoken.
        held_out: no training learned from them.
        rows: the preset's own weights first in each stage.
        best: stage -> file name, of the stages that were scored.
    """

    lines: int
    held_out: bool
    rows: tuple[Scored, ...]
    best: dict[str, str]

    def is_best(self, row: Scored) -> bool:
        """Whether a row is the best of its stage."""
        return self.best.get(row.stage) == row.file


def fingerprint(path: Path) -> tuple[int, int] | None:
    """Time of change, ns, and size of a file; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def read_pick(path: Path) -> Pick | None:
    """The scores that a file holds; None where there is no such file, or it is none of scores."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        return None
    rows = tuple(_scored(row) for row in content["rows"] if isinstance(row, dict) and row.get("stage") in STAGES)
    best = content.get("best") if isinstance(content.get("best"), dict) else {}
    scored = {row.stage for row in rows}
    named = {stage: name for stage, name in best.items() if stage in scored and isinstance(name, str)}
    return Pick(_whole(content.get("lines")), content.get("held_out") is not False, rows, named)


def _scored(row: Mapping[str, Any]) -> Scored:
    samples, failures = row.get("samples"), row.get("failures")
    distance = DISTANCES[row["stage"]]
    return Scored(
        row["stage"],
        str(row.get("file") or ""),
        *(_whole(row.get(name)) for name in ("epoch", "step", "bytes", "mtime_ns")),
        *(finite_number(row.get(name)) for name in ("phone_error", "similarity", "failure_rate", "score", distance)),
        str(row.get("error") or ""),
        tuple((name, _whole(count)) for name, count in (failures.items() if isinstance(failures, dict) else ())),
        tuple(
            Sample(*(str(sample.get(name) or "") for name in ("file", "truth", "text")))
            for sample in (samples if isinstance(samples, list) else [])
            if isinstance(sample, dict)
        ),
    )


def current(pick: Pick, experiment: Experiment) -> Pick:
    """The scores without those of files that have gone or are others now, as after a training that began anew."""
    folders = {"vits2": experiment.vits2_weights, "gpt": experiment.gpt_weights}
    rows = tuple(
        row
        for row in pick.rows
        if not row.file or fingerprint(folders[row.stage] / Path(row.file).name) == (row.mtime_ns, row.bytes)
    )
    there = {(row.stage, row.file) for row in rows}
    return replace(pick, rows=rows, best={stage: name for stage, name in pick.best.items() if (stage, name) in there})


def unscored(pick: Pick | None, experiment: Experiment) -> int:
    """How many weight files of the experiment have no score; `pick` as `current` gives it."""
    known = {(row.stage, row.file) for row in pick.rows} if pick is not None else set()
    return sum((stage, name) not in known for stage, names in saved_weights(experiment).items() for name in names)


def start_pick(
    services: Services, experiment: Experiment, files: Pretrained | None = None, device: str = "auto"
) -> Job:
    """Put the scoring of all weights into the queue.

    Args:
        services: of the page.
        experiment: whose weights are scored.
        files: of the base model; None for the built-in one.
        device: as the tools know it.

    Raises UserError: nothing_to_pick, job_twice, jobs_locked.
    """
    if not any(saved_weights(experiment).values()):
        raise UserError(
            "nothing_to_pick",
            "There are no weights of {name} yet; train it until it has saved some.",
            name=experiment.name,
        )
    return pick_work(experiment, files, device).start(services.jobs)


def best_weights(services: Services, experiment: Experiment, pick: Pick | None) -> tuple[str, str]:
    """File names of the best VITS2 and GPT weights; empty for those of the preset.

    Raises UserError: pick_missing, pick_outdated (a file is not the one any more that was heard), weights_not_listed.
    """
    if pick is None or not pick.best:
        raise UserError("pick_missing", "The weights have no scores yet; score them first.")
    if current(pick, experiment).best != pick.best:
        raise UserError(
            "pick_outdated",
            "The weights that were scored as the best have changed since then, or are gone; score the weights again.",
        )
    vits2, gpt = pick.best.get("vits2", ""), pick.best.get("gpt", "")
    services.weights.vits2_file(vits2)
    services.weights.gpt_file(gpt)
    return vits2, gpt


def _whole(value: object) -> int:
    """Not by way of a float, which does not hold all digits of a time in ns."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(finite_number(value) or 0)
