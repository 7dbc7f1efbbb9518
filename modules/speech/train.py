"""Training stage of the semantic tokenizer: CTC on all clips, frame labels where timing is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.checkpoint import Lineage, load_stage, save_weights, wrong_stage
from modules.config import SpeechTokenizerConfig, from_dict, to_dict
from modules.speech.dataset import IGNORE, RecognitionBatch, mask_bands_and_frames, warp_bands
from modules.speech.s3 import BLANK, SemanticTokenizer
from modules.training.optimizers import muon_and_adamw
from modules.training.relabel import carry_labels

RECOGNISER_PREFIX = "recogniser."


class TokenizerStage:
    """What the loop trains (see `modules.training.stage.Stage`).

    Args:
        model: a tokenizer with a recognition head.
        validation: batches of the dev split, in the order to report them, each with a name.
        learning_rate: peak rate of AdamW and Muon.
        preset: name for the lineage.
    """

    weights = {"ctc": 1.0, "frames": 0.5, "commitment": 1.0}

    def __init__(
        self,
        model: SemanticTokenizer,
        validation: list[tuple[str, RecognitionBatch]],
        learning_rate: float,
        preset: str,
    ):
        self.model = model
        self.modules: dict[str, nn.Module] = {"tokenizer": model}
        self.optimizers: dict[str, Any] = {"recognise": muon_and_adamw(model, learning_rate)}
        self.validation = validation
        self.preset = preset

    def phases(self, step: int) -> tuple[str, ...]:
        """One phase at every step."""
        return ("recognise",)

    def losses(self, phase: str, batch: RecognitionBatch) -> dict[str, Tensor]:
        """Named losses of a batch."""
        mel, tokens = self.model.mels(batch.wav, batch.lengths)
        factors = 1 + 0.12 * (2 * torch.rand(mel.shape[0], device=mel.device) - 1)
        mel = mask_bands_and_frames(warp_bands(mel, factors).contiguous())
        return recognition_losses(self.model, mel, tokens, batch)

    def validate(self) -> dict[str, float]:
        """Label error rate through the quantiser by group, and how much of the codebook is used."""
        report: dict[str, list[float]] = {}
        used: list[Tensor] = []
        for name, batch in self.validation:
            mel, tokens = self.model.mels(batch.wav, batch.lengths)
            result = self.model(mel, tokens)
            for b, hypothesis in enumerate(greedy_labels(result.logits, result.lengths)):
                truth = batch.labels[b, : batch.label_lengths[b]].tolist()
                report.setdefault(f"error_{name}", []).append(edit_distance(hypothesis, truth) / max(1, len(truth)))
                used.append(result.ids[b, : tokens[b]])
        values = {name: sum(rates) / len(rates) for name, rates in report.items()}
        ids = torch.cat(used)
        share = torch.bincount(ids, minlength=self.model.codebook_sizes[0]).float() / ids.numel()
        values["codes_used"] = float((share > 0).sum())
        values["code_entropy_bits"] = float(-(share * share.clamp_min(1e-12).log2()).sum())
        return values

    def save_weights(self, folder: Path, step: int, epoch: int, *, last: bool = True) -> list[Path]:
        """The tokenizer with its recognition head."""
        path = Path(folder) / "s3.safetensors"
        save_tokenizer(path, self.model, Lineage(self.preset, "tokenizer", step, epoch))
        return [path]


def recognition_losses(
    model: SemanticTokenizer, mel: Tensor, tokens: Tensor, batch: RecognitionBatch
) -> dict[str, Tensor]:
    """CTC and frame losses of normalised mels."""
    result = model(mel, tokens)
    log_probs = result.logits.float().log_softmax(-1)
    ctc = functional.ctc_loss(
        log_probs.transpose(0, 1),
        batch.labels,
        result.lengths,
        batch.label_lengths,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )
    losses = {"ctc": (ctc / batch.label_lengths.clamp_min(1)).mean(), "commitment": result.commitment}
    frames = batch.frames[:, : log_probs.shape[1]]
    if (frames != IGNORE).any():
        logits = result.frame_logits.float().flatten(0, 1)
        losses["frames"] = functional.cross_entropy(logits, frames.flatten(), ignore_index=IGNORE)
    return losses


def save_tokenizer(path: Path, model: SemanticTokenizer, lineage: Lineage, dtype: torch.dtype | None = None) -> None:
    """Write weights; without labels in the model the recognition head is not part of the file."""
    config = {"tokenizer": to_dict(model.config), "labels": list(model.labels)}
    save_weights(path, model.state_dict(), config, lineage, dtype)


def load_tokenizer(path: Path, *, with_recogniser: bool | None = False) -> SemanticTokenizer:
    """Read a tokenizer in eval mode.

    Args:
        with_recogniser: keep the recognition head (training, judging); inference leaves it out. None: if there is one.

    Raises:
        UserError: missing or foreign file, or a head was asked for and the file has none.
    """
    weights = load_stage(path, "tokenizer", stage="speech tokenizer")
    if with_recogniser is None:
        with_recogniser = any(name.startswith(RECOGNISER_PREFIX) for name in weights.state)
    labels = tuple(weights.config["labels"]) if with_recogniser else ()
    model = SemanticTokenizer(from_dict(SpeechTokenizerConfig, weights.config["tokenizer"]), labels)
    state = {k: v for k, v in weights.state.items() if with_recogniser or not k.startswith(RECOGNISER_PREFIX)}
    if all(name.startswith(RECOGNISER_PREFIX) for name in state):
        raise wrong_stage(path, "speech tokenizer")  # a head that was shipped apart
    model.load_state_dict(state)
    return model.eval()


def relabel(model: SemanticTokenizer, labels: Sequence[str]) -> SemanticTokenizer:
    """The same tokenizer with a recognition head for other labels: those it knew go on, others begin afresh."""
    if tuple(labels) == tuple(model.labels):
        return model
    wider = SemanticTokenizer(model.config, tuple(labels))
    state = model.state_dict()
    for name, fresh in wider.state_dict().items():
        if name.startswith(f"{RECOGNISER_PREFIX}out."):
            state[name] = carry_labels(state[name], fresh, model.labels, labels)
    wider.load_state_dict(state)
    return wider.train(model.training)


def strip_recogniser(model: SemanticTokenizer) -> SemanticTokenizer:
    """A copy without the recognition head, for shipping."""
    small = SemanticTokenizer(model.config)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(RECOGNISER_PREFIX)}
    small.load_state_dict(state)
    return small.eval()


def greedy_labels(logits: Tensor, lengths: Tensor) -> list[list[int]]:
    """Best-path CTC decoding: [B, 2T, L] -> label ids of each row."""
    best = logits.argmax(-1)
    rows = []
    for b in range(best.shape[0]):
        path = torch.unique_consecutive(best[b, : lengths[b]])
        rows.append(path[path != BLANK].tolist())
    return rows


def edit_distance(a: list, b: list) -> int:
    """Levenshtein distance between two sequences."""
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        current = [i]
        for j, y in enumerate(b, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return previous[-1]
