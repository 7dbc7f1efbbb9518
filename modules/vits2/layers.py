"""Layers that the parts of the decoder share. Sequences are [B, T, H] unless a docstring says [B, C, T]."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION_REACH = 50
"""Frames (one second) that self-attention sees to each side."""


def length_mask(lengths: Tensor, frames: int) -> Tensor:
    """True where a frame belongs to its item. lengths [B] -> bool [B, frames]."""
    return torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]


def local_attention_mask(mask: Tensor, reach: int = ATTENTION_REACH) -> Tensor:
    """Attention mask of a band of +-`reach` frames, so that a long sentence looks like a training window.

    Every position may see itself, so padding never produces an empty row. mask bool [B, T] -> bool [B, 1, T, T].
    """
    frames = mask.shape[1]
    position = torch.arange(frames, device=mask.device)
    distance = (position[:, None] - position[None, :]).abs()
    allowed = (distance <= reach)[None] & mask[:, None, :]
    return (allowed | (distance == 0)[None])[:, None]


def rotate(x: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary positions (Su et al., 2021, "RoFormer") on [B, heads, T, D]; D is even."""
    frames, half = x.shape[-2], x.shape[-1] // 2
    speed = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = torch.arange(frames, device=x.device, dtype=torch.float32)[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Film(nn.Module):
    """Layer norm whose scale and shift follow the style; starts as a plain layer norm."""

    def __init__(self, hidden: int, style_dim: int):
        super().__init__()
        self.hidden = hidden
        self.project = nn.Linear(style_dim, 2 * hidden)
        nn.init.normal_(self.project.weight, std=0.01)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.project(style)[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, F.layer_norm(x, (self.hidden,)), 1 + scale)


class DepthwiseConv(nn.Module):
    """One short filter per channel over time, on [B, T, H]."""

    def __init__(self, hidden: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention; self-attention with rotary positions, or cross-attention without positions."""

    def __init__(self, hidden: int, heads: int, *, cross: bool = False):
        super().__init__()
        if hidden % (2 * heads):
            raise ValueError(f"hidden {hidden} must be a multiple of twice the heads ({heads})")
        self.heads = heads
        self.cross = cross
        self.query = nn.Linear(hidden, hidden)
        self.key_value = nn.Linear(hidden, 2 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor | None = None) -> Tensor:
        """x [B, T, H], mask bool [B, 1, T or 1, M], memory [B, M, H] (x itself when None) -> [B, T, H]."""
        query = self._split(self.query(x))
        key, value = (self._split(part) for part in self.key_value(x if memory is None else memory).chunk(2, dim=-1))
        if not self.cross:
            query, key = rotate(query), rotate(key)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block with a short depthwise filter before the feed-forward part.

    With `style_dim` the first norm follows the style; without, it is a plain layer norm.
    """

    def __init__(self, hidden: int, heads: int, filter: int, style_dim: int = 0, dropout: float = 0.0):
        super().__init__()
        self.styled = style_dim > 0
        self.norm1 = Film(hidden, style_dim) if self.styled else nn.LayerNorm(hidden)
        self.attention = Attention(hidden, heads)
        self.norm2 = nn.LayerNorm(hidden)
        self.local = DepthwiseConv(hidden, 5)
        self.up = nn.Linear(hidden, filter)
        self.down = nn.Linear(filter, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, attention_mask: Tensor, style: Tensor | None = None) -> Tensor:
        """x [B, T, H], mask [B, T, 1] float, attention_mask bool [B, 1, T, T], style [B, style_dim] -> [B, T, H]."""
        normed = self.norm1(x, style) if self.styled else self.norm1(x)
        x = x + self.dropout(self.attention(normed, attention_mask))
        normed = self.norm2(x) * mask
        inner = F.gelu(self.up(normed + self.local(normed)))
        return (x + self.dropout(self.down(inner))) * mask


class ConvNeXtBlock(nn.Module):
    """ConvNeXt block over time (Liu et al., 2022; in vocoders: Siuzdak, 2023, "Vocos") with a styled norm."""

    def __init__(self, hidden: int, inner: int, style_dim: int, layers: int, kernel: int = 7):
        super().__init__()
        self.local = DepthwiseConv(hidden, kernel)
        self.norm = Film(hidden, style_dim)
        self.up = nn.Linear(hidden, inner)
        self.down = nn.Linear(inner, hidden)
        self.scale = nn.Parameter(torch.full((hidden,), 1.0 / math.sqrt(layers)))

    def forward(self, x: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        """x [B, T, H], mask [B, T, 1] float, style [B, style_dim] -> [B, T, H]."""
        inner = F.gelu(self.up(self.norm(self.local(x), style)))
        return (x + self.scale * self.down(inner)) * mask


class WaveNet(nn.Module):
    """Gated dilated convolutions with residual and skip paths (van den Oord et al., 2016), on [B, C, T]."""

    def __init__(self, hidden: int, layers: int, style_dim: int = 0, kernel: int = 5, dilation_cycle: int = 4):
        super().__init__()
        self.hidden, self.layers = hidden, layers
        self.style = nn.Linear(style_dim, 2 * hidden * layers) if style_dim else None
        self.gates = nn.ModuleList()
        self.mixes = nn.ModuleList()
        for index in range(layers):
            dilation = 2 ** (index % dilation_cycle) if layers > 2 else 1
            padding = dilation * (kernel // 2)
            self.gates.append(nn.Conv1d(hidden, 2 * hidden, kernel, dilation=dilation, padding=padding))
            # The last layer feeds the skip path only.
            self.mixes.append(nn.Conv1d(hidden, hidden if index == layers - 1 else 2 * hidden, 1))

    def forward(self, x: Tensor, mask: Tensor, style: Tensor | None = None) -> Tensor:
        """x [B, C, T], mask [B, 1, T] float, style [B, style_dim] if the network has one -> [B, C, T]."""
        conditions = self.style(style)[:, :, None].chunk(self.layers, dim=1) if self.style else [0.0] * self.layers
        total: Tensor | float = 0.0
        x = x * mask
        for index, (gate, mix) in enumerate(zip(self.gates, self.mixes, strict=True)):
            a, b = (gate(x) + conditions[index]).chunk(2, dim=1)
            out = mix(torch.tanh(a) * torch.sigmoid(b))
            if index < self.layers - 1:
                residual, skip = out.chunk(2, dim=1)
                x = (x + residual) * mask
                total = total + skip
            else:
                total = total + out
        return total * mask / math.sqrt(self.layers)
