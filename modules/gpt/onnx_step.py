"""The step of a small Qwen2 as one graph of ONNX Runtime, for CPUs.

A step of a small model is sixty small operations; what each costs beyond its arithmetic decides. Here a whole step is
one call, its matrices are integers with a scale for each block of inputs (MatMulNBits), and attention reads and writes
the static cache in place (GroupQueryAttention), each row up to its own length.

`tests/gpt/test_gpt_engines.py` holds it to `StepEngine`. A step at a long history costs more here than there, because
query heads read the keys one by one: large models run on `StepEngine`.

Shape letters: n rows, T new positions, L positions of the cache, H hidden, D head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from modules.gpt.cache import Cache
from modules.gpt.packing import quantize
from modules.gpt.step import fused

BITS = {"int8": 8, "int4": 4}
BLOCKS = (64, 32)
"""Sizes of the blocks that share a scale; the kernels know powers of two from 16 on."""
INTEGER_ARITHMETIC = 4
"""Accuracy level of MatMulNBits that rounds the inputs to 8 bits, each block of a row by itself."""
CONTRIB = "com.microsoft"
OPSET, IR_VERSION = 20, 10


def fits(backbone: nn.Module) -> bool:
    """Whether blocks of weights divide every matrix of the backbone."""
    shape = backbone.config
    return shape.hidden_size % BLOCKS[-1] == 0 and shape.intermediate_size % BLOCKS[-1] == 0


class OnnxStepEngine:
    """`modules.gpt.step.Engine` of ONNX Runtime.

    Args:
        backbone: a transformers Qwen2Model with full attention, on a CPU.
        weights: "float32", "int8" or "int4".
        threads: that a step works with.
    """

    def __init__(self, backbone: nn.Module, weights: str = "int8", threads: int = 1):
        shape = backbone.config
        self._layers, self._kv_heads = shape.num_hidden_layers, shape.num_key_value_heads
        self._hidden, self._head_dim = shape.hidden_size, shape.hidden_size // shape.num_attention_heads
        self.capacity = shape.max_position_embeddings
        with torch.no_grad():
            self._speeds = backbone.rotary_emb.inv_freq.float().numpy().copy()
            model = _Graph(BITS.get(weights)).build(backbone)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # A thread that spins between steps would take the core that the decoder works on meanwhile.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """See `Engine`."""
        return Cache.empty(
            self._layers, rows, self._kv_heads, capacity, self._head_dim, torch.float32, torch.device("cpu")
        )

    def __call__(
        self, x: Tensor, cache: Cache, positions: Tensor | None = None, new: Sequence[int] | None = None
    ) -> Tensor:
        """See `Engine`."""
        rows, added, _ = x.shape
        cache.check_room(added)
        starts, counts = cache.lengths, [added] * rows if new is None else list(new)
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
        self._session.run_with_iobinding(bound.binding)
        return torch.from_numpy(bound.hidden.copy())

    def _bind(self, cache: Cache, rows: Sequence[int], added: int) -> "_Bound":
        """Memory for the inputs and outputs of a call on these rows, the cache's own among them."""
        count, first = len(rows), rows[0]
        tables = cache.bound.get("rotation")
        if tables is None:
            places = cache.rows * cache.capacity
            tables = cache.bound["rotation"] = np.zeros((2, places, self._head_dim // 2), np.float32)
        bound = _Bound(
            binding=self._session.io_binding(),
            x=np.zeros((count, added, self._hidden), np.float32),
            cos=tables[0],
            sin=tables[1],
            slots=np.zeros((count, added), np.int64),
            last=np.zeros(count, np.int32),
            total=np.zeros(1, np.int32),
            hidden=np.zeros((count, added, self._hidden), np.float32),
        )
        for name in ("x", "cos", "sin", "slots", "last", "total"):
            _point(bound.binding.bind_input, name, getattr(bound, name))
        _point(bound.binding.bind_output, "hidden", bound.hidden)
        for layer in range(self._layers):
            for kind, memory in (("keys", cache.keys[layer]), ("values", cache.values[layer])):
                memory = memory[first : first + count].numpy()
                _point(bound.binding.bind_input, f"{kind}{layer}", memory)
                _point(bound.binding.bind_output, f"new_{kind}{layer}", memory)
        return bound


@dataclass
class _Bound:
    """What one call reads and writes, always the same memory."""

    binding: onnxruntime.IOBinding
    x: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    slots: np.ndarray
    last: np.ndarray
    total: np.ndarray
    hidden: np.ndarray


def _point(bind: Callable[..., None], name: str, memory: np.ndarray) -> None:
    bind(name, "cpu", 0, memory.dtype, memory.shape, memory.ctypes.data)


class _Graph:
    """Collects the nodes of a step. bits: of the matrices; None: float32."""

    def __init__(self, bits: int | None):
        self._bits = bits
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def build(self, backbone: nn.Module) -> bytes:
        """The whole model, serialised."""
        shape = backbone.config
        heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        norm = {"epsilon": shape.rms_norm_eps}
        ones = self._constant("ones", torch.ones(shape.hidden_size))
        last = self._constant("last_gain", backbone.norm.weight)
        x, normed = "x", "normed"
        self._add("SimplifiedLayerNormalization", [x, ones], [normed], "", axis=-1, **norm)
        for i, layer in enumerate(backbone.layers):
            qkv, bias, out, gate_up, down = fused(layer)
            gate, up = gate_up.chunk(2)
            projected = self._linear(f"qkv{i}", normed, qkv, bias)
            caches = [f"keys{i}", f"values{i}"]
            inputs = [projected, "", "", *caches, "last", "total", "cos", "sin", "slots"]
            outputs = [f"mixed{i}", *(f"new_{name}" for name in caches)]
            sizes = {"num_heads": heads, "kv_num_heads": kv_heads, "do_rotary": 1}
            self._add("GroupQueryAttention", inputs, outputs, CONTRIB, **sizes)
            x, normed = self._residual(f"{i}a", self._linear(f"out{i}", f"mixed{i}", out), x, ones, norm)
            # SiLU is x * sigmoid(x): this GELU with a factor of 1.
            self._add("QuickGelu", [self._linear(f"gate{i}", normed, gate)], [f"gated{i}"], CONTRIB, alpha=1.0)
            self._add("Mul", [f"gated{i}", self._linear(f"up{i}", normed, up)], [f"inner{i}"])
            gain = last if i == len(backbone.layers) - 1 else ones
            x, normed = self._residual(f"{i}b", self._linear(f"down{i}", f"inner{i}", down), x, gain, norm)
        self._add("Identity", [normed], ["hidden"])
        return self._model(shape.hidden_size, len(backbone.layers), kv_heads, shape.hidden_size // heads)

    def _residual(self, name: str, branch: str, x: str, gain: str, norm: dict) -> tuple[str, str]:
        """The sum and the sum normalised."""
        added, normed = f"sum{name}", f"norm{name}"
        self._add("SkipSimplifiedLayerNormalization", [branch, x, gain], [normed, "", "", added], CONTRIB, **norm)
        return added, normed

    def _linear(self, name: str, x: str, weight: Tensor, bias: Tensor | None = None) -> str:
        tail = [] if bias is None else [self._constant(f"{name}_bias", bias)]
        if self._bits is None:
            product = name if bias is None else f"{name}_product"
            self._add("MatMul", [x, self._constant(f"{name}_weight", weight.T)], [product])
            if tail:
                self._add("Add", [product, *tail], [name])
            return name
        outputs, inputs = weight.shape
        block = next(size for size in BLOCKS if inputs % size == 0)
        whole, scales = quantize(weight, self._bits, block)
        # Stored without a sign; half of the range stands for 0.
        packed = (whole + 2 ** (self._bits - 1)).to(torch.uint8).view(outputs, inputs // block, block)
        if self._bits == 4:
            packed = packed[..., 0::2] | packed[..., 1::2] << 4
        names = [self._constant(f"{name}_weight", packed), self._constant(f"{name}_scales", scales.flatten())]
        attributes = {"K": inputs, "N": outputs, "bits": self._bits, "block_size": block}
        empty = ["", ""] if tail else []
        level = {"accuracy_level": INTEGER_ARITHMETIC}
        self._add("MatMulNBits", [x, *names, *empty, *tail], [name], CONTRIB, **attributes, **level)
        return name

    def _constant(self, name: str, values: Tensor) -> str:
        values = values.detach().contiguous()
        self._constants.append(numpy_helper.from_array(values.numpy(), name))
        return name

    def _add(self, kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: object) -> None:
        self._nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))

    def _model(self, hidden: int, layers: int, kv_heads: int, head_dim: int) -> bytes:
        def value(name: str, *shape: str | int, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, shape)

        caches = [f"{kind}{layer}" for layer in range(layers) for kind in ("keys", "values")]
        memory = ("n", kv_heads, "L", head_dim)
        inputs = [
            value("x", "n", "T", hidden),
            value("cos", "places", head_dim // 2),
            value("sin", "places", head_dim // 2),
            value("slots", "n", "T", kind=TensorProto.INT64),
            value("last", "n", kind=TensorProto.INT32),
            value("total", 1, kind=TensorProto.INT32),
            *(value(name, *memory) for name in caches),
        ]
        outputs = [value("hidden", "n", "T", hidden), *(value(f"new_{name}", *memory) for name in caches)]
        graph = helper.make_graph(self._nodes, "step", inputs, outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
