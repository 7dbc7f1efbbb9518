"""Step 2: noise out of recordings, to be heard before and after."""

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from modules.corpus.options import DenoiseOptions
from tools.webui.controls import build_controls, controls_of
from tools.webui.dataset_folders import DatasetFolders
from tools.webui.step_panel import TOLD, Desk, build_output, build_source, build_start, sample_of
from tools.webui.steps import DENOISE, step_options

SAMPLE_SECONDS = 15.0

TEXTS = {
    "method": ("denoise.method", "denoise.method_hint"),
    "strength": ("denoise.strength", "denoise.strength_hint"),
    "threshold": ("denoise.threshold", "denoise.threshold_hint"),
    "format": ("dataset.format", ""),
}
CHOICES = {"method": {"stationary": "denoise.method_stationary", "adaptive": "denoise.method_adaptive"}}

Sound = tuple[int, np.ndarray]


def build_denoise_panel(desk: Desk, folders: DatasetFolders) -> list[str]:
    """Build the panel; returns the names of its options."""
    form, i18n, boxes = desk.form, desk.i18n, folders.boxes()
    gr.Markdown(i18n("denoise.about"), elem_classes="quiet")
    build_source(desk, "denoise", i18n("dataset.recordings"), boxes["denoise_source"])
    build_output(desk, "denoise", boxes["denoise_output"], i18n("denoise.output_hint"))
    with gr.Accordion(i18n("dataset.options"), open=False, elem_id="denoise-options"), gr.Row(elem_classes="options"):
        names = build_controls(form, "denoise", controls_of(DenoiseOptions), TEXTS, i18n, CHOICES)
    with gr.Accordion(i18n("denoise.listen"), open=False, elem_id="denoise-listen"):
        with gr.Row():
            number = gr.Number(1, label=i18n("dataset.sample_number"), precision=0, min_width=140)
            start = gr.Number(0, label=i18n("denoise.sample_start"), min_width=140)
            listen = gr.Button(
                i18n("denoise.listen_button"), min_width=140, elem_classes="beside", elem_id="denoise-try"
            )
        with gr.Row():
            before = gr.Audio(interactive=False, label=i18n("denoise.before"), buttons=[], elem_id="denoise-before")
            after = gr.Audio(interactive=False, label=i18n("denoise.after"), buttons=[], elem_id="denoise-after")
    build_start(desk, DENOISE, names)

    @desk.guard
    def compare(
        sample_number: float | None, sample_start: float | None, request: gr.Request, **values: Any
    ) -> tuple[dict, dict]:
        """A piece of a recording as it is, and as the options would leave it."""
        say, path = desk.say(request), sample_of(values["denoise_source"], sample_number)
        sounds = denoised_sample(path, sample_start or 0.0, values)
        labels = (say("denoise.before"), say("denoise.after"))
        first, second = (gr.update(value=sound, label=f"{label}: {path.name}") for sound, label in zip(sounds, labels))
        return first, second

    inputs = {**form.only(["denoise_source", *names]), "sample_number": number, "sample_start": start}
    # Several at once would take the memory and the cores that the jobs need.
    listen.click(
        compare, inputs_kwargs=inputs, outputs=[before, after],
        **{**TOLD, "concurrency_limit": 1, "show_progress": "full"},
    )  # fmt: skip
    return names


def denoised_sample(path: Path, start_seconds: float, values: dict[str, Any]) -> tuple[Sound, Sound]:
    """At most 15 s of a recording before and after, each as (sample rate, int16 [S, C]).

    Raises:
        UserError: the options are out of bounds, or the file is no sound.
    """
    from modules.audio.channels import read_channels
    from modules.audio.io import to_pcm16
    from modules.corpus.denoising import denoise

    options = step_options(DENOISE, values)
    wav, rate = read_channels(path)
    length = round(SAMPLE_SECONDS * rate)
    first = min(max(0, round(start_seconds * rate)), max(0, wav.shape[1] - length))
    piece = wav[:, first : first + length]
    cleaned = denoise(piece, rate, options)
    return (rate, to_pcm16(piece.T)), (rate, to_pcm16(cleaned.T))
