"""The judge's own phone recogniser: ears that share nothing with the tokenizer they judge.

Gammatone bands with power-law compression and a bank of autocorrelation lags (pitch, for lexical tone) go through
factorised time-delay layers and one bidirectional GRU to CTC labels. No mel spectrum, no convolution, no attention
and no quantiser, so a mistake that is bred into the tokenizer is not forgiven here.

Shapes: B batch, S samples, F frames of 10 ms, T frames of 40 ms, L labels with the blank, H hidden.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.checkpoint import Lineage, load_stage, save_weights
from modules.config import from_dict, to_dict
from modules.corpus.phones import PAUSE
from modules.training.relabel import carry_labels

BLANK = 0
FRAMES_PER_STATE = 4
LABELS_PER_STATE = 2
STAGE = "recognizer"
_LAGS_HZ = (70.0, 420.0)
_LAGS_BELOW_HZ = 1500.0


@dataclass(frozen=True)
class RecognizerConfig:
    """Sizes of the recogniser."""

    sample_rate: int = 16000
    bands: int = 40
    lags: int = 24
    stem: int = 192
    hidden: int = 320
    bottleneck: int = 96
    layers: int = 8
    recurrent: int = 160
    dropout: float = 0.1


class Ears(nn.Module):
    """Sound to features: wav [B, S] -> [B, S // hop, bands + lags].

    Bands are fourth-order gammatone responses on the ERB-rate scale (Glasberg and Moore 1990; Slaney 1993), applied
    as weights on the power spectrum and compressed by a tenth root (after PNCC, Kim and Stern 2016). Lags are the
    generalised autocorrelation of the low spectrum (Tolonen and Karjalainen 2000), whose peak tells the pitch.
    """

    def __init__(self, config: RecognizerConfig):
        super().__init__()
        rate = config.sample_rate
        self.hop, self.window_size = rate // 100, round(0.032 * rate)
        self.n_fft = 1 << (2 * self.window_size - 1).bit_length()
        self.register_buffer("window", torch.hamming_window(self.window_size), persistent=False)
        bins_hz = torch.linspace(0, rate / 2, self.n_fft // 2 + 1, dtype=torch.float64)
        self.register_buffer("bands", _gammatone_weights(bins_hz, config.bands, 80.0, 0.475 * rate), persistent=False)
        self.low_bins = int((bins_hz < _LAGS_BELOW_HZ).sum())
        seconds = 1 / torch.logspace(*(math.log10(hz) for hz in reversed(_LAGS_HZ)), config.lags, dtype=torch.float64)
        cosines = torch.cos(2 * math.pi * seconds[:, None] * bins_hz[None, : self.low_bins])
        self.register_buffer("cosines", cosines.float(), persistent=False)

    def forward(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """Bands [B, F, bands] and lags [B, F, lags]."""
        side = self.window_size - self.hop
        padded = functional.pad(wav.float(), (side // 2, side - side // 2))
        frames = padded.unfold(1, self.window_size, self.hop) * self.window
        power = torch.fft.rfft(frames, self.n_fft).abs().square()
        bands = (power @ self.bands.T + 1e-7).pow(0.1)
        low = (power[..., : self.low_bins] + 1e-9).pow(1 / 3)
        lags = (low @ self.cosines.T) / low.sum(-1, keepdim=True)
        return bands, lags


class TimeDelayLayer(nn.Module):
    """Factorised time-delay layer (TDNN-F, Povey et al. 2018, without the orthogonality constraint).

    The splice with the frame before goes into a linear bottleneck, the splice with the frame after comes out of it.
    """

    def __init__(self, hidden: int, bottleneck: int, delay: int, dropout: float):
        super().__init__()
        self.delay = delay
        self.narrow = nn.Linear(2 * hidden, bottleneck, bias=False)
        self.widen = nn.Linear(2 * bottleneck, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, H], mask [B, T, 1] -> [B, T, H]."""
        narrow = self.narrow(torch.cat([_shift(x, self.delay), x], -1)) * mask
        wide = torch.relu(self.widen(torch.cat([narrow, _shift(narrow, -self.delay)], -1)))
        return (x + self.dropout(self.norm(wide))) * mask


@dataclass(frozen=True)
class Heard:
    """CTC logits and frame logits [B, 2T, L], their lengths [B]."""

    logits: Tensor
    frame_logits: Tensor
    lengths: Tensor


class PhoneRecognizer(nn.Module):
    """Phones of a sound.

    Args:
        config: sizes.
        labels: the label inventory without the blank.
        languages: those that it was trained on, as far as that is known.
    """

    def __init__(self, config: RecognizerConfig, labels: Sequence[str], languages: Sequence[str] = ()):
        super().__init__()
        self.config, self.labels = config, tuple(labels)
        self.languages = tuple(languages)
        self.sample_rate = config.sample_rate
        self.ears = Ears(config)
        self.samples_per_state = self.ears.hop * FRAMES_PER_STATE
        self.first = nn.Linear(3 * 2 * (config.bands + config.lags), config.stem)
        self.first_norm = nn.LayerNorm(config.stem)
        self.second = nn.Linear(2 * config.stem, config.hidden)
        self.second_norm = nn.LayerNorm(config.hidden)
        delays = [1 if i < config.layers // 2 else 2 for i in range(config.layers)]
        self.layers = nn.ModuleList(
            TimeDelayLayer(config.hidden, config.bottleneck, delay, config.dropout) for delay in delays
        )
        self.recurrent = nn.GRU(config.hidden, config.recurrent, batch_first=True, bidirectional=True)
        self.join = nn.Linear(2 * config.recurrent, config.hidden)
        self.out_norm = nn.LayerNorm(config.hidden)
        outputs = LABELS_PER_STATE * (len(self.labels) + 1)
        self.ctc_head = nn.Linear(config.hidden, outputs)
        self.frame_head = nn.Linear(config.hidden, outputs)

    def forward(self, wav: Tensor, lengths: Tensor) -> Heard:
        """wav [B, S] at `sample_rate`, lengths [B] samples (at least one state each)."""
        states = (lengths // self.samples_per_state).clamp_min(1)
        longest = int(states.max())
        wav = functional.pad(wav, (0, max(0, longest * self.samples_per_state - wav.shape[1])))
        bands, lags = self.ears(wav[:, : longest * self.samples_per_state])
        mask = _mask(states, longest)
        x = self._features(bands, lags, mask.repeat_interleave(FRAMES_PER_STATE, 1))
        x = torch.relu(self.first(_with_neighbours(x.reshape(len(x), 2 * longest, -1))))
        x = self.first_norm(x) * mask.repeat_interleave(2, 1)
        x = self.second_norm(torch.relu(self.second(x.reshape(len(x), longest, -1)))) * mask
        for layer in self.layers:
            x = layer(x, mask)
        x = self.out_norm(x + self.join(self._recur(x, states)))
        shape = (len(x), LABELS_PER_STATE * longest, len(self.labels) + 1)
        return Heard(self.ctc_head(x).reshape(shape), self.frame_head(x).reshape(shape), states * LABELS_PER_STATE)

    def _features(self, bands: Tensor, lags: Tensor, mask: Tensor) -> Tensor:
        """Bands with mean and variance normalised over each clip, masked at random while training, beside the lags."""
        count = mask.sum(1, keepdim=True).clamp_min(1)
        mean = (bands * mask).sum(1, keepdim=True) / count
        variance = ((bands - mean).square() * mask).sum(1, keepdim=True) / count
        bands = (bands - mean) / (variance + 1e-6).sqrt()
        if self.training:
            bands = bands * _holes(bands)
        return torch.cat([bands, 2 * lags], -1) * mask

    def _recur(self, x: Tensor, states: Tensor) -> Tensor:
        """Bidirectional GRU that never sees padding: [B, T, H] -> [B, T, 2 * recurrent]."""
        packed = nn.utils.rnn.pack_padded_sequence(x, states.cpu(), batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=x.shape[1])[0]

    @torch.inference_mode()
    def hear(self, wavs: Sequence[np.ndarray]) -> list[list[str]]:
        """Labels of sounds float32 [S] at `sample_rate`, pauses left out; best path."""
        device = self.first.weight.device
        lengths = torch.tensor([len(wav) for wav in wavs])
        batch = torch.zeros(len(wavs), max(int(lengths.max()), self.samples_per_state))
        for row, wav in zip(batch, wavs, strict=True):
            row[: len(wav)] = torch.from_numpy(np.asarray(wav, np.float32))
        heard = self(batch.to(device), lengths.to(device))
        return [
            [label for label in (self.labels[i - 1] for i in ids) if label != PAUSE]
            for ids in best_paths(heard.logits, heard.lengths)
        ]


def best_paths(logits: Tensor, lengths: Tensor) -> list[list[int]]:
    """Best-path CTC decoding: [B, N, L] -> label ids (from 1) of each row."""
    rows = []
    for best, length in zip(logits.argmax(-1), lengths.tolist(), strict=True):
        path = torch.unique_consecutive(best[:length])
        rows.append(path[path != BLANK].tolist())
    return rows


def relabel(model: PhoneRecognizer, labels: Sequence[str]) -> PhoneRecognizer:
    """The same recogniser for other labels: those it knew go on, others begin afresh."""
    if tuple(labels) == model.labels:
        return model
    wider = PhoneRecognizer(model.config, labels, model.languages)
    state = model.state_dict()
    for name, fresh in wider.state_dict().items():
        if name.startswith(("ctc_head.", "frame_head.")):
            state[name] = carry_labels(state[name], fresh, model.labels, labels)
    wider.load_state_dict(state)
    return wider.train(model.training)


def save_recognizer(path: Path, model: PhoneRecognizer, lineage: Lineage) -> Path:
    """Write the weights in half precision."""
    config = {STAGE: to_dict(model.config), "labels": list(model.labels), "languages": list(model.languages)}
    return save_weights(path, model.state_dict(), config, lineage, torch.float16)


def load_recognizer(path: Path) -> PhoneRecognizer:
    """Read a recogniser in eval mode.

    Raises:
        UserError: weights_missing, weights_unreadable, weights_wrong_stage.
    """
    weights = load_stage(path, STAGE, stage="phone recogniser")
    sizes, known = from_dict(RecognizerConfig, weights.config[STAGE]), weights.config.get("languages", ())
    model = PhoneRecognizer(sizes, weights.config["labels"], known)
    model.load_state_dict(weights.state)
    return model.eval()


def _gammatone_weights(bins_hz: Tensor, bands: int, low_hz: float, high_hz: float) -> Tensor:
    """Power responses [bands, bins] of gammatone filters equally spaced in ERB rate, each summing to one."""
    ends = [21.4 * math.log10(1 + 0.00437 * hz) for hz in (low_hz, high_hz)]
    centres = (10 ** (torch.linspace(*ends, bands, dtype=torch.float64) / 21.4) - 1) / 0.00437
    width = 1.019 * 24.7 * (0.00437 * centres + 1)
    response = (1 + ((bins_hz[None] - centres[:, None]) / width[:, None]).square()).pow(-4)
    return (response / response.sum(1, keepdim=True)).float()


def _shift(x: Tensor, frames: int) -> Tensor:
    """[B, T, C] later by `frames` (earlier if negative), zeros at the edge."""
    if frames >= 0:
        return functional.pad(x, (0, 0, frames, 0))[:, : x.shape[1]]
    return functional.pad(x, (0, 0, 0, -frames))[:, -frames:]


def _with_neighbours(x: Tensor) -> Tensor:
    """[B, N, C] -> [B, N, 3 C]: the frame before, the frame and the frame after."""
    return torch.cat([_shift(x, 1), x, _shift(x, -1)], -1)


def _mask(lengths: Tensor, longest: int) -> Tensor:
    return (torch.arange(longest, device=lengths.device)[None] < lengths[:, None]).unsqueeze(-1).float()


def _holes(bands: Tensor) -> Tensor:
    """Masks of two stretches of bands and of time in each clip (SpecAugment, Park et al. 2019), [B, F, bands]."""
    batch, frames, count = bands.shape
    keep = torch.ones(batch, frames, count, device=bands.device)
    for row, numbers in zip(keep, torch.rand(batch, 8).tolist(), strict=True):
        for k in (0, 4):
            width = int(numbers[k] * 0.15 * count)
            start = int(numbers[k + 1] * (count - width))
            row[:, start : start + width] = 0
            width = int(numbers[k + 2] * min(12, frames // 4))
            start = int(numbers[k + 3] * (frames - width))
            row[start : start + width] = 0
    return keep
