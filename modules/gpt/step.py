"""Qwen2 without the ceremony: the same weights, a static key-value cache, few operations per step.

At a small size most of a decoding step is bookkeeping, not arithmetic. Here the projections that read the same
input are one matrix, the norms' gains are folded into the matrices after them, and the cache is written in
place. `tests/gpt/test_gpt_step.py` holds it to the transformers model.

Rows may be of different length: each goes on where it ends, and sees itself alone.

Shape letters: n rows, T new positions, L positions so far, H hidden, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.gpt.cache import Cache
from modules.gpt.packing import Linear, WeightType, pack_linear


class Engine(Protocol):
    """What runs a backbone position by position; its weights are copies, later changes are not seen."""

    capacity: int
    """Most positions that the model has."""
    threads: int | None
    """How many threads of torch suit what is done between its steps; None: as many as there are."""
    own_threads: int
    """Threads beside those of torch that work on a step of few rows; 0: none."""
    fixed_rows: bool
    """Whether rows that have come to their end cost less than new memory for the others."""

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache for this engine."""

    def __call__(
        self, x: Tensor, cache: Cache, positions: Tensor | None = None, new: Sequence[int] | None = None
    ) -> Tensor:
        """Append x [n, T, H] to the cache; returns hidden states [n, T, H].

        Args:
            positions: [n, T] float RoPE positions; None counts on from each row's length.
            new: how many of the T positions of each row are there, the others being padding on the right; None: all.

        Raises:
            ValueError: the cache is full.
        """


@dataclass(frozen=True)
class _Layer:
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear


