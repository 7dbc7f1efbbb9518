"""Collecting the nodes of an ONNX graph: the few operations that the graphs of this room are made of.

Shape letters: N outputs, K inputs.
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from modules.gpt.packing import SMALL, quantize

BITS = {"int8": 8, "int4": 4}
BLOCKS = {"int8": (64, 32), "int4": (128, 64, 32)}
"""Sizes of the blocks that share a scale, the first that divides the inputs is taken. With these of int8 the kernels
add up one row in the order of several; int4 would need 32, and twice the time."""
LEAST_BLOCK = 32
INTEGER_ARITHMETIC = 4
"""Accuracy level of MatMulNBits that rounds the inputs to 8 bits, each block of a row by itself."""
CONTRIB = "com.microsoft"
OPSET, IR_VERSION = 20, 10
KINDS = {
    "float": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int8": TensorProto.INT8,
    "bool": TensorProto.BOOL,
}


class Graph:
    """A graph under construction. Names of values are handed about as strings.

    Args:
        weights: type of its matrices, "float32", "int8" or "int4".
    """

    def __init__(self, weights: str):
        self._bits, self._blocks = BITS.get(weights), BLOCKS.get(weights, ())
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, *shape: str | int, kind: str = "float") -> str:
        """An input of the whole graph."""
        self._inputs.append(helper.make_tensor_value_info(name, KINDS[kind], shape))
        return name

    def output(self, name: str, *shape: str | int, kind: str = "float") -> None:
        """Give out the value of this name."""
        self._outputs.append(helper.make_tensor_value_info(name, KINDS[kind], shape))

    def constant(self, values: Tensor | np.ndarray | float | list, kind: str = "float") -> str:
        """A constant."""
        if isinstance(values, Tensor):
            values = values.detach().contiguous().numpy()
        elif not isinstance(values, np.ndarray):
            values = np.array(values, {"float": np.float32, "int64": np.int64, "bool": np.bool_}[kind])
        name = self._name("constant")
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def add(
        self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", names: list[str] | None = None,
        **attributes: object,
    ):  # fmt: skip
        """A node; gives the name of its output, or several. An empty name is an input or output that is left out."""
        names = names or [self._name(kind) for _ in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[0] if len(names) == 1 else names

    def linear(self, x: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """x [.., K] through weight [N, K] and bias [N]. Small matrices stay float32."""
        outputs, inputs = weight.shape
        block = next((size for size in self._blocks if inputs % size == 0), 0)
        if self._bits is None or not block or weight.numel() < SMALL // 4:
            product = self.add("MatMul", x, self.constant(weight.T))
            return product if bias is None else self.add("Add", product, self.constant(bias))
        whole, scales = quantize(weight, self._bits, block)
        # Stored without a sign; half of the range stands for 0.
        packed = (whole + 2 ** (self._bits - 1)).to(torch.uint8).view(outputs, inputs // block, block)
        if self._bits == 4:
            packed = packed[..., 0::2] | packed[..., 1::2] << 4
        tail = [] if bias is None else ["", "", self.constant(bias)]
        return self.add(
            "MatMulNBits", x, self.constant(packed), self.constant(scales.flatten()), *tail, domain=CONTRIB,
            K=inputs, N=outputs, bits=self._bits, block_size=block, accuracy_level=INTEGER_ARITHMETIC,
        )  # fmt: skip

    def silu(self, x: str) -> str:
        """x * sigmoid(x)."""
        return self.add("QuickGelu", x, domain=CONTRIB, alpha=1.0)

    def session(self, threads: int) -> onnxruntime.InferenceSession:
        """The finished graph, ready to run."""
        graph = helper.make_graph(self._nodes, "graph", self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # A thread that spins takes the core that the decoder works on meanwhile. Where nothing else wants it, a step of
        # a large model would take a tenth less, beside one busy process half as long again (also if it spins 20 us).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"


def point(bind: Callable[..., None], name: str, memory: np.ndarray) -> None:
    """Bind an input or output of a session to memory that stays where it is."""
    bind(name, "cpu", 0, memory.dtype, memory.shape, memory.ctypes.data)
