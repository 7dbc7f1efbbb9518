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
from modules.speech.grouped import FrameVectors, GroupedQuantizer, stream_sizes
from tests.gpt.loud import SIZES, loud_model, summed_vectors

GROUPED = {"feature_dim": 10, "vector_dim": 12, "groups": 2, "quantizers": 2, "codebook_size": 16}
QUANTIZERS = {
    "vq": GROUPED,
    "fsq": GROUPED | {"method": "fsq", "levels": [4, 4]},
}


def assert_same_entries(model: SpeechGPT, streams: int, sizes: tuple[int, ...], *, gap: bool = False) -> None:
    """Tables against the layers, for random steps; with a gap the second frame of a step is not there."""
    tables, width = frame_tables(model), model.pattern.width
    codes = torch.stack([torch.randint(0, size, (40,)) for size in sizes * (width // streams)], 1)
    if gap:
        codes[::3, streams:] = -1
    with torch.no_grad():
        wanted, given = model.embed_frames(codes), tables(codes.split(streams, 1))
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    assert wanted.std(0).min() > 0, "different codes enter differently"
    ended = codes[:, :streams].clone()
    ended[:, 0] = sizes[0]
    rest = [codes[:, at : at + streams] for at in range(streams, width, streams)]
    assert tables([ended, *rest]).isfinite().all(), "the class of EOS enters where rows go on after their end"


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("vectors", [False, True])
def test_tables_are_what_frames_enter_as(
    make_gpt: Callable[..., SpeechGPT], group: int, vectors: bool
) -> None:  # fmt: skip
    options = {"vector_dim": 6, "fsq_levels": None} if vectors else {}
    model = loud_model(make_gpt, GPTConfig(**SIZES, group_size=group), **options)
    if vectors:
        model.set_vectors(summed_vectors())
    assert_same_entries(model, 2, (64, 8), gap=group > 1)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("prosody", [0, 5])
@pytest.mark.parametrize("group", [1, 2])
def test_vectors_of_every_quantizer_have_tables(quantizer: str, prosody: int, group: int) -> None:
    values = {"form": "grouped", "prosody_levels": prosody, "grouped": QUANTIZERS[quantizer]}
    config = from_dict(SpeechTokenizerConfig, values, "tokenizer")
    torch.manual_seed(0)
    learned = GroupedQuantizer(config).freeze()
    for name, tensor in learned.state_dict().items():
        if name.endswith("embed"):  # zero until they are learned
            tensor.normal_()
    frames, sizes = FrameVectors(learned), stream_sizes(config)
    config = GPTConfig(**SIZES, group_size=group)
    made = SpeechGPT(config, TextConfig(), sizes, 64, vector_dim=frames.dim).eval()
    made.set_vectors(frames)
    assert_same_entries(made, len(sizes), sizes, gap=group > 1)


def test_vectors_that_are_missing_or_no_sums_are_refused(make_gpt: Callable[..., SpeechGPT]) -> None:
    model = loud_model(make_gpt, GPTConfig(**SIZES), vector_dim=6, fsq_levels=None)
    with pytest.raises(ValueError, match="set_vectors"):
        Decoder(model)
    summed = summed_vectors()
    model.set_vectors(lambda codes: summed(codes) * (1 + codes[..., :1] * codes[..., 1:]))
    with pytest.raises(ValueError, match="sum"):
        Decoder(model)


def test_a_model_of_vectors_draws_whole_frames(make_gpt: Callable[..., SpeechGPT]) -> None:
    model = loud_model(make_gpt, GPTConfig(**(SIZES | {"hidden": 64})), vector_dim=6, fsq_levels=None)
    model.set_vectors(summed_vectors())
    decoder = Decoder(model, "int8")
    assert decoder.whole_frames() is not None
    rng = np.random.default_rng(1)
    voice = PromptReference(rng.integers(0, 40, 4), np.stack([rng.integers(0, n, 9) for n in (64, 8)], 1))
    options = DecodeOptions(min_frames=12, max_frames=12, guard=False, seed=5)
    prompts = build_prompts([voice], [3], 2)
    said = decoder.generate(prompts, options=options).codes
    decoder._frames = None
    by_torch = decoder.generate(prompts, options=options).codes
    assert said.shape == (12, 2) and torch.equal(said, by_torch), "so small matrices are not rounded"
