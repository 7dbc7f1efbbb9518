"""A training as it goes on: its state, its curves, samples of every save, and the scores of its weights."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from modules.errors import UserError
from modules.experiment import Experiment
from modules.training.history import HistoryReader, RunHistory, SavedSamples
from tools.jobs import Job
from tools.webui import run_pick, run_pick_view, run_view
from tools.webui.messages import Translator, inform
from tools.webui.run_pick import Pick, best_weights, current, fingerprint, read_pick, start_pick
from tools.webui.run_pick_view import pick_html, row_choices
from tools.webui.run_rows import ListeningRows, Parts
from tools.webui.run_view import STAGES, jobs_of, plots_html, samples_html, save_choices, save_key, status_html
from tools.webui.step_panel import QUIET, TOLD, Desk
from tools.webui.training_steps import experiment_of, pretrained
from tools.webui.training_view import job_html

SAMPLE_ROWS, PICK_ROWS = 6, 4
NEWEST = ""
"""The choice that follows the training that runs, or the newest save."""
_KEPT_READERS = 16

Use = Callable[[str, str], dict]
"""Takes the file names of the best VITS2 and GPT weights ("" for the preset's own), gives updates of components."""


@dataclass(frozen=True)
class _Look:
    """What the disk says, and what the visitor chose."""

    experiment: Experiment
    stage: str
    history: RunHistory
    job: Job | None
    state: str
    save: SavedSamples | None
    chosen_save: str
    pick: Pick | None
    pick_mark: tuple | None
    outdated: bool
    pick_job: Job | None
    pick_state: str
    chosen_row: str


class RunPanel:
    """The panel, built inside the current block.

    Whoever builds it calls `follow` with the events at which it looks at the disk: a timer's tick and the page's load.
    All of it is read from the disk, so a reload or a restart shows it again.

    Args:
        desk: of the tab; where its form has a base model ("training_preset"), the scoring uses that.
        experiment: holds the name of the experiment.
        use: if given, a button hands it the best weights.
        use_outputs: components that `use` may update.
    """

    def __init__(
        self, desk: Desk, experiment: Component, use: Use | None = None, use_outputs: Sequence[Component] = ()
    ):
        self.desk, self.experiment = desk, experiment
        self._use: Use | None = None
        self._reader = functools.lru_cache(maxsize=_KEPT_READERS)(HistoryReader)
        self._pick = functools.lru_cache(maxsize=_KEPT_READERS)(lambda path, mark: read_pick(path))
        self._build_run()
        self._build_pick()
        self.seen = gr.State({})
        self.inputs: dict[str, Component] = {
            "run_stage": self.stage,
            "run_save": self.save,
            "run_row": self.row,
            "run_seen": self.seen,
        }
        self.outputs: list = [
            self.status, self.plots, self.save, self.about_samples, *self.samples.outputs,
            self.pick_job, self.stop, self.table, self.row, *self.pick_samples.outputs, self.use_button, self.seen,
        ]  # fmt: skip
        self.follow(experiment.change, self.stage.input, self.save.input, self.row.input)
        self._bind_start()
        self._bind_stop()
        if use is not None:
            self.bind_use(use, use_outputs)

    def _build_run(self) -> None:
        i18n = self.desk.i18n
        choices = [(i18n("run.stage_newest"), NEWEST), *((i18n(key), stage) for stage, key in STAGES.items())]
        self.stage = gr.Radio(choices, value=NEWEST, label=i18n("run.stage"), elem_id="run-stage")
        self.status = gr.HTML("", css_template=run_view.CSS, elem_id="run-status")
        self.plots = gr.HTML("", css_template=run_view.CSS, elem_id="run-plots")
        gr.Markdown(i18n("run.samples_heading"))
        self.save = gr.Dropdown(
            [(i18n("run.no_save"), NEWEST)],
            value=NEWEST,
            label=i18n("run.choose_save"),
            filterable=False,
            visible=False,
            elem_id="run-save",
        )
        self.about_samples = gr.HTML("", css_template=run_view.CSS, elem_id="run-samples-about")
        self.samples = ListeningRows("run-sample", SAMPLE_ROWS, i18n)

    def _build_pick(self) -> None:
        i18n = self.desk.i18n
        gr.Markdown(i18n("run.pick_heading"))
        with gr.Row():
            self.start = gr.Button(i18n("run.start_pick"), variant="primary", elem_id="run-pick-start")
            self.stop = gr.Button(i18n("run.stop_pick"), variant="stop", visible=False, elem_id="run-pick-stop")
            self.use_button = gr.Button(i18n("run.use_best"), visible=False, elem_id="run-use-best")
        self.pick_job = gr.HTML("", elem_id="run-pick-job")
        self.table = gr.HTML("", css_template=run_pick_view.CSS, elem_id="run-pick")
        self.row = gr.Dropdown(
            [], value=None, label=i18n("run.choose_row"), filterable=False, visible=False, elem_id="run-row"
        )
        self.pick_samples = ListeningRows("run-pick-sample", PICK_ROWS, i18n)

    def follow(self, *events: Callable) -> None:
        """Look at the disk at these events of Gradio, such as `timer.tick` and `app.load`."""
        inputs = {"experiment": self.experiment, **self.inputs}
        for event in events:
            event(self.desk.guard(self.refresh), inputs_kwargs=inputs, outputs=self.outputs, **QUIET)

    def refresh(self, experiment: str, request: gr.Request, **held: Any) -> dict:
        """Updates of what has changed since the last look, and of nothing else.

        Args:
            experiment: its name; one that cannot be a name empties the panel.
            request: tells the reader's language.
            held: values of `inputs`; without "run_seen" all is sent.
        """
        seen, say = held.get("run_seen") or {}, self.desk.say(request)
        try:
            found = self._experiment(experiment)
        except UserError:
            parts = self._no_parts(say)  # half a name; when it is whole, this goes on
        else:
            parts = self._parts(self._look(found, held), say)
        changed = {name: part for name, part in parts.items() if name not in seen or seen[name] != part[0]}
        if not changed:
            return {self.seen: gr.skip()}
        updates: dict = {}
        for _, build in changed.values():
            updates |= build()
        return {**updates, self.seen: {**seen, **{name: part[0] for name, part in changed.items()}}}

    def _experiment(self, name: object) -> Experiment:
        """Raises UserError: experiment_name, experiment_reserved."""
        services = self.desk.services
        return experiment_of({"training_experiment": name}, services.logs, services.weights)

    def _look(self, found: Experiment, held: Mapping[str, Any]) -> _Look:
        jobs = jobs_of(self.desk.services.jobs, found.name)
        states = {step: _state(job) for step, job in jobs.items()}
        histories = {stage: self._reader(found.run(stage)).read() for stage in STAGES}
        stage = held.get("run_stage") or max(
            STAGES, key=lambda stage: (states.get(stage) == "running", histories[stage].time)
        )
        history = histories[stage]
        saves = {save_key(stage, save): save for save in history.samples}
        chosen = held.get("run_save") or NEWEST
        save = saves.get(chosen) or next(iter(saves.values()), None)
        path = found.folder / run_pick.PICK_NAME
        mark = fingerprint(path)
        read = self._pick(path, mark) if mark is not None else None
        pick = current(read, found) if read is not None else None
        return _Look(
            found, stage, history, jobs.get(stage), states.get(stage, ""), save, chosen if chosen in saves else NEWEST,
            pick, (mark, tuple(row.key for row in pick.rows)) if pick is not None else None,
            pick is not None and pick.best != read.best, jobs.get("pick"), states.get("pick", ""),
            str(held.get("run_row") or ""),
        )  # fmt: skip

    def _parts(self, look: _Look, say: Translator) -> Parts:
        """Every part of the panel with what it depends on."""
        run = (look.experiment.name, look.stage, look.history.revision)
        job = (look.job.id, look.state) if look.job is not None else None
        return {
            "status": (
                (*run, job),
                lambda: {self.status: status_html(look.stage, look.history, look.job, look.state, say)},
            ),
            "plots": (run, lambda: {self.plots: plots_html(look.history, say)}),
            **self._sample_parts(look, say),
            **self._pick_parts(look, say),
        }

    def _no_parts(self, say: Translator) -> Parts:
        """The same parts with nothing in them."""
        nothing = {
            "status": self.status,
            "plots": self.plots,
            "about_samples": self.about_samples,
            "pick_job": self.pick_job,
            "table": self.table,
        }
        hidden = {"stop": self.stop, "usable": self.use_button}
        choices = {"saves": self.save, "rows": self.row}
        return {
            **{name: (None, lambda part=part: {part: ""}) for name, part in nothing.items()},
            **{name: (False, lambda part=part: {part: gr.update(visible=False)}) for name, part in hidden.items()},
            **{name: (None, lambda part=part: {part: gr.update(visible=False)}) for name, part in choices.items()},
            **self.samples.parts((), Path(), say),
            **self.pick_samples.parts((), Path(), say),
        }

    def _sample_parts(self, look: _Look, say: Translator) -> Parts:
        saves = tuple((save_key(look.stage, save), save.epoch) for save in look.history.samples)
        key = save_key(look.stage, look.save) if look.save is not None else ""

        def choices() -> dict:
            found = save_choices(look.stage, look.history, NEWEST, say)
            words = found or [(say("run.no_save"), NEWEST)]
            return {self.save: gr.update(choices=words, value=look.chosen_save, visible=bool(found))}

        items = look.save.items if look.save is not None else ()
        return {
            "saves": ((look.experiment.name, saves), choices),
            "about_samples": (
                (look.experiment.name, key),
                lambda: {self.about_samples: samples_html(look.save, SAMPLE_ROWS, say)},
            ),
            **self.samples.parts(items, look.experiment.folder, say),
        }

    def _pick_parts(self, look: _Look, say: Translator) -> Parts:
        name, pick = look.experiment.name, look.pick
        rows = {row.key: row for row in pick.rows if row.samples} if pick is not None else {}
        choices = row_choices(pick, say)
        chosen = look.chosen_row if look.chosen_row in rows else (choices[0][1] if choices else None)
        left = run_pick.unscored(pick, look.experiment)
        usable = self._use is not None and pick is not None and bool(pick.best) and not look.outdated
        job = self._job_html(look, say)
        active = look.pick_state in ("waiting", "running")
        return {
            "pick_job": (job, lambda: {self.pick_job: job}),
            "stop": (active, lambda: {self.stop: gr.update(visible=active)}),
            "table": ((name, look.pick_mark, left), lambda: {self.table: pick_html(pick, left, look.outdated, say)}),
            "rows": (
                (name, look.pick_mark),
                lambda: {self.row: gr.update(choices=choices, value=chosen, visible=bool(choices))},
            ),
            "usable": (usable, lambda: {self.use_button: gr.update(visible=usable)}),
            **self.pick_samples.parts(rows[chosen].samples if chosen else (), look.experiment.folder, say),
        }

    def _job_html(self, look: _Look, say: Translator) -> str:
        try:
            return job_html(look.pick_job, self.desk.services.chains, say)
        except UserError:
            return ""  # it was removed while we looked

    def _bind_start(self) -> None:
        desk = self.desk

        @desk.guard
        def start(name: str, request: gr.Request, training_preset: str | None = None) -> None:
            """Put the scoring into the queue."""
            services, say, found = desk.services, desk.say(request), self._experiment(name)
            files = pretrained({"training_preset": training_preset}, services.weights) if training_preset else None
            with desk.naming(say):
                start_pick(services, found, files, services.engine.device)
            inform(say, "run.pick_started")

        known = desk.form.only(name for name in ("training_preset",) if name in desk.form)
        self.start.click(start, inputs_kwargs={"name": self.experiment, **known}, outputs=None, **TOLD)

    def _bind_stop(self) -> None:
        desk = self.desk

        @desk.guard
        def stop(name: str, request: gr.Request) -> None:
            """End the scoring, and the chain that it belongs to."""
            services, say = desk.services, desk.say(request)
            job = jobs_of(services.jobs, self._experiment(name).name).get("pick")
            if job is None or _state(job) not in ("waiting", "running"):
                inform(say, "message.nothing_to_stop")
            elif services.chains.stop(job.id):
                inform(say, "jobs.chain_stopped")
            else:
                job.stop()
                inform(say, "jobs.stopped")

        self.stop.click(stop, inputs_kwargs={"name": self.experiment}, outputs=None, **TOLD)

    def bind_use(self, use: Use, outputs: Sequence[Component]) -> None:
        """Let the button "Use the best" hand the best weights to `use`, which may update these components."""
        desk, self._use = self.desk, use

        @desk.guard
        def use_best(name: str, request: gr.Request) -> dict:
            """Choose the best weights wherever they are used."""
            found = self._experiment(name)
            vits2, gpt = best_weights(desk.services, found, read_pick(found.folder / run_pick.PICK_NAME))
            updates = use(vits2, gpt)
            inform(desk.say(request), "run.best_used")
            return updates

        self.use_button.click(use_best, [self.experiment], list(outputs), **TOLD)


def _state(job: Job) -> str:
    try:
        return job.state()
    except UserError:
        return ""  # it was removed while we looked
