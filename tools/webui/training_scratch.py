"""What a training from nothing should be set to, for presets that no weights are published of. Builds no components.

Nobody has trained these presets yet: the figures are those that systems of this size are known to take, and the tools'
own defaults otherwise.
"""

import math

from modules.config import GPTConfig
from modules.training.suggestions import (
    GIB,
    GPTOptions,
    Machine,
    Speech,
    VITS2Options,
    gpt_steps,
    suggest_gpt,
    suggest_vits2,
    usual_learning_rate,
    vits2_steps,
)
from tools.webui.presets import BUILT_IN_PRESET, preset_config
from tools.webui.weights import WeightFolders

FROM_NOTHING = {
    "vits2": ("--adversarial-from=10000", "--validate-every=1000"),
    "gpt": ("--save-every=0", "--validate-every=1000"),
}
"""Flags of each stage that suit every training from nothing, and differ from the tools' defaults."""
VITS2_STEPS, GPT_STEPS = 200_000, 100_000
_SAVES = 10
_WINDOW_SECONDS, _WARMUP_STEPS = 2.0, 1000
_VITS2_RATE = 2e-4
_MOST_EPOCHS = 10_000


def suggested_options(
    machine: Machine, speech: Speech, preset: str, weights: WeightFolders
) -> tuple[VITS2Options, GPTOptions]:
    """What both trainings should be set to: fine-tunings where the preset has weights, else trainings from nothing."""
    fine = preset == BUILT_IN_PRESET or preset not in weights.preset_names() or weights.is_installed(preset)
    if fine:
        return suggest_vits2(machine, speech), suggest_gpt(machine, speech)
    return scratch_vits2(machine, speech), scratch_gpt(machine, speech, preset_config(preset).gpt)


def scratch_vits2(machine: Machine, speech: Speech) -> VITS2Options:
    """Settings for a decoder from nothing: `VITS2_STEPS` steps, no limit of time."""
    seconds = float(min(max(2 * machine.memory_bytes // GIB, 16), 128)) if machine.kind == "cuda" else 16.0
    epochs = _epochs(VITS2_STEPS, vits2_steps(speech, seconds, _WINDOW_SECONDS))
    return VITS2Options(
        batch_seconds=seconds,
        epochs=epochs,
        save_every_epochs=math.ceil(epochs / _SAVES),
        learning_rate=_VITS2_RATE,
        max_minutes=0.0,
        window_seconds=_WINDOW_SECONDS,
        warmup_steps=_WARMUP_STEPS,
    )


def scratch_gpt(machine: Machine, speech: Speech, config: GPTConfig) -> GPTOptions:
    """Settings for a language model from nothing, or from published text weights: `GPT_STEPS` steps, all weights."""
    frames = 1024 * min(max(machine.memory_bytes // GIB, 4), 48) if machine.kind == "cuda" else 4096
    epochs = _epochs(GPT_STEPS, gpt_steps(speech, frames))
    return GPTOptions(
        batch_frames=frames,
        epochs=epochs,
        save_every_epochs=math.ceil(epochs / _SAVES),
        learning_rate=usual_learning_rate(config),
        lora_rank=0,
        max_minutes=0.0,
        warmup_steps=_WARMUP_STEPS,
    )


def _epochs(steps: int, steps_of_one: int) -> int:
    return min(_MOST_EPOCHS, math.ceil(steps / max(1, steps_of_one)))
