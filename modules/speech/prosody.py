"""The second stream of speech tokens: pitch movement relative to the speaker's median.

Content tokens carry no f0, so intonation and lexical tone travel here: code 0 is unvoiced, the others
are half-semitone steps around the clip's median voiced f0. The median itself stays outside the codes:
it belongs to the speaker and is measured on the reference.

Shapes: B batch, T frames of the tokens, F frames of an f0 contour.
"""

import torch
from torch import Tensor
from torch.nn import functional

from modules.audio.pitch import track_f0

STEPS_PER_SEMITONE = 2
F0_FRAME_RATE_HZ = 100


def median_f0(f0: Tensor) -> Tensor:
    """Median of the voiced frames of each contour.

    Args:
        f0: [B, F] Hz, 0 where unvoiced.

    Returns:
        [B] Hz; 0 for a contour without a voiced frame.
    """
    voiced = f0 > 0
    values = torch.where(voiced, f0, torch.nan).nanmedian(dim=1).values
    return torch.nan_to_num(values, nan=0.0)


def encode_prosody(f0: Tensor, levels: int, frames_per_token: int = 4) -> Tensor:
    """Contour to codes.

    Args:
        f0: [B, F] Hz at 100 Hz, 0 where unvoiced.
        levels: number of codes, 0 (unvoiced) included.
        frames_per_token: contour frames behind one token (4 for 25 Hz tokens).

    Returns:
        [B, F // frames_per_token] int64. A token is voiced when at least half of its frames are.
    """
    tokens = f0.shape[1] // frames_per_token
    frames = f0[:, : tokens * frames_per_token].reshape(f0.shape[0], tokens, frames_per_token)
    voiced = frames > 0
    log_f0 = torch.where(voiced, frames.clamp_min(1.0).log2(), 0.0)
    mean = log_f0.sum(-1) / voiced.sum(-1).clamp_min(1)
    centre = median_f0(f0).clamp_min(1.0).log2().unsqueeze(1)
    middle = levels // 2
    code = ((mean - centre) * 12 * STEPS_PER_SEMITONE).round().long() + middle
    return torch.where(voiced.sum(-1) * 2 >= frames_per_token, code.clamp(1, levels - 1), 0)


def prosody_stream(
    wav: Tensor, mask: Tensor, f0: Tensor | None, levels: int, sample_rate: int, frame_rate: int
) -> Tensor:
    """The prosody codes of clips, whatever makes their content codes.

    Args:
        wav: [B, S] at `sample_rate`; mask: [B, T] bool, True where a token is real.
        f0: [B, N] Hz at 100 Hz if already tracked.
        levels: number of codes; frame_rate: tokens per second.

    Returns:
        [B, T] int64; 0 where masked.
    """
    points = F0_FRAME_RATE_HZ // frame_rate
    if f0 is None:
        f0 = track_f0(wav, sample_rate, F0_FRAME_RATE_HZ)
    valid = mask.repeat_interleave(points, 1)
    f0 = functional.pad(f0, (0, max(0, valid.shape[1] - f0.shape[1])))
    f0 = torch.where(valid, f0[:, : valid.shape[1]].to(mask.device), 0.0)
    return encode_prosody(f0, levels, points) * mask


def decode_prosody(codes: Tensor, median_hz: Tensor, frames: int, levels: int = 64) -> Tensor:
    """Codes back to a smooth contour.

    Args:
        codes: [B, T] int64.
        median_hz: [B] Hz, the pitch that code `levels // 2` stands for.
        frames: length of the contour wanted; the T tokens are spread over it.

    Returns:
        [B, frames] Hz, 0 where unvoiced. Linear in log f0 between token centres; unvoiced gaps are bridged
        before interpolating so that a voiced edge never glides towards zero.
    """
    voiced = codes > 0
    semitones = (codes - levels // 2).float() / STEPS_PER_SEMITONE
    bridged = _bridge(semitones, voiced)
    curve = functional.interpolate(bridged.unsqueeze(1), size=frames, mode="linear", align_corners=False).squeeze(1)
    on = functional.interpolate(voiced.float().unsqueeze(1), size=frames, mode="nearest").squeeze(1) > 0.5
    return torch.where(on, median_hz.unsqueeze(1) * torch.exp2(curve / 12), 0.0)


def _bridge(values: Tensor, known: Tensor) -> Tensor:
    """Fill the unknown frames with the nearest known value before them (after them at the start)."""
    index = torch.arange(values.shape[1], device=values.device).expand_as(values)
    last = torch.where(known, index, -1).cummax(dim=1).values
    first = torch.where(known, index, values.shape[1]).flip(1).cummin(dim=1).values.flip(1)
    source = torch.where(last >= 0, last, first).clamp(0, max(values.shape[1] - 1, 0))
    return torch.where(known.any(1, keepdim=True), values.gather(1, source), 0.0)
