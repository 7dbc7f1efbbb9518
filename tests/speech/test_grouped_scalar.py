"""Laws of the grouped quantiser whose codes are a finite scalar grid."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modules.checkpoint import Lineage
from modules.config import GroupedConfig, SpeechTokenizerConfig
from modules.speech.grouped import GroupedQuantizer, load_quantizer, quantizer_hash, stream_sizes
from modules.vits2.building import build_vits2
from modules.vits2.model import load_vits2, save_vits2
from tests.tiny import tiny_preset

SIZES = GroupedConfig(method="fsq", levels=(5, 4, 3), feature_dim=12, vector_dim=8, groups=2, quantizers=1)
CONFIG = SpeechTokenizerConfig(form="grouped", prosody_levels=8, grouped=SIZES)
MASK = torch.arange(25) < torch.tensor([25, 25, 10, 18])[:, None]
VARIANTS = [(1, 1), (2, 1), (2, 2), (4, 1)]


def _features() -> torch.Tensor:
    return 3 * torch.randn(4, 50, 12, generator=torch.Generator().manual_seed(1))


def _model(**changes) -> GroupedQuantizer:
    return GroupedQuantizer(replace(CONFIG, grouped=replace(SIZES, **changes)))


@pytest.mark.parametrize(("groups", "quantizers"), VARIANTS)
def test_codes_stand_for_exactly_the_vectors_that_were_coded(groups: int, quantizers: int):
    model = _model(groups=groups, quantizers=quantizers).eval()
    assert model.ready, "a grid is there from the start"
    vectors, ids, loss = model(_features(), MASK)
    assert ids.shape == (4, 25, groups * quantizers) and ids.dtype == torch.int64 and vectors.shape == (4, 25, 8)
    assert model.codebook_sizes == (60,) * ids.shape[2] and ids.min() >= 0 and ids.max() < 60
    assert float(loss) == 0 and (vectors[~MASK] == 0).all() and (ids[~MASK] == 0).all()
    assert torch.equal(model.vectors(ids)[MASK], vectors[MASK])
    assert torch.equal(model.encode(_features(), MASK.sum(1) * 2), ids)
    theirs, their_ids = model.inner(model._hidden(_features()))
    assert (theirs[MASK] - vectors[MASK]).abs().max() < 1e-6  # measured: 1e-7
    assert torch.equal(their_ids.permute(1, 2, 3, 0).flatten(2).long()[MASK], ids[MASK])
    assert (model.inner.get_output_from_indices(their_ids)[MASK] - vectors[MASK]).abs().max() < 1e-6
    assert len(ids[MASK].unique(dim=0)) > 9 and torch.equal(model.vectors(ids[0, 3]), model.vectors(ids)[0, 3])


@pytest.mark.parametrize(("groups", "quantizers"), VARIANTS)
def test_training_sees_the_vectors_of_use(groups: int, quantizers: int):
    model = _model(groups=groups, quantizers=quantizers).train()
    vectors, ids, loss = model(_features(), MASK)
    used, used_ids, _ = model.eval()(_features(), MASK)
    assert torch.equal(ids, used_ids) and (vectors - used).abs().max() < 1e-6 and float(loss) == 0
    vectors.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_broken_frame_harms_no_other():
    model, x = _model().train(), _features()
    x[0, 4:6, 3] = torch.inf
    vectors, _, _ = model(x, MASK)
    vectors.sum().backward()
    assert vectors.isfinite().all() and model.project.weight.grad.isfinite().all()


def test_encoding_changes_nothing_not_even_the_random_state():
    model = _model().train()
    before, state = torch.get_rng_state(), {n: t.clone() for n, t in model.state_dict().items()}
    ids = model.encode(_features())
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(ids, model.eval().encode(_features()))
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.encode(_features()), ids)
    vectors = model.freeze().train()(_features(), MASK)[0]
    assert not vectors.requires_grad


def test_streams_follow_the_method():
    assert stream_sizes(CONFIG) == (60, 8, 60)
    assert stream_sizes(replace(CONFIG, grouped=replace(SIZES, quantizers=2))) == (60, 8, 60, 60, 60)
    assert stream_sizes(replace(CONFIG, grouped=replace(SIZES, method="vq"))) == (1024, 8, 1024)
    assert stream_sizes(replace(CONFIG, grouped=replace(SIZES, levels=(4,) * 5))) == (1024, 8, 1024)


@pytest.mark.parametrize(("method", "quantizers"), [("fsq", 1), ("fsq", 2), ("vq", 1), ("vq", 2)])
def test_a_decoders_file_keeps_every_code(method: str, quantizers: int, tmp_path: Path):
    sizes = replace(SIZES, method=method, quantizers=quantizers, codebook_size=16)
    preset = replace(tiny_preset(), tokenizer=replace(CONFIG, grouped=sizes))
    decoder = build_vits2(preset, 40, posterior=False)
    if method == "vq":
        decoder.quantizer.train()(_features(), MASK)
    decoder.eval()
    path = save_vits2(tmp_path / "vits2.safetensors", decoder, Lineage("tiny", "vits2", 1, 1), include_posterior=False)
    quantizer, again = load_quantizer(path), load_vits2(path)
    vectors, ids, _ = decoder.quantizer(_features(), MASK)
    for other in (quantizer, again.quantizer.eval()):
        theirs, their_ids, _ = other(_features(), MASK)
        assert torch.equal(their_ids, ids) and torch.equal(theirs, vectors)
    assert quantizer_hash(quantizer) == quantizer_hash(decoder.quantizer) == quantizer_hash(again.quantizer)


@pytest.mark.parametrize("method", ["fsq", "vq"])
def test_the_hash_follows_what_decides_codes_and_nothing_else(method: str):
    model = _model(method=method, codebook_size=16).train()
    model(_features(), MASK)
    first = quantizer_hash(model)
    assert len(first) == 64 and quantizer_hash(model.eval()) == first
    for name, tensor in model.state_dict().items():
        kept = tensor.clone()
        with torch.no_grad():
            tensor.copy_(~kept if kept.dtype == torch.bool else kept + 1)
        decides = name.startswith("project") or name.rpartition(".")[2] in ("embed", "weight", "bias")
        assert (quantizer_hash(model) != first) == decides, name
        with torch.no_grad():
            tensor.copy_(kept)
    assert quantizer_hash(model) == first
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.half() if tensor.is_floating_point() else tensor)
    assert quantizer_hash(model) == first, "stored in half precision it is the same quantiser"
