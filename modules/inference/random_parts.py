"""A whole system of full size with random weights: what a machine can carry, known before anything is downloaded.

Nobody could understand what it says. Sizes, memory and time are those of the real parts: every encoder has the
architecture that is published, only its numbers are drawn. Text goes through the small tokenizer of the preset nano,
because the vocabulary of a published one comes with its files.
"""

from pathlib import Path

import torch

from modules.config import Preset
from modules.gpt.building import build_gpt_of_preset
from modules.inference.parts import TOKENIZER_FILE, Parts, assemble, decoder_precision
from modules.paths import PRETRAINED_MODELS
from modules.precision import Precision
from modules.speech.building import random_speech
from modules.text.building import random_text
from modules.text.encoder import Precision as TextPrecision
from modules.text.tokenizer import TextTokenizer
from modules.vits2.building import build_vits2


def random_parts(
    preset: Preset,
    device: torch.device,
    models: Path = PRETRAINED_MODELS,
    *,
    text_precision: TextPrecision = "float32",
    precision: Precision = "float32",
    seed: int = 0,
) -> Parts:
    """All parts of a preset with random weights, on one device.

    Args:
        models: holds the preset nano, whose tokenizer stands in for the published ones.
        precision: of the language model's weights, see `modules.gpt.engines`.

    Raises:
        UserError: tokenizer_unreadable; what `random_speech` raises for an encoder that is only published as a graph.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = build_vits2(preset, preset.text.vocab_size, posterior=False)
        decoder.fold(decoder_precision(precision, device))  # as `load_vits2` does for speaking
        speech = random_speech(preset.tokenizer, decoder.quantizer, device)
        tokenizer = TextTokenizer.load(models / "nano" / TOKENIZER_FILE)
        text = random_text(preset.text, tokenizer, device, text_precision)
        return assemble(preset, text, speech, build_gpt_of_preset(preset), decoder, device, {}, precision)
