"""A frame drawn by one graph of ONNX Runtime: heads, penalties and draws of all streams.

It does what `FrameChooser` does with torch for the plain case (one prompt a sentence, one frame a step, chained codes,
a temperature), with the same noise, so that the same codes come out; there, a hundred small operations of torch cost
more than a small model itself. `tests/gpt/test_gpt_batch.py` holds them together.

Shape letters: S sentences, H hidden, V classes, N past codes, K streams.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from modules.gpt.choosing import StreamPlan
from modules.gpt.entering import FrameTables, with_nothing
from modules.gpt.model import SpeechGPT
from modules.gpt.onnx_graph import Graph, point
from modules.gpt.sequence import SPEECH
from modules.speech.code_table import CodeLinear


class OnnxFrames:
    """Draws frames from hidden states on a CPU.

    Args:
        model: in eval mode; its weights are copied.
        tables: of what its frames enter as.
        weights: type of the large matrices.
        pause: phone of a pause; None: no phone is.
        spared: bool [V], content codes that may repeat themselves.
        threads: that a frame is worked on by.
    """

    def __init__(
        self, model: SpeechGPT, tables: FrameTables, weights: str, pause: int | None, spared: Tensor, threads: int = 1
    ):  # fmt: skip
        self.pattern, self.hidden = model.pattern, model.config.hidden
        with torch.no_grad():
            self.session = self._build(model, tables, weights, pause, spared).session(threads)

    @staticmethod
    def fits(model: SpeechGPT) -> bool:
        """Whether the model's frames are of the plain kind."""
        return model.pattern.group_size == 1 and model.pattern.chained

    def bind(self, sentences: int, plan: Sequence[StreamPlan], recent: int, history: int) -> "BoundFrames":
        """Memory for frames of so many sentences.

        Args:
            plan: of every stream, how it is drawn.
            recent: content codes that a penalty looks at; history: those that repetition-aware sampling looks at.
        """
        return BoundFrames(self, sentences, plan, max(recent, 1), max(history, 1))

    def _build(
        self, model: SpeechGPT, tables: FrameTables, weights: str, pause: int | None, spared: Tensor
    ) -> Graph:  # fmt: skip
        graph, pattern = Graph(weights), self.pattern
        hidden = graph.input("hidden", "S", model.config.hidden)
        # Of learned tables, what a frame enters as is also what its later codes see of it.
        entering_tables = chosen_tables = [graph.constant(table) for table in tables.places[0]]
        if model.vector_dim is not None:
            chosen_tables = [graph.constant(with_nothing(table.matrix())) for table in model.chosen_tables()]
        one, state, codes = graph.constant([1], "int64"), hidden, []

        @functools.cache
        def vector(table: str, code: str) -> str:
            """The vectors [S, H] of codes [S, 1]."""
            return graph.add("Squeeze", graph.add("Gather", table, code), one)

        for stream in range(pattern.streams):
            if stream == 0:
                logits = graph.linear(hidden, model.output_matrix())
                logits = graph.add("Add", logits, graph.input("first", "S", pattern.codebook_sizes[0] + 1))
            else:
                state = graph.add("Add", state, vector(chosen_tables[stream - 1], codes[-1]))
                logits = _head(graph, state, model.heads[stream - 1])
            if stream == pattern.content:
                silent = ""
                if pattern.phones and pause is not None:
                    silent = graph.add("Equal", codes[0], graph.constant([[pause]], "int64"))
                codes.append(self._content(graph, stream, logits, silent, spared))
            elif pattern.pointer and stream == pattern.streams - 1:
                logits = graph.add("Add", logits, graph.input("advance", "S", pattern.codebook_sizes[-1]))
                codes.append(graph.add("ArgMax", _noisy(graph, stream, logits), axis=1, keepdims=1))
            else:
                codes.append(_draw(graph, stream, logits))
        entering = map(vector, entering_tables, codes)  # advances do not enter
        graph.add("Identity", _entering(graph, model, list(entering)), names=["entering"])
        graph.add("Concat", *codes, names=["codes"], axis=1)
        graph.output("codes", "S", pattern.streams, kind="int64")
        graph.output("overused", "S", 1, kind="bool")
        graph.output("logits", "S", "V")
        graph.output("entering", "S", model.config.hidden)
        return graph

    def _content(self, graph: Graph, stream: int, logits: str, silent: str, spared: Tensor) -> str:
        """The content: penalised and drawn, or forced; tells whether it is overused."""
        recent, penalty = graph.input("recent", "S", "N", kind="int64"), graph.input("penalty", "S", "N")
        if silent:
            penalty = graph.add("Where", silent, graph.constant([[1.0]]), penalty)
        values = graph.add("GatherElements", logits, recent, axis=1)
        positive = graph.add("Greater", values, graph.constant([[0.0]]))
        divided, raised = graph.add("Div", values, penalty), graph.add("Mul", values, penalty)
        lowered = graph.add("Where", positive, divided, raised)
        # A code may stand there several times, and where there is none it reads as code 0: the lowest value wins.
        penalized = graph.add("ScatterElements", logits, recent, lowered, axis=1, reduction="min")
        drawn = _draw(graph, stream, penalized)
        forced = graph.input("forced", "S", 1, kind="int64")
        given = graph.add("GreaterOrEqual", forced, graph.constant([[0]], "int64"))
        code = graph.add("Where", given, forced, drawn)
        same = graph.add("Equal", graph.input("history", "S", "M", kind="int64"), code)
        count = graph.add("ReduceSum", graph.add("Cast", same, to=1), graph.constant([1], "int64"), keepdims=1)
        overused = graph.add("Greater", count, graph.input("most", 1))
        free = graph.add("Gather", graph.constant(spared), code)
        free = graph.add("Or", free, given)
        free = graph.add("Or", free, silent) if silent else free
        graph.add("And", overused, graph.add("Not", free), names=["overused"])
        graph.add("Identity", logits, names=["logits"])
        return code


