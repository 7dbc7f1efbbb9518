"""What every form of speech tokens offers; whoever holds one never asks which it got.

Three classes keep it: `SemanticTokenizer` (s3.py, our own), `PublishedS3` (published_s3.py) and `GroupedTokenizer`
(grouped_tokenizer.py). `building.load_speech` picks the one that a config names.

Shapes: B batch, S samples, N frames of an f0 contour at 100 Hz, T token frames, K code streams, D width of a vector.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class SpeechTokens(Protocol):
    """Speech to codes, and codes to vectors where the form has learned any.

    The prosody stream, where a config has one, stands at index 1 of the streams; content begins at index 0.
    """

    sample_rate: int
    """Of the wav that `encode` takes, Hz."""
    frame_rate: float
    """Tokens per second."""
    samples_per_token: int
    """`sample_rate` / `frame_rate`."""
    codebook_sizes: tuple[int, ...]
    """Classes of each stream."""

    def encode(self, wav: Tensor, lengths: Tensor | None = None, f0: Tensor | None = None) -> Tensor:
        """Speech to codes.

        Args:
            wav: [B, S] at `sample_rate`; lengths: [B] samples, None for full rows.
            f0: [B, N] Hz at 100 Hz if already tracked.

        Returns:
            codes [B, T, K] int64, T = S // samples_per_token; 0 beyond a row's length.
        """
        ...

    def vectors(self, codes: Tensor) -> Tensor | None:
        """What a language model reads of codes [.., K]: [.., D], or None where it embeds the ids itself."""
        ...

    def to(self, device: torch.device) -> "SpeechTokens":
        """The same on a device."""
        ...
