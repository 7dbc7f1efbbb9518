"""Step 4: what is said in the clips."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from modules.corpus.recognition import RecognitionOptions
from modules.corpus.whisper_models import WHISPER_SIZES
from tools.webui.controls import build_controls, controls_of
from tools.webui.dataset_folders import DatasetFolders
from tools.webui.step_panel import Desk, build_output, build_source, build_start
from tools.webui.steps import TRANSCRIBE

FURTHER = {
    "language": ("transcribe.language", "transcribe.language_hint"),
    "device": ("dataset.device", ""),
    "precision": ("transcribe.precision", "transcribe.precision_hint"),
    "batch_size": ("transcribe.batch_size", "transcribe.batch_size_hint"),
    "beam_size": ("transcribe.beam_size", "transcribe.beam_size_hint"),
    "min_confidence": ("transcribe.min_confidence", "transcribe.min_confidence_hint"),
    "max_seconds_per_letter": ("transcribe.max_seconds_per_letter", "transcribe.max_seconds_per_letter_hint"),
    "find_speech": ("transcribe.find_speech", "transcribe.find_speech_hint"),
    "threads": ("transcribe.threads", "transcribe.threads_hint"),
}


def build_transcribe_panel(desk: Desk, folders: DatasetFolders) -> list[str]:
    """Build the panel; returns the names of its options and flags."""
    form, i18n, boxes = desk.form, desk.i18n, folders.boxes()
    gr.Markdown(i18n("transcribe.about"), elem_classes="quiet")
    build_source(desk, "transcribe", i18n("dataset.clips"), boxes["transcribe_source"])
    build_output(desk, "transcribe", boxes["transcribe_output"], i18n("transcribe.output_hint"))
    with gr.Row(elem_classes="options"):
        form.add(
            "transcribe_model",
            gr.Dropdown(
                [(f"{name} ({size.megabytes} MB)", name) for name, size in WHISPER_SIZES.items()],
                value=RecognitionOptions().model,
                label=i18n("transcribe.model"),
                info=i18n("transcribe.model_hint"),
                allow_custom_value=True,
                min_width=240,
                elem_id="transcribe-model",
            ),
        )
        speaker = gr.Textbox(
            "", label=i18n("dataset.speaker"), info=i18n("transcribe.speaker_hint"), min_width=180
        )  # fmt: skip
        form.add("transcribe_speaker", speaker)
        fresh = gr.Checkbox(False, label=i18n("transcribe.fresh"), info=i18n("transcribe.fresh_hint"))
        form.add("transcribe_fresh", fresh)
    with (
        gr.Accordion(i18n("dataset.options"), open=False, elem_id="transcribe-options"),
        gr.Row(elem_classes="options"),
    ):
        names = build_controls(form, "transcribe", controls_of(RecognitionOptions), FURTHER, i18n)
    names += ["transcribe_model", "transcribe_speaker", "transcribe_fresh"]
    build_start(desk, TRANSCRIBE, names, lambda values, folders: transcribe_flags(desk, values, folders))
    return names


def transcribe_flags(desk: Desk, values: Mapping[str, Any], folders: DatasetFolders) -> dict[str, str]:
    """Flags of the tool that are no options."""
    flags = {"name": folders.name, "models": str(desk.services.weights.models)}
    if speaker := str(values.get("transcribe_speaker") or "").strip():
        flags["speaker"] = speaker
    if values.get("transcribe_fresh"):
        flags["fresh"] = ""
    return flags
