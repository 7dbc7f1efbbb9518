"""Every engine against the reference on torch, and every precision against float32."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from modules.config import GPTConfig
from modules.errors import UserError
from modules.gpt import engines, onnx_graph, onnx_step, packing
from modules.gpt.engines import build_engine, weight_type
from modules.gpt.model import SpeechGPT
from modules.gpt.onnx_step import OnnxStepEngine
from modules.gpt.packing import pack_linear, quantize
from modules.gpt.step import StepEngine

CONFIG = GPTConfig(hidden=64, layers=3, heads=4, kv_heads=2, intermediate=96, max_positions=128, dropout=0.0)
CPU = torch.device("cpu")
ERRORS = {"bf16": 0.02, "int8": 0.03, "int4": 0.3}
"""Bounds on the relative error of a random model's states: a wrong scale or a swapped half is off by 1."""


@pytest.fixture
def model(make_gpt: Callable[..., SpeechGPT], monkeypatch: pytest.MonkeyPatch) -> SpeechGPT:
    """So small that its matrices would stay float32, were it not for the patches."""
    monkeypatch.setattr(onnx_graph, "SMALL", 0)
    monkeypatch.setattr(packing, "SMALL", 0)
    torch.manual_seed(0)
    model = make_gpt(config=CONFIG)
    for parameter in model.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def ragged(engine: StepEngine | OnnxStepEngine, seed: int = 0, timed: bool = False) -> torch.Tensor:
    """States of three rows of 11, 6 and 2 positions and of five steps behind them; then of two of them, swapped."""
    rng = torch.Generator().manual_seed(seed)
    cache, new = engine.new_cache(3, 20), [11, 6, 2]
    x = torch.randn(3, 11, 64, generator=rng)
    places = torch.rand(3, 11, generator=rng).cumsum(1) * 3 if timed else None
    hidden = engine(x, cache, places, new)
    found = [hidden[row, :count].reshape(-1) for row, count in enumerate(new)]
    for step in range(5):
        there = torch.full((3, 1), 40.0 + step) if timed else None
        found.append(engine(torch.randn(3, 1, 64, generator=rng), cache, there).reshape(-1))
    cache = cache.keep([2, 0])
    assert cache.lengths == [7, 16]
    found.append(engine(torch.randn(2, 1, 64, generator=rng), cache).reshape(-1))
    found.append(engine(torch.randn(2, 3, 64, generator=rng), cache, None, [3, 1])[0].reshape(-1))
    return torch.cat(found)


@torch.inference_mode()
@pytest.mark.parametrize("timed", [False, True])
def test_one_graph_equals_the_steps_of_torch(model: SpeechGPT, timed: bool) -> None:
    reference = ragged(StepEngine(model.backbone), timed=timed)
    ours = ragged(OnnxStepEngine(model.backbone, "float32"), timed=timed)
    torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("engine", "weights"),
    [
        (StepEngine, "bf16"),
        (StepEngine, "int8"),
        (StepEngine, "int4"),
        (OnnxStepEngine, "int8"),
        (OnnxStepEngine, "int4"),
    ],
)
def test_fewer_bits_stay_near(model: SpeechGPT, engine: type, weights: str) -> None:
    reference, ours = ragged(StepEngine(model.backbone)), ragged(engine(model.backbone, weights))
    error = float((ours - reference).norm() / reference.norm())
    assert 0 < error < ERRORS[weights]


@torch.inference_mode()
@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
def test_a_row_is_computed_alike_alone_and_in_company(make_gpt: Callable[..., SpeechGPT], weights: str) -> None:
    """The rounding of inputs must not look at other rows, and threads must not change the order of sums: a difference
    in the last bit would be a code's difference some steps later."""
    backbone = make_gpt(config=replace(CONFIG, hidden=192, intermediate=640)).backbone
    engine = OnnxStepEngine(backbone, weights, own_threads=1, most_threads=2)
    x = torch.randn(8, 45, 192) * torch.tensor([0.1, 1.0, 5.0, 30.0]).repeat(2)[:, None, None]
    together, alone = engine.new_cache(8, 50), [engine.new_cache(1, 50) for _ in range(8)]
    for piece in x.split([5] + [1] * 40, 1):
        all_rows = engine(piece, together)
        rows = torch.cat([engine(piece[row : row + 1], alone[row]) for row in range(8)])
        if weights == "int4":  # whose kernels add up one row in another order than several
            torch.testing.assert_close(all_rows, rows, atol=0.25, rtol=0)
        else:
            assert torch.equal(all_rows, rows)


def test_integers_are_rounded_to_the_nearest_within_their_range() -> None:
    weight = torch.randn(6, 64)
    for bits, block in ((8, 64), (4, 32)):
        whole, scales = quantize(weight, bits, block)
        again = (whole.unflatten(1, (-1, block)) * scales[..., None]).flatten(1)
        assert whole.min() >= -(2 ** (bits - 1)) and whole.max() < 2 ** (bits - 1)
        assert ((again - weight).abs() <= 0.5001 * scales.repeat_interleave(block, 1)).all()
    assert torch.equal(quantize(torch.zeros(2, 32), 8, 32)[0], torch.zeros(2, 32, dtype=torch.int32))


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["float32", *ERRORS])
@pytest.mark.parametrize("shape", [(193, 768), (4097, 64), (5, 7)])
def test_a_packed_layer_is_the_layer(kind: str, shape: tuple[int, int]) -> None:
    weight, bias, x = torch.randn(*shape), torch.randn(shape[0]), torch.randn(2, 3, shape[1])
    expected = F.linear(x, weight, bias)
    found = pack_linear(weight, bias, kind)(x)
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < {"float32": 1e-6, **ERRORS}[kind]


