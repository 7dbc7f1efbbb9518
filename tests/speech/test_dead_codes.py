"""Codes that nothing uses find a new place, each its own, in every process the same."""

from dataclasses import replace
from pathlib import Path

import torch

from modules.config import GroupedConfig, SpeechTokenizerConfig
from modules.speech.grouped import GroupedQuantizer
from tests.training.test_team import torchrun

SIZES = GroupedConfig(feature_dim=12, vector_dim=8, groups=2, codebook_size=64)
CONFIG = SpeechTokenizerConfig(form="grouped", grouped=SIZES)

WORKER = """
import torch
from modules.training.distributed import Accelerated
from tests.speech.test_dead_codes import shares, trained

team = Accelerated(cpu=True)
for quantizers in (1, 2):
    model = trained(team.rank, quantizers)
    states = team.from_all({name: tensor.tolist() for name, tensor in model.state_dict().items() if "codebook" in name})
    assert states[0] == states[1]
    assert min(shares(model)[:2]) > 0.9 and min(shares(model)) > 0.4, shares(model)
"""


def trained(seed: int = 0, quantizers: int = 1, steps: int = 40, **changes) -> GroupedQuantizer:
    """After batches of 24 vectors, fewer than there are codes; each seed brings others."""
    torch.manual_seed(seed)
    model = GroupedQuantizer(replace(CONFIG, grouped=replace(SIZES, quantizers=quantizers, **changes))).train()
    generator = torch.Generator().manual_seed(3)  # of what starts at random
    model.project.weight.data.copy_(torch.randn(8, 24, generator=generator) / 5)
    for step in range(steps):
        model(torch.randn(2, 24, 12, generator=torch.Generator().manual_seed(100 * seed + step)), _all(2, 12))
    return model


def _all(rows: int, tokens: int) -> torch.Tensor:
    return torch.ones(rows, tokens, dtype=torch.bool)


def shares(model: GroupedQuantizer) -> list[float]:
    """Which share of each codebook new vectors use."""
    ids = model.encode(torch.randn(40, 100, 12, generator=torch.Generator().manual_seed(9)))
    return [len(ids[..., book].unique()) / 64 for book in range(ids.shape[2])]


def _books(model: GroupedQuantizer) -> list[torch.nn.Module]:
    return [layer._codebook for part in model.inner.rvqs for layer in part.layers]


def test_small_batches_fill_the_codebooks():
    assert min(shares(trained())) > 0.9
    assert min(shares(trained(quantizers=2))) > 0.7
    assert max(shares(trained(dead_below=0.0))) < 0.7


def test_no_two_codes_are_put_on_one_place():
    model = trained(steps=6)
    for book in model.codebooks():
        assert len(book.unique(dim=0)) == 64


def test_a_revived_code_has_time_to_prove_itself():
    model = trained(steps=10)
    for book in _books(model):
        book.embed[0, :3] = 1e3  # out of everybody's way
        book.cluster_size[0, :3] = 0.0
    before = model.codebooks()[:, :3].clone()
    model(torch.randn(2, 24, 12), _all(2, 12))
    assert not (model.codebooks()[:, :3] == before).all(-1).any()
    for book in _books(model):
        assert torch.allclose(book.embed_avg[0, :3] / book.cluster_size[0, :3, None], book.embed[0, :3])
        assert (book.cluster_size[0, :3] > SIZES.dead_below).all()


def test_masked_frames_are_no_place_for_a_code():
    model = trained(steps=10)
    for book in _books(model):
        book.cluster_size.zero_()
    x = torch.randn(2, 24, 12)
    x[1] = 1e4
    mask = _all(2, 12)
    mask[1] = False
    real = model._hidden(x)[0].detach()
    model(x, mask)
    for group, book in enumerate(_books(model)):
        fresh = book.embed[0][book.cluster_size[0] > SIZES.dead_below]
        assert len(fresh) == 12
        assert all((real.chunk(2, -1)[group] - code).abs().sum(-1).min() < 1e-5 for code in fresh)


def test_two_processes_share_full_codebooks(tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    torchrun(str(script))
