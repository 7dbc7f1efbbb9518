"""1B: the two trainings, with their knobs, their command lines and their starts."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.training.suggestions import GPTOptions, VITS2Options
from tools.webui.controls import build_controls, controls_of
from tools.webui.messages import inform
from tools.webui.presets import check_models
from tools.webui.step_panel import TOLD, Desk
from tools.webui.steps import Work
from tools.webui.training_format_panel import NAMES, QUICK_SECONDS, stopper
from tools.webui.training_state import read_features
from tools.webui.training_steps import (
    BEGINNINGS,
    check_beginning,
    experiment_of,
    pretrained,
    train_work,
)
from tools.webui.training_whole import whole_works

FIRST = {
    "vits2": {
        "batch_seconds": ("training.batch_seconds", "training.batch_seconds_hint"),
        "epochs": ("training.epochs", ""),
        "save_every_epochs": ("training.save_every_epochs", "training.save_every_epochs_hint"),
        "max_minutes": ("training.max_minutes", "training.max_minutes_hint"),
        "learning_rate": ("training.learning_rate", ""),
        "text_rate": ("training.text_rate", "training.text_rate_hint"),
    },
    "gpt": {
        "batch_frames": ("training.batch_frames", "training.batch_frames_hint"),
        "epochs": ("training.epochs", ""),
        "save_every_epochs": ("training.save_every_epochs", "training.save_every_epochs_hint"),
        "max_minutes": ("training.max_minutes", "training.max_minutes_hint"),
        "learning_rate": ("training.learning_rate", ""),
    },
}
FURTHER = {
    "window_seconds": ("training.window_seconds", "training.window_seconds_hint"),
    "warmup_steps": ("training.warmup_steps", "training.warmup_steps_hint"),
    "precision": ("training.precision", "training.precision_hint"),
    "samples": ("training.samples", "training.samples_hint"),
    "save_small": ("training.save_small", "training.save_small_hint"),
    "keep_latest": ("training.keep_latest", "training.keep_latest_hint"),
    "tensorboard": ("training.tensorboard", "training.tensorboard_hint"),
}
CHOICES = {"precision": {"auto": "training.precision_auto"}}
STAGE_NAMES = {"vits2": "training.vits2_file", "gpt": "training.gpt_file"}
OPTIONS = {"vits2": VITS2Options, "gpt": GPTOptions}
HEADINGS = {
    "vits2": ("training.vits2_heading", "training.vits2_about", "training.vits2_start"),
    "gpt": ("training.gpt_heading", "training.gpt_about", "training.gpt_start"),
}


class StagePanel:
    """The knobs of one training, its command line and its start.

    Args:
        desk: of the tab; its form gets `{stage}_{option}`, `{stage}_gpus` and `{stage}_beginning`.
        stage: "vits2" or "gpt".
        devices: tells how many GPUs there are.
    """

    def __init__(self, desk: Desk, stage: str, devices: Callable[[], int]):
        form, i18n = desk.form, desk.i18n
        heading, about, start_key = HEADINGS[stage]
        gr.Markdown(i18n(heading))
        gr.Markdown(i18n(about), elem_classes="quiet")
        controls = controls_of(OPTIONS[stage])
        with gr.Row(elem_classes="options"):
            self.options = build_controls(form, stage, controls, FIRST[stage], i18n)
            if stage == "gpt":
                self.options.append(_build_rank(desk))
            gpus = gr.Number(1, label=i18n("training.gpus"), minimum=1, visible=False, elem_id=f"{stage}-gpus")
            form.add(f"{stage}_gpus", gpus)
        known = {control.name for control in controls}
        further = {name: texts for name, texts in FURTHER.items() if name in known}
        with (
            gr.Accordion(i18n("dataset.options"), open=False, elem_id=f"{stage}-options"),
            gr.Row(elem_classes="options"),
        ):
            self.options += build_controls(form, stage, controls, further, i18n, CHOICES)
        form.add(f"{stage}_beginning", _beginning(desk, stage))
        with gr.Row():
            start = gr.Button(
                i18n(start_key), variant="primary", min_width=150, scale=3, elem_id=f"{stage}-start"
            )  # fmt: skip
            stop = gr.Button(i18n("training.stop"), variant="stop", min_width=110, scale=1, elem_id=f"{stage}-stop")
        self.state = gr.HTML("", elem_id=f"{stage}-state")
        self.command = gr.Code(
            "", language=None, label=i18n("training.command"), interactive=False, wrap_lines=True,
            lines=3, max_lines=12, show_line_numbers=False, elem_id=f"{stage}-command",
        )  # fmt: skip
        self.names = [*self.options, f"{stage}_gpus", f"{stage}_beginning"]
        inputs = form.only((*NAMES, *self.names))
        start.click(training_starter(desk, stage, devices), inputs_kwargs=inputs, outputs=desk.timer, **TOLD)
        stop.click(stopper(desk, stage), form["training_experiment"], None, **TOLD)


def build_whole(desk: Desk, names: list[str], devices: Callable[[], int]) -> None:
    """The button that formats, trains both parts and compares what came out, and the one that ends that.

    Args:
        desk: of the tab.
        names: all controls of the trainings.
        devices: tells how many GPUs there are.
    """
    gr.Markdown(desk.i18n("training.whole_about"), elem_classes="quiet")
    with gr.Row():
        button = gr.Button(
            desk.i18n("training.whole_start"), variant="primary", min_width=150, scale=3, elem_id="training-whole"
        )
        stop = gr.Button(
            desk.i18n("training.stop"), variant="stop", min_width=110, scale=1, elem_id="training-whole-stop"
        )
    inputs = desk.form.only((*NAMES, *names))
    button.click(whole_starter(desk, devices), inputs_kwargs=inputs, outputs=desk.timer, **TOLD)
    stop.click(stopper(desk), desk.form["training_experiment"], None, **TOLD)


def whole_starter(desk: Desk, devices: Callable[[], int] = lambda: 1) -> Callable[..., dict]:
    """A callback that starts the chain of all steps, once everything of every step is found right."""

    @desk.guard
    def start(request: gr.Request, **values: Any) -> dict:
        services, say = desk.services, desk.say(request)
        experiment = experiment_of(values, services.logs, services.weights)
        values = within_devices(values, devices())
        check_models(str(values.get("training_preset") or ""), services)
        whole = whole_works(values, experiment, pretrained(values, services.weights), services.engine.device)
        with desk.naming(say):
            services.chains.start(whole.works)
        for stage in whole.over:
            inform(say, "training.left_out", stage=say(STAGE_NAMES[stage]))
        inform(say, "training.whole_started", count=len(whole.works), folder=experiment.folder)
        return gr.update(value=QUICK_SECONDS)

    return start


def within_devices(values: Mapping[str, Any], devices: int) -> dict[str, Any]:
    """The values with no more GPUs than there are: the browser may remember another machine's, in a box not shown."""
    gpus = {name: values.get(name) for name in (f"{stage}_gpus" for stage in STAGE_NAMES)}
    return {**values, **{name: min(number, devices) for name, number in gpus.items() if number}}


