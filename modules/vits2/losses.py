"""Losses of the decoder.

Shapes: B batch, S samples, D latent channels, T frames, M mel bands.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.audio.spectral import mel_filters
from modules.vits2.frames import PowerSpectrum

MEL_FLOOR = 1e-5

RESOLUTIONS = ((2048, 512, 120), (1024, 256, 80), (512, 128, 48))
"""FFT size, hop and mel bands of each spectrum; the finest in time has few bands, the finest in pitch many."""


class MelDistance(nn.Module):
    """L1 distance of log-mels at several resolutions, averaged over the samples that exist.

    With a second sound y' of the same input it becomes the energy distance (Gneiting and Raftery, 2007; for audio:
    Gritsenko et al., 2020): (|x - y| + |x - y'|) / 2 - |y - y'| / 2. The plain L1 is least for a sound without
    noise, because any noise differs from the noise of the target; the energy distance is least for noise of the
    right level, and so breath and fricatives survive without a discriminator.
    """

    def __init__(self, sample_rate: int, resolutions: Sequence[tuple[int, int, int]] = RESOLUTIONS):
        super().__init__()
        self.mels = nn.ModuleList(FastLogMel(sample_rate, n_fft, hop, bands) for n_fft, hop, bands in resolutions)

    def forward(self, wav: Tensor, target: Tensor, mask: Tensor, second: Tensor | None = None) -> Tensor:
        """wav, target, second [B, S], mask float [B, S] -> distance of each item [B], in nepers."""
        total = torch.zeros(wav.shape[0], device=wav.device)
        wav, target = wav.float() * mask, target.float() * mask
        sounds = wav if second is None else torch.cat((wav, second.float() * mask))
        for mel in self.mels:
            with torch.no_grad():
                theirs = mel(target)
            ours, *others = mel(sounds).split(wav.shape[0])
            weight = F.avg_pool1d(mask[:, None], mel.hop)[:, 0, : ours.shape[1]]
            distance = (ours - theirs).abs()
            if others:
                distance = 0.5 * (distance + (others[0] - theirs).abs() - (others[0] - ours).abs())
            total = total + (distance.mean(dim=2) * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)
        return total / len(self.mels)


class FastLogMel(nn.Module):
    """Natural-log mel as `LogMel` gives it, frame by frame ([B, S] -> [B, T, M]) and with a cheap gradient."""

    def __init__(self, sample_rate: int, n_fft: int, hop: int, bands: int):
        super().__init__()
        self.hop, self.side = hop, (n_fft - hop) // 2
        filters = mel_filters(sample_rate, n_fft, bands, 0.0, sample_rate / 2)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        """wav [B, S] -> log-mel [B, S // hop, M], float32."""
        with torch.autocast(wav.device.type, enabled=False):
            padded = F.pad(wav.float()[:, None], (self.side, self.side), mode="reflect")[:, 0]
            power = PowerSpectrum.apply(padded, self.window, self.hop)
            return torch.log(((power + 1e-9).sqrt() @ self.filters).clamp_min(MEL_FLOOR))


def kl_divergence(
    z_prior: Tensor, posterior_log_scale: Tensor, prior_mean: Tensor, prior_log_scale: Tensor, mask: Tensor
) -> Tensor:
    """KL of posterior to prior in the flow's space, nats per latent value (Kim et al., 2021, "VITS").

    All [B, D, T]; z_prior is the flow's image of the posterior sample; mask float [B, 1, T]. One sample stands for
    the expectation of the prior's log-density, the posterior's entropy is exact.
    """
    cross = 0.5 * ((z_prior - prior_mean) ** 2) * torch.exp(-2.0 * prior_log_scale)
    value = prior_log_scale - posterior_log_scale - 0.5 + cross
    return (value * mask).sum() / (mask.sum() * z_prior.shape[1]).clamp_min(1.0)


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Least-squares loss: judge recordings 1 and generated sound 0 (Mao et al., 2017). Scores of any shape."""
    return sum(((1 - r) ** 2).mean() + (f**2).mean() for r, f in zip(real, fake, strict=True)) / len(real)


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Least-squares loss of the side that wants to be judged 1."""
    return sum(((1 - f) ** 2).mean() for f in fake) / len(fake)


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """L1 between the discriminators' inner features, each relative to the size of the recording's features."""
    parts = [
        (r.detach() - f).abs().mean() / r.detach().abs().mean().clamp_min(1e-3)
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for r, f in zip(real_maps, fake_maps, strict=True)
    ]
    return sum(parts) / len(parts)