@pytest.mark.parametrize(("kind", "inputs"), [("int8", 128), ("int8", 96), ("int4", 256), ("int4", 192), ("int4", 96)])
def test_a_layer_of_a_graph_is_the_layer(monkeypatch: pytest.MonkeyPatch, kind: str, inputs: int) -> None:
    """Of the weights as they are rounded, so that only the rounding of the inputs is left."""
    monkeypatch.setattr(onnx_graph, "SMALL", 0)
    weight, bias, x = torch.randn(40, inputs), torch.randn(40), torch.randn(3, inputs)
    graph = onnx_graph.Graph(kind)
    graph.add("Identity", graph.linear(graph.input("x", "n", inputs), weight, bias), names=["y"])
    graph.output("y", "n", 40)
    found = torch.from_numpy(graph.session(1).run(None, {"x": x.numpy()})[0])
    block = next(size for size in onnx_graph.BLOCKS[kind] if inputs % size == 0)
    whole, scales = quantize(weight, onnx_graph.BITS[kind], block)
    expected = F.linear(x, (whole.unflatten(1, (-1, block)) * scales[..., None]).flatten(1), bias)
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.01


@torch.inference_mode()
def test_large_biases_of_keys_fit_into_eight_bits(model: SpeechGPT) -> None:
    """As Qwen2's own are: what is always there must not be cut off."""
    for layer in model.backbone.layers:
        layer.self_attn.k_proj.bias.normal_(std=30)
        layer.self_attn.k_proj.weight.normal_(std=0.05)
        layer.self_attn.q_proj.weight.normal_(std=0.05)
    reference, ours = ragged(StepEngine(model.backbone)), ragged(OnnxStepEngine(model.backbone, "int8"))
    assert float((ours - reference).norm() / reference.norm()) < ERRORS["int8"]


def test_what_auto_means_and_what_is_refused(model: SpeechGPT, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = model.backbone
    assert weight_type("auto", CPU, backbone) == "int8" and weight_type("bf16", CPU, backbone) == "bf16"
    monkeypatch.setattr(engines, "SMALL_WEIGHTS", 10_000)
    assert weight_type("auto", CPU, backbone) == "int4" and weight_type("int8", CPU, backbone) == "int8"
    with pytest.raises(UserError) as error:
        weight_type("int8", torch.device("cuda"), backbone)
    assert error.value.code == "precision_unsupported" and "cuda" in str(error.value)
    with pytest.raises(UserError) as error:
        weight_type("int3", CPU, backbone)
    assert error.value.code == "precision_unknown" and "int4" in str(error.value)


def test_models_of_integers_are_one_graph_and_others_are_not(
    model: SpeechGPT, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(engines, "full_threads", lambda: 2)
    small = build_engine(model.backbone, "int8")
    assert isinstance(small, OnnxStepEngine) and small.own_threads == 1 and small._wide is not small._session
    monkeypatch.setattr(engines, "SMALL_WEIGHTS", 10_000)
    large = build_engine(model.backbone, "int4")
    assert isinstance(large, OnnxStepEngine) and large.own_threads == 2 and large._wide is large._session
    monkeypatch.setattr(onnx_step, "MOST_WEIGHTS", 10_000)
    assert isinstance(build_engine(model.backbone, "int4"), StepEngine)
    assert isinstance(build_engine(model.backbone, "float32"), StepEngine)
    assert isinstance(build_engine(model.backbone, "bf16"), StepEngine)


@torch.inference_mode()
@pytest.mark.parametrize(("hidden", "heads"), [(96, 4), (64, 8), (80, 5), (64, 4), (96, 3)])
def test_every_small_model_has_an_engine_that_runs_it(
    make_gpt: Callable[..., SpeechGPT], hidden: int, heads: int
) -> None:  # fmt: skip
    config = GPTConfig(
        hidden=hidden, layers=1, heads=heads, kv_heads=1, intermediate=96, max_positions=64, dropout=0.0
    )  # fmt: skip
    backbone = make_gpt(config=config).backbone
    engine = build_engine(backbone, "int8")
    reference = StepEngine(backbone)
    x = torch.randn(1, 5, hidden)
    ours, theirs = (built(x, built.new_cache(1, 8)) for built in (engine, reference))
    assert float((ours - theirs).norm() / theirs.norm()) < ERRORS["int8"]


@torch.inference_mode()
@pytest.mark.parametrize("engine", [StepEngine, OnnxStepEngine])
def test_a_full_cache_says_so_and_is_left_as_it_was(model: SpeechGPT, engine: type) -> None:
    built = engine(model.backbone)
    cache = built.new_cache(1, 4)
    built(torch.randn(1, 3, 64), cache)
    with pytest.raises(ValueError, match="full"):
        built(torch.randn(1, 2, 64), cache)
    assert cache.lengths == [3]
