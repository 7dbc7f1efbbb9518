"""A training as it goes on: its state, its curves, samples of every save, and the scores of its checkpoints."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from modules.errors import UserError
from modules.experiment import Experiment
from modules.training.history import HistoryReader, RunHistory, SavedSamples
from tools.jobs import Job
from tools.webui import run_pick, run_view
from tools.webui.messages import Translator, inform
from tools.webui.run_pick import Pick, best_weights, fingerprint, pick_html, read_pick, row_choices, start_pick
from tools.webui.run_rows import ListeningRows, Parts
from tools.webui.run_view import STAGES, jobs_of, plots_html, samples_html, save_choices, save_key, status_html
from tools.webui.step_panel import QUIET, TOLD, Desk
from tools.webui.training_steps import experiment_of

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
    pick_mark: tuple[int, int] | None
    chosen_row: str


class RunPanel:
    """The panel, built inside the current block.

    Whoever builds it calls `follow` with the events at which it looks at the disk: a timer's tick and the page's load.
    All of it is read from the disk, so a reload or a restart shows it again.

    Args:
        desk: of the tab; a started scoring is watched there.
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
            self.table, self.row, *self.pick_samples.outputs, self.use_button, self.seen,
        ]  # fmt: skip
        self.follow(experiment.change, self.stage.input, self.save.input, self.row.input)
        self._bind_start()
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
            self.use_button = gr.Button(i18n("run.use_best"), visible=False, elem_id="run-use-best")
        self.table = gr.HTML("", css_template=run_pick.CSS, elem_id="run-pick")
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
            experiment: its name; one that cannot be a name leaves the panel as it is.
            request: tells the reader's language.
            held: values of `inputs`; without "run_seen" all is sent.
        """
        seen = held.get("run_seen") or {}
        try:
            look = self._look(experiment, held)
        except UserError:
            return {self.seen: gr.skip()}  # half a name; when it is whole, this goes on
        parts = self._parts(look, self.desk.say(request))
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

    def _look(self, name: str, held: Mapping[str, Any]) -> _Look:
        found = self._experiment(name)
        jobs = jobs_of(self.desk.services.jobs, found.name)
        states = {stage: _state(job) for stage, job in jobs.items()}
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
        pick = self._pick(path, mark) if mark is not None else None
        return _Look(
            found, stage, history, jobs.get(stage), states.get(stage, ""), save, chosen if chosen in saves else NEWEST,
            pick, mark, str(held.get("run_row") or ""),
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
        usable = self._use is not None and pick is not None and bool(pick.best)
        return {
            "table": ((name, look.pick_mark, left), lambda: {self.table: pick_html(pick, left, say)}),
            "rows": (
                (name, look.pick_mark),
                lambda: {self.row: gr.update(choices=choices, value=chosen, visible=bool(choices))},
            ),
            "usable": (usable, lambda: {self.use_button: gr.update(visible=usable)}),
            **self.pick_samples.parts(rows[chosen].samples if chosen else (), look.experiment.folder, say),
        }

    def _bind_start(self) -> None:
        desk = self.desk

        @desk.guard
        def start(name: str, watched: list[str], request: gr.Request) -> dict:
            """Put the scoring into the queue."""
            say, found = desk.say(request), self._experiment(name)
            with desk.naming(say):
                job = start_pick(desk.services, found)
            inform(say, "run.pick_started")
            return {desk.watched: [*watched, job.id], desk.timer: gr.Timer(active=True)}

        self.start.click(start, [self.experiment, desk.watched], [desk.watched, desk.timer], **TOLD)

    def bind_use(self, use: Use, outputs: Sequence[Component]) -> None:
        """Let the button "Use the best" hand the best weights to `use`, which may update these components."""
        desk, self._use = self.desk, use

        @desk.guard
        def use_best(name: str, request: gr.Request) -> dict:
            """Choose the best weights wherever they are used."""
            pick = read_pick(self._experiment(name).folder / run_pick.PICK_NAME)
            vits2, gpt = best_weights(desk.services, pick)
            updates = use(vits2, gpt)
            inform(desk.say(request), "run.best_used")
            return updates

        self.use_button.click(use_best, [self.experiment], list(outputs), **TOLD)


def _state(job: Job) -> str:
    try:
        return job.state()
    except UserError:
        return ""  # it was removed while we looked
