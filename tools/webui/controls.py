"""Controls of the options of a step, with the defaults and bounds that its tool has."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from modules.config import plain_number
from tools.webui.form import Form

_MOST_STEPS = 300
"""A slider with more positions than this cannot be set to one of them; a number box is shown instead."""


@dataclass(frozen=True)
class Control:
    """One option.

    Args:
        name: of the field.
        default: decides the kind of control.
        low, high: bounds, or None.
        choices: the only values, if there are any.
    """

    name: str
    default: Any
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def step(self) -> float:
        """Distance of two positions of a slider."""
        if isinstance(self.default, int):
            return 1
        span = (self.high or 0) - (self.low or 0)
        return 0.05 if span <= 2 else 0.1 if span <= 20 else 1

    @property
    def is_number(self) -> bool:
        """Whether it is set as a number."""
        return isinstance(self.default, int | float) and not isinstance(self.default, bool) and not self.choices

    @property
    def is_slider(self) -> bool:
        """Whether every value can be reached by hand, the default among them."""
        if self.low is None or self.high is None:
            return False
        positions = (self.default - self.low) / self.step
        return (self.high - self.low) / self.step <= _MOST_STEPS and abs(positions - round(positions)) < 1e-6


def controls_of(cls: type) -> list[Control]:
    """A control for every field of an options class made with `modules.config.field`."""
    hints = typing.get_type_hints(cls)
    found = []
    for spec in fields(cls):
        literal = typing.get_origin(hints[spec.name]) is typing.Literal
        choices = typing.get_args(hints[spec.name]) if literal else ()
        low, high = spec.metadata.get("low"), spec.metadata.get("high")
        found.append(Control(spec.name, spec.default, low, high, choices))
    return found


def build_controls(
    form: Form,
    step: str,
    controls: Sequence[Control],
    texts: Mapping[str, tuple[str, str]],
    i18n: gr.I18n,
    choices: Mapping[str, Mapping[str, str]] | None = None,
) -> list[str]:
    """Add the controls that have a text, in the order of the texts; returns their names in the form.

    Args:
        form: gets them as `{step}_{name}`.
        step: name of the step.
        controls: the options.
        texts: name -> keys of label and help (or empty).
        i18n: of the page.
        choices: name -> value -> key of its text, for choices that are words.
    """
    known = {control.name: control for control in controls}
    names = []
    for name, (label, hint) in texts.items():
        component = _component(known[name], step, i18n(label), _hint(known[name], hint, i18n), i18n, choices or {})
        form.add(f"{step}_{name}", component)
        names.append(f"{step}_{name}")
    return names


def _hint(control: Control, hint: str, i18n: gr.I18n) -> Any:
    """The help, with the bounds of a number box; those of a slider can be seen."""
    words = i18n(hint) if hint else None
    if control.is_number and not control.is_slider and None not in (control.low, control.high):
        bounds = f"{plain_number(control.low)} – {plain_number(control.high)}"
        return f"{words} ({bounds})" if words is not None else bounds
    return words


def _component(
    control: Control, step: str, label: Any, hint: Any, i18n: gr.I18n, words: Mapping[str, Mapping[str, str]]
) -> gr.components.Component:
    texts = {"label": label, "info": hint, "elem_id": f"{step}-{control.name.replace('_', '-')}"}
    default = control.default
    if isinstance(default, bool):
        return gr.Checkbox(default, **texts)
    if control.choices:
        spoken = words.get(control.name, {})
        pairs = [(i18n(spoken[value]) if value in spoken else value, value) for value in control.choices]
        return gr.Dropdown(pairs, value=default, filterable=False, min_width=180, **texts)
    if isinstance(default, str):
        return gr.Textbox(default, min_width=180, **texts)
    if control.is_slider:
        return gr.Slider(control.low, control.high, default, step=control.step, min_width=200, **texts)
    # Its own bounds would be told in English only, and its precision would round in silence; both are checked, and told
    # in the reader's language, at the start.
    return gr.Number(default, min_width=160, **texts)
