"""The shipped language model says, frame by frame, what it said when it was shipped."""

from pathlib import Path

import numpy as np

from modules.gpt.decode import DecodeOptions, Decoder, PromptReference, build_prompts
from modules.gpt.model import load_gpt
from modules.paths import PRETRAINED_MODELS

WEIGHTS: Path = PRETRAINED_MODELS / "nano" / "gpt.safetensors"
BARE = [
    [566, 37], [1087, 37], [241, 35], [432, 34], [3734, 0], [3655, 0], [3725, 35], [2120, 35], [2120, 34], [2509, 33],
]  # fmt: skip
PROMPTED = [
    [566, 40], [1087, 40], [304, 39], [297, 37], [3655, 0], [3655, 37], [3088, 37], [3506, 35], [1420, 36], [368, 36],
]  # fmt: skip


def test_its_codes_are_those_recorded_when_it_was_shipped():
    decoder = Decoder(load_gpt(WEIGHTS))
    rng = np.random.default_rng(1)
    reference = PromptReference(
        rng.integers(300, 2000, 12), np.stack([rng.integers(0, 4096, 40), rng.integers(0, 64, 40)], 1)
    )
    text = np.random.default_rng(9).integers(300, 2000, 25)
    options = DecodeOptions(min_frames=10, max_frames=10, seed=0)
    for references, codes in (([], BARE), ([reference], PROMPTED)):
        assert decoder.generate(build_prompts(references, text, 2), options=options).codes.tolist() == codes
