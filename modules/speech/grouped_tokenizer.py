"""Speech tokens of form "grouped" in use: an encoder and the quantiser that was trained with the decoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.audio.pitch import track_f0
from modules.errors import UserError
from modules.speech.grouped import FrameVectors, GroupedQuantizer, stream_sizes
from modules.speech.prosody import F0_FRAME_RATE_HZ
from modules.speech.self_supervised import HOP, SelfSupervised


class GroupedTokenizer(nn.Module):
    """Speech to codes by way of self-supervised features (see modules/speech/contract.py).

    Args:
        encoder: gives the features that the quantiser was trained on.
        quantizer: ready and frozen.

    Raises:
        UserError: speech_encoder_mismatch when the quantiser was trained on features of another kind.
    """

    def __init__(self, encoder: SelfSupervised, quantizer: GroupedQuantizer):
        super().__init__()
        sizes = quantizer.config.grouped
        if (encoder.dim, encoder.rate_hz, encoder.layer) != (sizes.feature_dim, sizes.feature_rate, sizes.layer):
            raise UserError(
                "speech_encoder_mismatch",
                "The decoder's speech tokens were trained on layer {ours} of {name} ({our_dim} values), the preset "
                "reads layer {theirs} of an encoder with {their_dim} values; choose a decoder of the same preset.",
                name=sizes.encoder,
                ours=sizes.layer,
                our_dim=sizes.feature_dim,
                theirs=encoder.layer,
                their_dim=encoder.dim,
            )
        self.encoder, self.quantizer = encoder, quantizer
        self.sample_rate = encoder.sample_rate
        self.frame_rate = quantizer.frame_rate
        self.samples_per_token = HOP * quantizer.stride
        self.codebook_sizes = stream_sizes(quantizer.config)
        self._read = FrameVectors(quantizer)

    @torch.no_grad()
    def encode(self, wav: Tensor, lengths: Tensor | None = None, f0: Tensor | None = None) -> Tensor:
        """Speech to codes.

        Args:
            wav: [B, S] at 16 kHz; lengths: [B] samples, None for full rows.
            f0: [B, N] Hz at 100 Hz if already tracked.

        Returns:
            codes [B, T, K] int64 on the encoder's device, T = S // samples_per_token; 0 beyond a row's length.
        """
        features = self.encoder.features(wav, lengths)
        device = features.device
        if lengths is None:
            lengths = torch.full((wav.shape[0],), wav.shape[1])
        lengths = lengths.to(device)
        if not features.shape[1] // self.quantizer.stride:
            return torch.zeros(len(wav), 0, len(self.codebook_sizes), dtype=torch.long, device=device)
        return self.quantizer.codes(features, self._pitch(wav, lengths, f0), lengths // HOP)

    def vectors(self, codes: Tensor) -> Tensor:
        """Codes [.., K] -> [.., D]: the quantiser's vectors, and the prosody code as a one-hot."""
        return self._read(codes)

    def _pitch(self, wav: Tensor, lengths: Tensor, f0: Tensor | None) -> Tensor:
        """A contour [B, N] on the encoder's device, 0 beyond a row's length; empty where no stream reads it."""
        if not self.quantizer.config.prosody_levels:
            return torch.zeros(len(wav), 0, device=lengths.device)
        if f0 is None:
            f0 = track_f0(wav, self.sample_rate, F0_FRAME_RATE_HZ)
        frames = wav.shape[1] * F0_FRAME_RATE_HZ // self.sample_rate
        f0 = functional.pad(f0, (0, max(0, frames - f0.shape[1])))[:, :frames].to(lengths.device)
        real = torch.arange(frames, device=f0.device) < (lengths * F0_FRAME_RATE_HZ // self.sample_rate)[:, None]
        return f0 * real
