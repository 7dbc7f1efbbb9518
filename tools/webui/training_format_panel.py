"""1A: the lines of a dataset into what a training reads."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.experiment import Experiment
from tools.jobs import Job
from tools.webui.messages import Translator, inform
from tools.webui.presets import check_models, quantises
from tools.webui.services import Services
from tools.webui.step_panel import QUIET, TOLD, Desk
from tools.webui.training_steps import (
    CODES,
    EXTRACT,
    PRETRAINED_BOXES,
    experiment_of,
    extract_work,
    pretrained,
)
from tools.webui.training_view import newest_job, work_keys

NAMES = ("training_experiment", "training_preset", *PRETRAINED_BOXES, "extract_source", "extract_audio_folder")
"""Controls that formatting depends on."""
QUICK_SECONDS = 2.0
"""Between two looks at the disk while something goes on."""


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
            "text": gr.Button(i18n("training.format_text"), min_width=150, elem_id="extract-text"),
            "audio": gr.Button(i18n("training.format_audio"), min_width=150, elem_id="extract-audio"),
            "speech": gr.Button(i18n("training.format_speech"), min_width=150, elem_id="extract-speech"),
        }
        buttons[CODES] = gr.Button(
            i18n("training.format_codes"), min_width=150, visible=False, elem_id="extract-codes"
        )  # fmt: skip
    with gr.Row():
        buttons[""] = gr.Button(
            i18n("training.format_all"), variant="primary", min_width=150, scale=3, elem_id="extract-start"
        )
        stop = gr.Button(i18n("training.stop"), variant="stop", min_width=110, scale=1, elem_id="extract-stop")
    state = gr.HTML("", elem_id="extract-state")
    for part, button in buttons.items():
        button.click(format_starter(desk, part), inputs_kwargs=form.only(NAMES), outputs=desk.timer, **TOLD)
    stop.click(stopper(desk, EXTRACT.name), form["training_experiment"], None, **TOLD)
    # Only where they are learned with the decoder, so that they come after its training.
    showing = {"fn": lambda preset: gr.update(visible=quantises(preset)), "outputs": buttons[CODES], **QUIET}
    form["training_preset"].change(inputs=form["training_preset"], **showing)
    return state


def format_starter(desk: Desk, part: str = "") -> Callable[..., dict]:
    """A callback that puts the formatting, or one part of it, into the queue, and lets the timer tick quickly."""

    @desk.guard
    def start(request: gr.Request, **values: Any) -> dict:
        services, say = desk.services, desk.say(request)
        experiment = experiment_of(values, services.logs, services.weights)
        files = pretrained(values, services.weights)
        check_models(files.preset, services)
        work = extract_work(values, experiment, files, part, services.engine.device)
        if part == CODES and not files.quantizer(experiment).is_file():
            raise UserError(
                "training_decoder_first",
                "The speech tokens of {preset} are learned with the decoder, and there is none in {folder} yet; train "
                "it first (1B).",
                preset=files.preset,
                folder=experiment.run("vits2"),
            )
        with desk.naming(say):
            work.start(services.jobs)
        inform(say, "dataset.started", output=work.output)
        return gr.update(value=QUICK_SECONDS)

    return start


def stopper(desk: Desk, step: str = "") -> Callable[..., None]:
    """A callback that ends what runs or waits of a step of the experiment, or the chain that has such a step.

    Without a step it ends the chain, or else all that runs or waits of the experiment.
    """

    @desk.guard
    def stop(name: str, request: gr.Request) -> None:
        services, say = desk.services, desk.say(request)
        experiment = experiment_of({"training_experiment": name}, services.logs, services.weights)
        keys = work_keys(experiment)
        found = [newest_job(services.jobs, keys[one]) for one in ((step,) if step else keys)]
        jobs = [job for job in found if job is not None and job.state() in ("running", "waiting")]
        if chained := [job for job in jobs if services.chains.running(job.id)]:
            stopped = _stop_chain(services, chained[0].id, say)
        elif jobs and step:
            stopped = _stop_jobs(jobs, say)
        else:  # the chain may be at a step of the experiment that is not this one
            stopped = _stop_chain(services, _chain_of(services, experiment), say) or _stop_jobs(jobs, say)
        if not stopped:
            inform(say, "training.nothing_to_stop")

    return stop


def _chain_of(services: Services, experiment: Experiment) -> str:
    """The newest job of the chain that goes on and will write to the experiment; empty if there is none."""
    keys = set(work_keys(experiment).values())
    chains = (chain for chain in services.chains.all() if not chain.ended)
    return next((chain.newest_job for chain in chains if any(link.work_key in keys for link in chain.links)), "")


def _stop_chain(services: Services, job: str, say: Translator) -> bool:
    if not job or services.chains.running(job) is None:
        return False
    inform(say, "training.chain_stopping")  # at once: a training takes its time to save
    return services.chains.stop(job)


def _stop_jobs(jobs: list[Job], say: Translator) -> bool:
    for job in jobs:
        inform(say, "training.stopping" if job.state() == "running" else "jobs.stopped")
        try:
            job.stop()
        except UserError as error:
            if error.code != "job_missing":
                raise
    return bool(jobs)
