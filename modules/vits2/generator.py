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
from modules.vits2.layers import ConvNeXtBlock, TimeConv, gated, length_mask
from modules.vits2.source import carry_pitch, fill_unvoiced, pulse_train, stretch_f0

LOG_GAIN_MIN, LOG_GAIN_MAX = -14.0, 4.0
INNER_FACTOR = 3
WAVES_PER_OCTAVE = (0.25, 0.5, 1.0, 2.0)
"""Half turns per octave of the waves by which the network reads the pitch."""


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

    def synthesise(self, spec: Tensor, gate: Tensor | None = None) -> Tensor:
        """spec complex [B, N, F], gate float [B, N, 1] -> wav [B, N * hop], silent where the gate is 0."""
        frames = gated(torch.fft.irfft(spec, self.n_fft) * self.window, gate)
        ones = spec.real.new_ones(1, spec.shape[1], 1) if gate is None else gate
        sound = self._overlap(frames) / self._overlap(self.window.square() * ones).clamp_min(1e-3)
        return sound if gate is None else sound * gate[:, :, 0].repeat_interleave(self.hop, dim=1)

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
        self.pitch_per_frame = audio.hop_length // config.istft_hop
        hidden, self.bins = config.head_hidden, config.istft_n_fft // 2 + 1
        self.frames = Frames(config.istft_n_fft, config.istft_hop)
        self.entry = TimeConv(config.latent, hidden * self.pitch_per_frame, 3)
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

    def excitation(self, f0: Tensor, carried: Tensor, start: Tensor | None, gate: Tensor | None) -> Tensor:
        """Spectrum of the pulses, complex [B, N, F]. f0, carried [B, N] Hz, gate float [B, N, 1]."""
        with torch.no_grad():
            return self._analyse(pulse_train(f0, self.sample_rate, self.hop, start, carried), gate)

    def _analyse(self, wav: Tensor, gate: Tensor | None) -> Tensor:
        """wav [B, S] without its padding -> complex [B, N, F]."""
        with torch.no_grad():
            sounding = None if gate is None else gate[:, :, 0].repeat_interleave(self.hop, dim=1)
            return self.frames.analyse(gated(wav, sounding))

    def gains(
        self, z: Tensor, f0: Tensor, carried: Tensor, style: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The filters: z [B, D, T], f0, carried [B, N] Hz -> (out [B, N, 3 F], gate float [B, N, 1] or None)."""
        z, gate = z.transpose(1, 2), None
        steps = z.shape[1] * self.pitch_per_frame
        if lengths is not None:
            gate = length_mask(lengths * self.pitch_per_frame, steps)[:, :, None].to(z.dtype)
            z = z * gate[:, :: self.pitch_per_frame]
        x = self.entry(z).reshape(z.shape[0], steps, -1)
        x = gated(x + self.pitch(self._pitch_input(f0, carried)) + self.style(style)[:, None], gate)
        for block in self.blocks:
            x = block(x, gate, style)
        return self.out(self.norm(x)), gate

    def _pitch_input(self, f0: Tensor, carried: Tensor) -> Tensor:
        angle = carried.log2()[:, :, None] * (math.pi * torch.tensor(WAVES_PER_OCTAVE, device=f0.device))
        waves = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(2)
        return torch.cat((pitch_features(f0), waves), dim=-1)

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
        """z [B, D, T], f0 [B, any] Hz, style [B, style_dim], lengths [B] frames (None: all are real), noise [B, S] unit
        Gaussian.

        Args:
            start: [B] phase of the first pulse in turns (0 when None).
            second_noise: [B, S]; gives a second sound that differs in the noise alone.
            before_hz: [B] pitch before the first voiced frame: with it, pitch goes through unvoiced frames without
                the future (`carry_pitch`); None: by lines from voice to voice (`fill_unvoiced`).

        Returns:
            wav [B, T * hop], silent after each item's length; the second wav or None.
        """
        f0 = stretch_f0(f0, z.shape[2] * self.pitch_per_frame)
        carried = fill_unvoiced(f0) if before_hz is None else carry_pitch(f0, before_hz)
        out, gate = self.gains(z, f0, carried, style, lengths)
        out = out.float()
        levels, turn = out[:, :, : 2 * self.bins], out[:, :, 2 * self.bins :]
        level, hiss_level = levels.clamp(LOG_GAIN_MIN, LOG_GAIN_MAX).exp().chunk(2, dim=-1)
        pulses = self.excitation(f0, carried, start, gate)
        voiced = pulses * torch.complex(level * turn.cos(), level * turn.sin())
        wav = self.frames.synthesise(voiced + self._analyse(noise, gate) * hiss_level, gate)
        if second_noise is None:
            return wav, None
        return wav, self.frames.synthesise(voiced + self._analyse(second_noise, gate) * hiss_level, gate)
