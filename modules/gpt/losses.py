"""What the language model's predictions are worth, stream by stream, whatever the pattern.

A step of several frames predicts each stream several times; all of them count alike, so that numbers of different
patterns mean the same: nats a frame (EOS is a class of stream 0: the content, or the phones).

Shape letters: P predictions, K codebooks, G frames of a step, W = G * K places of a step, N = P * G, V classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.gpt.model import SpeechGPT
from modules.gpt.patterns import IGNORED, Pattern
from modules.gpt.sequence import Sequences

STREAM_NAMES = ("content", "prosody", *(f"stream{k}" for k in range(2, 9)))
"""Of a frame's codes; a grouped residual VQ of 4 groups and 2 quantisers has 8 and the prosody."""


def stream_names(pattern: Pattern) -> tuple[str, ...]:
    """A name for each stream that a model says."""
    tokens = STREAM_NAMES[: pattern.tokens.stop - pattern.tokens.start]
    return (("phones",) if pattern.phones else ()) + tokens + (("advance",) if pattern.pointer else ())


@dataclass(frozen=True)
class Scored:
    """One stream's predictions, frame by frame of the group: targets [N], losses [N] (0 where IGNORED), valid [N] bool,
    and the logits that they come from, G tensors [P, V]."""

    targets: Tensor
    losses: Tensor
    valid: Tensor
    logits: list[Tensor]

    def mean(self) -> Tensor:
        """Mean loss of what is to be predicted; 0 where nothing is."""
        return self.losses[self.valid].sum() / self.valid.sum().clamp_min(1)

    def hits(self, most: int | None = None) -> tuple[Tensor, Tensor]:
        """Whether the likeliest code is the right one, and whether that counts: [N] bool each, or of the first `most`
        predictions of every place."""
        targets = self.targets.view(len(self.logits), -1)[:, :most]
        likeliest = torch.stack([logits[:most].argmax(-1) for logits in self.logits])
        return (likeliest == targets).flatten(), (targets != IGNORED).flatten()


def score(logits: Sequence[Tensor], targets: Tensor, pattern: Pattern, smoothing: float = 0.0) -> list[Scored]:
    """W logits [P, V_k] and targets [P, W] to the K streams; `smoothing` of the labels is the content's."""
    scored, streams = [], pattern.streams
    for k in range(streams):
        places, wanted = list(logits[k::streams]), targets[:, k::streams].unbind(1)
        smoothed = smoothing if k == pattern.content else 0.0
        losses = [
            F.cross_entropy(x.float(), y, ignore_index=IGNORED, reduction="none", label_smoothing=smoothed)
            for x, y in zip(places, wanted, strict=True)
        ]
        flat = torch.cat(wanted)
        scored.append(Scored(flat, torch.cat(losses), flat != IGNORED, places))
    return scored


def content_loss(model: SpeechGPT, sequences: Sequences) -> Tensor:
    """Mean cross-entropy of the content, nats a token; EOS is one of its classes where there are no phones."""
    return score(model(sequences), sequences.targets, model.pattern)[model.pattern.content].mean()
