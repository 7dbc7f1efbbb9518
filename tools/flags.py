"""Flags made of an options class: one for every field, with its default, help, choices and bounds."""

import argparse
import dataclasses
import typing
from typing import Any, TypeVar

from modules.config import from_dict
from modules.data.batching import BatchSampler
from modules.training.schedule import epoch_ends

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


def add_run_length(parser: argparse._ActionsContainer) -> None:
    """Give a training the flags that count in epochs, and the experiment that its weights are named after."""
    parser.add_argument("--experiment", default="", help="also put the weights among those that the page offers")
    parser.add_argument("--epochs", type=int, default=0, help="passes through the data; 0 = as many as the steps allow")
    parser.add_argument("--save-every-epochs", type=int, default=0, help="epochs between saved weights; 0 = at the end")


def add_beginning(parser: argparse._ActionsContainer) -> None:
    """Give a training the three ways to go about one that is in its folder already."""
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output, with the same data")
    ways.add_argument("--data-added", action="store_true", help="go on from the checkpoint with data that changed")
    ways.add_argument("--start-over", action="store_true", help="begin anew; the earlier run is renamed, not deleted")


def run_length(arguments: argparse.Namespace, sampler: BatchSampler) -> tuple[int, tuple[int, ...]]:
    """Most steps of a training (0 = no limit), and the steps at which weights are saved, from its flags."""
    if arguments.epochs <= 0:
        return arguments.max_steps, ()
    accumulate = getattr(arguments, "accumulate", 1)
    ends = epoch_ends(lambda epoch: len(sampler.batches(epoch)), arguments.epochs, accumulate)
    every = arguments.save_every_epochs
    saves = tuple(ends[epoch] for epoch in range(every - 1, len(ends), every)) if every > 0 else ()
    return min(ends[-1], arguments.max_steps or ends[-1]), saves
