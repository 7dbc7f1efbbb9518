"""Laws of the grouped quantiser."""

from dataclasses import fields, replace

import pytest
import torch

from modules.config import GroupedConfig, Preset, SpeechTokenizerConfig, from_dict, load_preset
from modules.errors import ConfigError, UserError
from modules.speech.grouped import (
    FrameVectors,
    GroupedQuantizer,
    content_codes,
    frame_codes,
    frame_vector_dim,
    perplexity,
    stream_sizes,
)

SIZES = GroupedConfig(feature_dim=12, vector_dim=8, groups=2, quantizers=2, codebook_size=16)
CONFIG = SpeechTokenizerConfig(form="grouped", prosody_levels=8, grouped=SIZES)
MASK = torch.arange(25) < torch.tensor([25, 25, 10, 18])[:, None]


def _features(seed: int = 0) -> torch.Tensor:
    """[4, 50, 12] float16, of a few kinds of frames, as speech has them."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(20, 12, generator=torch.Generator().manual_seed(99))
    chosen = torch.randint(0, 20, (4, 25), generator=generator).repeat_interleave(2, 1)
    return (kinds[chosen] + 0.1 * torch.randn(4, 50, 12, generator=generator)).half()


def _trained(steps: int = 5, **changes) -> GroupedQuantizer:
    model = GroupedQuantizer(replace(CONFIG, grouped=replace(SIZES, **changes))).train()
    for step in range(steps):
        model(_features(step), MASK)
    return model


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("groups", "quantizers"), [(1, 1), (2, 1), (2, 2), (4, 1)])
def test_codes_stand_for_exactly_the_vectors_that_were_coded(groups: int, quantizers: int):
    model = _trained(groups=groups, quantizers=quantizers).eval()
    x = _features(9)
    vectors, ids, loss = model(x, MASK)
    assert ids.shape == (4, 25, groups * quantizers) and vectors.shape == (4, 25, 8)
    assert len(model.codebook_sizes) == ids.shape[2] and model.frame_rate == 25.0
    assert float(loss) == 0 and (vectors[~MASK] == 0).all() and (ids[~MASK] == 0).all()
    assert (model.vectors(ids)[MASK] - vectors[MASK]).abs().max() == 0
    assert torch.equal(model.encode(x, MASK.sum(1) * 2), ids)
    # The library itself says the same, in whatever order it adds.
    theirs = model.inner(model._hidden(x))[0]
    torch.testing.assert_close(theirs[MASK], vectors[MASK], atol=1e-6, rtol=0)
    assert torch.equal(model.vectors(ids[0, 3]), model.vectors(ids)[0, 3])


def test_bf16_autocast_changes_no_code():
    model = _trained().eval()
    with torch.autocast("cpu", torch.bfloat16):
        inside, ids, _ = model(_features(3), MASK)
    outside, expected, _ = model(_features(3), MASK)
    assert torch.equal(ids, expected) and torch.equal(inside, outside) and inside.dtype == torch.float32


def test_only_training_fills_the_codebooks():
    model = GroupedQuantizer(CONFIG).eval()
    before = _state(model)
    for attempt in (lambda: model(_features(), MASK), lambda: model.encode(_features())):
        with pytest.raises(UserError) as caught:
            attempt()
        assert caught.value.code == "quantizer_untrained"
    assert not model.ready and all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    model.train()(_features(), MASK)
    assert model.ready


def test_frozen_means_untouched():
    model = _trained().freeze()
    before = _state(model)
    model.train()
    vectors, ids, loss = model(_features(7), MASK)
    assert model.training and float(loss) == 0 and not vectors.requires_grad
    assert torch.equal(model.vectors(ids)[MASK], vectors[MASK])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_encoding_in_train_mode_changes_nothing():
    model = _trained()
    before = _state(model)
    ids = model.encode(_features(4))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(ids, model.eval().encode(_features(4)))


def test_training_moves_codebooks_and_teaches_the_projection():
    model = GroupedQuantizer(CONFIG).train()
    target = torch.nn.Linear(12, 6)
    head = torch.nn.Linear(8, 6)
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=1e-2)
    wanted = target(_features().float().unflatten(1, (25, 2)).mean(2)).detach()
    losses, before = [], None
    for _ in range(20):
        vectors, _, commitment = model(_features(), MASK)
        loss = (head(vectors) - wanted)[MASK].square().mean() + 0.25 * commitment
        optimizer.zero_grad()
        loss.backward()
        before = _state(model) if before is None else before
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert (model.project.weight.grad != 0).any()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert "project.weight" in moved and sum(name.endswith("embed") for name in moved) == 4


def test_padding_and_broken_frames_stay_out_of_the_codebooks():
    states = []
    for filling in (0.0, 50.0):
        torch.manual_seed(3)
        model = GroupedQuantizer(CONFIG).train()
        x = _features().float()
        x[~MASK.repeat_interleave(2, 1)] = filling
        x[0, 4:6, 3] = torch.inf
        _, ids, loss = model(x, MASK)
        assert loss.isfinite() and (ids >= 0).all()
        states.append(_state(model))
    assert all(tensor.isfinite().all() for tensor in states[0].values())
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


def test_50_features_a_second_may_also_be_50_tokens():
    model = GroupedQuantizer(replace(CONFIG, frame_rate=50)).train()
    assert model.stride == 1 and model(_features(), MASK.repeat_interleave(2, 1))[1].shape == (4, 50, 4)
    assert model.eval().encode(_features()[:, :49]).shape == (4, 49, 4)
    assert _trained().encode(_features()[:, :49]).shape == (4, 24, 4)


def test_the_streams_of_a_frame():
    model = _trained().eval()
    ids, prosody = model.encode(_features()), torch.randint(0, 8, (4, 25))
    codes = frame_codes(ids, prosody)
    assert stream_sizes(CONFIG) == (16, 8, 16, 16, 16) and codes.shape[2] == 5
    assert torch.equal(codes[..., 1], prosody) and torch.equal(content_codes(codes, 8), ids)
    read = FrameVectors(model.freeze())
    assert read(codes.flatten(0, 1)).shape == (100, read.dim) and read.dim == frame_vector_dim(CONFIG) == 16
    assert torch.equal(read(codes)[..., :8], model.vectors(ids))
    assert torch.equal(read(codes)[..., 8:].argmax(-1), prosody)
    plain = replace(CONFIG, prosody_levels=0)
    assert stream_sizes(plain) == (16,) * 4 and frame_codes(ids, None) is ids and content_codes(ids, 0) is ids


def test_features_and_pitch_make_the_codes_of_all_streams():
    model = _trained().eval()
    f0 = torch.full((4, 90), 150.0)
    f0[:, 40:] *= 2 ** (1 / 12)  # a semitone up, for longer than it was down
    codes = model.codes(_features(), f0)
    assert torch.equal(content_codes(codes, 8), model.encode(_features()))
    assert codes[0, :, 1].tolist() == [2] * 10 + [4] * 12 + [4] + [0] * 2
    plain = GroupedQuantizer(replace(CONFIG, prosody_levels=0)).train()
    plain(_features(), MASK)
    assert torch.equal(plain.codes(_features(), f0), plain.encode(_features()))


def test_perplexity_counts_the_codes_in_use():
    ids = torch.arange(8).repeat(2, 1).unsqueeze(-1)
    assert float(perplexity(ids, torch.ones(2, 8, dtype=torch.bool), 16)) == pytest.approx(8.0)
    assert float(perplexity(ids, torch.arange(8) < torch.tensor([[1], [1]]), 16)) == pytest.approx(1.0)


def test_base_has_the_designs_tokens():
    tokenizer = load_preset("base").tokenizer
    assert tokenizer.form == "grouped" and stream_sizes(tokenizer) == (1024, 64, 1024)
    assert stream_sizes(load_preset("nano").tokenizer) == (4096, 64)


def test_a_wrong_size_in_a_preset_is_named_with_its_place():
    for values, word in (({"groups": 9}, "tokenizer.grouped.groups"), ({"books": 2}, "tokenizer.grouped: unknown")):
        with pytest.raises(ConfigError, match=word):
            from_dict(Preset, {"tokenizer": {"grouped": values}})
    assert all(spec.metadata["help"] for spec in fields(GroupedConfig))


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"grouped": replace(SIZES, vector_dim=9)}, "vector_dim"), ({"frame_rate": 40}, "feature_rate")],
)
def test_sizes_that_do_not_divide_are_named(changes: dict, key: str):
    with pytest.raises(ConfigError, match=key):
        GroupedQuantizer(replace(CONFIG, **changes))
