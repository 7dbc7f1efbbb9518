"""Prior and posterior encoders of the decoder.

Shapes: B batch, T decoder frames (50 Hz), K codebooks, U text units, F text features, H hidden, D latent channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.config import TextConfig, VITS2Config
from modules.speech.code_table import CodeTable
from modules.vits2.layers import (
    CrossAttention,
    Film,
    Memory,
    Span,
    TimeConv,
    TransformerBlock,
    WaveNet,
    gated,
    head_width,
    length_mask,
)

PITCH_FEATURES = 2


def pitch_features(f0: Tensor, rate_divisor: int = 1) -> Tensor:
    """Log-pitch around 0 and voicing. f0 [B, N] Hz (0 = unvoiced) -> [B, N // rate_divisor, 2]."""
    voiced = (f0 > 0).to(f0.dtype)
    log_f0 = torch.where(f0 > 0, (f0.clamp_min(1.0).log2() - 7.3) * 2.0, 0.0)
    if rate_divisor > 1:
        voiced, log_f0 = (F.avg_pool1d(track[:, None], rate_divisor)[:, 0] for track in (voiced, log_f0))
    return torch.stack((log_f0, voiced), dim=-1)


class TextEncoder(nn.Module):
    """Text ids, features of them from outside, or both -> one vector per unit, without any notion of language."""

    def __init__(self, config: VITS2Config, vocab: int, text: TextConfig):
        super().__init__()
        self.width = head_width(config.hidden, config.heads)
        self.embed = self.project = None
        if text.features != "features":
            self.embed = nn.Embedding(vocab, config.hidden)
            nn.init.normal_(self.embed.weight, std=0.3)
        if text.features != "embedding":
            self.project = nn.Linear(text.feature_dim, config.hidden)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.hidden, config.heads, config.filter, dropout=config.dropout)
            for _ in range(config.text_layers)
        )
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, ids: Tensor, lengths: Tensor | None, features: Tensor | None = None) -> Tensor:
        """ids [B, U], lengths [B] (None: all are real), features [B, U, F] where they are read -> vectors [B, U, H]."""
        units = ids.shape[1]
        span = Span.of(lengths, units, self.norm.weight, self.width, reach=units)
        x = gated(self._units(ids, features), span.gate)
        for block in self.blocks:
            x = block(x, span)
        return self.norm(x)

    def _units(self, ids: Tensor, features: Tensor | None) -> Tensor:
        if self.project is None:
            return self.embed(ids)
        if features is None:
            raise ValueError("this decoder reads text features, none were given")
        projected = self.project(features.to(self.project.weight.dtype))
        return projected if self.embed is None else projected + self.embed(ids)


class TextAttention(nn.Module):
    """MRTE: speech tokens look at the text of the utterance (query = tokens, key and value = text).

    The result enters through a small learned gate. A learned "nothing" entry stands first among the keys, so an
    item without text is an ordinary case and not an empty attention row.
    """

    def __init__(self, config: VITS2Config, vocab: int, text: TextConfig):
        super().__init__()
        self.text = TextEncoder(config, vocab, text)
        self.nothing = nn.Parameter(torch.randn(config.hidden) * 0.1)
        self.norm = nn.LayerNorm(config.hidden)
        self.attention = CrossAttention(config.hidden, config.heads)
        self.gate = nn.Parameter(torch.tensor(0.1))

    def read(self, ids: Tensor, lengths: Tensor | None, features: Tensor | None = None) -> Memory:
        """What there is to look at of a text: ids [B, U] (U may be 0), lengths [B] (None: whole width), features
        [B, U, F]. It depends on the text alone, so one reading serves all pieces of an utterance."""
        memory = self.nothing.expand(ids.shape[0], 1, -1)
        if ids.shape[1] == 0:
            return self.attention.remember(memory, None)
        memory = torch.cat((memory, self.text(ids, lengths, features)), dim=1)
        return self.attention.remember(memory, None if lengths is None else length_mask(lengths + 1, memory.shape[1]))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """x [B, T, H], memory as `read` gave it -> [B, T, H]."""
        return x + self.gate * self.attention(self.norm(x), memory)


