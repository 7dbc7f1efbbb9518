"""Layers that the parts of the decoder share. Sequences are [B, T, H] unless a docstring says [B, C, T]."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION_REACH = 50
"""Frames (one second) that self-attention sees to each side."""
BAND_BLOCKS = 3
"""From so many blocks of 2 * reach frames on, attention works block by block instead of frames x frames."""
ROTARY_BASE = 10000.0


def length_mask(lengths: Tensor, frames: int) -> Tensor:
    """True where a frame belongs to its item. lengths [B] -> bool [B, frames]."""
    return torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]


def gated(x: Tensor, gate: Tensor | None) -> Tensor:
    """x times the gate; x itself where there is none because no frame is padding."""
    return x if gate is None else x * gate


@dataclass(frozen=True)
class Span:
    """What all layers of one pass over the same frames share; it is made once a pass and not in every layer.

    Attributes:
        gate: [B, T, 1], 1 where a frame belongs to its item and 0 in the padding; None: there is no padding.
        cos, sin: [T, 1, D] of the rotary positions, for heads of width D; the first half of `sin` is negated.
        bias: what is added to the attention scores, 0 or -inf: [B or 1, 1, T, T], or for n blocks of a row
            [B n or n, 1, Q, Q + 2 reach]; None: everybody sees everybody.
        block: Q, the queries of a block; 0: attention is not done by blocks.
        reach: frames seen to each side.
    """

    gate: Tensor | None
    cos: Tensor
    sin: Tensor
    bias: Tensor | None
    block: int
    reach: int

    @classmethod
    def of(cls, lengths: Tensor | None, frames: int, like: Tensor, width: int, reach: int = ATTENTION_REACH) -> "Span":
        """The span of items of `lengths` [B] in rows of `frames`, with device and number format of `like`.

        Attention is a band of +-`reach` frames, so that a long sentence looks like a training window. Every position
        may see itself, so padding never produces an empty row.

        Args:
            lengths: None when every row is full: then no layer spends time on masks.
            width: of an attention head, even.
        """
        device, dtype = like.device, like.dtype
        real = None if lengths is None else length_mask(lengths, frames)
        speed = ROTARY_BASE ** (-torch.arange(width // 2, device=device, dtype=torch.float32) / (width // 2))
        angle = torch.arange(frames, device=device, dtype=torch.float32)[:, None, None] * speed
        cos, sin = angle.cos(), angle.sin()
        cos, sin = torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)
        block = 2 * reach if frames >= 2 * reach * BAND_BLOCKS else 0
        allowed = _band(real, frames, reach, device) if block == 0 else _band_of_blocks(real, frames, reach, device)
        bias = None if allowed is None else torch.zeros(allowed.shape, device=device, dtype=dtype)
        if bias is not None:
            bias.masked_fill_(~allowed, -math.inf)
        return cls(None if real is None else real[:, :, None].to(dtype), cos, sin, bias, block, reach)

    def rotated(self, x: Tensor) -> Tensor:
        """Rotary positions (Su et al., 2021, "RoFormer") on [B, T, heads, D]."""
        # A pair is (d, d + D/2), so rolling by D/2 puts each number's partner in its place.
        return torch.addcmul(x * self.cos.to(x.dtype), x.roll(x.shape[-1] // 2, -1), self.sin.to(x.dtype))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mixed values; all [B, T, heads, D]."""
        bias = None if self.bias is None else self.bias.to(query.dtype)
        if self.block == 0:
            query, key, value = (x.transpose(1, 2) for x in (query, key, value))
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2)
        batch, frames = query.shape[:2]
        rest = -frames % self.block
        query = F.pad(query, (0, 0, 0, 0, 0, rest)).unflatten(1, (-1, self.block)).flatten(0, 1)
        # Windows that overlap, without a copy when there is one row: [B n, heads, Q + 2 reach, D].
        key, value = (
            F.pad(x, (0, 0, 0, 0, self.reach, rest + self.reach))
            .unfold(1, self.block + 2 * self.reach, self.block)
            .transpose(-1, -2)
            .flatten(0, 1)
            for x in (key, value)
        )
        if len(bias) < len(query):  # rows without padding share the blocks of one
            bias = bias.repeat(batch, 1, 1, 1)
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key, value, attn_mask=bias)
        return mixed.transpose(1, 2).unflatten(0, (batch, -1)).flatten(1, 2)[:, :frames]


def _band(real: Tensor | None, frames: int, reach: int, device: torch.device) -> Tensor | None:
    """Whom each frame may see, bool [B or 1, 1, T, T]; None: everybody. real bool [B, T]."""
    if real is None and frames <= reach + 1:
        return None
    position = torch.arange(frames, device=device)
    distance = (position[:, None] - position).abs()
    allowed = (distance <= reach)[None]
    if real is not None:
        allowed = (allowed & real[:, None]) | (distance == 0)
    return allowed[:, None]


