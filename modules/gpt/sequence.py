"""How text and speech lie in one sequence, for training and for decoding.

Every part (a reference, or the target) is `BOT x_1..x_U BOS y_1..y_S EOS`; parts follow each other, so the
text of each reference stands beside its speech. A step y is one frame, or what the model's `Pattern` makes of several.
The position of BOS predicts y_1, that of y_s predicts y_(s+1); EOS is predicted where the pattern has it. The last part
of a row has no EOS input (nothing follows it); an open part (no codes yet) ends at BOS, which is where decoding starts.

Shape letters: B batch, L positions, N text units, M steps, P predictions, K codebooks, W places of a step (K, or
several times K), F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from modules.gpt.patterns import IGNORED, Pattern, plain_pattern
from modules.gpt.reading import Reading, ReadingBuilder

PAD, TEXT, SPEECH, BEGIN_TEXT, BEGIN_SPEECH, END_SPEECH = range(6)
KINDS = 6


@dataclass(frozen=True)
class Part:
    """One utterance of a sequence.

    Args:
        text_ids: int array [U].
        codes: int array [T, K]; T = 0 leaves the part open.
        text_features: float array [U, F] for models that read external features, else None.
        phones: int array [T] of the phone of each frame, else None; IGNORED where it is not known.
        reads: int array [T] of the text unit that each frame says, rising, else None.
        hidden: a reference as at run time: neither phones nor the places of reading are told, or learned.
    """

    text_ids: np.ndarray
    codes: np.ndarray
    text_features: np.ndarray | None = None
    phones: np.ndarray | None = None
    reads: np.ndarray | None = None
    hidden: bool = False

    def frames(self, pattern: Pattern) -> np.ndarray:
        """Codes of all streams that are known, as `Pattern.pack` takes them."""
        own = pattern.streams - self.codes.shape[1]
        if self.hidden or not own or (self.phones is None and self.reads is None):
            return self.codes
        whole = np.full((len(self.codes), pattern.streams), IGNORED, np.int64)
        whole[:, pattern.tokens] = self.codes
        if pattern.phones and self.phones is not None:
            whole[:, 0] = self.phones
        if pattern.pointer and self.reads is not None and len(self.reads):
            advances = np.diff(self.reads)
            whole[:-1, -1] = np.where(advances < pattern.codebook_sizes[-1], advances, IGNORED)
        return whole


@dataclass(frozen=True)
class Sequences:
    """Rows of parts as flat index lists over a padded [B, L] grid; padding is on the right.

    kinds [B, L] what each position is; text_positions [N], speech_positions [M], target_positions [P] flat
    indices (b * L + l); text_ids [N]; text_features [N, F] or None; codes [M, W] what enters, targets [P, W] what is
    predicted: content may be the EOS class (= size of codebook 0), what is IGNORED is not there; lengths [B];
    groups [P] the number that `arrange` was given for the row of each prediction; group_size and lag of the pattern;
    reading: where the text is read at each step, for patterns with a pointer.
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
    group_size: int = 1
    lag: int = 0
    reading: Reading | None = None

    def to(self, device: torch.device | str) -> "Sequences":
        """The same sequences on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.reading is not None:
            moved["reading"] = self.reading.to(device)
        tensors = {name: value for name, value in moved.items() if isinstance(value, Tensor)}
        there = {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
        return replace(self, **there, reading=moved["reading"])


def part_length(text_units: int, frames: int, pattern: Pattern | None = None) -> int:
    """Positions that a part takes inside a sequence (its EOS counted); without a pattern a frame takes one."""
    return text_units + (frames if pattern is None else pattern.steps(frames)) + 3


def arrange(
    rows: Sequence[Sequence[Part]],
    pattern: Pattern | int,
    pad_multiple: int = 1,
    groups: Sequence[int] | None = None,
    last_only: bool = False,
) -> Sequences:
    """Lay rows of parts out on one padded grid.

    Args:
        rows: for each row its parts, the target last.
        pattern: the model's; a mere number is the EOS class of a model with one frame a step, its codes in a chain.
        pad_multiple: L is rounded up to a multiple of this, so that few different shapes occur.
        groups: a number per row that its predictions carry along (for losses told apart).
        last_only: predict the last part of each row alone, not its references.
    """
    streams = rows[0][0].codes.shape[1]
    pattern = plain_pattern(pattern, streams) if isinstance(pattern, int) else pattern
    lengths = [sum(part_length(len(p.text_ids), len(p.codes), pattern) for p in row) - 1 for row in rows]
    width = -(-max(lengths) // pad_multiple) * pad_multiple
    kinds = np.zeros((len(rows), width), np.int64)
    text_at, speech_at, target_at, codes, targets, group_of = [], [], [], [], [], []
    reading, texts = ReadingBuilder(), 0
    for b, row in enumerate(rows):
        at = 0
        for part in row:
            entering, predicted = pattern.pack(part.frames(pattern))
            units, steps = len(part.text_ids), len(entering)
            speech = at + units + 2  # first step; BEGIN_SPEECH stands right before it
            kinds[b, at] = BEGIN_TEXT
            kinds[b, at + 1 : at + 1 + units] = TEXT
            kinds[b, speech - 1] = BEGIN_SPEECH
            kinds[b, speech : speech + steps] = SPEECH
            text_at.append(np.arange(units) + (b * width + at + 1))
            speech_at.append(np.arange(steps) + (b * width + speech))
            codes.append(entering)
            if steps and not part.hidden and (part is row[-1] or not last_only):
                target_at.append(np.arange(len(predicted)) + (b * width + speech - 1))
                targets.append(predicted)
                group_of.append(np.full(len(predicted), groups[b] if groups is not None else 0, np.int64))
            if pattern.pointer:
                told = None if part.hidden else part.reads
                reading.add(b * width + speech - 1, steps, texts, units, told)
            texts += units
            at = speech + steps
            if part is not row[-1]:
                kinds[b, at] = END_SPEECH
            at += 1
    parts = [part for row in rows for part in row]
    features = [p.text_features for p in parts if p.text_features is not None]
    return Sequences(
        kinds=torch.from_numpy(kinds),
        text_positions=_join(text_at),
        text_ids=_join([np.asarray(p.text_ids, np.int64) for p in parts]),
        text_features=torch.from_numpy(np.concatenate(features).astype(np.float32)) if features else None,
        speech_positions=_join(speech_at),
        codes=_join(codes),
        target_positions=_join(target_at),
        targets=_join(targets) if targets else torch.zeros(0, pattern.width, dtype=torch.int64),
        lengths=torch.tensor(lengths),
        groups=_join(group_of),
        group_size=pattern.group_size,
        lag=pattern.lag,
        reading=reading.finished() if pattern.pointer else None,
    )


def _join(arrays: list[np.ndarray]) -> Tensor:
    if not arrays:
        return torch.zeros(0, dtype=torch.int64)
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64, copy=False))
