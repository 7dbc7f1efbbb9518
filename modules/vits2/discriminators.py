"""Discriminators of the adversarial stage: over periods (HiFi-GAN) and over spectra (UnivNet, Jang et al., 2021).

Shapes: B batch, S samples. Each network returns scores and its inner features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

SLOPE = 0.1
PERIODS = (2, 3, 5, 7, 11)
RESOLUTIONS = ((2048, 512), (1024, 256), (512, 128))

Judgement = tuple[Tensor, list[Tensor]]


class PeriodDiscriminator(nn.Module):
    """Looks at every p-th sample.

    The kernel of the usual 2-D form spans one column, so the columns are folded into the batch and plain 1-D
    convolutions do the same sum; on a CPU they are about twice as fast.
    """

    def __init__(self, period: int, width: int):
        super().__init__()
        self.period = period
        widths = (1, width, 2 * width, 4 * width, 4 * width)
        self.convs = nn.ModuleList(
            parametrizations.weight_norm(nn.Conv1d(a, b, 5, stride=3, padding=2))
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.last = parametrizations.weight_norm(nn.Conv1d(widths[-1], widths[-1], 5, padding=2))
        self.out = nn.Conv1d(widths[-1], 1, 3, padding=1)

    def forward(self, wav: Tensor) -> Judgement:
        """wav [B, S] -> scores, features."""
        wav = F.pad(wav, (0, -wav.shape[1] % self.period))
        x = wav.unflatten(1, (-1, self.period)).transpose(1, 2).reshape(-1, 1, wav.shape[1] // self.period)
        features = []
        for conv in (*self.convs, self.last):
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        return self.out(x), features


class SpectrumDiscriminator(nn.Module):
    """Looks at the log-magnitude spectrum; strides shrink the frequency axis, time stays fine."""

    def __init__(self, n_fft: int, hop: int, width: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        shapes = (
            (1, width, (7, 3), (3, 1)),
            (width, width, (7, 3), (3, 1)),
            (width, 2 * width, (7, 3), (3, 2)),
            (2 * width, 2 * width, (5, 3), (2, 1)),
            (2 * width, 2 * width, (3, 3), (1, 1)),
        )
        self.convs = nn.ModuleList(
            parametrizations.weight_norm(nn.Conv2d(a, b, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2)))
            for a, b, kernel, stride in shapes
        )
        self.out = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, wav: Tensor) -> Judgement:
        """wav [B, S] -> scores, features."""
        spec = torch.stft(wav.float(), self.n_fft, self.hop, window=self.window, return_complex=True)
        power = spec.real.square() + spec.imag.square()
        x = 0.25 * torch.log(power + 1e-6)[:, None]
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        return self.out(x), features


class Discriminators(nn.Module):
    """All discriminators as one.

    Args:
        period_width: channels after the first layer of the period networks (HiFi-GAN: 32).
        spectrum_width: the same for the spectral networks (UnivNet: 32).
    """

    def __init__(
        self,
        period_width: int,
        spectrum_width: int,
        periods: Sequence[int] = PERIODS,
        resolutions: Sequence[tuple[int, int]] = RESOLUTIONS,
    ):
        super().__init__()
        self.members = nn.ModuleList(
            [PeriodDiscriminator(period, period_width) for period in periods]
            + [SpectrumDiscriminator(n_fft, hop, spectrum_width) for n_fft, hop in resolutions]
        )

    def forward(self, wav: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """wav [B, S] -> scores and features of each member."""
        judgements = [member(wav) for member in self.members]
        return [scores for scores, _ in judgements], [features for _, features in judgements]
