"""The head of the training tab: which experiment, from which weights, on which machine."""

import gradio as gr

from tools.webui.step_panel import Desk
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


def preset_choices(desk: Desk) -> list[str]:
    """Presets that can be trained on: those whose weights are there, and the built-in one."""
    weights = desk.services.weights
    return [name for name in weights.preset_names() if name == "nano" or weights.is_installed(name)]
