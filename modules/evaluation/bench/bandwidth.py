"""How quickly memory is read and copied, and how much of it a step of a language model has to read.

A step at one row reads every weight once and computes little with it, so reading is what it cannot be quicker than.
"""

from collections.abc import Iterator
from types import FunctionType

import torch
from torch import Tensor, nn

from modules.evaluation.bench.timing import Clock, Turn
from modules.gpt.onnx_graph import BITS, BLOCKS
from modules.gpt.step import Engine, StepEngine

BUFFER_BYTES = {"cpu": 512 << 20, "cuda": 2 << 30}
"""Several times the largest caches."""
_HOLDERS = ("modules.gpt.step", "modules.gpt.packing")


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


def plain_bytes(config: object, bytes_of_a_weight: int, bytes_of_a_bias: int) -> int:
    """Bytes of all matrices and biases in one type without scales."""
    return sum(o * i * bytes_of_a_weight + o * bias * bytes_of_a_bias for o, i, bias in matrices(config))


def engine_bytes(backbone: nn.Module, engine: Engine, weights: str) -> int:
    """Bytes of weights, scales and biases that a step of our engine reads."""
    if isinstance(engine, StepEngine):
        return held_bytes(engine)
    return sum(blocked_bytes(*matrix, weights) for matrix in matrices(backbone.config))


def held_bytes(thing: object) -> int:
    """Bytes of all tensors that an engine, or a packed layer, holds on to. Looked up and not computed: types mix in an
    engine, and only it knows where."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in _held(thing)}.values())


def _held(thing: object) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        for one in thing:
            yield from _held(one)
    elif isinstance(thing, FunctionType):
        for cell in thing.__closure__ or ():
            yield from _held(cell.cell_contents)
    elif type(thing).__module__ in _HOLDERS:
        for one in vars(thing).values():
            yield from _held(one)


def blocked_bytes(outputs: int, inputs: int, bias: bool, weights: str) -> int:
    """Of a matrix in a graph of ONNX Runtime (`modules.gpt.onnx_step`), whose weights cannot be looked up: integers
    with a float32 scale a block, or float32."""
    values = outputs * inputs
    if weights not in BITS:
        return 4 * values + 4 * outputs * bias
    block = next(size for size in BLOCKS[weights] if inputs % size == 0)
    return values * BITS[weights] // 8 + 4 * (values // block) + 4 * outputs * bias
