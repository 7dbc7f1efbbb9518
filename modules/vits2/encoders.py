"""Prior and posterior encoders of the decoder.

Shapes: B batch, T decoder frames (50 Hz), K codebooks, U text units, F text features, H hidden, D latent channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.config import TextConfig, VITS2Config
from modules.speech.code_table import CodeTable
from modules.vits2.layers import Attention, Film, TransformerBlock, WaveNet, length_mask, local_attention_mask

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

    def forward(self, ids: Tensor, lengths: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ids [B, U], lengths [B], features [B, U, F] where they are read -> (vectors [B, U, H], mask bool [B, U])."""
        mask = length_mask(lengths, ids.shape[1])
        attention = local_attention_mask(mask, ids.shape[1])
        gate = mask[:, :, None].to(self.norm.weight.dtype)
        x = self._units(ids, features) * gate
        for block in self.blocks:
            x = block(x, gate, attention)
        return self.norm(x), mask

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
        self.attention = Attention(config.hidden, config.heads, cross=True)
        self.gate = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, ids: Tensor, lengths: Tensor, features: Tensor | None = None) -> Tensor:
        """x [B, T, H], ids [B, U] (U may be 0), lengths [B], features [B, U, F] -> [B, T, H]."""
        memory = self.nothing.expand(x.shape[0], 1, -1)
        seen = torch.ones(x.shape[0], 1, dtype=torch.bool, device=x.device)
        if ids.shape[1] > 0:
            text, mask = self.text(ids, lengths, features)
            memory, seen = torch.cat((memory, text), dim=1), torch.cat((seen, mask), dim=1)
        return x + self.gate * self.attention(self.norm(x), seen[:, None, None], memory)


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
        if vector_dim is None:
            levels = [fsq_levels] + [None] * (len(codebook_sizes) - 1)
            self.embed = nn.ModuleList(
                CodeTable(size, config.hidden, digits, std=0.25)
                for size, digits in zip(codebook_sizes, levels, strict=True)
            )
        else:
            self.embed, self.from_vector = None, nn.Linear(vector_dim, config.hidden)
        self.pitch = nn.Linear(PITCH_FEATURES, config.hidden)
        self.smooth = nn.Conv1d(config.hidden, config.hidden, 3, padding=1)
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

    def forward(
        self,
        tokens: Tensor,
        f0: Tensor,
        frames: int,
        lengths: Tensor,
        text_ids: Tensor,
        text_lengths: Tensor,
        style: Tensor,
        text_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """f0 [B, frames or a multiple] Hz, lengths [B] frames -> mean, log-scale [B, D, T].

        T is `frames`; tokens are repeated to cover it.

        Args:
            tokens: codes [B, tokens, K], or vectors [B, tokens, vector_dim] where the model was built for these.
            text_ids, text_lengths, text_features: [B, U], [B], [B, U, F] (read where `text` says so); U may be 0.
        """
        if self.embed is None:
            x = self.from_vector(tokens)
        else:
            x = sum(F.embedding(tokens[:, :, index], table.matrix()) for index, table in enumerate(self.embed))
        x = x.repeat_interleave(-(-frames // tokens.shape[1]), dim=1)[:, :frames]
        mask = length_mask(lengths, frames)
        gate = mask[:, :, None].to(x.dtype)
        x = (x + self.pitch(pitch_features(f0, f0.shape[1] // frames))) * gate
        x = (x + self.smooth(x.transpose(1, 2)).transpose(1, 2)) * gate
        attention = local_attention_mask(mask)
        for index, block in enumerate(self.blocks):
            if index == self.text_after:
                x = self.text(x, text_ids, text_lengths, text_features) * gate
            x = block(x, gate, attention, style)
        mean, log_scale = (self.out(self.norm(x, style)) * gate).transpose(1, 2).chunk(2, dim=1)
        return mean, log_scale.clamp(-6.0, 3.0)


class PosteriorEncoder(nn.Module):
    """Log-mel of the target -> z and the mean and log-scale it was drawn from. Needed in training only."""

    def __init__(self, config: VITS2Config, n_mels: int):
        super().__init__()
        self.entry = nn.Conv1d(n_mels, config.hidden, 1)
        self.wavenet = WaveNet(config.hidden, config.posterior_layers, config.style_dim, kernel=3)
        self.out = nn.Conv1d(config.hidden, 2 * config.latent, 1)
        # Starts nearly deterministic: the generator learns faster from a latent that carries the sound.
        with torch.no_grad():
            self.out.bias[config.latent :].fill_(-1.5)

    def forward(
        self, mel: Tensor, lengths: Tensor, style: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """mel [B, n_mels, T], lengths [B] -> z, mean, log-scale, each [B, D, T]; `noise` None gives z = mean."""
        mask = length_mask(lengths, mel.shape[2])[:, None].to(mel.dtype)
        x = self.entry((mel + 5.0) / 3.0 * mask)
        mean, log_scale = (self.out(self.wavenet(x, mask, style)) * mask).chunk(2, dim=1)
        log_scale = log_scale.clamp(-6.0, 3.0)
        z = mean if noise is None else (mean + noise * log_scale.exp()) * mask
        return z, mean, log_scale
