"""Overlapping frames and their spectra with cheap gradients.

The general STFT's gradient runs a complex FFT of full length and scatters sample by sample. Here the hop divides
the window, so both directions are shifted sums, and a real signal's gradient needs a real FFT only: about half of
a training step of the iSTFT head would otherwise go there.

Shapes: B batch, S samples, N frames, W = n_fft window samples, F = n_fft // 2 + 1 bins.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class OverlapAdd(torch.autograd.Function):
    """Sum of frames that begin `hop` samples apart: [B, N, W] -> [B, (N - 1) * hop + W]; hop divides W."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, hop: int) -> Tensor:
        ctx.width, ctx.hop = frames.shape[2], hop
        return _overlap(frames, hop)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.unfold(1, ctx.width, ctx.hop), None


class PowerSpectrum(torch.autograd.Function):
    """|STFT|^2 without padding: [B, S] -> [B, N, F], N = (S - W) // hop + 1; hop divides W, W is even."""

    @staticmethod
    def forward(ctx: Any, wav: Tensor, window: Tensor, hop: int) -> Tensor:
        spec = torch.fft.rfft(wav.unfold(1, window.shape[0], hop) * window)
        ctx.save_for_backward(spec, window)
        ctx.hop, ctx.samples = hop, wav.shape[1]
        return torch.addcmul(spec.real.square(), spec.imag, spec.imag)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        spec, window = ctx.saved_tensors
        # The adjoint of rfft: irfft counts every inner bin twice and divides by W, the adjoint does neither. The
        # factor 2 of the square's derivative makes up for the halved inner bins; the two edge bins keep it.
        weighted = spec * grad
        weighted[..., 0] *= 2
        weighted[..., -1] *= 2
        frames = torch.fft.irfft(weighted, window.shape[0]) * (window * window.shape[0])
        total = _overlap(frames, ctx.hop)
        return F.pad(total, (0, ctx.samples - total.shape[1])), None, None


def _overlap(frames: Tensor, hop: int) -> Tensor:
    batch, count, width = frames.shape
    parts = width // hop
    pieces = frames.view(batch, count, parts, hop)
    total = frames.new_zeros(batch, count + parts - 1, hop)
    for part in range(parts):
        total[:, part : part + count] += pieces[:, :, part]
    return total.view(batch, -1)
