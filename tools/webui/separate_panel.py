"""Step 1: voices apart from music."""

import gradio as gr

from modules.corpus.options import SeparationOptions
from tools.webui.controls import build_controls, controls_of
from tools.webui.dataset_folders import DatasetFolders
from tools.webui.step_panel import Desk, build_output, build_source, build_start
from tools.webui.steps import SEPARATE

TEXTS = {
    "model": ("separate.model", "separate.model_hint"),
    "format": ("dataset.format", ""),
    "device": ("dataset.device", "separate.device_hint"),
    "overlap": ("separate.overlap", "separate.overlap_hint"),
}


def build_separate_panel(desk: Desk, folders: DatasetFolders) -> list[str]:
    """Build the panel; returns the names of its options."""
    i18n, boxes = desk.i18n, folders.boxes()
    gr.Markdown(i18n("separate.about"), elem_classes="quiet")
    build_source(desk, "separate", i18n("dataset.recordings"), boxes["separate_source"])
    build_output(desk, "separate", boxes["separate_output"], i18n("separate.output_hint"))
    with gr.Accordion(i18n("dataset.options"), open=False, elem_id="separate-options"), gr.Row(elem_classes="options"):
        names = build_controls(desk.form, "separate", controls_of(SeparationOptions), TEXTS, i18n)
    build_start(desk, SEPARATE, names, lambda values, folders: {"models": str(desk.services.weights.models)})
    return names
