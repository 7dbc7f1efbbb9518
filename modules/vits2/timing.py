"""Noise and time on the way from tokens to sound.

Shapes: B batch, C channels, T frames, N pitch points.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.vits2.source import fill_unvoiced

Generators = torch.Generator | Sequence[torch.Generator] | None


def draw_noise(counts: Sequence[int], channels: int, generators: Generators, device: torch.device) -> Tensor:
    """Unit noise [B, channels, longest], drawn row by row on the CPU: the same on every device and in every batch."""
    noise = torch.zeros(len(counts), channels, max(counts))
    for row, count in enumerate(counts):
        generator = generators if generators is None or isinstance(generators, torch.Generator) else generators[row]
        noise[row, :, :count] = torch.randn(channels, count, generator=generator)
    return noise.to(device)


def retime(x: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
    """Stretch each row's first `lengths` frames to `wanted` frames by straight lines. [B, C, T] -> [B, C, max]."""
    steps = torch.arange(int(wanted.max()), device=x.device)
    place = (steps[None] + 0.5) * (lengths / wanted)[:, None] - 0.5
    place = place.clamp_min(0.0).minimum((lengths - 1)[:, None].to(place.dtype))
    left = place.floor().long()
    right = (left + 1).minimum((lengths - 1)[:, None])
    share = (place - left)[:, None].to(x.dtype)
    index = [i[:, None].expand(-1, x.shape[1], -1) for i in (left, right)]
    return torch.lerp(x.gather(2, index[0]), x.gather(2, index[1]), share)


def retime_f0(f0: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
    """`retime` for pitch: voiced stays voiced and no glide leads into silence. [B, N] Hz."""
    voiced = retime((f0 > 0).to(f0.dtype)[:, None], lengths, wanted)[:, 0] > 0.5
    return torch.where(voiced, retime(fill_unvoiced(f0)[:, None], lengths, wanted)[:, 0], 0.0)
