"""The shipped language model says, frame by frame, what it said when it was shipped."""

from pathlib import Path

import numpy as np

from modules.gpt.decode import DecodeOptions, Decoder, PromptReference, build_prompts
from modules.gpt.model import load_gpt
from modules.paths import PRETRAINED_MODELS

WEIGHTS: Path = PRETRAINED_MODELS / "nano" / "gpt.safetensors"
BARE = [
    [4086, 0], [1942, 0], [574, 34], [1087, 34], [574, 33], [3504, 32], [3016, 33], [2449, 0], [2559, 0], [4039, 0],
]  # fmt: skip
PROMPTED = [
    [4021, 0], [2454, 37], [575, 36], [1086, 36], [3560, 37], [3016, 36], [3572, 0], [3063, 0], [4038, 0], [2760, 31],
]  # fmt: skip


def test_its_codes_are_those_recorded_before_there_were_patterns():
    decoder = Decoder(load_gpt(WEIGHTS))
    rng = np.random.default_rng(1)
    reference = PromptReference(
        rng.integers(300, 2000, 12), np.stack([rng.integers(0, 4096, 40), rng.integers(0, 64, 40)], 1)
    )
    text = np.random.default_rng(9).integers(300, 2000, 25)
    options = DecodeOptions(min_frames=10, max_frames=10, seed=0)
    for references, codes in (([], BARE), ([reference], PROMPTED)):
        assert decoder.generate(build_prompts(references, text, 2), options=options).codes.tolist() == codes
