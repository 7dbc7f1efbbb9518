"""Models of random weights that say phones, loud enough that what they read changes what they say, and speech for them.

Shapes: T frames, U text units.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from modules.config import GPTConfig
from modules.gpt.model import SpeechGPT
from modules.gpt.sequence import Part

PHONES = 6
SIZES = {"hidden": 48, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate": 64, "max_positions": 256, "dropout": 0.0}


def loud_model(make_gpt: Callable[..., SpeechGPT], config: GPTConfig, **options: object) -> SpeechGPT:
    """A model whose tables are four times as loud as fresh ones, which are so quiet that nothing would show."""
    torch.manual_seed(0)
    model = make_gpt(config=config, positions="aligned", **options)
    for parameter in model.parameters():
        parameter.data.mul_(4.0) if parameter.ndim > 1 else None
    return model


def summed_vectors(sizes: Sequence[int] = (64, 8), dim: int = 6) -> Callable[[torch.Tensor], torch.Tensor]:
    """Code vectors as grouped quantisers make them: what each code says is added up."""
    draws = torch.Generator().manual_seed(1)
    tables = [torch.randn(size, dim, generator=draws) for size in sizes]
    return lambda codes: sum(table[codes[..., k]] for k, table in enumerate(tables))


def spoken(seed: int, frames: int = 9, units: int = 4, *, reading: bool = False) -> Part:
    """Random codes [T, 2], phones [T] and text [U]; where it is read too, if `reading`."""
    rng = np.random.default_rng(seed)
    phones, codes = rng.integers(0, PHONES, frames), rng.integers(0, 64, (frames, 2)) % [64, 8]
    reads = np.sort(rng.integers(0, units, frames)) if reading else None
    text = rng.integers(0, 40, units)
    return Part(text, codes, phones=phones, reads=None if reads is None else reads - reads[0])
