"""How much of what is said a decoded sound has lost, as a loss: the speech tokenizer hears it and the recording.

Mel distances count every detail of a spectrum alike; what makes a vowel or a consonant clear is few of them. The speech
tokenizer was trained to tell phones, so what it hears in both sounds is compared (a perceptual loss, Johnson et al.
2016, with a recogniser's states in place of an image classifier's).

Shapes: B batch, S samples, T tokens, H hidden, L labels.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import resample

from modules.speech.hearing import load_reader
from modules.speech.s3 import Recognition, SemanticTokenizer
from modules.vits2.layers import length_mask


class ContentDistance(nn.Module):
    """Distance between what is said in two sounds of the same length; level does not count, and the voice little.

    Args:
        tokenizer: with its recognition head; it is not trained here.
        sample_rate: of the sounds.
    """

    def __init__(self, tokenizer: SemanticTokenizer, sample_rate: int):
        super().__init__()
        if tokenizer.recogniser is None:
            raise ValueError("the tokenizer needs its recognition head")
        self.tokenizer, self.sample_rate = tokenizer.eval().requires_grad_(False), sample_rate

    def forward(self, wav: Tensor, wanted: Tensor, samples: Tensor) -> Tensor:
        """wav, wanted [B, S], samples [B] that are real -> [B]: the divergence (nats) of the labels read in `wav` from
        those read in `wanted`, and one minus the cosine of the encoder's states; means over tokens."""
        with torch.no_grad():
            goal_states, goal, mask = self._hear(wanted, samples)
        states, heard, _ = self._hear(wav, samples)
        twice = mask.repeat_interleave(2, 1)
        divergence = F.kl_div(heard, goal, log_target=True, reduction="none").sum(-1)
        away = 1 - F.cosine_similarity(states, goal_states, dim=-1)
        labels, apart = (_mean(values, real) for values, real in ((divergence, twice), (away, mask)))
        return labels + apart

    def _hear(self, wav: Tensor, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States [B, T, H], log probabilities of labels [B, 2T, L] and which tokens are real [B, T]."""
        ear = self.tokenizer
        real = length_mask(samples, wav.shape[1])
        wav = resample(wav.float() * real, self.sample_rate, ear.sample_rate)
        mel, tokens = ear.mels(wav, samples * ear.sample_rate // self.sample_rate)
        states, mask = ear.hidden(mel, tokens)
        found: Recognition = ear.recognise(states, mask, tokens)
        return states, found.frame_logits.log_softmax(-1), mask


def _mean(values: Tensor, real: Tensor) -> Tensor:
    """Mean over the real places of [B, T] -> [B]."""
    return (values * real).sum(1) / real.sum(1).clamp_min(1)


def load_content_distance(path: Path, sample_rate: int) -> ContentDistance:
    """The distance by the tokenizer of a model folder, or of a file that its training or `tools.ship --join` wrote.

    Raises:
        UserError: weights_missing, weights_unreadable, weights_wrong_stage, tokenizer_without_head.
    """
    return ContentDistance(load_reader(path), sample_rate)
