"""The fast step against the transformers model it copies."""

import pytest
import torch

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


def test_left_padding_is_not_seen(model):
    engine = StepEngine(model.backbone)
    short, long = torch.randn(1, 7, 32), torch.randn(1, 10, 32)
    padded = torch.cat([torch.cat([torch.randn(1, 3, 32), short], 1), long])
    cache = engine.new_cache(2, 10, torch.tensor([3, 0]))
    together = torch.cat([engine(piece, cache) for piece in padded.split((6, 1, 3), 1)], 1)
    torch.testing.assert_close(together[0, 3:], reference(model, short)[0], **CLOSE)
    torch.testing.assert_close(together[1], reference(model, long)[0], **CLOSE)


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