class PriorEncoder(nn.Module):
    """Speech tokens, pitch, text and style -> mean and log-scale of the prior over z.

    Each codebook has a learned table (with digits when stream 0 is an FSQ code); their sum at the token rate is
    repeated to the decoder's frames. The token tables are the only audio input, so the same class serves any number
    of codebooks. Tokens that have vectors already (`vector_dim`) enter through a linear layer instead.
    """

    def __init__(
        self,
        config: VITS2Config,
        codebook_sizes: tuple[int, ...],
        vocab: int,
        fsq_levels: tuple[int, ...] | None = None,
        vector_dim: int | None = None,
        text: TextConfig | None = None,
    ):
        super().__init__()
        self.width = head_width(config.hidden, config.heads)
        if vector_dim is None:
            levels = [fsq_levels] + [None] * (len(codebook_sizes) - 1)
            self.embed = nn.ModuleList(
                CodeTable(size, config.hidden, digits, std=0.25)
                for size, digits in zip(codebook_sizes, levels, strict=True)
            )
        else:
            self.embed, self.from_vector = None, nn.Linear(vector_dim, config.hidden)
        self.pitch = nn.Linear(PITCH_FEATURES, config.hidden)
        self.smooth = TimeConv(config.hidden, config.hidden, 3)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.hidden, config.heads, config.filter, config.style_dim, config.dropout)
            for _ in range(config.encoder_layers)
        )
        self.text = TextAttention(config, vocab, text or TextConfig())
        self.text_after = config.encoder_layers // 2
        self.norm = Film(config.hidden, config.style_dim)
        self.out = nn.Linear(config.hidden, 2 * config.latent)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def fold(self) -> None:
        """Make plain tables of the codes' tables, for a decoder that only speaks."""
        if self.embed is not None:
            self.embed = nn.ModuleList(nn.Embedding.from_pretrained(table.matrix().detach()) for table in self.embed)

    def forward(
        self, tokens: Tensor, f0: Tensor, frames: int, lengths: Tensor | None, text: Memory, style: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f0 [B, frames or a multiple] Hz, lengths [B] frames (None: all are real) -> mean, log-scale [B, D, T].

        T is `frames`; tokens are repeated to cover it.

        Args:
            tokens: codes [B, tokens, K], or vectors [B, tokens, vector_dim] where the model was built for these.
            text: the utterance's text as `self.text.read` gives it.
        """
        x = self._vectors(tokens).repeat_interleave(-(-frames // tokens.shape[1]), dim=1)[:, :frames]
        span = Span.of(lengths, frames, x, self.width)
        x = gated(x + self.pitch(pitch_features(f0, f0.shape[1] // frames)), span.gate)
        x = gated(x + self.smooth(x), span.gate)
        for index, block in enumerate(self.blocks):
            if index == self.text_after:
                x = gated(self.text(x, text), span.gate)
            x = block(x, span, style)
        mean, log_scale = gated(self.out(self.norm(x, style)), span.gate).transpose(1, 2).chunk(2, dim=1)
        return mean, log_scale.clamp(-6.0, 3.0)

    def _vectors(self, tokens: Tensor) -> Tensor:
        """Codes or vectors of tokens -> [B, tokens, H]."""
        if self.embed is None:
            return self.from_vector(tokens)
        tables = [table.weight if isinstance(table, nn.Embedding) else table.matrix() for table in self.embed]
        return sum(F.embedding(tokens[:, :, index], table) for index, table in enumerate(tables))


class PosteriorEncoder(nn.Module):
    """Log-mel of the target -> z and the mean and log-scale it was drawn from. Needed in training only."""

    def __init__(self, config: VITS2Config, n_mels: int):
        super().__init__()
        self.entry = TimeConv(n_mels, config.hidden, 1)
        self.wavenet = WaveNet(config.hidden, config.posterior_layers, config.style_dim, kernel=3)
        self.out = TimeConv(config.hidden, 2 * config.latent, 1)
        # Starts nearly deterministic: the generator learns faster from a latent that carries the sound.
        with torch.no_grad():
            self.out.bias[config.latent :].fill_(-1.5)

    def forward(
        self, mel: Tensor, lengths: Tensor, style: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """mel [B, n_mels, T], lengths [B] -> z, mean, log-scale, each [B, D, T]; `noise` None gives z = mean."""
        gate = length_mask(lengths, mel.shape[2])[:, :, None].to(mel.dtype)
        x = self.entry((mel.transpose(1, 2) + 5.0) / 3.0 * gate)
        mean, log_scale = (self.out(self.wavenet(x, gate, style)) * gate).transpose(1, 2).chunk(2, dim=1)
        log_scale = log_scale.clamp(-6.0, 3.0)
        z = mean if noise is None else (mean + noise * log_scale.exp()) * gate.transpose(1, 2)
        return z, mean, log_scale
