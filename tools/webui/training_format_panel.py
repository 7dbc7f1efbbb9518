"""1A: the lines of a dataset into what a training reads."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from modules.errors import UserError
from tools.webui.messages import inform
from tools.webui.step_panel import TOLD, Desk
from tools.webui.training_steps import (
    EXTRACT,
    PRETRAINED_BOXES,
    STAGES,
    experiment_of,
    extract_work,
    pretrained,
)
from tools.webui.training_view import newest_job, work_key

NAMES = ("training_experiment", "training_preset", *PRETRAINED_BOXES, "extract_source", "extract_audio_folder")
"""Controls that formatting depends on."""


def build_format_panel(desk: Desk) -> gr.HTML:
    """Build the controls `extract_source` and `extract_audio_folder`, and the buttons; returns where the state goes."""
    form, i18n = desk.form, desk.i18n
    gr.Markdown(i18n("training.format_heading"))
    gr.Markdown(i18n("training.format_about"), elem_classes="quiet")
    with gr.Row(equal_height=False):
        source = gr.Textbox(
            "",
            label=i18n("training.list"),
            info=i18n("training.list_hint"),
            scale=3,
            min_width=260,
            max_lines=2,
            elem_id="extract-source",
        )
        form.add("extract_source", source)
        folder = gr.Textbox(
            "",
            label=i18n("training.audio_folder"),
            info=i18n("training.audio_folder_hint"),
            scale=2,
            min_width=220,
            max_lines=2,
            elem_id="extract-audio-folder",
        )
        form.add("extract_audio_folder", folder)
    with gr.Row():
        buttons = {
            "text": gr.Button(i18n("training.format_text"), min_width=90, elem_id="extract-text"),
            "audio": gr.Button(i18n("training.format_audio"), min_width=90, elem_id="extract-audio"),
            "speech": gr.Button(i18n("training.format_speech"), min_width=90, elem_id="extract-speech"),
        }
    with gr.Row():
        buttons[""] = gr.Button(
            i18n("training.format_all"), variant="primary", min_width=150, scale=3, elem_id="extract-start"
        )
        stop = gr.Button(i18n("training.stop"), variant="stop", min_width=110, scale=1, elem_id="extract-stop")
    state = gr.HTML("", elem_id="extract-state")
    inputs = {**form.only(NAMES), "watched": desk.watched}
    for part, button in buttons.items():
        button.click(format_starter(desk, part), inputs_kwargs=inputs, outputs=desk.watched, **TOLD)
    stop.click(stopper(desk, EXTRACT.name), form["training_experiment"], None, **TOLD)
    return state


def format_starter(desk: Desk, part: str = "") -> Callable[..., list[str]]:
    """A callback that puts the formatting, or one part of it, into the queue."""

    @desk.guard
    def start(request: gr.Request, watched: list[str], **values: Any) -> list[str]:
        services, say = desk.services, desk.say(request)
        experiment = experiment_of(values, services.logs, services.weights)
        work = extract_work(values, experiment, pretrained(values, services.weights), part)
        with desk.naming(say):
            job = work.start(services.jobs)
        inform(say, "dataset.started", output=work.output)
        return [*watched, job.id]

    return start


def stopper(desk: Desk, step: str) -> Callable[..., None]:
    """A callback that ends what runs or waits of a step of the experiment, and the chain that it belongs to."""

    @desk.guard
    def stop(name: str, request: gr.Request) -> None:
        services, say = desk.services, desk.say(request)
        experiment = experiment_of({"training_experiment": name}, services.logs, services.weights)
        output = experiment.run(step) if step in STAGES else experiment.features
        job = newest_job(services.jobs, work_key(step, output))
        if job is None or job.state() not in ("running", "waiting"):
            inform(say, "message.nothing_to_stop")
        elif services.chains.stop(job.id):
            inform(say, "jobs.chain_stopped")
        else:
            try:
                job.stop()
            except UserError as error:
                if error.code != "job_missing":
                    raise
            inform(say, "jobs.stopped")

    return stop
