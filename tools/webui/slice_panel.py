"""Step 3: recordings into clips, drawn before anything is written."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from modules.audio.slicing import SliceOptions
from tools.webui.controls import Control, build_controls, controls_of
from tools.webui.dataset_folders import DatasetFolders
from tools.webui.drawings import cuts_svg
from tools.webui.messages import Translator
from tools.webui.step_panel import TOLD, Desk, build_output, build_source, build_start, sample_of
from tools.webui.steps import SLICE, step_options

USUAL_PROCESSES = 4
FIRST = {
    "method": ("slice.method", "slice.method_hint"),
    "max_seconds": ("slice.max_seconds", "slice.max_seconds_hint"),
    "min_seconds": ("slice.min_seconds", "slice.min_seconds_hint"),
    "threshold": ("slice.threshold", "slice.threshold_hint"),
}
FURTHER = {
    "min_length": ("slice.min_length", "slice.min_length_hint"),
    "min_interval": ("slice.min_interval", ""),
    "hop_size": ("slice.hop_size", "slice.hop_size_hint"),
    "max_sil_kept": ("slice.max_sil_kept", ""),
    "speech_pad_ms": ("slice.speech_pad_ms", "slice.speech_pad_ms_hint"),
    "normalize": ("slice.normalize", "slice.normalize_hint"),
    "max": ("slice.max", "slice.max_hint"),
    "alpha": ("slice.alpha", "slice.alpha_hint"),
}
CHOICES = {"method": {"silence": "slice.method_silence", "voice": "slice.method_voice"}}


def build_slice_panel(desk: Desk, folders: DatasetFolders) -> list[str]:
    """Build the panel; returns the names of its options and flags."""
    form, i18n, boxes = desk.form, desk.i18n, folders.boxes()
    controls = controls_of(SliceOptions)
    gr.Markdown(i18n("slice.about"), elem_classes="quiet")
    build_source(desk, "slice", i18n("dataset.recordings"), boxes["slice_source"])
    build_output(desk, "slice", boxes["slice_output"], i18n("slice.output_hint"))
    with gr.Row(elem_classes="options"):
        speaker = gr.Textbox("", label=i18n("dataset.speaker"), info=i18n("dataset.speaker_hint"), min_width=180)
        form.add("slice_speaker", speaker)
        names = build_controls(form, "slice", controls, FIRST, i18n, CHOICES)
    with gr.Accordion(i18n("dataset.options"), open=False, elem_id="slice-options"), gr.Row(elem_classes="options"):
        names += build_controls(form, "slice", controls, FURTHER, i18n)
        cores = os.cpu_count() or 1
        processes = Control("processes", min(USUAL_PROCESSES, cores), 1, max(cores, 2))
        flags = build_controls(form, "slice", [processes], {"processes": ("slice.processes", "")}, i18n)
    with gr.Row():
        number = gr.Number(1, label=i18n("dataset.sample_number"), precision=0, min_width=140, elem_id="slice-number")
        look = gr.Button(i18n("slice.preview"), min_width=140, elem_classes="beside", elem_id="slice-look")
    gr.Markdown(i18n("slice.preview_hint"), elem_classes="quiet")
    drawing = gr.HTML("", elem_id="slice-preview")
    flags.append("slice_speaker")
    build_start(desk, SLICE, [*names, *flags], slice_flags)

    @desk.guard
    def preview(sample_number: float | None, request: gr.Request, **values: Any) -> str:
        """The cuts on the waveform; nothing is written."""
        return preview_html(sample_of(values["slice_source"], sample_number), values, desk.say(request))

    inputs = {**form.only(["slice_source", *names]), "sample_number": number}
    # Several at once would take the memory and the cores that the jobs need.
    look.click(
        preview, inputs_kwargs=inputs, outputs=drawing, **{**TOLD, "concurrency_limit": 1, "show_progress": "full"}
    )
    return [*names, *flags]


def slice_flags(values: Mapping[str, Any], folders: DatasetFolders) -> dict[str, str]:
    """Flags of the tool that are no options: the voice is named like the dataset unless it is named."""
    speaker = str(values.get("slice_speaker") or "").strip() or folders.name
    return {"speaker": speaker, "processes": str(int(values.get("slice_processes") or 1))}


def preview_html(path: Path, values: Mapping[str, Any], say: Translator) -> str:
    """The drawing and a line about it. Raises UserError like `modules.data.clips.preview`."""
    import html

    from modules.data.clips import preview

    seen = preview(path, step_options(SLICE, values))
    cuts = [(cut.start / seen.sample_rate, cut.end / seen.sample_rate) for cut in seen.cuts]
    if cuts:
        lengths = [end - start for start, end in cuts]
        words = say(
            "slice.preview_line",
            file=path.name,
            seconds=f"{seen.seconds:.1f}",
            count=len(cuts),
            shortest=f"{min(lengths):.1f}",
            longest=f"{max(lengths):.1f}",
        )
    else:
        words = say("slice.preview_nothing", file=path.name, seconds=f"{seen.seconds:.1f}")
    drawing = cuts_svg(seen.seconds, seen.envelope, cuts, words)
    return f'<div class="drawing-box">{drawing}</div><p>{html.escape(words)}</p>'