def prepare_training(desk: Desk, stage: str, values: Mapping[str, Any], devices: int = 1) -> Work:
    """The training that the controls describe, on at most so many GPUs.

    Raises:
        UserError: experiment_name, preset_unknown, and as `train_work` does.
    """
    services = desk.services
    experiment = experiment_of(values, services.logs, services.weights)
    files, values = pretrained(values, services.weights), within_devices(values, devices)
    return train_work(stage, values, experiment, files, services.engine.device)


def training_starter(desk: Desk, stage: str, devices: Callable[[], int] = lambda: 1) -> Callable[..., dict]:
    """A callback that puts a training into the queue, once all that can be told without computing is found right."""

    @desk.guard
    def start(request: gr.Request, **values: Any) -> dict:
        services, say = desk.services, desk.say(request)
        work = prepare_training(desk, stage, values, devices())
        check_models(str(values.get("training_preset") or ""), services)
        experiment = experiment_of(values, services.logs, services.weights)
        with desk.naming(say):
            services.jobs.refuse_twice(work.work_key)
            features = read_features(experiment.features)
            if features is None or not features.heard.clips:
                raise UserError(
                    "training_not_formatted",
                    "There is nothing to train on in {folder} yet; format the dataset first (1A).",
                    folder=experiment.features,
                )
            if stage == "gpt" and not features.has_codes:
                raise UserError(
                    "training_codes_missing",
                    "There are no speech tokens in {folder} yet, because the decoder learns them. Train the decoder, "
                    "make the speech tokens (1A), then start this again.",
                    folder=experiment.features,
                )
            check_beginning(stage, values, experiment, features.fingerprint_for(stage))
            work.start(services.jobs)
        inform(say, "training.started", folder=work.output)
        return gr.update(value=QUICK_SECONDS)

    return start


def _build_rank(desk: Desk) -> str:
    i18n = desk.i18n
    box = gr.Dropdown(
        [(i18n("training.lora_whole"), 0), *((str(rank), rank) for rank in (16, 32, 64, 128))],
        value=GPTOptions().lora_rank,
        label=i18n("training.lora_rank"),
        info=i18n("training.lora_rank_hint"),
        filterable=False,
        min_width=180,
        elem_id="gpt-lora-rank",
    )
    desk.form.add("gpt_lora_rank", box)
    return "gpt_lora_rank"


def _beginning(desk: Desk, stage: str) -> gr.Radio:
    i18n = desk.i18n
    labels = {
        "begin": i18n("training.beginning_begin"),
        "resume": i18n("training.beginning_resume"),
        "data_added": i18n("training.beginning_data_added"),
        "start_over": i18n("training.beginning_start_over"),
    }
    return gr.Radio(
        [(labels[name], name) for name in BEGINNINGS],
        value="begin",
        label=i18n("training.beginning"),
        info=i18n("training.beginning_hint"),
        elem_id=f"{stage}-beginning",
    )
