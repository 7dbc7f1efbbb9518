"""Heads that turn z, style and pitch into sound. Both are source-filter models: pitch is given, never guessed.

Shapes: B batch, D latent channels, T decoder frames, N = T * hop / istft_hop frames of the spectrum,
F = n_fft // 2 + 1 bins, S samples.
"""

import math

import torch
from torch import Tensor, nn

from modules.config import AudioConfig, VITS2Config
from modules.vits2.encoders import PITCH_FEATURES, pitch_features
from modules.vits2.frames import OverlapAdd
from modules.vits2.layers import ConvNeXtBlock, length_mask
from modules.vits2.source import fill_unvoiced, pulse_train, stretch_f0

LOG_GAIN_MIN, LOG_GAIN_MAX = -14.0, 4.0
INNER_FACTOR = 3


class Frames(nn.Module):
    """STFT and its inverse with frame n centred on sample (n + 1/2) * hop, exactly hop samples per frame.

    Analysis and synthesis share a Hann window; the overlapped sum is divided by the sum of squared windows of the
    frames that exist, so that the ends are whole and padding has no influence (Griffin and Lim, 1984).
    """

    def __init__(self, n_fft: int, hop: int):
        super().__init__()
        if n_fft % hop or (n_fft - hop) % 2:
            raise ValueError(f"istft_n_fft {n_fft} must be a multiple of istft_hop {hop}, their difference even")
        self.n_fft, self.hop, self.side = n_fft, hop, (n_fft - hop) // 2
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def analyse(self, wav: Tensor) -> Tensor:
        """wav [B, S] -> complex [B, S // hop, F]."""
        padded = nn.functional.pad(wav, (self.side, self.side))
        return torch.fft.rfft(padded.unfold(1, self.n_fft, self.hop) * self.window)

    def synthesise(self, spec: Tensor, mask: Tensor) -> Tensor:
        """spec complex [B, N, F], mask float [B, N] -> wav [B, N * hop], silent where the mask is."""
        frames = torch.fft.irfft(spec, self.n_fft) * (self.window * mask[:, :, None])
        weight = self.window.square() * mask[:, :, None]
        sound = self._overlap(frames) / self._overlap(weight).clamp_min(1e-3)
        return sound * mask.repeat_interleave(self.hop, dim=1)

    def _overlap(self, frames: Tensor) -> Tensor:
        return OverlapAdd.apply(frames, self.hop)[:, self.side : self.side + frames.shape[1] * self.hop]


class SourceFilterHead(nn.Module):
    """Pulse train and noise through predicted gains, bin by bin, then one inverse STFT.

    ConvNeXt blocks at the STFT rate (Siuzdak, 2023, "Vocos") predict per bin the log-gain of the harmonic part,
    the log-gain of the noise part and a phase rotation of the harmonic part. The network never has to invent a
    phase that coheres over time: the pulse train brings it (harmonic plus noise model: Stylianou, 2001; neural
    source-filter: Wang et al., 2019).
    """

    def __init__(self, config: VITS2Config, audio: AudioConfig):
        super().__init__()
        if audio.hop_length % config.istft_hop:
            raise ValueError(f"istft_hop {config.istft_hop} must divide the hop length {audio.hop_length}")
        self.sample_rate, self.hop = audio.sample_rate, config.istft_hop
        self.upsample = audio.hop_length // config.istft_hop
        hidden, self.bins = config.head_hidden, config.istft_n_fft // 2 + 1
        self.frames = Frames(config.istft_n_fft, config.istft_hop)
        self.entry = nn.Conv1d(config.latent, hidden * self.upsample, 3, padding=1)
        self.pitch = nn.Linear(PITCH_FEATURES + 8, hidden)
        self.style = nn.Linear(config.style_dim, hidden)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(hidden, INNER_FACTOR * hidden, config.style_dim, config.head_layers)
            for _ in range(config.head_layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, 3 * self.bins)
        self._start_like_speech()

    @torch.no_grad()
    def _start_like_speech(self) -> None:
        """Begin with the average spectrum of speech at -23 LUFS and no phase rotation."""
        nn.init.normal_(self.out.weight, std=0.01)
        self.out.weight[2 * self.bins :].zero_()
        hz = torch.linspace(0, self.sample_rate / 2, self.bins)
        octaves = torch.log2(hz.clamp_min(250.0) / 250.0)
        harmonic = math.log(0.5) - 1.0 * octaves
        noise = math.log(0.02) - 0.3 * octaves
        self.out.bias.copy_(torch.cat((harmonic, noise, torch.zeros(self.bins))))

    def excitation(self, f0: Tensor, noise: Tensor, start: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Spectra of pulses and noise, complex [B, N, F] each. f0 [B, N] Hz, noise [B, S], mask float [B, N]."""
        with torch.no_grad():
            pulses = pulse_train(f0, self.sample_rate, self.hop, start)
            gate = mask.repeat_interleave(self.hop, dim=1)
            return self.frames.analyse(pulses * gate), self.frames.analyse(noise * gate)

    def gains(self, z: Tensor, f0: Tensor, style: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The filters: z [B, D, T], f0 [B, N] -> (out [B, N, 3 F], mask float [B, N])."""
        steps = z.shape[2] * self.upsample
        mask = length_mask(lengths * self.upsample, steps).to(z.dtype)
        z = z * length_mask(lengths, z.shape[2])[:, None].to(z.dtype)
        x = self.entry(z).transpose(1, 2).reshape(z.shape[0], steps, -1)
        x = (x + self.pitch(self._pitch_input(f0)) + self.style(style)[:, None]) * mask[:, :, None]
        for block in self.blocks:
            x = block(x, mask[:, :, None], style)
        return self.out(self.norm(x)), mask

    def _pitch_input(self, f0: Tensor) -> Tensor:
        log_f0 = fill_unvoiced(f0).log2()[:, :, None]
        waves = [fn(log_f0 * (math.pi * scale)) for scale in (0.25, 0.5, 1.0, 2.0) for fn in (torch.sin, torch.cos)]
        return torch.cat((pitch_features(f0), *waves), dim=-1)

    def forward(
        self,
        z: Tensor,
        f0: Tensor,
        style: Tensor,
        lengths: Tensor,
        noise: Tensor,
        start: Tensor | None = None,
        second_noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """z [B, D, T], f0 [B, any] Hz, style [B, style_dim], lengths [B] frames, noise [B, S] unit Gaussian.

        Args:
            start: [B] phase of the first pulse in turns (0 when None).
            second_noise: [B, S]; gives a second sound that differs in the noise alone.

        Returns:
            wav [B, T * hop], silent after each item's length; the second wav or None.
        """
        f0 = stretch_f0(f0, z.shape[2] * self.upsample)
        out, mask = self.gains(z, f0, style, lengths)
        pulses, hiss = self.excitation(f0, noise, start, mask)
        out = out.float()
        level, hiss_level, turn = out.split(self.bins, dim=-1)
        level = level.clamp(LOG_GAIN_MIN, LOG_GAIN_MAX).exp()
        hiss_level = hiss_level.clamp(LOG_GAIN_MIN, LOG_GAIN_MAX).exp()
        voiced = pulses * torch.complex(level * turn.cos(), level * turn.sin())
        wav = self.frames.synthesise(voiced + hiss * hiss_level, mask)
        if second_noise is None:
            return wav, None
        _, hiss = self.excitation(f0, second_noise, start, mask)
        return wav, self.frames.synthesise(voiced + hiss * hiss_level, mask)
