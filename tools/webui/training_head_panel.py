"""The head of the training tab: which experiment, from which weights, on which machine."""

import gradio as gr
from gradio.context import Context

from tools.webui.messages import Translator
from tools.webui.presets import (
    BUILT_IN_PRESET,
    missing_bytes,
    missing_of,
    missing_words,
    only_waits,
    quantises,
)
from tools.webui.sizes import size_words
from tools.webui.step_panel import QUIET, Desk
from tools.webui.training_state import experiments
from tools.webui.training_steps import PRETRAINED_BOXES, Pretrained, shown_path

FIRST_NAME = "voice"
"""An experiment's name while nobody gave another."""


def build_training_head(desk: Desk) -> None:
    """Build the controls `training_experiment`, `training_preset` and those of `PRETRAINED_BOXES`."""
    form, i18n, weights = desk.form, desk.i18n, desk.services.weights
    with gr.Row(equal_height=False):
        form.add(
            "training_experiment",
            gr.Dropdown(
                experiments(desk.services.logs),
                value=FIRST_NAME,
                label=i18n("training.experiment"),
                info=i18n("training.experiment_hint"),
                allow_custom_value=True,
                scale=3,
                min_width=260,
                elem_id="training-experiment",
            ),
        )
        form.add(
            "training_preset",
            gr.Dropdown(
                preset_choices(desk),
                value="nano",
                label=i18n("training.preset"),
                info=i18n("training.preset_hint"),
                filterable=False,
                scale=2,
                min_width=220,
                elem_id="training-preset",
            ),
        )
    remark = gr.Markdown("", visible=False, elem_classes="warned", elem_id="training-preset-remark")

    @desk.guard
    def explain(name: str, request: gr.Request) -> dict:
        words = preset_remark(desk, name, desk.say(request))
        return gr.update(value=words, visible=bool(words))

    @desk.guard
    def show_lacking(name: str, request: gr.Request) -> tuple:
        """What presets lack now: a download may have ended since."""
        say = desk.say(request)
        words = preset_remark(desk, name, say)
        return gr.update(choices=preset_choices(desk, say)), gr.update(value=words, visible=bool(words))

    box = form["training_preset"]
    box.change(explain, box, remark, **QUIET)
    if isinstance(Context.block, gr.Tab):  # else it is not opened but there
        Context.block.select(show_lacking, box, [box, remark], **QUIET)
    with gr.Accordion(i18n("training.pretrained"), open=False, elem_id="training-pretrained"):
        gr.Markdown(i18n("training.pretrained_hint"), elem_classes="quiet")
        texts = {
            "training_gpt_file": i18n("training.gpt_file"),
            "training_vits2_file": i18n("training.vits2_file"),
            "training_vits2_training_file": i18n("training.vits2_training_file"),
            "training_tokenizer_file": i18n("training.tokenizer_file"),
        }
        files = Pretrained.of_preset("nano", weights)
        with gr.Row():
            for name, label in texts.items():
                box = gr.Textbox(
                    "",
                    label=label,
                    placeholder=shown_path(getattr(files, PRETRAINED_BOXES[name])),
                    max_lines=1,
                    min_width=280,
                    elem_id=name.replace("_", "-"),
                )
                form.add(name, box)


def preset_choices(desk: Desk, say: Translator | None = None) -> list[tuple[str, str]]:
    """All presets, the built-in one first; with `say`, those that lack models tell how much."""
    choices = []
    for name in desk.services.weights.preset_names():
        missing = missing_of(name, desk.services) if say is not None else []
        size = size_words(missing_bytes(missing))
        lacks = say is not None and bool(missing) and not only_waits(missing)
        choices.append((say("training.preset_lacks", preset=name, size=size) if say and lacks else name, name))
    return choices


def preset_remark(desk: Desk, name: str, say: Translator) -> str:
    """What to know before a preset is trained on: the models that it lacks, and what training it from nothing takes."""
    told, weights = [], desk.services.weights
    missing = missing_of(name, desk.services)
    if only_waits(missing):
        told.append(say("training.models_wait", preset=name, models=missing_words(missing)))
    elif missing:
        told.append(say("training.models_missing", preset=name, models=missing_words(missing)))
    if name in weights.preset_names() and name != BUILT_IN_PRESET and not weights.is_installed(name):
        told.append(say("training.from_nothing", preset=name))
        if quantises(name):
            told.append(say("training.codes_between"))
    return " ".join(told)
