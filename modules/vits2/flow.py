"""The normalising flow between the posterior's z and the prior, after VITS2 (Kong et al., 2023).

Shapes: B batch, D latent channels, T frames.
"""

import torch
from torch import Tensor, nn

from modules.config import VITS2Config
from modules.vits2.layers import Span, TimeConv, TransformerBlock, WaveNet, gated, head_width


class Coupling(nn.Module):
    """Mean-only affine coupling: one half of the channels is shifted by a function of the other half.

    The function is a small transformer block (long range) followed by gated convolutions (short range). Shifting
    keeps volumes, so the Jacobian's log-determinant is 0 and the inverse is a subtraction.
    """

    def __init__(self, config: VITS2Config):
        super().__init__()
        half = config.latent // 2
        self.entry = nn.Linear(half, config.hidden)
        self.block = TransformerBlock(config.hidden, config.heads, 2 * config.hidden, config.style_dim, config.dropout)
        self.wavenet = WaveNet(config.hidden, config.flow_layers, kernel=3)
        self.out = TimeConv(config.hidden, half, 1)
        # A flow that starts as the identity does no harm while the encoders find their feet.
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def shift(self, fixed: Tensor, span: Span, style: Tensor) -> Tensor:
        """fixed [B, T, D/2] -> shift [B, T, D/2]."""
        x = self.block(gated(self.entry(fixed), span.gate), span, style)
        return gated(self.out(self.wavenet(x, span.gate)), span.gate)


class Flow(nn.Module):
    """A stack of couplings; the halves trade places after each one."""

    def __init__(self, config: VITS2Config):
        super().__init__()
        if config.latent % 2:
            raise ValueError(f"latent must be even, not {config.latent}")
        self.width = head_width(config.hidden, config.heads)
        self.couplings = nn.ModuleList(Coupling(config) for _ in range(config.flow_couplings))

    def forward(self, z: Tensor, lengths: Tensor | None, style: Tensor, *, inverse: bool = False) -> Tensor:
        """Posterior z -> prior space, or back with `inverse`. z [B, D, T], lengths [B] (None: all frames are real),
        style [B, style_dim]."""
        span = Span.of(lengths, z.shape[2], z, self.width)
        a, b = gated(z.transpose(1, 2), span.gate).chunk(2, dim=2)
        if not inverse:
            for coupling in self.couplings:
                b = b + coupling.shift(a, span, style)
                a, b = b, a
        else:
            for coupling in reversed(self.couplings):
                a, b = b, a
                b = b - coupling.shift(a, span, style)
        return torch.cat((a, b), dim=2).transpose(1, 2)
