"""HiFi-GAN head (Kong et al., 2020) with a harmonic-plus-noise source (after Wang et al., 2019).

Shapes: B batch, D latent channels, T decoder frames, S = T * product of the strides samples.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from modules.config import AudioConfig, VITS2Config
from modules.vits2.layers import length_mask
from modules.vits2.source import carry_pitch, pulse_train, stretch_f0

SLOPE = 0.1
KERNELS = (3, 7, 11)
DILATIONS = (1, 3, 5)


class ResidualUnit(nn.Module):
    """Dilated and plain convolutions in pairs, each pair with a residual path, on [B, C, S]."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.dilated = nn.ModuleList(_conv(channels, channels, kernel, dilation=d) for d in DILATIONS)
        self.plain = nn.ModuleList(_conv(channels, channels, kernel) for _ in DILATIONS)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, C, S], mask float [B, 1, S] -> [B, C, S]; nothing leaks in from the padding."""
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            inner = dilated(F.leaky_relu(x, SLOPE)) * mask
            x = (x + plain(F.leaky_relu(inner, SLOPE))) * mask
        return x


class HifiGanHead(nn.Module):
    """Transposed convolutions up to the sample rate, residual units of three kernel sizes, source at every scale."""

    def __init__(self, config: VITS2Config, audio: AudioConfig):
        super().__init__()
        rates = config.upsample_rates
        if math.prod(rates) != audio.hop_length:
            raise ValueError(f"upsample_rates {rates} must multiply to the hop length {audio.hop_length}")
        self.sample_rate, self.hop = audio.sample_rate, audio.hop_length
        self.pitch_per_frame = 2
        width = config.upsample_channels
        self.entry = nn.Conv1d(config.latent, width, 7, padding=3)
        self.style = nn.Linear(config.style_dim, width)
        self.ups, self.sources, self.units = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for index, rate in enumerate(rates):
            narrow = max(8, width // 2)
            up = nn.ConvTranspose1d(
                width, narrow, 2 * rate, rate, padding=rate // 2 + rate % 2, output_padding=rate % 2
            )
            nn.init.normal_(up.weight, std=0.02)
            self.ups.append(parametrizations.weight_norm(up))
            rest = math.prod(rates[index + 1 :])
            # A filter as long as the step it takes: the source is band-limited before it is thinned out.
            kernel, side = (2 * rest + 1, rest) if rest > 1 else (1, 0)
            self.sources.append(nn.Conv1d(2, narrow, kernel, rest, padding=side))
            self.units.append(nn.ModuleList(ResidualUnit(narrow, kernel) for kernel in KERNELS))
            width = narrow
        self.out = nn.Conv1d(width, 1, 7, padding=3)

    def fold(self) -> None:
        """Make plain weights of the weight norms, for a decoder that only speaks."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")

    def forward(
        self,
        z: Tensor,
        f0: Tensor,
        style: Tensor,
        lengths: Tensor | None,
        noise: Tensor,
        start: Tensor | None = None,
        second_noise: Tensor | None = None,
        before_hz: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Same call as `SourceFilterHead`; a second sound costs a whole pass here, so None is returned for it."""
        frames, dtype = z.shape[2], z.dtype
        if lengths is None:
            lengths = torch.full(z.shape[:1], frames, device=z.device)
        mask = length_mask(lengths, frames)[:, None].to(dtype)
        f0 = stretch_f0(f0, frames * self.pitch_per_frame)
        hop = self.hop // self.pitch_per_frame
        carried = None if before_hz is None else carry_pitch(f0, before_hz)
        pulses = pulse_train(f0, self.sample_rate, hop, start, carried)
        voiced = (f0 > 0).to(dtype).repeat_interleave(hop, dim=1)
        sounding = length_mask(lengths * self.hop, noise.shape[1])[:, None].to(dtype)
        hiss = noise.to(dtype) * torch.where(voiced > 0, 0.003, 0.03)
        source = torch.stack((0.1 * pulses.to(dtype), hiss), dim=1) * sounding
        x = self.entry(z * mask) + self.style(style)[:, :, None]
        for up, thin, units in zip(self.ups, self.sources, self.units, strict=True):
            x = up(F.leaky_relu(x * mask, SLOPE))
            mask = mask.repeat_interleave(x.shape[2] // mask.shape[2], dim=2)
            x = (x + thin(source)[:, :, : x.shape[2]]) * mask
            x = sum(unit(x, mask) for unit in units) / len(KERNELS)
        wav = torch.tanh(self.out(F.leaky_relu(x)))
        return (wav * mask)[:, 0], None


def _conv(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Module:
    conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=dilation * (kernel // 2))
    nn.init.normal_(conv.weight, std=0.02)
    return parametrizations.weight_norm(conv)
