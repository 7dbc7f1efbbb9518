"""The excitation of the source-filter heads: a band-limited pulse train that follows f0, from frames to samples."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FALLBACK_HZ = 120.0


def fill_unvoiced(f0: Tensor) -> Tensor:
    """Carry the pitch through unvoiced frames: straight lines in log-f0 between voiced neighbours, held at the ends.

    f0 [B, N] Hz, 0 = unvoiced -> [B, N] Hz, never 0; a row without any voice is a constant.
    """
    frames = f0.shape[1]
    voiced = f0 > 0
    index = torch.arange(frames, device=f0.device).expand_as(f0)
    before = torch.where(voiced, index, -1).cummax(dim=1).values
    after = torch.where(voiced, index, frames).flip(1).cummin(dim=1).values.flip(1)
    has_before, has_after = before >= 0, after < frames
    log_f0 = f0.clamp_min(1.0).log()
    left = log_f0.gather(1, before.clamp_min(0))
    right = log_f0.gather(1, after.clamp_max(frames - 1))
    share = (index - before).to(f0.dtype) / (after - before).clamp_min(1).to(f0.dtype)
    filled = torch.lerp(left, right, share)
    filled = torch.where(has_before & has_after, filled, torch.where(has_before, left, right))
    none = ~(has_before | has_after)
    return torch.where(none, math.log(FALLBACK_HZ), filled).exp()


def stretch_track(track: Tensor, frames: int) -> Tensor:
    """Resample a track to `frames` points by straight lines; points sit in the middle of their frames. [B, N]."""
    if track.shape[1] == frames:
        return track
    return F.interpolate(track[:, None], size=frames, mode="linear", align_corners=False)[:, 0]


def stretch_f0(f0: Tensor, frames: int) -> Tensor:
    """Resample an f0 contour in time without gliding into unvoiced stretches. [B, N] Hz -> [B, frames] Hz."""
    if f0.shape[1] == frames:
        return f0
    voiced = stretch_track((f0 > 0).to(f0.dtype), frames) > 0.5
    return torch.where(voiced, stretch_track(fill_unvoiced(f0), frames), 0.0)


@torch.no_grad()
def pulse_train(f0: Tensor, sample_rate: int, hop_length: int, start: Tensor | None = None) -> Tensor:
    """Band-limited pulses at pitch f0, flat spectrum, unit power while voiced, silent while unvoiced.

    Sum of all harmonics below the Nyquist frequency in closed form (Dirichlet kernel),
    sum_{k=1..n} cos(k p) = sin((n + 1/2) p) / (2 sin(p / 2)) - 1/2; the topmost harmonic is faded by the fraction of
    n so that a gliding pitch makes no steps. No harmonic passes the Nyquist frequency, so nothing aliases.

    Args:
        f0: [B, N] Hz, one value per `hop_length` samples, 0 = unvoiced.
        sample_rate: Hz of the result.
        hop_length: samples per f0 frame.
        start: [B] phase of the first sample in turns; 0 when None.

    Returns:
        [B, N * hop_length] float32.
    """
    samples = f0.shape[1] * hop_length
    pitch = stretch_track(fill_unvoiced(f0.float()).clamp(20.0, 0.2 * sample_rate), samples)
    gate = stretch_track((f0 > 0).float(), samples)
    # Turns are summed in float64: in float32 a ten-second clip would drift by whole degrees.
    turns = torch.cumsum(pitch.double() / sample_rate, dim=1)
    if start is not None:
        turns = turns + start.double()[:, None]
    phase = ((turns - turns.round()) * (2 * math.pi)).float()
    count = 0.5 * sample_rate / pitch - 1.0
    whole = count.floor()
    half = torch.sin(0.5 * phase)
    near = half.abs() < 1e-4
    kernel = torch.sin((whole + 0.5) * phase) / (2 * torch.where(near, 1.0, half)) - 0.5
    kernel = torch.where(near, whole, kernel)
    kernel = kernel + (count - whole) * torch.cos((whole + 1) * phase)
    return kernel * gate * torch.sqrt(2.0 / count)
