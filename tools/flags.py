"""Flags made of an options class: one for every field, with its default, help, choices and bounds; and kinds of values
that several steps take."""

import argparse
import dataclasses
import typing
from pathlib import Path
from typing import Any, TypeVar

from modules.config import from_dict

T = TypeVar("T")


def add_options(
    group: argparse._ActionsContainer, cls: type, *, show_defaults: bool = True, metavar: str | None = None
) -> None:
    """Give a parser, or a group of one, a flag for every field of an options class (see `modules.config.field`).

    Args:
        show_defaults: name the default in each help text.
        metavar: stands for the values of the flags that take any; the flag's own name when left out.
    """
    hints = typing.get_type_hints(cls)
    for spec in dataclasses.fields(cls):
        text = spec.metadata["help"] + (f" (default {spec.default!r})" if show_defaults else "")
        given: dict[str, Any] = {"default": spec.default, "help": text.replace("%", "%%")}
        if hints[spec.name] is bool:
            given["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(hints[spec.name]) is typing.Literal:
            given["choices"] = typing.get_args(hints[spec.name])
        else:
            given |= {"type": type(spec.default), "metavar": metavar}
        group.add_argument("--" + spec.name.replace("_", "-"), **given)


def options_from(arguments: argparse.Namespace, cls: type[T]) -> T:
    """The options that the flags of `add_options` were given. Raises ConfigError for a value out of bounds."""
    return from_dict(cls, {spec.name: getattr(arguments, spec.name) for spec in dataclasses.fields(cls)})


def share(text: str) -> float:
    """The value of a flag that takes a part of a whole. Raises argparse's own error outside 0..1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def add_small_training(parser: argparse._ActionsContainer, *, validate_every: int) -> None:
    """The flags of a training that one process does: its length, its rate, its machine."""
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    parser.add_argument("--max-steps", type=int, default=20000)
    parser.add_argument("--max-minutes", type=float, default=0.0, help="end, annealed, after so many minutes; 0 = off")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--validate-every", type=int, default=validate_every)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = PyTorch's choice")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default auto)")
    parser.add_argument(
        "--job", type=Path, metavar="FOLDER", help="run folder of the job that started this; progress goes there"
    )


def factor(text: str) -> tuple[str, float]:
    """The value of a flag of the form NAME=FACTOR. Raises argparse's own error unless the factor is above 0."""
    name, _, value = text.partition("=")
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not name or not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not of the form NAME=FACTOR with a factor above 0")
    return name, found
