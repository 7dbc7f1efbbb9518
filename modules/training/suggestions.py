"""What a training on somebody's own voice should be set to on a machine, before anybody has tried.

The figures for a CPU are those of trainings by hand on a few minutes of one speaker; longer runs there made the
held-out lines no better. Those for a GPU follow its memory.
"""

import math
from dataclasses import dataclass
from typing import Literal

from modules.config import GPTConfig, field

GIB = 1 << 30
FINE_TUNING = {
    "vits2": (
        "--posterior-share=0.3",
        "--kl-weight=0.1",
        "--kl-ramp-steps=1",
        "--no-energy-distance",
        "--ema-decay=0.98",
        "--quantizer=freeze",
        "--validate-every=25",
    ),
    "gpt": ("--ema-decay=0.95", "--pair-ratio=0.7", "--validate-every=0", "--save-every=0"),
}
"""Flags of each stage that suit every fine-tuning, and differ from what a training from nothing needs."""
POSITIONS_PER_SECOND = 96
"""Positions of the language model's batches for each second of speech: its tokens and text, with prompts (on average
one more utterance a row) and padding."""
FEWEST_BATCHES = 16
"""An epoch of the decoder has no fewer batches, however few clips there are."""
_USUAL_MINUTES = 10.0
"""Of speech: up to this the number of steps stays, beyond it they grow with it."""
_SAVES = 4
_MOST_GPT_EPOCHS, _FEWEST_GPT_BATCHES = 30, 4
"""A batch that held all of a small dataset would make one step of an epoch."""


@dataclass(frozen=True)
class Machine:
    """Where a training runs: "cpu", "cuda" or "mps", the memory of one device, and how many devices there are."""

    kind: str = "cpu"
    memory_bytes: int = 8 * GIB
    devices: int = 1


@dataclass(frozen=True)
class Speech:
    """What a training gets to hear: clips that are not held out, and their seconds."""

    clips: int
    seconds: float


@dataclass(frozen=True)
class VITS2Options:
    """How the decoder is fine-tuned; the fields are flags of tools.train_vits2."""

    batch_seconds: float = field(9.6, "seconds of sound in a batch", 0.5, 2000)
    epochs: int = field(19, "passes through the data", 1, 10000)
    save_every_epochs: int = field(5, "epochs between saved weights; 0 = at the end", 0, 10000)
    learning_rate: float = field(4e-4, "peak rate", 1e-6, 1e-1)
    text_rate: float = field(1.0, "learning rate of the text part as a share of the others'", 0, 1)
    max_minutes: float = field(7.0, "minutes at most; 0 = no limit", 0, 10000)
    precision: Literal["auto", "float32", "bf16"] = field("auto", "number format")
    window_seconds: float = field(1.6, "longest piece of a clip", 0.4, 20)
    warmup_steps: int = field(10, "steps until the peak rate", 0, 10000)
    samples: int = field(3, "held-out lines that are spoken at each save", 0, 16)
    keep_latest: bool = field(False, "keep only the newest small weights")
    save_small: bool = field(True, "small weights at each save")
    tensorboard: bool = field(True, "also write curves for TensorBoard")


@dataclass(frozen=True)
class GPTOptions:
    """How the language model is fine-tuned; the fields are flags of tools.train_gpt."""

    batch_frames: int = field(3072, "positions in a batch", 256, 500000)
    epochs: int = field(25, "passes through the data", 1, 10000)
    save_every_epochs: int = field(7, "epochs between saved weights; 0 = at the end", 0, 10000)
    learning_rate: float = field(2e-4, "peak rate", 1e-6, 1e-1)
    lora_rank: Literal[0, 16, 32, 64, 128] = field(32, "rank of the trained adapters; 0 = the whole model")
    max_minutes: float = field(4.0, "minutes at most; 0 = no limit", 0, 10000)
    precision: Literal["auto", "float32", "bf16"] = field("auto", "number format")
    warmup_steps: int = field(10, "steps until the peak rate", 0, 10000)
    samples: int = field(3, "held-out lines that are spoken at each save", 0, 16)
    keep_latest: bool = field(False, "keep only the newest small weights")
    save_small: bool = field(True, "small weights at each save")
    tensorboard: bool = field(True, "also write curves for TensorBoard")


def suggest_vits2(machine: Machine, speech: Speech) -> VITS2Options:
    """Settings for the decoder: about 300 steps in 7 minutes on a CPU, 2000 on a GPU, more for more speech."""
    window = VITS2Options().window_seconds
    growth = _growth(machine, speech)
    steps = round((2000 if machine.kind == "cuda" else 300) * growth)
    clips = _between(2 * machine.memory_bytes // GIB, 8, 64) if machine.kind == "cuda" else 6
    clips = _between(clips, 2, max(2, speech.clips))
    epochs = math.ceil(steps / vits2_steps(speech, clips * window, window))
    return VITS2Options(
        batch_seconds=round(clips * window, 1),
        epochs=epochs,
        save_every_epochs=math.ceil(epochs / _SAVES),
        max_minutes=0.0 if machine.kind == "cuda" else round(7 * growth, 1),
        warmup_steps=max(10, steps // 30),
    )


def suggest_gpt(machine: Machine, speech: Speech) -> GPTOptions:
    """Settings for the language model: about 100 steps in 4 minutes on a CPU, 600 on a GPU, more for more speech.

    Never more than `_MOST_GPT_EPOCHS` passes: on 2.5 minutes of a voice held-out lines got no better after 25, and a
    quicker rate made other languages worse.
    """
    growth = _growth(machine, speech)
    steps = round((600 if machine.kind == "cuda" else 100) * growth)
    most = 1024 * _between(machine.memory_bytes // GIB, 3, 32) if machine.kind == "cuda" else 3072
    frames = _between(1024 * int(speech.seconds * POSITIONS_PER_SECOND / _FEWEST_GPT_BATCHES / 1024), 3072, most)
    epochs = min(_MOST_GPT_EPOCHS, math.ceil(steps / gpt_steps(speech, frames)))
    return GPTOptions(
        batch_frames=frames,
        epochs=epochs,
        save_every_epochs=math.ceil(epochs / _SAVES),
        max_minutes=0.0 if machine.kind == "cuda" else round(4 * growth, 1),
        warmup_steps=max(10, steps // 12),
    )


def vits2_steps(speech: Speech, batch_seconds: float, window_seconds: float) -> int:
    """Steps of an epoch of the decoder: one for each batch."""
    return max(FEWEST_BATCHES, speech.clips // max(2, round(batch_seconds / window_seconds)))


def gpt_steps(speech: Speech, batch_frames: int) -> int:
    """Steps of an epoch of the language model, about: one for each batch."""
    return max(1, math.ceil(speech.seconds * POSITIONS_PER_SECOND / batch_frames))


def _growth(machine: Machine, speech: Speech) -> float:
    """How many times the usual number of steps: a CPU gets four times at most, or it would take hours."""
    most = 5.0 if machine.kind == "cuda" else 4.0
    return min(most, max(1.0, speech.seconds / 60 / _USUAL_MINUTES))


def _between(value: int, low: int, high: int) -> int:
    return int(min(max(value, low), high))


def usual_learning_rate(config: GPTConfig) -> float:
    """Peak rate of a language model's training from nothing, or from published text weights.

    Small models take large steps; from a few hundred numbers of width on the rate falls with the width. What starts
    from finished weights would lose them at such rates within a hundred steps.
    """
    if config.backbone != "fresh":
        return 1e-4
    return 3e-3 if config.hidden <= 256 else round(5e-4 * 768 / config.hidden, 6)
