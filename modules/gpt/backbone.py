"""A fresh Qwen2 of a config's sizes, by transformers; what enters and what comes out belongs to `model.py`."""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.config import GPTConfig

INIT_STD = 0.02
NORM_EPS = 1e-6
"""Of the norms of every published Qwen2."""


def build_backbone(config: GPTConfig) -> nn.Module:
    """A Qwen2Model without its table of tokens; its residual branches have dropout and start small."""
    from transformers import Qwen2Config, Qwen2Model  # heavy: only when a model is built

    shape = Qwen2Config(
        vocab_size=1,
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.max_positions,
        rope_theta=config.rope_theta,
        rms_norm_eps=NORM_EPS,
        initializer_range=INIT_STD,
        use_cache=False,
    )
    backbone = Qwen2Model(shape)
    backbone.embed_tokens = None  # everything enters as inputs_embeds; an unused table would get no gradient
    dropout = functools.partial(_dropout_hook, probability=config.dropout)
    for layer in backbone.layers:
        for out in (layer.self_attn.o_proj, layer.mlp.down_proj):
            with torch.no_grad():
                out.weight.mul_(1 / math.sqrt(2 * config.layers))  # keeps the residual stream's variance flat
            if config.dropout:
                out.register_forward_hook(dropout)  # Qwen2 itself has no dropout on the residual branches
    return backbone


def _dropout_hook(module: nn.Module, inputs: Any, output: Tensor, probability: float) -> Tensor:
    return F.dropout(output, probability, module.training)
