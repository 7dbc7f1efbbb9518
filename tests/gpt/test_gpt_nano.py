"""The shipped language model says, frame by frame, what it said when it was shipped."""

from pathlib import Path

import numpy as np

from modules.gpt.decode import DecodeOptions, Decoder, PromptReference, build_prompts
from modules.gpt.model import load_gpt
from modules.paths import PRETRAINED_MODELS

WEIGHTS: Path = PRETRAINED_MODELS / "nano" / "gpt.safetensors"
BARE = [
    [575, 40], [701, 39], [369, 38], [3663, 0], [3655, 0], [2064, 38], [2128, 36], [2509, 35], [209, 35], [376, 35],
]  # fmt: skip
PROMPTED = [
    [575, 38], [1204, 37], [433, 35], [3663, 0], [3655, 0], [3080, 37], [2128, 36], [1997, 36], [289, 36], [880, 34],
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
