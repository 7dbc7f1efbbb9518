"""Spectra that the networks and the losses see.

Shapes: B batch, S samples, T frames, F = n_fft // 2 + 1 frequency bins.

Frame t of every spectrum here is centred on sample (t + 0.5) * hop_length, so a wav of S samples has exactly
S // hop_length frames and a decoder that makes hop_length samples per frame lines up with no offset.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FLOOR = 1e-5
"""Smallest mel value before the logarithm: -100 dB of full scale, below any recording's noise."""


def _pad_for_frames(wav: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Reflect [B, S] by (n_fft - hop_length) / 2 at each side; zero-extend first where reflection is impossible."""
    left = (n_fft - hop_length) // 2
    right = n_fft - hop_length - left
    # Reflection needs more samples than it mirrors, and at least one whole frame must come out.
    short = max(right + 1, hop_length) - wav.shape[-1]
    if short > 0:
        wav = F.pad(wav, (0, short))
    return F.pad(wav.unsqueeze(1), (left, right), mode="reflect").squeeze(1)


def _power(wav: Tensor, n_fft: int, hop_length: int, window: Tensor) -> Tensor:
    """Power spectrum [B, F, T] of wav [B, S]; T = max(1, S // hop_length)."""
    frames = max(1, wav.shape[-1] // hop_length)
    padded = _pad_for_frames(wav, n_fft, hop_length)
    spec = torch.stft(padded, n_fft, hop_length, window.shape[0], window.to(padded), center=False, return_complex=True)[
        ..., :frames
    ]
    return spec.real.square() + spec.imag.square()


def stft_magnitude(wav: Tensor, n_fft: int, hop_length: int, win_length: int) -> Tensor:
    """Magnitude spectrum of wav [B, S] -> [B, F, T] with a Hann window, T = max(1, S // hop_length).

    Differentiable everywhere: a small power is added under the root, whose slope is infinite at zero.
    """
    window = torch.hann_window(win_length, device=wav.device)
    # Half precision loses the quiet bins, and is not implemented for the FFT on most devices.
    with torch.autocast(wav.device.type, enabled=False):
        return torch.sqrt(_power(wav.float(), n_fft, hop_length, window) + 1e-9)


def mel_filters(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> Tensor:
    """Triangular filters [n_mels, F] on the mel scale, each of unit area in Hz.

    The scale is Slaney's (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above. Unit area keeps the
    high, wide bands comparable to the low, narrow ones.
    """
    edges_hz = _mel_to_hz(torch.linspace(_hz_to_mel(f_min), _hz_to_mel(f_max), n_mels + 2, dtype=torch.float64))
    bins_hz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bins_hz - low) / (centre - low)
    falling = (high - bins_hz) / (high - centre)
    triangles = torch.minimum(rising, falling).clamp_min(0)
    # A triangle narrower than a bin may fall between two bins; it then takes the nearest one.
    empty = (triangles.sum(dim=1) == 0).nonzero().flatten()
    nearest = (bins_hz[None] - centre[empty]).abs().argmin(dim=1)
    triangles[empty, nearest] = 1.0
    return (triangles * (2.0 / (high - low))).float()


def _hz_to_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def _mel_to_hz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


class LogMel(nn.Module):
    """Natural-log mel spectrum: wav [B, S] -> mel [B, n_mels, T], T = max(1, S // hop_length).

    Magnitudes, not powers, are collected in the bands and clamped at 1e-5 before the logarithm, so silence is
    -11.51. A wav shorter than a frame is zero-extended. Holds no parameters; its buffers are not saved.

    Args:
        sample_rate: rate of the wav, Hz.
        n_fft: length of the Hann window and the FFT, samples; at least hop_length.
        hop_length: samples between frames.
        n_mels: number of bands.
        f_min, f_max: lowest and highest frequency, Hz; f_max None is half the sample rate.
    """

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        n_mels: int,
        f_min: float = 0.0,
        f_max: float | None = None,
    ):
        super().__init__()
        if n_fft < hop_length:
            raise ValueError(f"n_fft {n_fft} must not be smaller than hop_length {hop_length}")
        self.sample_rate, self.n_fft, self.hop_length, self.n_mels = sample_rate, n_fft, hop_length, n_mels
        filters = mel_filters(sample_rate, n_fft, n_mels, f_min, f_max or sample_rate / 2)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def frames(self, samples: int | Tensor) -> int | Tensor:
        """Number of frames of a wav of that many samples (an int, or lengths [B])."""
        return (
            torch.clamp_min(samples // self.hop_length, 1)
            if isinstance(samples, Tensor)
            else max(1, samples // self.hop_length)
        )

    def forward(self, wav: Tensor) -> Tensor:
        """wav [B, S] -> mel [B, n_mels, T], float32."""
        with torch.autocast(wav.device.type, enabled=False):
            power = _power(wav.float(), self.n_fft, self.hop_length, self.window)
            return torch.log((self.filters @ torch.sqrt(power + 1e-9)).clamp_min(_FLOOR))


class WhisperLogMel(nn.Module):
    """The log-mel that Whisper and the published S3 encoders read: wav [B, S] at 16 kHz -> mel [B, n_mels, S // 160].

    Unlike the other spectra here, frame t is centred on sample 160 t: 25 ms Hann windows every 10 ms over a wav that
    is reflected at its ends, the last frame dropped. Power in Slaney's bands, log10 of at least 1e-10, at most 8
    below the clip's maximum, then (x + 4) / 4 (Radford et al. 2022, "Robust speech recognition via large-scale weak
    supervision"; the constants are those of its published code). A wav shorter than a window is zero-extended, and
    gives max(1, S // 160) frames. Holds no parameters; its buffers are not saved.
    """

    sample_rate, n_fft, hop_length = 16000, 400, 160

    def __init__(self, n_mels: int = 128):
        super().__init__()
        self.n_mels = n_mels
        filters = mel_filters(self.sample_rate, self.n_fft, n_mels, 0.0, self.sample_rate / 2)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        """wav [B, S] -> mel [B, n_mels, max(1, S // 160)], float32; rows are whole clips, for padding moves them."""
        frames = max(1, wav.shape[-1] // self.hop_length)
        with torch.autocast(wav.device.type, enabled=False):
            wav = F.pad(wav.float(), (0, max(0, self.n_fft - wav.shape[-1])))
            spec = torch.stft(wav, self.n_fft, self.hop_length, window=self.window, return_complex=True)[..., :frames]
            power = spec.real.square() + spec.imag.square()
            mel = (self.filters @ power).clamp_min(1e-10).log10()
            floor = mel.amax(dim=(1, 2), keepdim=True) - 8.0
            return (torch.maximum(mel, floor) + 4.0) / 4.0
