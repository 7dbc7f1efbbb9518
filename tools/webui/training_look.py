"""A look at an experiment: its features, its runs and its jobs, read again only where they changed. No components."""

import functools
from dataclasses import dataclass
from pathlib import Path

from modules.experiment import Experiment
from tools.webui.messages import Translator
from tools.webui.services import Services
from tools.webui.training_state import CHECKPOINT, Features, Run, features_mark, read_features, read_run
from tools.webui.training_steps import STAGES
from tools.webui.training_view import features_html, job_html, newest_job, run_html, work_key

KEPT = 16
"""Folders that are remembered; a page looks at three of them."""


@dataclass(frozen=True)
class Look:
    """What a page shows of an experiment.

    Args:
        texts: HTML of "extract", "vits2" and "gpt".
        revision: changes when features or runs come or go, or a job begins or ends.
    """

    texts: dict[str, str]
    revision: str


class Looker:
    """Looks at experiments. May be asked from several threads.

    Args:
        services: of the page.
    """

    def __init__(self, services: Services):
        self.services = services
        self._features = functools.lru_cache(KEPT)(lambda folder, mark: read_features(folder))
        self._run = functools.lru_cache(KEPT)(lambda folder, mark: read_run(folder))

    def features(self, experiment: Experiment) -> Features | None:
        """What its formatting has made."""
        mark = features_mark(experiment.features)
        return self._features(experiment.features, mark) if mark else None

    def run(self, experiment: Experiment, stage: str) -> Run | None:
        """How far one of its trainings is."""
        folder = experiment.run(stage)
        return self._run(folder, _mark(folder / CHECKPOINT))

    def usual_beginning(self, experiment: Experiment, stage: str) -> str:
        """How its training most likely goes on: "begin", "resume" or "data_added"."""
        run, features = self.run(experiment, stage), self.features(experiment)
        if run is None:
            return "begin"
        changed = features is not None and features.fingerprint and run.data and run.data != features.fingerprint
        return "data_added" if changed else "resume"

    def look(self, experiment: Experiment | None, say: Translator) -> Look:
        """Everything; empty texts for no experiment."""
        if experiment is None:
            return Look(dict.fromkeys(("extract", *STAGES), ""), "")
        jobs, chains = self.services.jobs, self.services.chains
        features = self.features(experiment)
        texts, marks = {}, [experiment.name, features_mark(experiment.features)]
        for name in ("extract", *STAGES):
            output = experiment.run(name) if name in STAGES else experiment.features
            job = newest_job(jobs, work_key(name, output))
            shown = job_html(job, chains, say)
            if name in STAGES:
                run = self.run(experiment, name)
                texts[name] = run_html(run, say) + shown
                marks.append(str(run is not None))
            else:
                texts[name] = shown + features_html(features, say)
            marks.append(f"{job.id}:{job.state()}" if job is not None else "")
        return Look(texts, "|".join(marks))


def _mark(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
