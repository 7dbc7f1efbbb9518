"""The step of a Qwen2 as one graph of ONNX Runtime, for CPUs.

A step of a small model is sixty small operations; what each costs beyond its arithmetic decides. A step of a large one
is the reading of its weights. Here a whole step is one call, its matrices are integers with a scale for each block of
inputs (MatMulNBits), and attention reads and writes the static cache in place (GroupQueryAttention), each row up to its
own length. Beside weights of integers the cache is of 8 bits too, which attention reads several times as fast.

`tests/gpt/test_gpt_engines.py` holds it to `StepEngine`.

Shape letters: n rows, T new positions, L positions of the cache, H hidden, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from modules.gpt.cache import Cache
from modules.gpt.onnx_graph import CONTRIB, LEAST_BLOCK, Graph, point
from modules.gpt.step import fused

HEAD_MULTIPLE = 16
"""GroupQueryAttention wants heads as wide as a multiple of this."""
MUCH = 6
"""Positions, of one row or of several, that are worth more threads than a step of a small model."""
REACH = 0.5
"""Keys and values of 8 bits reach so far of the largest numbers that the weights could make of normalised inputs,
beside all of their biases. Those of nano reach 0.37, and half of them less than 0.2; what goes beyond is cut off."""
MOST_WEIGHTS = 1_500_000_000
"""A graph is one message of less than 2 GiB."""


def fits(backbone: nn.Module) -> bool:
    """Whether blocks of weights divide every matrix of the backbone, the kernel of attention knows its heads, and it is
    not too large for a graph."""
    shape = backbone.config
    if sum(parameter.numel() for parameter in backbone.parameters()) > MOST_WEIGHTS:
        return False
    if shape.hidden_size // shape.num_attention_heads % HEAD_MULTIPLE:
        return False
    return shape.hidden_size % LEAST_BLOCK == 0 and shape.intermediate_size % LEAST_BLOCK == 0


class OnnxStepEngine:
    """`modules.gpt.step.Engine` of ONNX Runtime.

    Args:
        backbone: a transformers Qwen2Model with full attention, on a CPU.
        weights: "float32", "int8" or "int4"; beside integers the cache is int8.
        own_threads: that work on a step.
        most_threads: that work on `MUCH` positions and more; None: as many as on a step.
    """

    threads, fixed_rows = 1, False  # threads of torch that wait for work would take the cores of this one's

    def __init__(
        self, backbone: nn.Module, weights: str = "int8", own_threads: int = 1, most_threads: int | None = None
    ):  # fmt: skip
        shape, self.own_threads = backbone.config, own_threads
        self._layers, self._kv_heads = shape.num_hidden_layers, shape.num_key_value_heads
        self._hidden, self._head_dim = shape.hidden_size, shape.hidden_size // shape.num_attention_heads
        self.capacity = shape.max_position_embeddings
        self._cache_dtype = torch.float32 if weights == "float32" else torch.int8
        with torch.no_grad():
            self._speeds = backbone.rotary_emb.inv_freq.float().numpy().copy()
            graph = _build(backbone, weights)
        self._session = self._wide = graph.session(own_threads)
        if most_threads not in (None, own_threads):
            self._wide = graph.session(most_threads)

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """See `Engine`."""
        return Cache.empty(
            self._layers, rows, self._kv_heads, capacity, self._head_dim, self._cache_dtype, torch.device("cpu")
        )

    def __call__(
        self, x: Tensor, cache: Cache, positions: Tensor | None = None, new: Sequence[int] | None = None
    ) -> Tensor:
        """See `Engine`."""
        rows, added, _ = x.shape
        starts, counts = cache.lengths, [added] * rows if new is None else list(new)
        cache.check_room(counts)
        if added == 1:
            hidden = self._run(x, cache, range(rows), positions)
        else:
            # The graph appends several positions to one row only; and so no row pays for another's padding.
            hidden = x.new_zeros(x.shape)
            for row, count in enumerate(counts):
                there = None if positions is None else positions[row : row + 1, :count]
                hidden[row : row + 1, :count] = self._run(x[row : row + 1, :count], cache, [row], there)
        cache.lengths = [start + count for start, count in zip(starts, counts, strict=True)]
        return hidden

    def _run(self, x: Tensor, cache: Cache, rows: Sequence[int], positions: Tensor | None) -> Tensor:
        """x [r, T, H] appended to these neighbouring rows of the cache -> hidden states."""
        key = (rows[0], len(rows), x.shape[1])
        bound = cache.bound.get(key)
        if bound is None:
            bound = self._bind(cache, rows, x.shape[1])
            if x.shape[1] == 1:  # what comes once is not worth keeping
                cache.bound[key] = bound
        # Numpy, because these are few numbers: an operation of torch costs three times as much.
        starts = np.array([cache.lengths[row] for row in rows])[:, None]
        places = starts + np.arange(x.shape[1])
        bound.x[:] = x.numpy()
        bound.slots[:] = places + np.arange(rows[0], rows[0] + len(rows))[:, None] * cache.capacity
        angles = (places if positions is None else positions.numpy()).reshape(-1, 1) * self._speeds
        # Keys are turned once, when they enter, so of the table only the new places are read.
        bound.cos[bound.slots.ravel()], bound.sin[bound.slots.ravel()] = np.cos(angles), np.sin(angles)
        bound.last[:], bound.total[:] = places[:, -1], places[:, -1].max() + 1
        bound.session.run_with_iobinding(bound.binding)
        return torch.from_numpy(bound.hidden.copy())

    def _bind(self, cache: Cache, rows: Sequence[int], added: int) -> "_Bound":
        """Memory for the inputs and outputs of a call on these rows, the cache's own among them."""
        count, first = len(rows), rows[0]
        tables = cache.bound.get("rotation")
        if tables is None:
            places = cache.rows * cache.capacity
            tables = cache.bound["rotation"] = np.zeros((2, places, self._head_dim // 2), np.float32)
        session = self._wide if count * added >= MUCH else self._session
        bound = _Bound(
            session=session,
            binding=session.io_binding(),
            x=np.zeros((count, added, self._hidden), np.float32),
            cos=tables[0],
            sin=tables[1],
            slots=np.zeros((count, added), np.int64),
            last=np.zeros(count, np.int32),
            total=np.zeros(1, np.int32),
            hidden=np.zeros((count, added, self._hidden), np.float32),
        )
        for name in ("x", "cos", "sin", "slots", "last", "total"):
            point(bound.binding.bind_input, name, getattr(bound, name))
        point(bound.binding.bind_output, "hidden", bound.hidden)
        for layer in range(self._layers):
            for kind, memory in (("keys", cache.keys[layer]), ("values", cache.values[layer])):
                memory = memory[first : first + count].numpy()
                point(bound.binding.bind_input, f"{kind}{layer}", memory)
                point(bound.binding.bind_output, f"new_{kind}{layer}", memory)
        return bound


@dataclass
class _Bound:
    """What one call reads and writes, always the same memory."""

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding
    x: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    slots: np.ndarray
    last: np.ndarray
    total: np.ndarray
    hidden: np.ndarray


def _build(backbone: nn.Module, weights: str) -> Graph:
    """The graph of a step."""
    graph, shape = Graph(weights), backbone.config
    hidden, heads, kv_heads = shape.hidden_size, shape.num_attention_heads, shape.num_key_value_heads
    norm = {"epsilon": shape.rms_norm_eps}
    x = graph.input("x", "n", "T", hidden)
    cos, sin = (graph.input(name, "places", hidden // heads // 2) for name in ("cos", "sin"))
    slots = graph.input("slots", "n", "T", kind="int64")
    last, total = graph.input("last", "n", kind="int32"), graph.input("total", 1, kind="int32")
    ones, gain = graph.constant(torch.ones(hidden)), graph.constant(backbone.norm.weight)
    kind, scales, rounding = "float", [], {}
    if weights != "float32":
        kind, scales = "int8", ["", "", *[graph.constant([1 / 127])] * 2]
        rounding = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
    normed = graph.add("SimplifiedLayerNormalization", x, ones, axis=-1, **norm)
    for i, layer in enumerate(backbone.layers):
        qkv, bias, out, gate_up, down = fused(layer)
        if rounding:
            qkv, bias, out = _evened(qkv, bias, out, heads, kv_heads)
        gate, up = gate_up.chunk(2)
        memory = ("n", kv_heads, "L", hidden // heads)
        caches = [graph.input(f"{part}{i}", *memory, kind=kind) for part in ("keys", "values")]
        names = [f"mixed{i}", *(f"new_{name}" for name in caches)]
        projected = graph.linear(normed, qkv, bias)
        mixed, *written = graph.add(
            "GroupQueryAttention", projected, "", "", *caches, last, total, cos, sin, slots, *scales, names=names,
            domain=CONTRIB, num_heads=heads, kv_num_heads=kv_heads, do_rotary=1, **rounding,
        )  # fmt: skip
        for name in written:
            graph.output(name, *memory, kind=kind)
        normed, x = _residual(graph, graph.linear(mixed, out), x, ones, norm)
        inner = graph.add("Mul", graph.silu(graph.linear(normed, gate)), graph.linear(normed, up))
        final = i == len(backbone.layers) - 1
        normed, x = _residual(graph, graph.linear(inner, down), x, gain if final else ones, norm)
    graph.add("Identity", normed, names=["hidden"])
    graph.output("hidden", "n", "T", hidden)
    return graph


def _residual(graph: Graph, branch: str, x: str, gain: str, norm: dict[str, float]) -> tuple[str, str]:
    """The sum normalised, and the sum."""
    names = [f"normed_{branch}", "", "", f"sum_{branch}"]
    graph.add("SkipSimplifiedLayerNormalization", branch, x, gain, names=names, domain=CONTRIB, **norm)
    return names[0], names[3]


def _evened(qkv: Tensor, bias: Tensor, out: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same attention by keys and values of about 1 at most, so that one scale suits all of them: what they are
    divided by, the queries and the output are multiplied with.

    A normalised input is as long as the root of its width, so a row of weights makes at most its own length times that
    of it. It never comes near that, while its bias is there every time."""
    width = qkv.shape[0] // (heads + 2 * kv_heads)
    bound = REACH * qkv.float().norm(dim=1) * qkv.shape[1] ** 0.5 + bias.float().abs()
    keys, values = bound.view(-1, width)[heads:].split(kv_heads)
    # What RoPE turns into each other has one bound.
    pairs = keys.unflatten(1, (2, -1)).square().sum(1, keepdim=True).sqrt().expand(-1, 2, -1).flatten(1)
    keys, values = pairs.clamp_min(1e-6), values.clamp_min(1e-6)
    queries, used = (bounds.repeat_interleave(heads // kv_heads, 0) for bounds in (keys, values))
    factor = torch.cat([queries, 1 / keys, 1 / values]).flatten()
    return qkv * factor[:, None], bias * factor, out * used.flatten()
