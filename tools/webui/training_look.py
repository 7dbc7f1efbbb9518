"""A look at an experiment: its features, its runs and its jobs, read again only where they changed. No components."""

import functools
from dataclasses import dataclass
from pathlib import Path

from modules.errors import UserError
from modules.experiment import Experiment
from tools.webui.messages import Translator
from tools.webui.services import Services
from tools.webui.training_state import CHECKPOINT, Features, Run, features_mark, read_features, read_run
from tools.webui.training_steps import STAGES
from tools.webui.training_view import features_html, job_html, newest_job, run_html, work_keys

KEPT = 16
"""Folders that are remembered; a page looks at three of them."""


@dataclass(frozen=True)
class Look:
    """What a page shows of an experiment.

    Args:
        texts: HTML of "extract", "vits2" and "gpt".
        revision: changes when features or runs come or go, or a job begins or ends.
        begun: id of the newest job of each training.
        busy: whether any job or chain goes on, of whatever experiment.
    """

    texts: dict[str, str]
    revision: str
    begun: dict[str, str]
    busy: bool


class Looker:
    """Looks at experiments. May be asked from several threads.

    Args:
        services: of the page.
    """

    def __init__(self, services: Services):
        self.services = services
        self._features = functools.lru_cache(KEPT)(lambda folder, mark: _features_or_error(folder))
        self._run = functools.lru_cache(KEPT)(lambda folder, mark: read_run(folder))

    def features(self, experiment: Experiment) -> Features | None:
        """What its formatting has made; None also where that cannot be read."""
        found = self._told_features(experiment)
        return None if isinstance(found, UserError) else found

    def run(self, experiment: Experiment, stage: str) -> Run | None:
        """How far one of its trainings is."""
        folder = experiment.run(stage)
        return self._run(folder, _mark(folder / CHECKPOINT))

    def usual_beginning(self, experiment: Experiment, stage: str) -> str:
        """How its training most likely goes on: "begin", "resume" or "data_added"."""
        run, features = self.run(experiment, stage), self.features(experiment)
        if run is None:
            return "begin"
        known = features.fingerprint_for(stage) if features is not None else ""
        changed = known and run.data and run.data != known
        return "data_added" if changed else "resume"

    def has_work(self, experiment: Experiment) -> bool:
        """Whether anything was made, or is to be made, under its name."""
        if features_mark(experiment.features) or any(self.run(experiment, stage) for stage in STAGES):
            return True
        return any(newest_job(self.services.jobs, key) is not None for key in work_keys(experiment).values())

    def look(self, experiment: Experiment | None, say: Translator) -> Look:
        """Everything; empty texts for no experiment."""
        busy = self._is_busy()
        if experiment is None:
            return Look(dict.fromkeys(("extract", *STAGES), ""), "", {}, busy)
        jobs, chains = self.services.jobs, self.services.chains
        texts, marks, begun = {}, [experiment.name, features_mark(experiment.features)], {}
        keys = work_keys(experiment)
        for name in ("extract", *STAGES):
            output = experiment.run(name) if name in STAGES else experiment.features
            job = newest_job(jobs, keys[name])
            marks.append(f"{job.id}:{job.state()}" if job is not None else "")
            # Somebody may have deleted what it made.
            gone = job is not None and job.state() in ("done", "stopped") and not output.exists()
            shown = job_html(None if gone else job, chains, say)
            if name in STAGES:
                run = self.run(experiment, name)
                texts[name] = run_html(run, say) + shown
                marks.append(str(run is not None))
                begun[name] = job.id if job is not None else ""
            else:
                texts[name] = shown + features_html(self._told_features(experiment), say)
        return Look(texts, "|".join(marks), begun, busy)

    def _told_features(self, experiment: Experiment) -> Features | UserError | None:
        mark = features_mark(experiment.features)
        return self._features(experiment.features, mark) if mark else None

    def _is_busy(self) -> bool:
        if any(job.config().ended is None for job in self.services.jobs.jobs()):
            return True
        return any(not chain.ended for chain in self.services.chains.all())


def _features_or_error(folder: Path) -> Features | UserError | None:
    try:
        return read_features(folder)
    except UserError as error:
        return error


def _mark(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
