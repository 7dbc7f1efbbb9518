"""The left side of the inference tab: whose voice speaks."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from modules.config import load_preset
from tools.webui.form import Form
from tools.webui.messages import Translator, guarded
from tools.webui.services import Services
from tools.webui.speaking import REFERENCES, notes_of


@dataclass(frozen=True)
class ExampleVoice:
    """A bundled reference: a name for its button, the file and what it says."""

    name: str
    path: Path
    text: str


def example_voices(folder: Path) -> list[ExampleVoice]:
    """The voices that `folder/voices.json` lists and that are there."""
    listing = folder / "voices.json"
    if not listing.is_file():
        return []
    entries = json.loads(listing.read_text(encoding="utf-8"))
    voices = [ExampleVoice(entry["name"], folder / entry["file"], entry["text"]) for entry in entries]
    return [voice for voice in voices if voice.path.is_file()]


@dataclass(frozen=True)
class ReferenceRows:
    """The rows and the two buttons that show more or fewer of them."""

    groups: list[gr.Group]
    shown: gr.State
    add: gr.Button
    remove: gr.Button

    @property
    def outputs(self) -> list:
        """The components that `show` updates."""
        return [*self.groups, self.shown, self.add, self.remove]

    def show(self, count: int) -> dict:
        """Updates after which the first `count` rows are visible; at least one is."""
        count = min(max(count, 1), REFERENCES)
        return {
            self.shown: count,
            self.add: gr.update(interactive=count < REFERENCES),
            self.remove: gr.update(visible=count > 1),
            **{group: gr.update(visible=i < count) for i, group in enumerate(self.groups)},
        }


def build_references_panel(form: Form, services: Services, i18n: gr.I18n) -> ReferenceRows:
    """Rows of references, of which the first is shown, and one button per example voice."""
    gr.Markdown(i18n("references.heading"))
    groups = []
    for number in range(1, REFERENCES + 1):
        with gr.Group(visible=number == 1, elem_classes="reference-row", elem_id=f"reference-{number}") as group:
            _build_row(form, services, i18n, number)
        groups.append(group)
    with gr.Row():
        add = gr.Button(i18n("references.add"), size="sm", elem_id="add-reference")
        remove = gr.Button(i18n("references.remove"), size="sm", visible=False, elem_id="remove-reference")
    rows = ReferenceRows(groups, gr.State(1), add, remove)

    def remove_last(count: int) -> dict:
        """Hide the last row and forget what it holds."""
        emptied = {form[f"reference_{count}_audio"]: None, form[f"reference_{count}_text"]: ""}
        return {**rows.show(count - 1), **emptied}

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    emptied = [form[f"reference_{i}_{part}"] for i in range(1, REFERENCES + 1) for part in ("audio", "text")]
    add.click(lambda count: rows.show(count + 1), rows.shown, rows.outputs, **quiet)
    remove.click(remove_last, rows.shown, [*rows.outputs, *emptied], **quiet)
    _build_examples(form, services, i18n, rows)
    return rows


def _build_row(form: Form, services: Services, i18n: gr.I18n, number: int) -> None:
    audio = form.add(
        f"reference_{number}_audio",
        gr.Audio(
            type="filepath",
            sources=["upload", "microphone"],
            label=i18n("references.audio"),
            elem_id=f"reference-{number}-audio",
            waveform_options=gr.WaveformOptions(sample_rate=48000),
            buttons=[],
        ),
    )
    note = gr.Markdown("", elem_classes="quiet", elem_id=f"reference-{number}-note", visible=False)
    with gr.Row():
        form.add(
            f"reference_{number}_weight",
            gr.Slider(
                0,
                1,
                1,
                step=0.05,
                label=i18n("references.weight"),
                min_width=150,
                scale=2,
                elem_id=f"reference-{number}-weight",
            ),
        )
        form.add(
            f"reference_{number}_text",
            gr.Textbox(
                "",
                label=i18n("references.text"),
                placeholder=i18n("references.text_hint"),
                lines=2,
                max_lines=4,
                scale=3,
                min_width=180,
                elem_id=f"reference-{number}-text",
            ),
        )
    audio.change(
        guarded(services.messages, services.log_file)(_inspector(services)),
        audio,
        note,
        show_progress="hidden",
        api_visibility="private",
        concurrency_limit=2,
    )


def _inspector(services: Services) -> Callable[..., Any]:
    def inspect_reference(path: str | None, request: gr.Request) -> Any:
        """What there is to say about a reference as soon as it is chosen."""
        if not path:
            return gr.update(value="", visible=False)
        return gr.update(value=describe_reference(path, services.messages.for_request(request)), visible=True)

    return inspect_reference


def describe_reference(path: str, say: Translator) -> str:
    """One line about a reference file: its length and what was noticed.

    Raises:
        UserError: the file cannot serve as a reference.
    """
    from modules.inference.voice import load_reference

    audio = load_preset("nano").audio
    reference = load_reference(Path(path), None, 1.0, audio)
    seconds = reference.wav.shape[-1] / audio.sample_rate
    return " ".join([say("references.used", seconds=f"{seconds:.1f}"), *notes_of([reference], say)])


def _build_examples(form: Form, services: Services, i18n: gr.I18n, rows: ReferenceRows) -> None:
    voices = example_voices(services.examples)
    if not voices:
        return
    gr.Markdown(i18n("references.examples"), elem_classes="quiet")
    audios = [form[f"reference_{i}_audio"] for i in range(1, REFERENCES + 1)]
    texts = [form[f"reference_{i}_text"] for i in range(1, REFERENCES + 1)]
    with gr.Row():
        for position, voice in enumerate(voices, start=1):
            button = gr.Button(voice.name, size="sm", min_width=80, elem_id=f"example-voice-{position}")

            def use(count: int, *present: str | None, chosen: ExampleVoice = voice) -> dict:
                """Put the voice into the first empty row, or in place of the last shown one."""
                empty = [i for i in range(count) if not present[i]]
                row = empty[0] if empty else count - 1
                return {audios[row]: str(chosen.path), texts[row]: chosen.text}

            button.click(
                use,
                [rows.shown, *audios],
                [*audios, *texts],
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )
