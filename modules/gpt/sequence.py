"""How text and speech lie in one sequence, for training and for decoding.

Every part (a reference, or the target) is `BOT x_1..x_U BOS y_1..y_T EOS`; parts follow each other, so the
text of each reference stands beside its speech. The position of BOS predicts y_1, that of y_t predicts
y_(t+1), that of y_T predicts EOS. The last part of a row has no EOS input (nothing follows it); an open part
(no codes yet) ends at BOS, which is where decoding starts.

Shape letters: B batch, L positions, N text units, M frames, P predictions, K codebooks, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

PAD, TEXT, SPEECH, BEGIN_TEXT, BEGIN_SPEECH, END_SPEECH = range(6)
KINDS = 6
IGNORED = -100


@dataclass(frozen=True)
class Part:
    """One utterance of a sequence.

    Args:
        text_ids: int array [U].
        codes: int array [T, K]; T = 0 leaves the part open.
        text_features: float array [U, F] for models that read external features, else None.
    """

    text_ids: np.ndarray
    codes: np.ndarray
    text_features: np.ndarray | None = None


@dataclass(frozen=True)
class Sequences:
    """Rows of parts as flat index lists over a padded [B, L] grid; padding is on the right.

    kinds [B, L] what each position is; text_positions [N], speech_positions [M], target_positions [P] flat
    indices (b * L + l); text_ids [N]; text_features [N, F] or None; codes [M, K]; targets [P, K], stream 0 may
    be the EOS class (= size of codebook 0), the other streams are IGNORED there; lengths [B];
    groups [P] the number that `arrange` was given for the row of each prediction.
    """

    kinds: Tensor
    text_positions: Tensor
    text_ids: Tensor
    text_features: Tensor | None
    speech_positions: Tensor
    codes: Tensor
    target_positions: Tensor
    targets: Tensor
    lengths: Tensor
    groups: Tensor

    def to(self, device: torch.device | str) -> "Sequences":
        """The same sequences on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in moved.items() if v is not None})

    @property
    def frames(self) -> int:
        """Number of speech frames in the batch."""
        return self.codes.shape[0]


def part_length(text_units: int, frames: int) -> int:
    """Positions that a part takes inside a sequence (its EOS counted)."""
    return text_units + frames + 3


def arrange(
    rows: Sequence[Sequence[Part]],
    end_code: int,
    pad_multiple: int = 1,
    groups: Sequence[int] | None = None,
    last_only: bool = False,
) -> Sequences:
    """Lay rows of parts out on one padded grid.

    Args:
        rows: for each row its parts, the target last.
        end_code: class of EOS in stream 0 (the size of codebook 0).
        pad_multiple: L is rounded up to a multiple of this, so that few different shapes occur.
        groups: a number per row that its predictions carry along (for losses told apart).
        last_only: predict the last part of each row alone, not its references.
    """
    lengths = [sum(part_length(len(p.text_ids), len(p.codes)) for p in row) - 1 for row in rows]
    width = -(-max(lengths) // pad_multiple) * pad_multiple
    kinds = np.zeros((len(rows), width), np.int64)
    text_at, speech_at, target_at, targets, group_of = [], [], [], [], []
    for b, row in enumerate(rows):
        at = 0
        for part in row:
            units, frames = len(part.text_ids), len(part.codes)
            speech = at + units + 2  # first frame; BEGIN_SPEECH stands right before it
            kinds[b, at] = BEGIN_TEXT
            kinds[b, at + 1 : at + 1 + units] = TEXT
            kinds[b, speech - 1] = BEGIN_SPEECH
            kinds[b, speech : speech + frames] = SPEECH
            text_at.append(np.arange(units) + (b * width + at + 1))
            speech_at.append(np.arange(frames) + (b * width + speech))
            if frames and (part is row[-1] or not last_only):
                target_at.append(np.arange(frames + 1) + (b * width + speech - 1))
                last = np.full((1, part.codes.shape[1]), IGNORED, np.int64)
                last[0, 0] = end_code
                targets.append(np.concatenate([part.codes.astype(np.int64), last]))
                group_of.append(np.full(frames + 1, groups[b] if groups is not None else 0, np.int64))
            at = speech + frames
            if part is not row[-1]:
                kinds[b, at] = END_SPEECH
            at += 1
    parts = [part for row in rows for part in row]
    streams = parts[0].codes.shape[1]
    features = [p.text_features for p in parts if p.text_features is not None]
    return Sequences(
        kinds=torch.from_numpy(kinds),
        text_positions=_join(text_at),
        text_ids=_join([np.asarray(p.text_ids, np.int64) for p in parts]),
        text_features=torch.from_numpy(np.concatenate(features).astype(np.float32)) if features else None,
        speech_positions=_join(speech_at),
        codes=_join([p.codes.astype(np.int64).reshape(-1, streams) for p in parts]),
        target_positions=_join(target_at),
        targets=_join(targets) if targets else torch.zeros(0, streams, dtype=torch.int64),
        lengths=torch.tensor(lengths),
        groups=_join(group_of),
    )


def _join(arrays: list[np.ndarray]) -> Tensor:
    if not arrays:
        return torch.zeros(0, dtype=torch.int64)
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64, copy=False))
