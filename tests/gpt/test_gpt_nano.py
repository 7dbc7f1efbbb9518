"""The shipped language model says, frame by frame, what it said when it was shipped."""

from pathlib import Path

import numpy as np

from modules.gpt.decode import DecodeOptions, Decoder, PromptReference, build_prompts
from modules.gpt.model import load_gpt
from modules.paths import PRETRAINED_MODELS

WEIGHTS: Path = PRETRAINED_MODELS / "nano" / "gpt.safetensors"
BARE = [
    [630, 30], [1087, 29], [305, 30], [361, 30], [3655, 0], [3655, 0], [3144, 30], [2640, 31], [1997, 31], [1299, 31],
]  # fmt: skip
PROMPTED = [
    [630, 36], [1087, 36], [635, 34], [368, 33], [3222, 34], [3591, 34], [3668, 34], [2064, 33], [3507, 32], [1420, 31],
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
