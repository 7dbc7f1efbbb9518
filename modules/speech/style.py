"""Style of a voice: one vector per clip, whatever its length."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StyleEncoder(nn.Module):
    """Log-mel -> residual convolutions -> attentive statistics pooling -> style vector.

    The pooling weighs every channel over time and keeps its mean and deviation (Okabe et al., 2018,
    "Attentive Statistics Pooling for Deep Speaker Embedding"). Trained through the decoder's reconstruction alone.

    Args:
        n_mels: mel bands of the input (natural log, 50 frames/s in both presets).
        style_dim: length of the style vector.
        hidden: width of the convolutions.
        layers: residual convolutions after the halving of the frame rate.
    """

    def __init__(self, n_mels: int, style_dim: int, hidden: int = 192, layers: int = 3):
        super().__init__()
        self.entry = nn.Conv1d(n_mels, hidden, 5, stride=2, padding=2)
        self.convs = nn.ModuleList(nn.Conv1d(hidden, hidden, 5, padding=2 * 2**i, dilation=2**i) for i in range(layers))
        self.scores = nn.Sequential(nn.Conv1d(hidden, 64, 1), nn.Tanh(), nn.Conv1d(64, hidden, 1))
        self.out = nn.Linear(2 * hidden, style_dim)

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """mel [B, n_mels, T], lengths [B] frames (whole width when None) -> style [B, style_dim].

        A longer padding changes nothing: masked frames are zero before every convolution and weigh nothing.
        """
        frames = mel.shape[2]
        if lengths is None:
            lengths = torch.full((mel.shape[0],), frames, device=mel.device)
        mask = (torch.arange(frames, device=mel.device)[None] < lengths[:, None])[:, None]
        # Log-mels of speech at -23 LUFS lie around -5 with a deviation of about 3.
        x = torch.where(mask, (mel + 5.0) / 3.0, 0.0)
        x = F.gelu(self.entry(x))
        mask = mask[:, :, ::2]
        x = x * mask
        for conv in self.convs:
            normed = F.layer_norm(x.transpose(1, 2), x.shape[1:2]).transpose(1, 2) * mask
            x = (x + F.gelu(conv(normed))) * mask
        x = F.layer_norm(x.transpose(1, 2), x.shape[1:2]).transpose(1, 2)
        weight = self.scores(x).masked_fill(~mask, float("-inf")).softmax(dim=2)
        mean = (weight * x).sum(dim=2)
        # The mean is taken off first: a difference of large squares would lose the deviation in float32.
        variance = (weight * (x - mean[:, :, None]) ** 2).sum(dim=2)
        return self.out(torch.cat((mean, (variance + 1e-4).sqrt()), dim=1))
