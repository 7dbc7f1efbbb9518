"""Tables of what frames enter as: the same as the model's own layers, and none where there are none."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from modules.config import GPTConfig, SpeechTokenizerConfig, TextConfig, from_dict
from modules.gpt.decode import DecodeOptions, Decoder, build_prompts
from modules.gpt.entering import frame_tables
from modules.gpt.model import SpeechGPT
from modules.gpt.prompts import PromptReference
from modules.speech.grouped import FrameVectors, GroupedQuantizer, frame_vector_dim, stream_sizes
from tests.gpt.loud import SIZES, loud_model, summed_vectors

GROUPED = {"feature_dim": 10, "vector_dim": 12, "groups": 2, "quantizers": 2, "codebook_size": 16}
QUANTIZERS = {
    "vq": GROUPED,
    "fsq": GROUPED | {"method": "fsq", "levels": [4, 4]},
}


def same_entries(model: SpeechGPT, streams: int, sizes: tuple[int, ...], *, gap: bool = False) -> None:
    """Tables against the layers, for random steps; with a gap the second frame of a step is not there."""
    tables, width = frame_tables(model, "float32"), model.pattern.width
    codes = torch.stack([torch.randint(0, size, (40,)) for size in sizes * (width // streams)], 1)
    if gap:
        codes[::3, streams:] = -1
    with torch.no_grad():
        wanted, given = model.embed_frames(codes), tables(codes.split(streams, 1))
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    assert wanted.std(0).min() > 0, "different codes enter differently"


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("vectors", [False, True])
def test_tables_are_what_frames_enter_as(
    make_gpt: Callable[..., SpeechGPT], group: int, vectors: bool
) -> None:  # fmt: skip
    options = {"vector_dim": 6, "fsq_levels": None} if vectors else {}
    model = loud_model(make_gpt, GPTConfig(**SIZES, group_size=group), **options)
    if vectors:
        model.set_vectors(summed_vectors())
    same_entries(model, 2, (64, 8), gap=group > 1)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("prosody", [0, 5])
def test_vectors_of_every_quantizer_have_tables(quantizer: str, prosody: int) -> None:
    values = {"form": "grouped", "prosody_levels": prosody, "grouped": QUANTIZERS[quantizer]}
    config = from_dict(SpeechTokenizerConfig, values, "tokenizer")
    torch.manual_seed(0)
    learned = GroupedQuantizer(config).freeze()
    for name, tensor in learned.state_dict().items():
        if name.endswith("embed"):  # zero until they are learned
            tensor.normal_()
    frames, sizes = FrameVectors(learned), stream_sizes(config)
    made = SpeechGPT(GPTConfig(**SIZES), TextConfig(), sizes, 64, vector_dim=frame_vector_dim(config)).eval()
    made.set_vectors(frames)
    same_entries(made, len(sizes), sizes)


def test_without_tables_the_layers_are_asked(make_gpt: Callable[..., SpeechGPT]) -> None:
    model = loud_model(make_gpt, GPTConfig(**SIZES), vector_dim=6, fsq_levels=None)
    assert frame_tables(model, "float32") is None, "no vectors were handed in"
    summed = summed_vectors()
    model.set_vectors(lambda codes: summed(codes) * (1 + codes[..., :1] * codes[..., 1:]))
    assert frame_tables(model, "float32") is None, "no sums"
    rng = np.random.default_rng(1)
    voice = PromptReference(rng.integers(0, 40, 4), np.stack([rng.integers(0, n, 9) for n in (64, 8)], 1))
    options = DecodeOptions(min_frames=12, max_frames=12, guard=False, seed=5)
    decoder = Decoder(model, "int8")
    assert decoder.whole_frames() is None
    assert decoder.generate(build_prompts([voice], [3], 2), options=options).codes.shape == (12, 2)
