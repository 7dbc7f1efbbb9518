"""Training the speaker encoder: pairs of pieces of one speaker, one of them degraded, and the stage.

Shapes: B pairs, S samples, D width of the vector.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modules.audio.augmentation import AugmentOptions, augment
from modules.audio.effects import same_level
from modules.checkpoint import Lineage
from modules.data.columns import Rows
from modules.errors import UserError
from modules.vits2.speaker import SpeakerEncoder, contrastive_loss, save_speaker_encoder

FILE_NAME = "speaker.safetensors"
PIECE_SECONDS = 1.6


@dataclass(frozen=True)
class PairBatch:
    """Two sounds [B, S] of each of B different speakers."""

    first: Tensor
    second: Tensor

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on a device."""
        return PairBatch(self.first.to(device), self.second.to(device))


class SpeakerPairs:
    """Speakers of one split of feature stores with audio; an item is a speaker.

    The pieces come from two clips, or from the two halves of the only one.

    Args:
        stores: feature stores with 32 kHz audio (int16).
        degrade: what may happen to the second piece; None: nothing.

    Raises:
        UserError: no_audio_rows.
    """

    def __init__(self, stores: Sequence[Rows], sample_rate: int, split: str, degrade: AugmentOptions | None = None):
        self.stores, self.sample_rate, self.degrade = list(stores), sample_rate, degrade
        self.piece = round(PIECE_SECONDS * sample_rate)
        clips: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, store in enumerate(self.stores):
            split_of, splits = store.labels("split")
            speaker_of, speakers = store.labels("speaker")
            long_enough = store.lengths("audio") >= 2 * self.piece
            for row in np.flatnonzero((splits == split)[split_of] & long_enough).tolist():
                clips[str(speakers[speaker_of[row]])].append((number, row))
        self.speakers = sorted(clips)
        self.clips = [clips[name] for name in self.speakers]
        if not self.clips:
            raise UserError(
                "no_audio_rows", "The feature stores hold no {split} clips with audio; extract them first.", split=split
            )

    def __len__(self) -> int:
        return len(self.clips)

    def get(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two pieces float32 [S] of speaker `index`."""
        clips = self.clips[index]
        if len(clips) > 1:
            chosen = [self._audio(*clips[int(i)]) for i in rng.permutation(len(clips))[:2]]
        else:
            audio = self._audio(*clips[0])
            chosen = [audio[: len(audio) // 2], audio[len(audio) // 2 :]]
        first, second = (self._cut(audio, rng) for audio in chosen)
        if self.degrade is not None:
            second = same_level(augment(second, self.sample_rate, self.degrade, rng), second)
        return first, second

    def _audio(self, number: int, row: int) -> np.ndarray:
        return self.stores[number].row(row, ("audio",))["audio"].astype(np.float32) / 32768

    def _cut(self, audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        start = int(rng.integers(0, len(audio) - self.piece + 1))
        return audio[start : start + self.piece]

    @staticmethod
    def collate(items: Sequence[tuple[np.ndarray, np.ndarray]]) -> PairBatch:
        """Stack the pieces."""
        return PairBatch(*(torch.from_numpy(np.stack(side)) for side in zip(*items, strict=True)))


class DifferentSpeakers:
    """Batches of as many different speakers, each taken once an epoch."""

    def __init__(self, speakers: int, batch_size: int, seed: int = 0):
        self.speakers, self.batch_size, self.seed = speakers, min(batch_size, speakers), seed

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Index arrays of an epoch; what does not fill a batch waits for the next epoch."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.speakers)
        whole = len(order) // self.batch_size * self.batch_size
        return list(order[:whole].reshape(-1, self.batch_size))

    def cost(self, batch: np.ndarray) -> float:
        """Speakers of a batch."""
        return float(len(batch))


class SpeakerStage:
    """What the loop trains (see `modules.training.stage.Stage`)."""

    weights: dict[str, float] = {}

    def __init__(self, model: SpeakerEncoder, validation: list[PairBatch], learning_rate: float, preset: str):
        self.model, self.validation, self.preset = model, validation, preset
        self.modules: dict[str, nn.Module] = {"speaker": model}
        self.optimizers: dict[str, Any] = {
            "speaker": torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=0.02)
        }

    def phases(self, step: int) -> tuple[str, ...]:
        """One phase at every step."""
        return ("speaker",)

    def losses(self, phase: str, batch: PairBatch) -> dict[str, Tensor]:
        """The contrastive loss, and how often the right speaker is the nearest."""
        first, second = self.model(batch.first), self.model(batch.second)
        return {"contrastive": contrastive_loss(first, second), "_right": right_share(first.detach(), second.detach())}

    def validate(self) -> dict[str, float]:
        """The share of held-out speakers whose other piece is the nearest among those of a batch, and the mean
        similarity to the own and to the others'."""
        device = next(self.model.parameters()).device
        rights, own, others = [], [], []
        for batch in self.validation:
            batch = batch.to(device)
            first, second = self.model(batch.first), self.model(batch.second)
            scores = first @ second.T
            rights.append(right_share(first, second))
            own.append(scores.diagonal().mean())
            others.append((scores.sum() - scores.diagonal().sum()) / max(scores.numel() - len(scores), 1))
        means = {"right": rights, "own": own, "others": others}
        return {name: float(torch.stack(values).mean()) for name, values in means.items() if values}

    def save_weights(self, folder: Path, step: int, epoch: int, *, last: bool = True) -> list[Path]:
        """One file."""
        return [
            save_speaker_encoder(Path(folder) / FILE_NAME, self.model, Lineage(self.preset, "speaker", step, epoch))
        ]


def right_share(first: Tensor, second: Tensor) -> Tensor:
    """How often the row of `second` [B, D] that is nearest to one of `first` [B, D] is its own."""
    nearest = (first @ second.T).argmax(1)
    return (nearest == torch.arange(len(first), device=first.device)).float().mean()
