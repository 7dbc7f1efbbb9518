"""Training the judge's recogniser on source audio: labelled clips of corpus stores, made harder, and the stage.

It must stay reliable on vocoded speech in unseen voices, so clips are varied in speed (with pitch and formants), tilt,
band limits, room, noise and level.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.audio.resample import resample
from modules.checkpoint import Lineage
from modules.corpus.phones import PAUSE
from modules.data.store import FeatureStore
from modules.errors import UserError
from modules.evaluation.alignment import count_edits, pooled_rate
from modules.evaluation.recognizer import BLANK, PhoneRecognizer, best_paths, save_recognizer
from modules.training.optimizers import muon_and_adamw

IGNORE = -100
LABEL_RATE_HZ = 50
FILE_NAME = "recognizer.safetensors"
LANGUAGE_TAGS = {name: (name,) for name in "en de es fr it pt ru nl pl ja ko".split()} | {"zh": ("zh", "zh-CN")}
"""Languages that the judge hears, and how corpora call them."""


@dataclass(frozen=True)
class LabelledBatch:
    """wav [B, S], lengths [B] samples, labels [B, P] (0 = padding), label_lengths [B], frames [B, N] label of each
    20 ms or IGNORE."""

    wav: Tensor
    lengths: Tensor
    labels: Tensor
    label_lengths: Tensor
    frames: Tensor


class LabelledSpeech:
    """Clips with phones.

    Args:
        stores: corpus stores.
        labels: the inventory; a clip's other labels are left out.
        split: "train", "dev" or "test".
        languages: of `LANGUAGE_TAGS`.
        max_seconds: longer clips are left out.
        augment: vary the clips.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        labels: Sequence[str],
        split: str,
        languages: Sequence[str] = tuple(LANGUAGE_TAGS),
        sample_rate: int = 16000,
        max_seconds: float = 9.0,
        augment: bool = True,
    ):
        self.stores, self.sample_rate, self.augment = list(stores), sample_rate, augment
        self.label_ids = {label: number for number, label in enumerate(labels, 1)}
        language_of = {tag: language for language in languages for tag in LANGUAGE_TAGS.get(language, (language,))}
        self.rows: list[tuple[int, int]] = []
        self.seconds: list[float] = []
        self.groups: list[tuple[str, str]] = []
        for which, store in enumerate(self.stores):
            columns = (store.column(name) for name in ("split", "seconds", "phones", "language", "source"))
            for row, (part, seconds, phones, tag, source) in enumerate(zip(*columns, strict=True)):
                if part == split and phones and tag in language_of and 0.4 <= seconds <= max_seconds:
                    self.rows.append((which, row))
                    self.seconds.append(seconds)
                    self.groups.append((source, language_of[tag]))

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One clip: wav float32 [S], labels int64 [P], frames int64 [N]."""
        which, row = self.rows[index]
        item = self.stores[which].row(row, ("audio", "sample_rate", "phones", "phone_ends"))
        rate = float(item["sample_rate"])
        if self.augment and rng.random() < 0.6:
            rate *= math.exp(rng.uniform(-0.13, 0.13))  # played faster or slower, hence another voice
        wav = resample(np.asarray(item["audio"], np.float32) / 32768, rate, self.sample_rate)
        ids = np.array([self.label_ids.get(name, 0) for name in item["phones"].split(" ")], np.int64)
        frames = _frame_labels(ids, np.asarray(item["phone_ends"], np.float64) / rate, len(wav) / self.sample_rate)
        if self.augment:
            wav = vary(wav, self.sample_rate, rng)
        return {"wav": wav, "labels": ids[ids > 0], "frames": frames}


def _frame_labels(ids: np.ndarray, ends_seconds: np.ndarray, seconds: float) -> np.ndarray:
    frames = np.full(int(seconds * LABEL_RATE_HZ) + 1, IGNORE, np.int64)
    if len(ids) != len(ends_seconds):
        return frames
    edges = np.concatenate([[0.0], ends_seconds]) * LABEL_RATE_HZ
    for label, start, end in zip(ids, edges, edges[1:]):
        frames[round(start) : round(end)] = label
    return frames


def vary(wav: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Another recording of the same speech: colour, band limits, a little room, noise, level."""
    count = len(wav)
    if rng.random() < 0.6:
        size = -(-(count + sample_rate // 4) // 4096) * 4096
        wav = np.fft.irfft(np.fft.rfft(wav, size) * _colour(size, sample_rate, rng), size)[:count]
    if rng.random() < 0.6:
        noise = rng.standard_normal(count, np.float32)
        if rng.random() < 0.5:  # brown rather than white
            noise = np.cumsum(noise)
            noise -= np.convolve(noise, np.full(400, 1 / 400), "same")
        ratio = math.sqrt(np.mean(np.square(wav)) / (np.mean(np.square(noise)) + 1e-12))
        wav = wav + noise * (ratio * 10 ** (rng.uniform(-50, -12) / 20))
    return (wav * 10 ** (rng.uniform(-15, 3) / 20)).astype(np.float32)


def _colour(size: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A frequency response complex [size // 2 + 1]: tilt, soft low- and high-pass, early reflections."""
    hz = np.fft.rfftfreq(size, 1 / sample_rate) + 1.0
    gain_db = rng.uniform(-4, 4) * np.log2(hz / 1000).clip(-3, 3)
    if rng.random() < 0.4:
        gain_db = gain_db - 40 / (1 + (rng.uniform(3200, 7600) / hz) ** 16)
    if rng.random() < 0.2:
        gain_db = gain_db - 30 / (1 + (hz / rng.uniform(70, 250)) ** 6)
    response = 10 ** (gain_db / 20)
    if rng.random() < 0.3:
        reach = int(rng.uniform(0.03, 0.2) * sample_rate)
        tail = rng.standard_normal(reach) * np.exp(-6.9 * np.arange(reach) / reach)
        tail *= rng.uniform(0.1, 0.5) / math.sqrt(np.sum(tail**2))
        response = response * (1 + np.fft.rfft(tail, size))
    return response.astype(np.complex64)


def collate(items: Sequence[dict[str, np.ndarray]], samples_per_state: int = 640) -> LabelledBatch:
    """Pad to whole states."""
    longest = -(-max(len(item["wav"]) for item in items) // samples_per_state)
    wav = torch.zeros(len(items), longest * samples_per_state)
    frames = torch.full((len(items), 2 * longest), IGNORE)
    labels = torch.zeros(len(items), max(1, *(len(item["labels"]) for item in items)), dtype=torch.long)
    for row, item in enumerate(items):
        wav[row, : len(item["wav"])] = torch.from_numpy(item["wav"])
        labels[row, : len(item["labels"])] = torch.from_numpy(item["labels"])
        known = item["frames"][: frames.shape[1]]
        frames[row, : len(known)] = torch.from_numpy(known)
    lengths = torch.tensor([len(item["wav"]) for item in items])
    return LabelledBatch(wav, lengths, labels, torch.tensor([len(item["labels"]) for item in items]), frames)


def draw_weights(
    dataset: LabelledSpeech, recorded_share: float, favoured: Mapping[str, float] | None = None
) -> np.ndarray:
    """Sampling weight per clip: recordings get `recorded_share`, languages the square root of their number, times
    what `favoured` says of them.

    Raises:
        UserError: favoured_language_missing.
    """
    counts, favoured = Counter(dataset.groups), favoured or {}
    for language in sorted(set(favoured) - {language for _, language in counts}):
        raise UserError(
            "favoured_language_missing",
            "No clip of the corpora is in {language}, which is to be drawn more often; they hold {languages}.",
            language=language,
            languages=", ".join(sorted({language for _, language in counts})),
        )
    weights = np.array([counts[group] ** -0.5 * favoured.get(group[1], 1.0) for group in dataset.groups])
    recorded = np.array([source == "recorded" for source, _ in dataset.groups])
    if recorded.any() and not recorded.all():
        for part, share in ((recorded, recorded_share), (~recorded, 1 - recorded_share)):
            weights[part] *= share / weights[part].sum()
    return weights / weights.sum()


def held_out(dataset: LabelledSpeech, per_group: int = 32) -> dict[str, LabelledBatch]:
    """A fixed batch for each source and language."""
    rows: dict[str, list[int]] = defaultdict(list)
    for index, (source, language) in enumerate(dataset.groups):
        rows[f"{source}_{language}"].append(index)
    batches = {}
    for name, members in sorted(rows.items()):
        chosen = np.random.default_rng(0).permutation(members)[:per_group]
        batches[name] = collate([dataset.get(int(i), np.random.default_rng(int(i))) for i in chosen])
    return batches


class RecognizerStage:
    """What the loop trains (see `modules.training.stage.Stage`)."""

    weights = {"ctc": 1.0, "frames": 0.4}

    def __init__(self, model: PhoneRecognizer, validation: dict[str, LabelledBatch], learning_rate: float):
        self.model, self.validation = model, validation
        self.modules: dict[str, nn.Module] = {"recognizer": model}
        self.optimizers: dict[str, Any] = {"recognize": muon_and_adamw(model, learning_rate)}

    def phases(self, step: int) -> tuple[str, ...]:
        """One phase at every step."""
        return ("recognize",)

    def losses(self, phase: str, batch: LabelledBatch) -> dict[str, Tensor]:
        """CTC per label, and cross-entropy of frames where timing is known."""
        heard = self.model(batch.wav, batch.lengths)
        log_probs = heard.logits.float().log_softmax(-1).transpose(0, 1)
        ctc = functional.ctc_loss(
            log_probs, batch.labels, heard.lengths, batch.label_lengths, BLANK, "none", zero_infinity=True
        )
        losses = {"ctc": (ctc / batch.label_lengths.clamp_min(1)).mean()}
        frames = batch.frames[:, : log_probs.shape[0]]
        if (frames != IGNORE).any():
            logits = heard.frame_logits.float().flatten(0, 1)
            losses["frames"] = functional.cross_entropy(logits, frames.flatten(), ignore_index=IGNORE)
        return losses

    def validate(self) -> dict[str, float]:
        """Label error rate without pauses, by group."""
        pause = self.model.labels.index(PAUSE) + 1 if PAUSE in self.model.labels else -1
        device = next(self.model.parameters()).device
        report = {}
        for name, batch in self.validation.items():
            heard = self.model(batch.wav.to(device), batch.lengths.to(device))
            counts = []
            for row, ids in enumerate(best_paths(heard.logits, heard.lengths)):
                truth = batch.labels[row, : batch.label_lengths[row]].tolist()
                counts.append(count_edits([i for i in ids if i != pause], [i for i in truth if i != pause]))
            report[f"error_{name}"] = pooled_rate(counts, resamples=1).rate
        return report

    def save_weights(self, folder: Path, step: int, epoch: int, *, last: bool = True) -> list[Path]:
        """One file."""
        lineage = Lineage("judge", "recognizer", step, epoch)
        return [save_recognizer(Path(folder) / FILE_NAME, self.model, lineage)]