class BoundFrames:
    """What the graph of `OnnxFrames` reads and writes, always the same memory.

    - hidden: [S, H].
    - first: what is added to the logits of stream 0, [S, V_0 + 1]; advance: to those of the advances.
    - recent, penalty: content codes [S, N] and what their logits are divided by, 1 where nothing is.
    - history: last content codes [S, M], negative: none; most [1]: how often one may stand among them.
    - forced: content [S, 1] that is not drawn; negative: none.
    - noise: of every stream k, [S, numbers of its plan].

    `run` writes codes [S, K], overused bool [S, 1], the logits of the content before the penalty [S, V], and what
    enters the model of the frames [S, H].
    """

    def __init__(self, frames: OnnxFrames, sentences: int, plan: Sequence[StreamPlan], recent: int, history: int):
        pattern, self._frames, self._plan = frames.pattern, frames, plan
        sizes = pattern.codebook_sizes
        self.hidden = np.zeros((sentences, frames.hidden), np.float32)
        self.first = np.zeros((sentences, sizes[0] + 1), np.float32)
        self.advance = np.zeros((sentences, sizes[-1]), np.float32)
        self.recent = np.zeros((sentences, recent), np.int64)
        self.penalty = np.ones((sentences, recent), np.float32)
        self.history = np.full((sentences, history), -1)
        self.most = np.full(1, np.inf, np.float32)
        self.forced = np.full((sentences, 1), -1)
        self.noise = [np.zeros((sentences, stream.noise), np.float32) for stream in plan]
        self.codes = np.zeros((sentences, pattern.streams), np.int64)
        self.overused = np.zeros((sentences, 1), np.bool_)
        self.logits = np.zeros((sentences, sizes[pattern.content] + (pattern.content == 0)), np.float32)
        self._entering = torch.zeros(sentences, frames.hidden)
        self._fixed = [
            (np.array([stream.temperature], np.float32), np.array([stream.top or 0], np.int64)) for stream in plan
        ]
        self._binding = frames.session.io_binding()
        for name, memory in self._inputs().items():
            point(self._binding.bind_input, name, memory)
        for name in ("codes", "overused", "logits"):
            point(self._binding.bind_output, name, getattr(self, name))
        point(self._binding.bind_output, "entering", self._entering.numpy())

    def _inputs(self) -> dict[str, np.ndarray]:
        names = ["hidden", "first", "recent", "penalty", "history", "most", "forced"]
        inputs = {name: getattr(self, name) for name in names}
        if self._frames.pattern.pointer:
            inputs["advance"] = self.advance
        for stream, (plan, (temperature, top)) in enumerate(zip(self._plan, self._fixed, strict=True)):
            inputs |= {f"noise_{stream}": self.noise[stream], f"temperature_{stream}": temperature}
            if plan.top is not None:
                inputs[f"top_k_{stream}"] = top
        return inputs

    def run(self, numbers: np.ndarray) -> Tensor:
        """Draw with this noise of all streams, [S, the plan's numbers]; gives `entering`, which the next run
        overwrites."""
        start = 0
        for noise in self.noise:
            noise[:] = numbers[:, start : start + noise.shape[1]]
            start += noise.shape[1]
        self._frames.session.run_with_iobinding(self._binding)
        return self._entering

    def remember(self, content: np.ndarray, penalty: np.ndarray) -> None:
        """These content codes [S] were said, and what their logits are to be divided by."""
        for memory, newest in ((self.recent, content), (self.penalty, penalty), (self.history, content)):
            memory[:, :-1] = memory[:, 1:]
            memory[:, -1] = newest

    def keep(self, rows: Sequence[int]) -> "BoundFrames":
        """Memory of these sentences alone."""
        kept = BoundFrames(self._frames, len(rows), self._plan, self.recent.shape[1], self.history.shape[1])
        kept.most[:] = self.most
        for name in ("recent", "penalty", "history", "first", "advance"):
            getattr(kept, name)[:] = getattr(self, name)[list(rows)]
        return kept


