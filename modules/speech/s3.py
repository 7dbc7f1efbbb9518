"""Supervised semantic speech tokens (S3), our own small ones.

log-mel -> strided convolutions -> transformer blocks at the token rate -> FSQ or VQ -> more blocks -> phone
labels at twice the token rate. Trained with CTC on labels, and with frame labels where timing is known, the
bottleneck keeps what is said and drops who says it (the idea of CosyVoice's supervised tokens, Du et al.
2024). A second stream holds relative f0 (`prosody.py`).

Shapes: B batch, S samples, T token frames, K streams, M mel bands, H hidden, L labels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.audio.spectral import LogMel
from modules.config import SpeechTokenizerConfig
from modules.speech.prosody import prosody_stream
from modules.speech.quantizer import Quantizer

MEL_RATE_HZ = 100
BLANK = 0
LEVEL_RMS = 0.07


@dataclass(frozen=True)
class Recognition:
    """What a training step needs: CTC logits [B, 2T, L], frame logits [B, 2T, L], their lengths [B], ids [B, T],
    quantiser loss."""

    logits: Tensor
    frame_logits: Tensor
    lengths: Tensor
    ids: Tensor
    commitment: Tensor


class SemanticTokenizer(nn.Module):
    """Speech to tokens; the recognition head is present only while training.

    Args:
        config: sizes and quantiser.
        labels: phone labels of the recognition head without the blank; empty for inference.
    """

    def __init__(self, config: SpeechTokenizerConfig, labels: tuple[str, ...] = ()):
        super().__init__()
        self.config = config
        self.labels = labels
        self.sample_rate = config.sample_rate
        self.frame_rate = float(config.frame_rate)
        self.samples_per_token = config.sample_rate // config.frame_rate
        self.mel = LogMel(config.sample_rate, 400, config.sample_rate // MEL_RATE_HZ, config.n_mels)
        strides = (2, 2) if config.frame_rate == 25 else (2, 1)
        self.subsample = nn.ModuleList(
            nn.Conv1d(config.n_mels if i == 0 else config.hidden, config.hidden, 5, stride, padding=2)
            for i, stride in enumerate(strides)
        )
        self.encoder = nn.ModuleList(Block(config) for _ in range(config.encoder_layers))
        self.encoder_norm = nn.LayerNorm(config.hidden)
        self.quantizer = Quantizer(config)
        streams = (self.quantizer.codebook_size, config.prosody_levels)
        self.codebook_sizes = streams if config.prosody_levels else streams[:1]
        self.recogniser = Recogniser(config, len(labels) + 1) if labels else None

    def mels(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised log-mels [B, M, 4T at 25 Hz] of whole tokens, and the token lengths [B]."""
        tokens = lengths // self.samples_per_token
        longest = int(tokens.max()) * self.samples_per_token
        with torch.autocast(wav.device.type, enabled=False):
            mel = self.mel(_same_level(wav[:, :longest].float(), tokens * self.samples_per_token))
        mask = _mask(tokens, longest // self.samples_per_token).repeat_interleave(
            MEL_RATE_HZ // self.config.frame_rate, 1
        )
        return normalise_mel(mel, mask), tokens

    def hidden(self, mel: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states [B, T, H] before the quantiser, and the frame mask [B, T]."""
        x = mel
        mask = _mask(tokens, mel.shape[2] * self.config.frame_rate // MEL_RATE_HZ)
        for i, conv in enumerate(self.subsample):
            x = functional.gelu(conv(x))
            factor = x.shape[2] // mask.shape[1]
            x = x * mask.repeat_interleave(factor, 1).unsqueeze(1) if i < len(self.subsample) - 1 else x
        x = x.transpose(1, 2) * mask.unsqueeze(-1)
        for block in self.encoder:
            x = block(x, mask)
        return self.encoder_norm(x), mask

    def forward(self, mel: Tensor, tokens: Tensor) -> Recognition:
        """Recognise through the bottleneck (training).

        Args:
            mel: [B, M, F] normalised log-mels; tokens: [B] token lengths.
        """
        return self.recognise(*self.hidden(mel, tokens), tokens)

    def recognise(self, hidden: Tensor, mask: Tensor, tokens: Tensor) -> Recognition:
        """What is read of encoder states [B, T, H] through the bottleneck; mask [B, T], tokens [B] their lengths."""
        quantised, ids, commitment = self.quantizer(hidden, mask)
        logits, frame_logits = self.recogniser(quantised, mask)
        return Recognition(logits, frame_logits, tokens * 2, ids, commitment)

    def encode(self, wav: Tensor, lengths: Tensor | None = None, f0: Tensor | None = None) -> Tensor:
        """Speech to codes.

        Args:
            wav: [B, S] at `sample_rate`; lengths: [B] samples, None for full rows.
            f0: [B, F] Hz at 100 Hz if already tracked.

        Returns:
            codes [B, T, K] int64, T = S // samples per token; 0 beyond a row's length.
        """
        frames = wav.shape[1] // self.samples_per_token
        if lengths is None:
            lengths = torch.full((wav.shape[0],), wav.shape[1], device=wav.device)
        if not (lengths >= self.samples_per_token).any():
            return torch.zeros(wav.shape[0], frames, len(self.codebook_sizes), dtype=torch.long, device=wav.device)
        mel, tokens = self.mels(wav, lengths)
        hidden, mask = self.hidden(mel, tokens)
        content = functional.pad(self.quantizer(hidden, mask)[1], (0, frames - mask.shape[1]))
        if len(self.codebook_sizes) == 1:
            return content.unsqueeze(-1)
        levels, rate = self.config.prosody_levels, self.config.frame_rate
        prosody = prosody_stream(wav, _mask(tokens, frames), f0, levels, self.sample_rate, rate)
        return torch.stack([content, prosody], dim=-1)

    def label_logits(self, content: Tensor) -> Tensor:
        """What the recognition head reads in content tokens alone.

        Args:
            content: [B, T] ids of the first stream.

        Returns:
            CTC logits [B, 2T, classes].
        """
        quantised = self.quantizer.inner.indices_to_codes(content)
        return self.recogniser(quantised, torch.ones_like(content, dtype=torch.bool))[0]

    def vectors(self, codes: Tensor) -> None:
        """None: these tokens enter the GPT through a learned embedding of their ids."""
        return None


class Recogniser(nn.Module):
    """From quantised frames to label logits at twice the token rate.

    Two outputs: CTC wants mostly blanks, frame labels want a label everywhere; sharing one output stalls both.
    """

    def __init__(self, config: SpeechTokenizerConfig, classes: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.hidden)
        self.out = nn.Linear(config.hidden, 4 * classes)
        self.classes = classes

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, H] -> CTC logits and frame logits, [B, 2T, classes] each; class 0 is blank, or no known label."""
        for block in self.blocks:
            x = block(x, mask)
        both = self.out(self.norm(x))
        ctc, frames = both.chunk(2, dim=-1)
        return tuple(part.reshape(x.shape[0], -1, self.classes) for part in (ctc, frames))


class Block(nn.Module):
    """Pre-norm attention with rotary positions, a depthwise convolution, and a feed-forward layer.

    The convolution is what makes small encoders learn phones quickly (Gulati et al. 2020, Conformer).
    """

    def __init__(self, config: SpeechTokenizerConfig):
        super().__init__()
        hidden = config.hidden
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.attention_out = nn.Linear(hidden, hidden)
        self.conv_norm = nn.LayerNorm(hidden)
        self.conv_in = nn.Linear(hidden, 2 * hidden)
        self.conv = nn.Conv1d(hidden, hidden, 9, padding=4, groups=hidden)
        self.conv_out = nn.Linear(hidden, hidden)
        self.feed_norm = nn.LayerNorm(hidden)
        self.feed = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, H], mask [B, T] -> [B, T, H], zero where masked."""
        keep = mask.unsqueeze(-1)
        x = x + self.dropout(self._attend(self.attention_norm(x), mask))
        gated = functional.glu(self.conv_in(self.conv_norm(x)), dim=-1) * keep
        mixed = functional.silu(self.conv(gated.transpose(1, 2)).transpose(1, 2))
        x = x + self.dropout(self.conv_out(mixed))
        return (x + self.dropout(self.feed(self.feed_norm(x)))) * keep

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, frames, hidden = x.shape
        q, k, v = self.qkv(x).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        cos, sin = _rotary(frames, q.shape[-1], x.device)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        # A row without one real frame would be all -inf; its first frame may look at itself.
        allowed = mask.clone()
        allowed[:, 0] = True
        out = functional.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=allowed[:, None, None, :])
        return self.attention_out(out.transpose(1, 2).reshape(batch, frames, hidden))


def normalise_mel(mel: Tensor, mask: Tensor) -> Tensor:
    """Subtract each band's mean over the clip, which takes channel and level away.

    Args:
        mel: [B, M, F]; mask: [B, F] bool.
    """
    keep = mask.unsqueeze(1)
    mean = (mel * keep).sum(2, keepdim=True) / keep.sum(2, keepdim=True).clamp_min(1)
    return (mel - mean) * keep * 0.4


def _same_level(wav: Tensor, lengths: Tensor) -> Tensor:
    """Every clip at the same root mean square, so that the floor of the log lies equally deep below its speech."""
    keep = _mask(lengths, wav.shape[1])
    power = (wav.square() * keep).sum(1) / lengths.clamp_min(1)
    return wav * keep * (LEVEL_RMS / power.sqrt().clamp_min(1e-6)).unsqueeze(1)


def _mask(lengths: Tensor, frames: int) -> Tensor:
    return torch.arange(frames, device=lengths.device).unsqueeze(0) < lengths.unsqueeze(1)


def _rotary(frames: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rates = 10000.0 ** (-torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(frames, device=device).unsqueeze(1) * rates
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
