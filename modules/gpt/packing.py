"""Weights of linear layers in fewer bits, for CPUs: at one row a step costs what reading its weights costs.

"int8" keeps a scale for each output, "int4" one for each block of inputs of an output; both are symmetric, rounded to
the nearest, and computed by the kernels of torch. "bf16" needs a processor with bf16 arithmetic to be worth it.

Shape letters: n rows, K inputs, N outputs.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

WeightType = Literal["float32", "bf16", "int8", "int4"]
Linear = Callable[[Tensor], Tensor]
"""[.., K] float32 -> [.., N] float32."""

INT4_BLOCKS = (128, 64, 32)
"""Sizes of the blocks that share a scale; the largest that divides the inputs is taken."""
SMALL = 100_000
"""Matrices of fewer numbers lie in a cache near the core; there, bytes cost nothing and unpacking does."""
_OUTPUTS = 32
"""The kernels of torch want a multiple of so many outputs."""


def pack_linear(weight: Tensor, bias: Tensor | None, kind: WeightType) -> Linear:
    """A linear layer of weight [N, K] and bias [N] or None in this type. Small layers, and those whose inputs a type's
    blocks do not divide, stay float32 where the type is one of integers."""
    weight = weight.detach()
    bias = None if bias is None else bias.detach().float()
    if kind == "bf16":
        return _bf16(weight, bias)
    packer = {"int8": _int8, "int4": _int4}.get(kind)
    if packer is None or weight.numel() < SMALL or weight.shape[1] % INT4_BLOCKS[-1]:
        kept = weight.float().clone()
        return lambda x: F.linear(x, kept, bias)
    outputs = weight.shape[0]
    if spare := -outputs % _OUTPUTS:
        whole = packer(F.pad(weight, (0, 0, 0, spare)), None if bias is None else F.pad(bias, (0, spare)))
        return lambda x: whole(x)[..., :outputs]
    return packer(weight, bias)


def _with_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    y = y.float()
    return y if bias is None else y.add_(bias)


def _bf16(weight: Tensor, bias: Tensor | None) -> Linear:
    packed = weight.to(torch.bfloat16)
    return lambda x: _with_bias(F.linear(x.to(torch.bfloat16), packed), bias)


def quantize(weight: Tensor, bits: int, block: int) -> tuple[Tensor, Tensor]:
    """Symmetric integers int32 [N, K] of `bits` and their scales float32 [N, K // block]."""
    blocks = weight.float().unflatten(1, (-1, block))
    top = 2 ** (bits - 1) - 1
    scales = blocks.abs().amax(-1) / top
    scales = torch.where(scales > 0, scales, 1.0)
    return (blocks / scales[..., None]).round_().clamp_(-top - 1, top).int().flatten(1), scales


def _int8(weight: Tensor, bias: Tensor | None) -> Linear:
    whole, scales = quantize(weight, 8, weight.shape[1])
    packed, scales = whole.to(torch.int8), scales[:, 0].to(torch.bfloat16)

    def linear(x: Tensor) -> Tensor:
        y = torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]).to(torch.bfloat16), packed, scales)
        return _with_bias(y.view(*x.shape[:-1], -1), bias)

    return linear


def _int4(weight: Tensor, bias: Tensor | None) -> Linear:
    block = next(size for size in INT4_BLOCKS if weight.shape[1] % size == 0)
    whole, scales = quantize(weight, 4, block)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole + 8, 1)
    # Pairs of scale and zero point, blocks first; a symmetric weight's zero point (of the value 8) is 0.
    pairs = torch.stack([scales, torch.zeros_like(scales)], -1).transpose(0, 1).contiguous().to(torch.bfloat16)

    def linear(x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, packed, block, pairs)
        return _with_bias(y.view(*x.shape[:-1], -1), bias)

    return linear
