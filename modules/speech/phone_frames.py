"""Which phone is said in each frame of speech tokens: from known times, or by aligning known phones with the tokens.

The frames are for the language model's stream of phones, so every phone that was said should be seen in them, even one
that is shorter than a frame.

Shapes: P phones, T token frames, F frames of the recognition head (twice as many), L its classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from modules.corpus.phones import PAUSE
from modules.data.recordings import Spelled
from modules.speech.s3 import SemanticTokenizer

EDGE_FRAMES = 2
"""How far the first and the last phone reach beyond where CTC says them, in frames of the recognition head."""


def name_frames(tokenizer: SemanticTokenizer, codes: Tensor, spelled: Spelled) -> list[str]:
    """The name of the phone in each frame of codes [T, K].

    Timed phones are laid over the frames. Others are aligned with what the tokenizer's recognition head reads in the
    codes, pauses around them; without a head, or where they do not fit, nothing is said (an empty list).
    """
    if spelled.ends_seconds is not None:
        chosen = timed_frames(spelled.ends_seconds, len(codes), tokenizer.frame_rate)
        return [spelled.phones[phone] for phone in chosen]
    numbers = {label: number for number, label in enumerate(tokenizer.labels, 1)}
    known = [phone for phone in spelled.phones if phone in numbers]
    if not known:
        return []
    device = next(tokenizer.parameters()).device
    logits = tokenizer.label_logits(codes[None, :, 0].to(device))[0].cpu()
    chosen = aligned_frames(logits, [numbers[phone] for phone in known])
    if chosen is None:
        return []
    return [known[phone] if phone >= 0 else PAUSE for phone in chosen]


def timed_frames(ends_seconds: np.ndarray, frames: int, frame_rate: float) -> np.ndarray:
    """The phone of each frame: int64 [T], numbers of phones, rising.

    A frame has the phone that fills most of it. A phone that would be lost takes the frame of its middle, where the
    frame's own phone has another one.

    Args:
        ends_seconds: [P] where each phone ends; the first begins at 0. Frames after the last have the last.
    """
    ends = np.asarray(ends_seconds, np.float64) * frame_rate
    starts = np.concatenate([[0.0], ends[:-1]])
    edges = np.arange(frames, dtype=np.float64)
    shared = np.minimum(ends[:, None], edges + 1) - np.maximum(starts[:, None], edges)  # [P, T]
    chosen = np.where(edges < ends[-1], shared.argmax(0), len(ends) - 1)
    counts = np.bincount(chosen, minlength=len(ends))
    for phone in np.flatnonzero(counts == 0):
        place = int((starts[phone] + ends[phone]) / 2)
        if place < frames and counts[chosen[place]] > 1 and _keeps_order(chosen, place, phone):
            counts[chosen[place]] -= 1
            counts[phone] += 1
            chosen[place] = phone
    return chosen


def _keeps_order(chosen: np.ndarray, place: int, phone: int) -> bool:
    before = chosen[place - 1] if place else -1
    after = chosen[place + 1] if place + 1 < len(chosen) else phone
    return before <= phone <= after


def aligned_frames(logits: Tensor, phones: Sequence[int], blank: int = 0) -> np.ndarray | None:
    """The phone of each frame by forced alignment (CTC, Graves et al. 2006; torchaudio's Viterbi search).

    Args:
        logits: CTC logits [F, L] at twice the rate of the frames.
        phones: [P] classes of the recognition head, in order.

    Returns:
        int64 [F // 2] numbers of phones, -1 well before the first and after the last; None where so many do not fit.
    """
    from torchaudio.functional import forced_align

    wanted = torch.tensor([list(phones)], dtype=torch.int32)
    repeats = int((wanted[0, 1:] == wanted[0, :-1]).sum())
    if not len(phones) or len(phones) + repeats > len(logits):
        return None
    path, _ = forced_align(logits.float().log_softmax(-1)[None], wanted, blank=blank)
    path = path[0].numpy()
    begins = np.flatnonzero((path != blank) & (path != np.concatenate([[blank], path[:-1]])))
    ends = np.flatnonzero((path != blank) & (path != np.concatenate([path[1:], [blank]]))) + 1
    # CTC says a phone in its middle: the border lies between.
    borders = (ends[:-1] + begins[1:]) / 2
    first, last = max(begins[0] - EDGE_FRAMES, 0), min(ends[-1] + EDGE_FRAMES, len(logits))
    chosen = timed_frames(np.concatenate([borders, [last]]) / 2, len(logits) // 2, 1.0)
    chosen[: round(first / 2)] = -1
    chosen[round(last / 2) :] = -1
    return chosen
