"""The tab "Train": from a dataset list to a voice of its own. Joins its panels; each step is a job."""

import functools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from modules.errors import UserError
from modules.experiment import Experiment, experiment_name
from modules.training.suggestions import Machine, Speech
from tools.webui.form import Form
from tools.webui.messages import Translator
from tools.webui.options_panel import chosen_preset, chosen_weights
from tools.webui.presets import check_models, preset_of
from tools.webui.run_panel import RunPanel
from tools.webui.services import Services
from tools.webui.settings import browser_memory, fits
from tools.webui.step_panel import QUIET, Desk
from tools.webui.training_beginnings import Beginnings, find_beginnings
from tools.webui.training_format_panel import NAMES, QUICK_SECONDS, build_format_panel
from tools.webui.training_head_panel import FIRST_NAME, build_training_head, preset_choices
from tools.webui.training_look import Looker
from tools.webui.training_scratch import suggested_options
from tools.webui.training_stage_panel import StagePanel, build_whole, prepare_training
from tools.webui.training_state import experiments, fill, find_machine, newest_list
from tools.webui.training_steps import (
    PRETRAINED_BOXES,
    STAGES,
    Pretrained,
    command_text,
    experiment_of,
    shown_path,
)
from tools.webui.training_view import suggestion_words

IDLE_SECONDS = 10.0
"""Between two looks at the disk while nothing goes on."""
USUAL = Speech(35, 120.0)
"""What knobs are set for while the speech is not known."""
STORAGE_KEY = "gpt-sovits2.training"
STORAGE_SECRET = "knobs-of-the-page"
"""Only keeps the stored value readable after a restart; it protects nothing and hides nothing."""


def build_training_tab(app: gr.Blocks, services: Services, i18n: gr.I18n) -> "TrainingTab":
    """Build the tab inside the current `gr.Tab`."""
    return TrainingTab(app, Desk(Form(), services, i18n, gr.State([]), gr.Timer(QUICK_SECONDS)))


