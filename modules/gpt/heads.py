"""What enters a step, and the logits that leave it: the model's tables and heads in fast form.

Shape letters: S sentences, n rows, W places of a step, K codebooks, H hidden, V classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.gpt.entering import add_up, frame_tables, with_nothing
from modules.gpt.model import SpeechGPT
from modules.gpt.packing import Linear, WeightType, pack_linear
from modules.gpt.sequence import SPEECH
from modules.speech.code_table import CodeLinear


class PackedHeads:
    """Copies of a model's tables and heads; later changes of the model are not seen.

    Args:
        model: in eval mode, on its device.
        weights: type of the heads' matrices.
    """

    def __init__(self, model: SpeechGPT, weights: WeightType):
        self.model, self.pattern, self.weights = model, model.pattern, weights
        with torch.inference_mode():
            self._output = pack_linear(model.output_matrix(), None, weights)
            self._frame_kind = model.specials[SPEECH].clone()
            self._tables = frame_tables(model)
            chained = model.pattern.chained
            self._chosen = [with_nothing(table.matrix()) for table in model.chosen_tables()] if chained else []
            self._heads = [_packed(head, weights) for head in model.heads]

    def _embed(self, steps: Tensor) -> Tensor:
        """Input embeddings [S, H] of steps [S, W]."""
        return self._embed_frames(steps) + self._frame_kind

    def _embed_frames(self, steps: Tensor) -> Tensor:
        """What `SpeechGPT.embed_frames` gives, from tables that are made."""
        self.pattern.check_width(steps.shape[1])
        return self._tables(steps.split(self.pattern.streams, 1))

    def place(self, hidden: Tensor, frames: Sequence[Tensor]) -> Tensor:
        """A step's hidden states [n, H] to those of its next frame, after the step's `frames` so far, [n, K] each."""
        if not frames:
            return hidden
        nothing = torch.zeros_like(self._frame_kind)
        seen = [nothing + add_up(self._chosen, frame) for frame in frames] if self._chosen else []
        return self.model.grouping.place(hidden, len(frames), seen)

    def first_logits(self, hidden: Tensor) -> Tensor:
        """[n, H] -> [n, V_0 + 1]."""
        return self._output(hidden)

    def stream_logits(self, stream: int, hidden: Tensor, frame: Sequence[Tensor]) -> Tensor:
        """Logits of stream k >= 1 after the frame's earlier codes, [n] each: [n, H] -> [n, V_k]."""
        for table, code in zip(self._chosen, frame, strict=False):
            hidden = hidden + table[code]
        turn, output = self._heads[stream - 1]
        return output(F.silu(turn(hidden)))


def _packed(head: nn.Sequential, weights: WeightType) -> tuple[Linear, Linear]:
    """A head's first layer and its output."""
    turn, _, output = head
    whole = (output.table.matrix(), None) if isinstance(output, CodeLinear) else (output.weight, output.bias)
    return pack_linear(turn.weight, turn.bias, weights), pack_linear(*whole, weights)
