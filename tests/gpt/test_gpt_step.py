"""The fast step against the transformers model it copies."""

import pytest
import torch
import torch.nn.functional as F

from modules.config import GPTConfig
from modules.gpt.model import SpeechGPT
from modules.gpt.step import StepEngine

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture
def model(make_gpt) -> SpeechGPT:
    model = make_gpt()
    for parameter in model.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # gains and biases too, so that folding them is put to the test
    return model


def reference(model: SpeechGPT, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.backbone(inputs_embeds=x, use_cache=False).last_hidden_state


def test_one_go_equals_the_full_model(model):
    x = torch.randn(2, 17, 32)
    engine = StepEngine(model.backbone)
    torch.testing.assert_close(engine(x, engine.new_cache(2, 17)), reference(model, x), **CLOSE)


@pytest.mark.parametrize("cuts", [(1,) * 12, (5, 1, 1, 5), (3, 4, 5)])
def test_any_division_into_steps_equals_the_full_model(model, cuts):
    x = torch.randn(2, 12, 32)
    engine = StepEngine(model.backbone)
    cache = engine.new_cache(2, 12)
    pieces = torch.cat([engine(piece, cache) for piece in x.split(cuts, 1)], 1)
    torch.testing.assert_close(pieces, reference(model, x), **CLOSE)


def test_cached_steps_equal_transformers_own_cache(model):
    x = torch.randn(1, 9, 32)
    engine = StepEngine(model.backbone)
    cache, theirs = engine.new_cache(1, 9), None
    with torch.no_grad():
        for piece in x.split((6, 1, 1, 1), 1):
            out = model.backbone(inputs_embeds=piece, past_key_values=theirs, use_cache=True)
            theirs = out.past_key_values
            torch.testing.assert_close(engine(piece, cache), out.last_hidden_state, **CLOSE)


def test_rows_of_differing_length_see_themselves_alone(model):
    engine = StepEngine(model.backbone)
    rows = [torch.randn(1, length, 32) for length in (7, 10, 3)]
    cache, first = engine.new_cache(3, 12), [4, 6, 1]
    padded = torch.stack([F.pad(row[0, :n], (0, 0, 0, 6 - n), value=9.0) for row, n in zip(rows, first, strict=True)])
    hidden = engine(padded, cache, None, first)
    said = [[hidden[i, : first[i]]] for i in range(3)]
    for step in range(2):
        x = torch.stack([row[0, n + step : n + step + 1] for row, n in zip(rows, first, strict=True)])
        for i, out in enumerate(engine(x, cache)):
            said[i].append(out)
    assert cache.lengths == [6, 8, 3]
    for row, pieces in zip(rows, said, strict=True):
        together = torch.cat(pieces)
        torch.testing.assert_close(together, reference(model, row)[0, : len(together)], **CLOSE)


def test_rows_that_are_kept_go_on_as_before(model):
    engine, x = StepEngine(model.backbone), torch.randn(3, 8, 32)
    cache = engine.new_cache(3, 8)
    engine(x[:, :5], cache, None, [5, 3, 4])
    kept = cache.keep([2, 0])
    out = engine(torch.stack([x[2, 4:5], x[0, 5:6]]), kept)
    assert kept.lengths == [5, 6]
    torch.testing.assert_close(out[0, 0], reference(model, x[2:, :5])[0, 4], **CLOSE)
    torch.testing.assert_close(out[1, 0], reference(model, x[:1, :6])[0, 5], **CLOSE)


def test_what_was_read_once_begins_other_rows(model):
    engine, x = StepEngine(model.backbone), torch.randn(1, 9, 32)
    first = engine.new_cache(1, 6)
    engine(x[:, :6], first)
    cache = engine.new_cache(2, 9)
    for row in range(2):
        cache.begin(row, first.head(0, 6))
    rest = engine(x[:, 6:].expand(2, -1, -1), cache)
    for row in range(2):
        torch.testing.assert_close(rest[row], reference(model, x)[0, 6:], **CLOSE)


@pytest.mark.parametrize("width", [9, 12, 20])
def test_a_step_of_fixed_width_equals_one_that_grows(model, width):
    """What a CUDA graph records: places come in as a tensor, and what lies beyond them is masked."""
    engine, x = StepEngine(model.backbone), torch.randn(2, 9, 32)
    growing, fixed = engine.new_cache(2, 20), engine.new_cache(2, 20)
    for cache in (growing, fixed):
        engine(x[:, :8], cache, None, [8, 5])
    step = torch.stack([x[0, 8:], x[1, 5:6]])
    static = engine.run_at(step, fixed, None, torch.tensor(fixed.lengths), width)
    torch.testing.assert_close(static, engine(step, growing), **CLOSE)


@pytest.mark.parametrize("heads", [(4, 4), (4, 1)])
def test_any_grouping_of_heads(make_gpt, heads):
    config = GPTConfig(hidden=32, layers=1, heads=heads[0], kv_heads=heads[1], intermediate=32, dropout=0.0)
    model = make_gpt(config=config)
    engine, x = StepEngine(model.backbone), torch.randn(1, 5, 32)
    cache = engine.new_cache(1, 5)
    steps = torch.cat([engine(piece, cache) for piece in x.split(1, 1)], 1)
    torch.testing.assert_close(steps, reference(model, x), **CLOSE)


def test_a_full_cache_says_so(model):
    engine = StepEngine(model.backbone)
    with pytest.raises(ValueError, match="full"):
        engine(torch.randn(1, 5, 32), engine.new_cache(1, 4))
