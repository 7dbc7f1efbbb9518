"""Speech with phone labels, for training the semantic tokenizer.

Rows come from corpus stores (`modules/corpus`): audio, labels, and for synthetic speech the end of each
label in samples. Augmentation happens on the wave (`modules/audio/augmentation.py`) and on the mels (band warp, masks).
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modules.audio.augmentation import AugmentOptions, augment, playing_speed
from modules.audio.resample import resample
from modules.data.store import FeatureStore

LABEL_RATE_HZ = 50
IGNORE = -100
BUCKET_TOKENS = 8
BABBLERS = 3


@dataclass(frozen=True)
class RecognitionBatch:
    """wav [B, S] 16 kHz, lengths [B] samples, labels [B, P] padded with 0, label_lengths [B],
    frames [B, 2T] label per 20 ms or IGNORE where no timing is known."""

    wav: Tensor
    lengths: Tensor
    labels: Tensor
    label_lengths: Tensor
    frames: Tensor

    def to(self, device: torch.device) -> "RecognitionBatch":
        """The same batch on a device."""
        return RecognitionBatch(
            *(t.to(device) for t in (self.wav, self.lengths, self.labels, self.label_lengths, self.frames))
        )


class RecognitionDataset:
    """Labelled clips of several stores.

    Args:
        stores: corpus stores.
        labels: the label inventory; other labels are dropped from a clip.
        split: "train", "dev" or "test".
        sample_rate: of the tokenizer.
        max_seconds: longer clips are left out.
        augment: degrade clips at random: True as `AugmentOptions` says, or with options of one's own.
        drop: keys of the rows that are left out.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        labels: Sequence[str],
        split: str,
        sample_rate: int = 16000,
        max_seconds: float = 10.0,
        augment: bool | AugmentOptions = True,
        drop: Collection[str] = (),
    ):
        self.stores = stores
        self.index_of = {label: i + 1 for i, label in enumerate(labels)}
        self.sample_rate = sample_rate
        self.augment = AugmentOptions() if augment is True else augment or None
        self.rows: list[tuple[int, int]] = []
        self.seconds: list[float] = []
        self.sources: list[str] = []
        self.languages: list[str] = []
        for which, store in enumerate(stores):
            columns = (store.column(name) for name in ("key", "split", "seconds", "phones", "source", "language"))
            for row, (key, part, seconds, phones, source, language) in enumerate(zip(*columns, strict=True)):
                if part == split and phones and 0.4 <= seconds <= max_seconds and key not in drop:
                    self.rows.append((which, row))
                    self.seconds.append(seconds)
                    self.sources.append(source)
                    self.languages.append(language)

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One clip: wav float32 at the tokenizer's rate, labels, and frame labels at 50 Hz."""
        which, row = self.rows[index]
        item = self.stores[which].row(row, ("audio", "sample_rate", "phones", "phone_ends"))
        rate = int(item["sample_rate"])
        if self.augment is not None:
            # To play a clip faster is to say that it was recorded at a higher rate: its labels move along.
            rate = round(rate * playing_speed(self.augment, rng))
        wav = resample(_samples(item["audio"]), rate, self.sample_rate)
        names = item["phones"].split(" ")
        labels = np.array([self.index_of.get(n, 0) for n in names], dtype=np.int64)
        ends = np.asarray(item["phone_ends"], dtype=np.int64)
        frames = np.full(len(wav) * LABEL_RATE_HZ // self.sample_rate + 1, IGNORE, dtype=np.int64)
        if len(ends) == len(labels):
            frames[:] = 0
            start = 0.0
            for label, end in zip(labels, ends * LABEL_RATE_HZ / rate, strict=True):
                frames[round(start) : round(end)] = label
                start = end
        if self.augment is not None:
            wav = augment(wav, self.sample_rate, self.augment, rng, self._voices)
        return {"wav": wav, "labels": labels[labels > 0], "frames": frames}

    def _voices(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The sound of a few clips, whichever."""
        chosen = (self.rows[int(i)] for i in rng.integers(len(self.rows), size=BABBLERS))
        items = [self.stores[which].row(row, ("audio", "sample_rate")) for which, row in chosen]
        return [resample(_samples(i["audio"]), int(i["sample_rate"]), self.sample_rate) for i in items]


def collate(items: Sequence[dict[str, np.ndarray]], samples_per_token: int = 640) -> RecognitionBatch:
    """Pad to a multiple of `BUCKET_TOKENS` tokens, so that few shapes occur."""
    step = samples_per_token * BUCKET_TOKENS
    longest = -(-max(len(i["wav"]) for i in items) // step) * step
    frames = 2 * longest // samples_per_token
    wav = torch.zeros(len(items), longest)
    target = torch.full((len(items), frames), IGNORE)
    labels = torch.zeros(len(items), max(len(i["labels"]) for i in items), dtype=torch.long)
    for b, item in enumerate(items):
        wav[b, : len(item["wav"])] = torch.from_numpy(item["wav"])
        labels[b, : len(item["labels"])] = torch.from_numpy(item["labels"])
        size = min(frames, len(item["frames"]))
        target[b, :size] = torch.from_numpy(item["frames"][:size])
    lengths = torch.tensor([len(i["wav"]) for i in items])
    label_lengths = torch.tensor([len(i["labels"]) for i in items])
    return RecognitionBatch(wav, lengths, labels, label_lengths, target)


def balanced_weights(dataset: RecognitionDataset, recorded_share: float) -> np.ndarray:
    """Sampling weight per clip: `recorded_share` of the drawn clips are recordings, languages by the square
    root of their number, so that a large language does not drown the small ones."""
    counts = Counter(zip(dataset.sources, dataset.languages, strict=True))
    weights = np.array([counts[key] ** -0.5 for key in zip(dataset.sources, dataset.languages, strict=True)])
    recorded = np.array([source == "recorded" for source in dataset.sources])
    for part, share in ((recorded, recorded_share), (~recorded, 1 - recorded_share)):
        if part.any():
            weights[part] *= share / weights[part].sum()
    return weights / weights.sum()


def warp_bands(mel: Tensor, factors: Tensor) -> Tensor:
    """Stretch the band axis of each clip by its factor (vocal-tract length perturbation on mel bands, after
    Jaitly and Hinton 2013, taken as linear in mel).

    Args:
        mel: [B, M, F]; factors: [B] about 1.
    """
    bands = mel.shape[1]
    position = torch.arange(bands, device=mel.device).unsqueeze(0) * factors.unsqueeze(1)
    position = position.clamp(0, bands - 1)
    low = position.floor().long()
    high = (low + 1).clamp_max(bands - 1)
    part = (position - low).unsqueeze(2)
    rows = torch.arange(mel.shape[0], device=mel.device).unsqueeze(1)
    return mel[rows, low] * (1 - part) + mel[rows, high] * part


def mask_bands_and_frames(mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """SpecAugment (Park et al. 2019) on normalised mels: two band masks and two short time masks a clip."""
    batch, bands, frames = mel.shape
    keep = torch.ones_like(mel[:, :, :1]).expand(-1, -1, frames).clone()
    starts = torch.rand(batch, 4, generator=generator)
    widths = torch.rand(batch, 4, generator=generator)
    for b in range(batch):
        for m in range(2):
            width = int(widths[b, m] * bands * 0.15)
            start = int(starts[b, m] * (bands - width))
            keep[b, start : start + width] = 0
            width = int(widths[b, 2 + m] * 12)
            start = int(starts[b, 2 + m] * max(1, frames - width))
            keep[b, :, start : start + width] = 0
    return mel * keep


def _samples(audio: np.ndarray) -> np.ndarray:
    """int16 of a store as float32 within -1..1."""
    return np.asarray(audio, dtype=np.float32) / 32768.0