class StepEngine:
    """`Engine` on torch, for every device.

    Args:
        backbone: a transformers Qwen2Model with full attention.
        weights: type of the matrices; where it is not float32 the cache is bf16, all else stays float32.
    """

    threads, own_threads = None, 0

    def __init__(self, backbone: nn.Module, weights: WeightType = "float32"):
        shape = backbone.config
        self.heads, self.kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        self.head_dim = shape.hidden_size // self.heads
        self.eps, self.capacity = shape.rms_norm_eps, shape.max_position_embeddings
        with torch.no_grad():
            self._layers = [_fuse(layer, weights) for layer in backbone.layers]
            self._final = backbone.norm.weight.detach().float().clone()
            self._speeds = backbone.rotary_emb.inv_freq.float().clone()
        self._cache_dtype = torch.float32 if weights == "float32" else torch.bfloat16
        self._graphs = None
        self.fixed_rows = self._final.device.type == "cuda"  # graphs are bound to their memory
        if self._final.device.type == "cuda":
            from modules.gpt.graphs import StepGraphs  # only where there are such

            self._graphs = StepGraphs(self)

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """See `Engine`. On CUDA the memory of an earlier cache is taken where it is free."""
        if self._graphs is not None:
            return self._graphs.new_cache(rows, capacity)
        return self.empty_cache(rows, capacity)

    def empty_cache(self, rows: int, capacity: int) -> Cache:
        """A cache with memory of its own."""
        return Cache.empty(
            len(self._layers), rows, self.kv_heads, capacity, self.head_dim, self._cache_dtype, self._final.device
        )

    def __call__(
        self, x: Tensor, cache: Cache, positions: Tensor | None = None, new: Sequence[int] | None = None
    ) -> Tensor:
        """See `Engine`."""
        rows, added, _ = x.shape
        counts = [added] * rows if new is None else list(new)
        cache.check_room(counts)
        starts, even = cache.lengths, len(set(cache.lengths)) == 1
        if added > 1 and rows > 1 and not (even and min(counts) == added):
            # One by one, so that no row pays for another's padding or writes it anywhere.
            hidden = x.new_zeros(x.shape)
            for row, count in enumerate(counts):
                there = None if positions is None else positions[row : row + 1, :count]
                hidden[row, :count] = self(x[row : row + 1, :count], cache.row(row), there)[0]
        elif self._graphs is not None and added == 1:
            hidden = self._graphs.step(x, cache, positions)
        elif even:
            start, end = starts[0], starts[0] + added
            if positions is None:
                positions = torch.arange(start, end, device=x.device).expand(rows, -1)
            mask = _causal(start, end, x.device) if added > 1 else None
            hidden = self.run(x, cache, positions, slice(start, end), end, mask)
        else:
            at = torch.tensor(starts, device=x.device)
            hidden = self.run_at(x, cache, positions, at, cache.longest + added)
        cache.lengths = [start + count for start, count in zip(starts, counts, strict=True)]
        return hidden

    def run_at(self, x: Tensor, cache: Cache, positions: Tensor | None, at: Tensor, width: int) -> Tensor:
        """Append x [n, T, H] at each row's own place at [n] int64, looking at the first `width` positions of the cache
        under a mask. Nothing in it depends on the numbers in `at` but the numbers that come out."""
        slots = at[:, None] + torch.arange(x.shape[1], device=x.device)
        seen = torch.arange(width, device=x.device) <= slots[..., None]
        # [n, 1, T, L]; additive, which all kernels of attention take.
        mask = torch.zeros(seen.shape, device=x.device).masked_fill_(~seen, float("-inf"))[:, None]
        return self.run(x, cache, slots if positions is None else positions, slots, width, mask)

    def run(
        self, x: Tensor, cache: Cache, positions: Tensor, slots: slice | Tensor, width: int, mask: Tensor | None
    ) -> Tensor:
        """All layers over x [n, T, H].

        Args:
            positions: [n, T] on the RoPE axis.
            slots: where the cache is written, the same places for all rows or [n, T].
            width: positions of the cache that are read.
            mask: additive, broadcast to [n, 1, T, width]; None: nothing is hidden.
        """
        rows, new, _ = x.shape
        angles = positions.to(torch.float32)[..., None] * self._speeds
        cos, sin = angles.cos(), angles.sin()
        # A half-split head: x * cos + swap(x) * sin, where the sign of the first half is flipped.
        cos, sin = torch.cat([cos, cos], -1)[:, :, None], torch.cat([-sin, sin], -1)[:, :, None]
        mask = None if mask is None else mask.to(self._cache_dtype)
        spread, half = self.heads + self.kv_heads, self.head_dim // 2
        index = slots if isinstance(slots, slice) else (torch.arange(rows, device=x.device)[:, None], slots)
        for i, layer in enumerate(self._layers):
            projected = layer.qkv(self._norm(x)).view(rows, new, spread + self.kv_heads, self.head_dim)
            turned = projected[:, :, :spread]
            turned = (turned * cos + turned.roll(half, -1) * sin).to(self._cache_dtype)
            keys, values = cache.keys[i], cache.values[i]
            if isinstance(index, slice):
                keys[:, :, index] = turned[:, :, self.heads :].transpose(1, 2)
                values[:, :, index] = projected[:, :, spread:].transpose(1, 2)
            else:
                keys.transpose(1, 2)[index] = turned[:, :, self.heads :]
                values.transpose(1, 2)[index] = projected[:, :, spread:].to(self._cache_dtype)
            x = x + layer.out(self._attend(turned[:, :, : self.heads], keys[:, :, :width], values[:, :, :width], mask))
            gate, up = layer.gate_up(self._norm(x)).chunk(2, -1)
            x = x + layer.down(F.silu(gate) * up)
        return self._norm(x) * self._final

    def _norm(self, x: Tensor) -> Tensor:
        # By hand: F.rms_norm without a fused kernel (CPU) is three times as slow at this size.
        return x * (x * x).mean(-1, keepdim=True).add_(self.eps).rsqrt_()

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """queries [n, T, heads, D], keys and values [n, kv_heads, L, D] -> [n, T, heads * D] float32."""
        rows, new = queries.shape[:2]
        groups = self.heads // self.kv_heads
        if new == 1:
            # The query heads that share a key head stand in as query positions: no copy of keys.
            grouped = queries.view(rows, self.kv_heads, groups, self.head_dim)
            out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
            return out.reshape(rows, 1, -1).float()
        out = F.scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys.repeat_interleave(groups, 1),
            values.repeat_interleave(groups, 1),
            attn_mask=mask,
        )
        return out.transpose(1, 2).reshape(rows, new, -1).float()


def _causal(start: int, end: int, device: torch.device) -> Tensor:
    """Additive mask [end - start, end]: a position sees itself and what came before."""
    places = torch.arange(end, device=device)
    future = places > places[start:, None]
    return torch.zeros(future.shape, device=device).masked_fill_(future, float("-inf"))


def fused(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Matrices of a layer with the norms' gains folded in: queries, keys and values in one, their bias, the attention's
    output, gate and up in one, down."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    before, after = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    return (
        (torch.cat([p.weight for p in projections]) * before).detach(),
        torch.cat([p.bias for p in projections]).detach(),
        attention.o_proj.weight.detach(),
        (torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * after).detach(),
        mlp.down_proj.weight.detach(),
    )


def _fuse(layer: nn.Module, weights: WeightType) -> _Layer:
    qkv, bias, out, gate_up, down = fused(layer)
    return _Layer(
        qkv=pack_linear(qkv, bias, weights),
        out=pack_linear(out, None, weights),
        gate_up=pack_linear(gate_up, None, weights),
        down=pack_linear(down, None, weights),
    )
