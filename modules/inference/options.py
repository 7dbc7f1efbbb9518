"""What a person can choose when speaking, and what comes back.

Shapes: S samples, T frames of speech tokens, K codebooks.
"""

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from modules.errors import UserError
from modules.text.sentences import CUTS

if TYPE_CHECKING:  # the page knows the options without the heavy libraries
    from torch import Tensor

MAX_SEED = 2**31 - 1


def _option(default: Any, help: str, low: float, high: float) -> Any:
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True)
class SpeakOptions:
    """Choices of one synthesis; the bounds of each field are in its metadata.

    Args:
        cut: how the text is cut, one of `modules.text.sentences.CUTS`.
        seed: None draws one; the seed used is reported.
        fuse_gpt: let all references prompt the language model; False uses the heaviest alone.
        fuse_decoder: let all references shape the timbre; False uses the heaviest alone.
        guards: watch over each sentence (least and most length, silence at its end and within, loops, codes that are
            used too often) and speak it again with another seed when something went wrong.

    Raises:
        UserError: option_invalid naming the field and its bounds; cut_unknown.
    """

    top_k: int = _option(15, "sample among this many of the most likely codes; 0 = all", 0, 10000)
    top_p: float = _option(1.0, "sample among the most likely codes that hold this share", 0.0, 1.0)
    temperature: float = _option(0.7, "below 1 steadier, above 1 livelier; 0 = always the most likely", 0.0, 2.0)
    repetition_penalty: float = _option(1.35, "above 1 avoids codes that were just used", 1.0, 5.0)
    guidance: float = _option(0.0, "how much harder than usual the text is held to; 0 = off, and faster", 0.0, 5.0)
    speed: float = _option(1.0, "speaking rate; the pitch stays", 0.6, 1.65)
    pause_seconds: float = _option(0.3, "pause between sentences, s", 0.0, 3.0)
    cut: str = "auto"
    seed: int | None = None
    fuse_gpt: bool = True
    fuse_decoder: bool = True
    noise_scale: float = _option(0.35, "how much the decoder varies; 0 = not at all", 0.0, 1.5)
    forced_seconds: float = _option(
        0.0, "length of every sentence, wherever the model would end it; 0 = off", 0.0, 40.0
    )
    guards: bool = True

    def __post_init__(self) -> None:
        for spec in fields(self):
            if "low" in spec.metadata:
                _check_number(spec.name, getattr(self, spec.name), spec.metadata["low"], spec.metadata["high"])
        if self.cut not in CUTS:
            raise UserError(
                "cut_unknown",
                "There is no way to cut called {cut}; choose one of {valid}.",
                cut=self.cut,
                valid=", ".join(CUTS),
            )
        if self.seed is not None:
            _check_number("seed", self.seed, 0, MAX_SEED)
            if self.seed != int(self.seed):
                raise _invalid("seed", self.seed, 0, MAX_SEED)


@dataclass(frozen=True)
class Progress:
    """Where a synthesis stands: sentence `sentence` (from 1) of `total`, `frames` of its speech tokens so far,
    `seconds_done` of finished sound."""

    sentence: int
    total: int
    frames: int
    seconds_done: float


@dataclass(frozen=True)
class Segment:
    """One spoken sentence.

    Args:
        index: from 0, of `total`.
        text: the sentence.
        wav: float32 [S].
        seconds: its length.
        stopped_by: "eos" it came to its end, "limit" it grew too long, "guard" it got stuck.
        codes: int64 [T, K], what a frozen rendering starts from.
        seed: of this sentence, of the try that was kept.
        retries: how often it was spoken again because something was wrong with it.
        raw_peak, raw_rms, raw_flat_share: of the decoder's sound before it was levelled, see `finishing.raw_levels`.
    """

    index: int
    total: int
    text: str
    wav: np.ndarray
    seconds: float
    stopped_by: str
    codes: "Tensor"
    seed: int = 0
    retries: int = 0
    raw_peak: float = 0.0
    raw_rms: float = 0.0
    raw_flat_share: float = 0.0

    def report(self) -> dict[str, Any]:
        """What is told and kept of the sentence, as plain JSON values."""
        told = {"text": self.text, "seconds": round(self.seconds, 3), "stopped_by": self.stopped_by}
        return {**told, "retries": self.retries, "seed": self.seed}


@dataclass(frozen=True)
class Chunk:
    """A piece of sound of a synthesis that is under way.

    Args:
        index: of the sentence, from 0, of `total`.
        wav: float32 [S]; the pause before a sentence is part of its first chunk.
        segment: the sentence, on its last chunk.
    """

    index: int
    total: int
    wav: np.ndarray
    segment: Segment | None = None


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise _invalid(name, value, low, high)


def _invalid(name: str, value: Any, low: float, high: float) -> UserError:
    return UserError(
        "option_invalid",
        "{name} is {value}; choose a number from {low} to {high}.",
        name=name,
        value=value,
        low=low,
        high=high,
    )
