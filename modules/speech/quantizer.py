"""Quantisers of speech tokens behind one small contract: `forward(x) -> (quantised, ids, loss)`.

Both are vector-quantize-pytorch's; this room only gives them the same shape. Run them in float32: under
bf16 autocast a few per cent of the ids differ.

Shapes: B batch, T frames, H hidden.
"""

import math

import torch
from torch import Tensor, nn

from modules.config import SpeechTokenizerConfig

VQ_DIM = 16


class Quantizer(nn.Module):
    """FSQ (Mentzer et al. 2023) or a VQ with an EMA codebook, chosen by config."""

    def __init__(self, config: SpeechTokenizerConfig):
        super().__init__()
        # The library costs a second to import, and only building a tokenizer needs it.
        from vector_quantize_pytorch import FSQ, VectorQuantize

        self.kind = config.quantizer
        if config.quantizer == "fsq":
            self.codebook_size = math.prod(config.levels)
            self.inner = FSQ(levels=list(config.levels), dim=config.hidden)
        else:
            self.codebook_size = config.codebook_size
            # Own projections: the library's commitment loss fails with a mask and a `codebook_dim` together.
            self.project_in = nn.Linear(config.hidden, VQ_DIM)
            self.project_out = nn.Linear(VQ_DIM, config.hidden)
            self.inner = VectorQuantize(
                dim=VQ_DIM,
                codebook_size=config.codebook_size,
                decay=0.99,
                kmeans_init=True,
                threshold_ema_dead_code=2,
                commitment_weight=0.25,
            )

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise.

        Args:
            x: [B, T, H]; mask: [B, T] bool, True where a frame is real.

        Returns:
            quantised [B, T, H] with a straight-through gradient, ids [B, T] int64, commitment loss (0 for FSQ).
        """
        with torch.autocast(x.device.type, enabled=False):
            if self.kind == "fsq":
                quantised, ids = self.inner(x.float())
                loss = x.new_zeros((), dtype=torch.float32)
            else:
                wanted = self.project_in(x.float())
                quantised, ids, loss = self.inner(wanted, mask=mask)
                if not self.training and wanted.requires_grad:
                    # The library hands gradients through while it trains only; a tokenizer that judges does not train.
                    quantised = wanted + (quantised - wanted).detach()
                quantised, loss = self.project_out(quantised), loss.sum()
        return quantised * mask.unsqueeze(-1), ids.long().clamp_min(0) * mask, loss
