"""Qwen2 without the ceremony: the same weights, a preallocated key-value cache, few operations per step.

At a small size most of a decoding step is bookkeeping, not arithmetic. Here the projections that read the same
input are one matrix, the norms' gains are folded into the matrices after them, and the cache is written in
place. `tests/gpt/test_gpt_step.py` holds it to the transformers model.

Shape letters: n rows, T new positions, L positions so far, H hidden, D head width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Cache:
    """Keys and values of every layer: [layers, n, kv_heads, capacity, D] each; `length` positions are filled.

    bias: additive attention mask [n, 1, 1, capacity] that hides left padding, or None.
    """

    keys: Tensor
    values: Tensor
    length: int
    bias: Tensor | None


@dataclass(frozen=True)
class _Layer:
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor


class StepEngine:
    """Runs a Qwen2 backbone position by position.

    Args:
        backbone: a transformers Qwen2Model with full attention; its weights are copied, later changes are not seen.
    """

    def __init__(self, backbone: nn.Module):
        shape = backbone.config
        self.heads, self.kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        self.head_dim = shape.hidden_size // self.heads
        self.eps, self.capacity = shape.rms_norm_eps, shape.max_position_embeddings
        with torch.no_grad():
            self._layers = [_fuse(layer) for layer in backbone.layers]
            self._final = backbone.norm.weight.detach().clone()
            self._speeds = backbone.rotary_emb.inv_freq.float().clone()
            self._cos, self._sin = self._rotation(torch.arange(self.capacity, device=self._final.device).float())

    def new_cache(self, rows: int, capacity: int, padding: Tensor | None = None) -> Cache:
        """An empty cache. padding [n]: how many leading positions of each row are padding; None for none."""
        shape = (len(self._layers), rows, self.kv_heads, capacity, self.head_dim)
        bias = None
        if padding is not None and bool((padding > 0).any()):
            positions = torch.arange(capacity, device=self._final.device)
            hidden = positions[None, :] < padding.to(positions.device)[:, None]
            bias = torch.zeros(hidden.shape, device=positions.device).masked_fill(hidden, float("-inf"))[:, None, None]
        return Cache(self._final.new_zeros(shape), self._final.new_zeros(shape), 0, bias)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [..] -> cos and sin [.., D] of a half-split head: x * cos + swap(x) * sin, where the sign of the
        first half is flipped."""
        angles = positions[..., None] * self._speeds
        return torch.cat([angles.cos(), angles.cos()], -1), torch.cat([-angles.sin(), angles.sin()], -1)

    def __call__(self, x: Tensor, cache: Cache, positions: Tensor | None = None) -> Tensor:
        """Append x [n, T, H] to the cache; returns hidden states [n, T, H].

        Args:
            positions: [n, T] float RoPE positions; None counts on from the cache's length.
        """
        rows, new, _ = x.shape
        start, end = cache.length, cache.length + x.shape[1]
        if end > cache.keys.shape[3]:
            raise ValueError(f"cache of {cache.keys.shape[3]} positions is full")
        if positions is None:
            cos, sin = self._cos[start:end, None], self._sin[start:end, None]
        else:
            cos, sin = (part[:, :, None] for part in self._rotation(positions))
        mask = self._mask(cache, start, new)
        spread = self.heads + self.kv_heads
        half = self.head_dim // 2
        for i, layer in enumerate(self._layers):
            projected = F.linear(self._norm(x), layer.qkv, layer.qkv_bias)
            projected = projected.view(rows, new, spread + self.kv_heads, self.head_dim)
            turned = projected[:, :, :spread]
            turned = turned * cos + turned.roll(half, -1) * sin
            keys, values = cache.keys[i], cache.values[i]
            keys[:, :, start:end] = turned[:, :, self.heads :].transpose(1, 2)
            values[:, :, start:end] = projected[:, :, spread:].transpose(1, 2)
            mixed = self._attend(turned[:, :, : self.heads], keys[:, :, :end], values[:, :, :end], mask)
            x = x + F.linear(mixed, layer.out)
            gate, up = F.linear(self._norm(x), layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        cache.length = end
        return self._norm(x) * self._final

    def _norm(self, x: Tensor) -> Tensor:
        # By hand: F.rms_norm without a fused kernel (CPU) is three times as slow at this size.
        return x * (x * x).mean(-1, keepdim=True).add_(self.eps).rsqrt_()

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """queries [n, T, heads, D], keys and values [n, kv_heads, L, D] -> [n, T, heads * D]."""
        rows, new = queries.shape[:2]
        groups = self.heads // self.kv_heads
        if new == 1:
            # The query heads that share a key head stand in as query positions: no copy of keys, no mask.
            grouped = queries.view(rows, self.kv_heads, groups, self.head_dim)
            out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
            return out.reshape(rows, 1, -1)
        out = F.scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys.repeat_interleave(groups, 1),
            values.repeat_interleave(groups, 1),
            attn_mask=mask,
            is_causal=mask is None,
        )
        return out.transpose(1, 2).reshape(rows, new, -1)

    def _mask(self, cache: Cache, start: int, new: int) -> Tensor | None:
        end = start + new
        if new == 1:
            return None if cache.bias is None else cache.bias[..., :end]
        if start == 0 and cache.bias is None:
            return None  # plain causal
        positions = torch.arange(end, device=self._final.device)
        future = positions[None, :] > positions[start:, None]
        mask = torch.zeros(new, end, device=future.device).masked_fill(future, float("-inf"))
        if cache.bias is None:
            return mask
        # A padding position sees itself, or its softmax would be empty; nothing that counts reads it.
        itself = positions[None, :] == positions[start:, None]
        return torch.where(itself, 0.0, mask + cache.bias[..., :end])


def _fuse(layer: nn.Module) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    before, after = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    return _Layer(
        qkv=(torch.cat([p.weight for p in projections]) * before).detach(),
        qkv_bias=torch.cat([p.bias for p in projections]).detach(),
        out=attention.o_proj.weight.detach().clone(),
        gate_up=(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * after).detach(),
        down=mlp.down_proj.weight.detach().clone(),
    )
