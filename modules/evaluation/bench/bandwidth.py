"""How quickly memory is read and copied, and how much of it a step of a language model has to read.

A step at one row reads every weight once and computes little with it, so reading is what it cannot be quicker than.
"""

import torch
from torch import nn

from modules.evaluation.bench.timing import Clock, Turn
from modules.gpt.packing import INT4_BLOCKS
from modules.gpt.step import Engine, StepEngine

BUFFER_BYTES = {"cpu": 512 << 20, "cuda": 2 << 30}
"""Several times the largest caches."""
_WHOLE_BLOCK, _OUTPUTS = 32, 32


class Memory:
    """Large buffers of a device, and ways to read them.

    Args:
        bytes: of a buffer; there are two.
    """

    def __init__(self, clock: Clock, bytes: int = 0):
        self._clock = clock
        self.bytes = bytes or BUFFER_BYTES.get(clock.device.type, BUFFER_BYTES["cpu"])
        self._from = torch.ones(self.bytes // 4, device=clock.device)
        self._to = torch.zeros_like(self._from)

    def copy(self) -> float:
        """Seconds to copy one buffer onto the other."""
        return self._clock.seconds(lambda: self._to.copy_(self._from))

    def read(self) -> float:
        """Seconds to add up a buffer."""
        return self._clock.seconds(lambda: self._from.sum())

    def reading(self, bytes: int, passes: int) -> Turn:
        """A way that adds up the first `bytes` so many times; gives seconds a pass. Where they fit into a cache, they
        come out of it, as weights of this size do."""
        part = self._from[: max(1, min(bytes, self.bytes) // 4)]
        scale = bytes / (4 * len(part))

        def turn() -> float:
            return scale * self._clock.seconds(lambda: [part.sum() for _ in range(passes)]) / passes

        return turn

    def copy_rate(self, seconds: float) -> float:
        """Bytes a second of copying: those that were read and those that were written."""
        return 2 * self.bytes / seconds

    def read_rate(self, seconds: float) -> float:
        """Bytes a second of only reading."""
        return self.bytes / seconds


def matrices(config: object) -> list[tuple[int, int, bool]]:
    """Outputs, inputs and whether there is a bias, of the matrices of all layers of a Qwen2 of this config."""
    hidden, inner = config.hidden_size, config.intermediate_size
    spoken = hidden + 2 * config.num_key_value_heads * (hidden // config.num_attention_heads)
    layer = [(spoken, hidden, True), (hidden, hidden, False), (2 * inner, hidden, False), (hidden, inner, False)]
    return layer * config.num_hidden_layers


def engine_bytes(backbone: nn.Module, engine: Engine, weights: str) -> int:
    """Bytes of weights, scales and biases that a step of our engine reads; norms are nothing beside them."""
    if isinstance(engine, StepEngine):
        return sum(packed_bytes(*matrix, weights) for matrix in matrices(backbone.config))
    from modules.gpt.onnx_step import BITS, BLOCKS

    return sum(blocked_bytes(*matrix, BITS.get(weights), BLOCKS) for matrix in matrices(backbone.config))


def packed_bytes(outputs: int, inputs: int, bias: bool, weights: str) -> int:
    """Of a matrix as `modules.gpt.packing` keeps it."""
    if weights in ("int8", "int4") and inputs % _WHOLE_BLOCK:
        weights = "float32"
    if weights in ("int8", "int4"):
        outputs += -outputs % _OUTPUTS
    values = outputs * inputs
    block = next((size for size in INT4_BLOCKS if inputs % size == 0), inputs)
    kept = {
        "float32": 4 * values,
        "bf16": 2 * values,
        "int8": values + 2 * outputs,
        "int4": values // 2 + 4 * (values // block),
    }
    return kept[weights] + 4 * outputs * bias


def blocked_bytes(outputs: int, inputs: int, bias: bool, bits: int | None, blocks: tuple[int, ...]) -> int:
    """Of a matrix as `modules.gpt.onnx_step` keeps it."""
    values = outputs * inputs
    if bits is None:
        return 4 * values + 4 * outputs * bias
    block = next(size for size in blocks if inputs % size == 0)
    return values * bits // 8 + 4 * (values // block) + 4 * outputs * bias
