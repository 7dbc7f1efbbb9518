"""A speaker encoder of our own: whose voice a sound has, as one vector, for a loss that holds the decoder to it.

Trained on pairs of clips of one speaker among many others (contrastively: NT-Xent, Chen et al. 2020), with one side of
a pair degraded, so that the vector tells the person and not the room. Used as a speaker consistency loss (Casanova et
al., "YourTTS", 2022): mel distances count every detail of a spectrum alike, and a voice is few of them.

Shapes: B batch, S samples, D width of the vector.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.audio.spectral import mel_filters
from modules.checkpoint import Lineage, load_stage, save_weights
from modules.speech.style import StyleEncoder
from modules.vits2.frames import PowerSpectrum

STAGE = "speaker"
BANDS, TOP_HZ = 64, 7600.0
WINDOW_SECONDS, HOPS_A_SECOND = 0.032, 62.5
TEMPERATURE = 0.07


class SpeakerEncoder(nn.Module):
    """Sound at `sample_rate` to a unit vector; bands above 7.6 kHz are not heard, so band limits matter little."""

    def __init__(self, sample_rate: int, width: int = 192, hidden: int = 256, layers: int = 4):
        super().__init__()
        self.sample_rate, self.width, self.hidden, self.layers = sample_rate, width, hidden, layers
        n_fft = round(WINDOW_SECONDS * sample_rate)
        self.hop = round(sample_rate / HOPS_A_SECOND)
        self.register_buffer("filters", mel_filters(sample_rate, n_fft, BANDS, 60.0, TOP_HZ).T.contiguous(), False)
        self.register_buffer("taper", torch.hann_window(n_fft), False)
        self.encoder = StyleEncoder(BANDS, width, hidden, layers)

    def forward(self, wav: Tensor, samples: Tensor | None = None) -> Tensor:
        """wav [B, S], samples [B] that are real (all when None) -> [B, D] of length one."""
        with torch.autocast(wav.device.type, enabled=False):
            power = PowerSpectrum.apply(wav.float(), self.taper, self.hop)
            mel = torch.log(((power + 1e-9).sqrt() @ self.filters).clamp_min(1e-4))
        frames = None
        if samples is not None:
            frames = ((samples - len(self.taper)) // self.hop + 1).clamp(1, mel.shape[1])
        return F.normalize(self.encoder(mel.transpose(1, 2), frames), dim=1)


def contrastive_loss(first: Tensor, second: Tensor) -> Tensor:
    """Rows of `first` and `second` [B, D] belong together, all others apart; both directions, mean."""
    scores = first @ second.T / TEMPERATURE
    own = torch.arange(len(first), device=first.device)
    return 0.5 * (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own))


def save_speaker_encoder(path: Path, model: SpeakerEncoder, lineage: Lineage) -> Path:
    """Write the weights in half precision."""
    shape = {name: getattr(model, name) for name in ("sample_rate", "width", "hidden", "layers")}
    return save_weights(path, model.state_dict(), {STAGE: shape}, lineage, torch.float16)


def load_speaker_encoder(path: Path) -> SpeakerEncoder:
    """Read an encoder in eval mode, its weights fixed.

    Raises:
        UserError: weights_missing, weights_unreadable, weights_wrong_stage.
    """
    weights = load_stage(path, STAGE, stage="speaker encoder")
    model = SpeakerEncoder(**weights.config[STAGE])
    model.load_state_dict(weights.state)
    return model.eval().requires_grad_(False)
