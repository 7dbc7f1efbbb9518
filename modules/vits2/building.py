"""A fresh decoder out of a preset, whichever form its tokens have."""

import math
from collections.abc import Sequence

from modules.config import Preset
from modules.speech.grouped import stream_sizes
from modules.vits2.model import VITS2


def build_vits2(
    preset: Preset, text_vocab: int, codebook_sizes: Sequence[int] = (), *, posterior: bool = True
) -> VITS2:
    """A decoder with fresh weights.

    Args:
        text_vocab: number of text ids.
        codebook_sizes: streams of tokens of form "s3" when they are not those of the preset.
    """
    tokenizer = preset.tokenizer
    sizes = stream_sizes(tokenizer)
    if tokenizer.form == "s3":
        sizes = tuple(codebook_sizes) or sizes
    digital = tokenizer.form == "s3" and tokenizer.quantizer == "fsq" and math.prod(tokenizer.levels) == sizes[0]
    return VITS2(
        preset.vits2,
        preset.audio,
        sizes,
        text_vocab,
        float(tokenizer.frame_rate),
        fsq_levels=tokenizer.levels if digital else None,
        posterior=posterior,
        tokenizer=tokenizer,
        text=preset.text,
    )