class TrainingTab:
    """The tab, and how it is brought up to date.

    Three values of the page steer it: `offered` (list and name that were filled in for the reader), `filled` (knobs
    and beginnings that were), and `seen`, which is what the page shows.
    """

    def __init__(self, app: gr.Blocks, desk: Desk):
        i18n, form = desk.i18n, desk.form
        self.desk, self.services = desk, desk.services
        self.machine = functools.lru_cache(1)(self._find_machine)
        self.looker = Looker(desk.services)
        gr.Markdown(i18n("training.about"), elem_classes="quiet")
        build_training_head(desk)
        self.machine_line = gr.Markdown("", elem_classes="quiet", elem_id="training-machine")
        self.states = {"extract": build_format_panel(desk)}
        gr.Markdown(i18n("training.train_heading"))
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=260):
                self.suggestion = gr.Markdown("", elem_classes="quiet", elem_id="training-suggestion")
            with gr.Column(scale=1, min_width=220):
                again = gr.Button(i18n("training.suggest_again"), size="sm", elem_id="training-suggest")
        with gr.Row(equal_height=False):
            self.panels = {}
            for stage in STAGES:
                with gr.Column(min_width=300):
                    self.panels[stage] = StagePanel(desk, stage, self.devices)
        self.knobs = [name for panel in self.panels.values() for name in panel.options]
        names = [name for panel in self.panels.values() for name in panel.names]
        self.beginnings = [f"{stage}_beginning" for stage in STAGES]
        build_whole(desk, names, self.devices)
        self.tensorboard = gr.Markdown("", elem_classes="quiet", elem_id="training-tensorboard")
        gr.Markdown(i18n("training.listen_heading"))
        self.run = RunPanel(desk, form["training_experiment"])
        self.run.follow(desk.timer.tick, app.load)
        self.states |= {stage: panel.state for stage, panel in self.panels.items()}
        self.offered: gr.State = gr.State({"training_experiment": FIRST_NAME})
        self.filled: gr.State = gr.State({name: form[name].value for name in self.knobs})
        self.seen: gr.State = gr.State({})
        self._bind(app, again, [*NAMES, *names])

    def bind_inference(self, inference: Form) -> None:
        """Let the panel of the runs hand the best weights to the inference tab."""

        def use(vits2: str, gpt: str) -> dict[Any, Any]:
            weights = self.services.weights
            files = [path for path in (weights.gpt_file(gpt), weights.vits2_file(vits2)) if path is not None]
            preset = next((name for name in map(preset_of, files) if name in weights.preset_names()), None)
            if preset:
                check_models(preset, self.services)
            chosen = chosen_preset(inference, self.services, preset) if preset else {}
            return chosen | chosen_weights(inference, self.services, self.desk.i18n, gpt, vits2)

        self.run.bind_use(use, [inference[name] for name in ("preset", "gpt_weights", "vits2_weights")])

    def _bind(self, app: gr.Blocks, again: gr.Button, names: list[str]) -> None:
        desk, form = self.desk, self.desk.form
        kept = ["training_experiment", "training_preset", "extract_source", *self.knobs, *self.beginnings]
        inputs = {
            **form.only(kept), "offered": self.offered, "filled": self.filled, "seen": self.seen, "pace": desk.timer,
        }  # fmt: skip
        knobs = [form[name] for name in (*self.knobs, *self.beginnings)]
        outputs = [
            form["training_experiment"], form["extract_source"], *self.states.values(), *knobs, self.suggestion,
            self.offered, self.filled, self.seen, desk.timer,
        ]  # fmt: skip
        polling: dict[str, Any] = {"fn": desk.guard(self.poll), "inputs_kwargs": inputs, "outputs": outputs, **QUIET}
        preset = form["training_preset"]
        events = [desk.timer.tick, form["training_experiment"].change, preset.change]
        events += [form[name].change for name in self.beginnings]
        if isinstance(Context.block, gr.Tab):  # else it is not opened but there
            events.append(Context.block.select)
        for event in events:
            event(**polling)
        again.click(**{**polling, "fn": desk.guard(self.suggest)})
        preset.change(self.show_files, preset, [form[name] for name in PRETRAINED_BOXES], **QUIET)
        self._remember(app, names, polling)
        machine = [self.machine_line, preset, *(form[f"{stage}_gpus"] for stage in STAGES)]
        app.load(desk.guard(self.show_machine), None, machine, **QUIET)

    def _remember(self, app: gr.Blocks, names: list[str], polling: dict[str, Any]) -> None:
        """Store the boxes and knobs in the browser; let the command lines follow them; put them back on loading."""
        form = self.desk.form
        state = browser_memory(app, STORAGE_KEY, STORAGE_SECRET)
        kept = form.only(name for name in names if not name.endswith("_beginning"))
        lines = [*(panel.command for panel in self.panels.values()), self.tensorboard]

        def restore(stored: Any) -> dict:
            values = restored(form, list(kept), stored)
            return {
                **{component: values.get(name, gr.skip()) for name, component in kept.items()},
                self.offered: values.get("offered", gr.skip()),
                self.filled: values.get("filled", gr.skip()),
                self.seen: {"restored": True},
            }

        following: dict[str, Any] = {
            "fn": self.desk.guard(self.follow),
            "inputs_kwargs": {**form.only(names), "offered": self.offered, "filled": self.filled},
            "outputs": [state, *lines],
            **QUIET,
        }
        loaded = app.load(restore, state, [*kept.values(), self.offered, self.filled, self.seen], **QUIET)
        loaded.then(**polling).then(**following)
        # States change together with the boxes that they tell of.
        gr.on([box.change for box in form.only(names).values()], trigger_mode="always_last", **following)

    def poll(
        self,
        request: gr.Request,
        offered: dict,
        filled: dict,
        seen: dict,
        pace: float | None = QUICK_SECONDS,
        suggest: bool = False,
        **values: Any,
    ) -> dict[Any, Any]:
        """Send what has changed since the last look, and nothing else.

        Args:
            request: tells the reader's language.
            offered, filled: what was filled into boxes, and into knobs and beginnings, before.
            seen: what the page shows; empty until the boxes hold what the browser remembers.
            pace: seconds between two ticks of the timer.
            suggest: put the suggestions into all knobs, changed ones too.
            values: of the boxes, knobs and beginnings.
        """
        if not seen:
            return {self.seen: gr.skip()}  # what is filled in now would come after what is put back
        form, logs, say = self.desk.form, self.services.logs, self.desk.say(request)
        name = values.pop("training_experiment")
        updates: dict[Any, Any] = {}
        offer = self._offer(name, offered)
        boxes = fill({"extract_source": values.pop("extract_source"), "training_experiment": name}, offered, offer)
        if offer:
            updates = {**form.updates(boxes), self.offered: offer}
            name = boxes.get("training_experiment", name)
        if (choices := experiments(logs)) != seen.get("choices"):
            updates[form["training_experiment"]] = gr.update(choices=choices, value=name)
        experiment = self._experiment(name)
        look = self.looker.look(experiment, say)
        if pace != (wanted := QUICK_SECONDS if look.busy else IDLE_SECONDS):
            updates[self.desk.timer] = gr.update(value=wanted)
        updates |= {self.states[key]: text for key, text in look.texts.items() if text != seen.get(key)}
        preset = values.pop("training_preset")
        revision = f"{preset}|{look.revision}"
        shown = {name: values.pop(name) for name in self.beginnings}
        if suggest or revision != seen.get("revision") or shown != seen.get("beginnings"):
            begins = find_beginnings(self.looker, form, experiment, look, filled, seen, shown)
            updates |= self._fit(experiment, preset, begins, filled, values, suggest, say)
            shown = begins.shown
        if not updates:
            return {self.seen: gr.skip()}
        now = {
            "experiment": experiment.name if experiment is not None else "",
            "beginnings": shown,
            "begun": look.begun,
            "choices": choices,
            "revision": revision,
        }
        return {**updates, self.seen: {"restored": True, **look.texts, **now}}

    def _offer(self, name: object, offered: dict) -> dict[str, str]:
        """The newest finished list where it is a new one and another dataset's would not get into what is there."""
        offer = offered_list(newest_list(self.services.logs))
        if offer == offered:
            return {}
        experiment = self._experiment(name)
        if experiment is None or experiment.name == offer.get("training_experiment"):
            return offer
        return {} if self.looker.has_work(experiment) else offer

    def suggest(self, request: gr.Request, **held: Any) -> dict[Any, Any]:
        """Put the suggestions into all knobs."""
        return self.poll(request, suggest=True, **held)

    def _fit(
        self,
        experiment: Experiment | None,
        preset: str,
        begins: Beginnings,
        filled: dict,
        values: dict[str, Any],
        suggest: bool,
        say: Translator,
    ) -> dict[Any, Any]:
        """Fit the knobs that nobody changed, and the beginnings, to what lies on the disk now."""
        features = self.looker.features(experiment) if experiment is not None else None
        suggested, words = self._suggested(features.heard if features is not None else None, preset, say)
        suggested |= begins.knobs
        updates = fill(values, {**filled, **values} if suggest else filled, suggested)
        updates |= {name: value for name, value in begins.turned.items() if value != values.get(name)}
        form = self.desk.form
        return {
            **form.updates(updates),
            self.filled: {**suggested, **begins.filled},
            self.suggestion: words,
        }

    def follow(self, request: gr.Request, offered: dict, filled: dict, **values: Any) -> tuple:
        """What the browser remembers, the command line of each training, and the line on TensorBoard."""
        say, lines = self.desk.say(request), []
        for stage in STAGES:
            try:
                lines.append(command_text(prepare_training(self.desk, stage, values, self.devices())))
            except UserError as error:
                lines.append(f"# {say.error(error)}")
        experiment = self._experiment(values["training_experiment"])
        board = ""
        if experiment is not None:
            command = f"tensorboard --logdir {shlex.quote(shown_path(experiment.folder))}"
            board = say("training.tensorboard_line", command=command)
        return {**values, "offered": offered, "filled": filled}, *lines, board

    def show_files(self, preset: str) -> list[dict]:
        """Name the files that empty boxes stand for."""
        files = Pretrained.of_preset(preset, self.services.weights)
        return [gr.update(placeholder=shown_path(getattr(files, part))) for part in PRETRAINED_BOXES.values()]

    def show_machine(self, request: gr.Request) -> dict[Any, Any]:
        """Looked up after the page is there, because it imports torch."""
        form, machine = self.desk.form, self.machine()
        words = self.desk.say(request)(
            "training.machine",
            device=self.services.engine.device_name(),
            memory=f"{machine.memory_bytes / (1 << 30):.0f}",
        )
        gpus = {form[f"{stage}_gpus"]: gr.update(visible=machine.devices > 1) for stage in STAGES}
        return {
            self.machine_line: words,
            form["training_preset"]: gr.update(choices=preset_choices(self.desk, self.desk.say(request))),
            **gpus,
        }

    def _suggested(self, speech: Speech | None, preset: str, say: Translator) -> tuple[dict[str, Any], str]:
        machine = self.machine()
        options = suggested_options(machine, speech or USUAL, preset, self.services.weights)
        named = {
            f"{stage}_{name}": value
            for stage, chosen in zip(STAGES, options)
            for name, value in vars(chosen).items()
            if f"{stage}_{name}" in self.desk.form
        }
        words = suggestion_words(self.services.engine.device_name(), machine, speech, options, say)
        return named, words

    def devices(self) -> int:
        """How many GPUs a training may use."""
        return max(1, self.machine().devices)

    def _find_machine(self) -> Machine:
        try:
            return find_machine(self.services.engine.device)
        except UserError:
            return Machine()  # the head of the page tells that there is no such device

    def _experiment(self, name: object) -> Experiment | None:
        """None while the name is no good; the start tells why."""
        try:
            return experiment_of({"training_experiment": name}, self.services.logs, self.services.weights)
        except UserError:
            return None


def offered_list(path: Path | None) -> dict[str, str]:
    """What a finished list fills in: itself, and the name of its dataset where that is one for an experiment."""
    if path is None:
        return {}
    try:
        return {"extract_source": str(path), "training_experiment": experiment_name(path.parent.name)}
    except UserError:
        return {"extract_source": str(path)}


def restored(form: Form, names: list[str], stored: object) -> dict[str, Any]:
    """The part of what the browser remembers that fits the controls, and what was filled into them."""
    if not isinstance(stored, Mapping):
        return {}
    values = {
        name: stored[name]
        for name in names
        if name in stored
        and (isinstance(stored[name], str) if name == "training_experiment" else fits(form[name], stored[name]))
    }
    return values | {name: stored[name] for name in ("offered", "filled") if isinstance(stored.get(name), dict)}