def _band_of_blocks(real: Tensor | None, frames: int, reach: int, device: torch.device) -> Tensor:
    """`_band` for n blocks of Q = 2 reach queries and the keys around them, bool [B n or n, 1, Q, Q + 2 reach]."""
    block = 2 * reach
    if real is None:
        real = torch.ones(1, frames, dtype=torch.bool, device=device)
    rest = -frames % block
    keys = F.pad(real, (reach, rest + reach)).unfold(1, block + 2 * reach, block).flatten(0, 1)
    ahead = torch.arange(block + 2 * reach, device=device) - reach - torch.arange(block, device=device)[:, None]
    return (((ahead.abs() <= reach) & keys[:, None]) | (ahead == 0))[:, None]


class Film(nn.Module):
    """Layer norm whose scale and shift follow the style; starts as a plain layer norm."""

    def __init__(self, hidden: int, style_dim: int):
        super().__init__()
        self.hidden = hidden
        self.project = nn.Linear(style_dim, 2 * hidden)
        nn.init.normal_(self.project.weight, std=0.01)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [B, T, H], style [B, style_dim] -> [B, T, H]."""
        scale, shift = self.project(style).chunk(2, dim=-1)
        # Of one row the norm itself can do it, which saves a pass over x; autocast makes the formats differ.
        if x.shape[0] == 1 and x.dtype == scale.dtype:
            return F.layer_norm(x, (self.hidden,), 1 + scale[0], shift[0])
        return torch.addcmul(shift[:, None], F.layer_norm(x, (self.hidden,)), 1 + scale[:, None])


ROWS = 128
"""Matrices in bfloat16 see their rows in multiples of this."""


class HalfLinear(nn.Module):
    """A linear layer in bfloat16, for a decoder that only speaks; its input and output stay as they are.

    The weights are cast once: autocast would cast them in every call.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().bfloat16(), requires_grad=False)
        self.bias = nn.Parameter(linear.bias.detach().bfloat16(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[.., inputs] -> [.., outputs]."""
        rows = x.numel() // x.shape[-1]
        # The library keeps compiled code for every number of rows that it has met, a hundred kilobytes each: with few
        # such numbers memory stays flat over many sentences.
        padded = x.new_zeros(-(-rows // ROWS) * ROWS, x.shape[-1], dtype=torch.bfloat16)
        padded[:rows] = x.reshape(rows, -1)
        return F.linear(padded, self.weight, self.bias)[:rows].to(x.dtype).view(*x.shape[:-1], -1)


class TimeConv(nn.Conv1d):
    """Convolution over time on [B, T, C], as long as its input."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, dilation: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=groups)
        self.matrix: nn.Linear | None = None

    @torch.no_grad()
    def fold(self) -> None:
        """Make a matrix of filters that mix all channels, for a decoder that only speaks: a CPU then multiplies at once
        what a convolution would first bring into its own order, in every call."""
        if self.groups > 1 or self.kernel_size == (1,):
            return
        width = self.in_channels * self.kernel_size[0]
        self.matrix = nn.Linear(width, self.out_channels, device=self.weight.device, dtype=self.weight.dtype)
        self.matrix.weight.copy_(self.weight.transpose(1, 2).flatten(1))
        self.matrix.bias.copy_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, inputs] -> [B, T, outputs]."""
        if self.kernel_size == (1,):
            return F.linear(x, self.weight[:, :, 0], self.bias)
        if self.matrix is not None:
            padded, (step,) = F.pad(x, (0, 0, self.padding[0], self.padding[0])), self.dilation
            shifted = [padded[:, i * step : i * step + x.shape[1]] for i in range(self.kernel_size[0])]
            return self.matrix(torch.cat(shifted, dim=-1))
        x = x.transpose(1, 2)
        if x.device.type != "cpu":
            return super().forward(x).transpose(1, 2)
        # As an image of height 1 whose channels lie last: so a CPU convolves without transposing x in memory.
        image = F.conv2d(
            x[:, :, None], self.weight[:, :, None], self.bias, 1, (0, *self.padding), (1, *self.dilation), self.groups
        )
        return image[:, :, 0].transpose(1, 2)


class DepthwiseConv(nn.Module):
    """One short filter per channel over time, on [B, T, H]."""

    def __init__(self, hidden: int, kernel: int):
        super().__init__()
        self.conv = TimeConv(hidden, hidden, kernel, groups=hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H] -> [B, T, H]."""
        return self.conv(x)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads, self.width = heads, head_width(hidden, heads)
        self.query = nn.Linear(hidden, hidden)
        self.key_value = nn.Linear(hidden, 2 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.joint: nn.Linear | None = None

    @torch.no_grad()
    def fold(self) -> None:
        """Make one matrix product of three, for a decoder that only speaks."""
        hidden = self.query.in_features
        self.joint = nn.Linear(hidden, 3 * hidden, device=self.query.weight.device, dtype=self.query.weight.dtype)
        self.joint.weight.copy_(torch.cat((self.query.weight, self.key_value.weight)))
        self.joint.bias.copy_(torch.cat((self.query.bias, self.key_value.bias)))
        del self.query, self.key_value

    def forward(self, x: Tensor, span: Span) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        joint = torch.cat((self.query(x), self.key_value(x)), -1) if self.joint is None else self.joint(x)
        joint = joint.unflatten(-1, (3 * self.heads, self.width))
        query, key = span.rotated(joint[:, :, : 2 * self.heads]).chunk(2, dim=2)
        return self.out(span.attend(query, key, joint[:, :, 2 * self.heads :]).flatten(2))


@dataclass(frozen=True)
class Memory:
    """What a cross-attention looks at: key, value [B, heads, M, D], seen bool [B, 1, 1, M] (None: all of it)."""

    key: Tensor
    value: Tensor
    seen: Tensor | None


class CrossAttention(nn.Module):
    """Multi-head attention to a memory, without positions. The memory is read once for any number of queries."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads, self.width = heads, head_width(hidden, heads)
        self.query = nn.Linear(hidden, hidden)
        self.key_value = nn.Linear(hidden, 2 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def remember(self, memory: Tensor, seen: Tensor | None) -> Memory:
        """memory [B, M, H], seen bool [B, M]; None: all of it."""
        joint = self.key_value(memory).unflatten(-1, (2 * self.heads, self.width)).transpose(1, 2)
        return Memory(*joint.chunk(2, dim=1), None if seen is None else seen[:, None, None])

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        query = self.query(x).unflatten(-1, (self.heads, self.width)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, memory.key, memory.value, attn_mask=memory.seen)
        return self.out(mixed.transpose(1, 2).flatten(2))


def head_width(hidden: int, heads: int) -> int:
    """Width of an attention head.

    Raises:
        ValueError: for sizes that give no whole and even width, which rotary positions need.
    """
    if hidden % (2 * heads):
        raise ValueError(f"hidden {hidden} must be a multiple of twice the heads ({heads})")
    return hidden // heads


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

    def forward(self, x: Tensor, span: Span, style: Tensor | None = None) -> Tensor:
        """x [B, T, H], style [B, style_dim] -> [B, T, H]."""
        normed = self.norm1(x, style) if self.styled else self.norm1(x)
        x = x + self.dropout(self.attention(normed, span))
        normed = gated(self.norm2(x), span.gate)
        inner = F.gelu(self.up(normed + self.local(normed)))
        return gated(x + self.dropout(self.down(inner)), span.gate)


class ConvNeXtBlock(nn.Module):
    """ConvNeXt block over time (Liu et al., 2022; in vocoders: Siuzdak, 2023, "Vocos") with a styled norm."""

    def __init__(self, hidden: int, inner: int, style_dim: int, layers: int, kernel: int = 7):
        super().__init__()
        self.local = DepthwiseConv(hidden, kernel)
        self.norm = Film(hidden, style_dim)
        self.up = nn.Linear(hidden, inner)
        self.down = nn.Linear(inner, hidden)
        self.scale = nn.Parameter(torch.full((hidden,), 1.0 / math.sqrt(layers)))

    @torch.no_grad()
    def fold(self) -> None:
        """Put the scale into the weights before it, for a decoder that only speaks."""
        self.down.weight.mul_(self.scale[:, None])
        self.down.bias.mul_(self.scale)
        self.scale = None

    def forward(self, x: Tensor, gate: Tensor | None, style: Tensor) -> Tensor:
        """x [B, T, H], gate [B, T, 1] or None (see `Span`), style [B, style_dim] -> [B, T, H]."""
        inner = self.down(F.gelu(self.up(self.norm(self.local(x), style))))
        return gated(x + (inner if self.scale is None else self.scale * inner), gate)


class WaveNet(nn.Module):
    """Gated dilated convolutions with residual and skip paths (van den Oord et al., 2016), on [B, T, C]."""

    def __init__(self, hidden: int, layers: int, style_dim: int = 0, kernel: int = 5, dilation_cycle: int = 4):
        super().__init__()
        self.hidden, self.layers = hidden, layers
        self.style = nn.Linear(style_dim, 2 * hidden * layers) if style_dim else None
        self.gates = nn.ModuleList()
        self.mixes = nn.ModuleList()
        for index in range(layers):
            dilation = 2 ** (index % dilation_cycle) if layers > 2 else 1
            self.gates.append(TimeConv(hidden, 2 * hidden, kernel, dilation=dilation))
            # The last layer feeds the skip path only.
            self.mixes.append(TimeConv(hidden, hidden if index == layers - 1 else 2 * hidden, 1))

    def forward(self, x: Tensor, gate: Tensor | None, style: Tensor | None = None) -> Tensor:
        """x [B, T, C], gate [B, T, 1] or None (see `Span`), style [B, style_dim] if there is one -> [B, T, C]."""
        conditions = self.style(style)[:, None].chunk(self.layers, dim=2) if self.style else None
        total: Tensor | float = 0.0
        x = gated(x, gate)
        for index, (filters, mix) in enumerate(zip(self.gates, self.mixes, strict=True)):
            both = filters(x) if conditions is None else filters(x) + conditions[index]
            a, b = both.chunk(2, dim=2)
            out = mix(torch.tanh(a) * torch.sigmoid(b))
            if index < self.layers - 1:
                residual, skip = out.chunk(2, dim=2)
                x = gated(x + residual, gate)
                total = total + skip
            else:
                total = total + out
        return gated(total, gate) / math.sqrt(self.layers)