def _head(graph: Graph, state: str, head: nn.Sequential) -> str:
    turn, _, output = head
    inner = graph.silu(graph.linear(state, turn.weight, turn.bias))
    if isinstance(output, CodeLinear):
        return graph.linear(inner, output.table.matrix())
    return graph.linear(inner, output.weight, output.bias)


def _entering(graph: Graph, model: SpeechGPT, vectors: Sequence[str]) -> str:
    """What the model is entered by, of the vectors of a frame's codes."""
    kind = graph.constant(model.specials[SPEECH])
    if model.vector_dim is None:
        return _sum(graph, [kind, *vectors])
    first, _, second = model.from_vector
    inner = graph.add("Gelu", _sum(graph, [graph.constant(first.bias), *vectors]))
    # In fewer bits it would be an error in every frame, and it is a fiftieth of what a step reads.
    entered = graph.add("MatMul", inner, graph.constant(second.weight.T))
    return _sum(graph, [entered, graph.constant(second.bias), kind])


def _sum(graph: Graph, values: Sequence[str]) -> str:
    total = values[0]
    for value in values[1:]:
        total = graph.add("Add", total, value)
    return total


def _noisy(graph: Graph, stream: int, logits: str) -> str:
    """Logits over the temperature, with noise."""
    cooled = graph.add("Div", logits, graph.input(f"temperature_{stream}", 1))
    return graph.add("Add", cooled, graph.input(f"noise_{stream}", "S", f"k{stream}"))


def _draw(graph: Graph, stream: int, logits: str) -> str:
    """A code of the likeliest ones, [S, 1]."""
    values, codes = graph.add("TopK", logits, graph.input(f"top_k_{stream}", 1, kind="int64"), outputs=2, axis=1)
    chosen = graph.add("ArgMax", _noisy(graph, stream, values), axis=1, keepdims=1)
    return graph.add("GatherElements", codes, chosen, axis=1)
