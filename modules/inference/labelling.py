"""Phones and places of reading for recordings whose text alone is known, so that a language model that says both can be
fine-tuned on them.

The model itself tells how the text is read: it speaks the text, and the phones that it says, each with the text unit
that it belongs to, are laid over the recording by forced alignment with what the tokenizer's recognition head reads in
the recording's tokens. No dictionary is needed, and no language is named.

Shape letters: T frames, U text units.
"""

from typing import NamedTuple

import numpy as np
import torch

from modules.corpus.phones import PAUSE
from modules.gpt.decode import DecodeOptions, Decoder, build_prompts
from modules.gpt.unit_alignment import runs
from modules.speech.phone_frames import aligned_frames
from modules.speech.s3 import SemanticTokenizer


class Labels(NamedTuple):
    """What each frame of a recording says: phones int64 [T], numbers of the language model's, and reads int64 [T], text
    units."""

    phones: np.ndarray
    reads: np.ndarray


class Labeller:
    """Labels recordings.

    Args:
        decoder: of a language model with phones and a pointer.
        tokenizer: with its recognition head.
    """

    def __init__(self, decoder: Decoder, tokenizer: SemanticTokenizer):
        if not (decoder.pattern.phones and decoder.pattern.pointer):
            raise ValueError("this language model says neither phones nor where it reads")
        self.decoder, self.tokenizer = decoder, tokenizer
        self.names = list(decoder.model.statistics["phones"])
        heard = {name: number for number, name in enumerate(tokenizer.labels, 1)}
        self._class = np.array([heard.get(name, -1) for name in self.names])
        self._pause = self.names.index(PAUSE) if PAUSE in self.names else -1

    def label(self, text_ids: np.ndarray, codes: np.ndarray, text_features: np.ndarray | None = None) -> Labels | None:
        """Labels of a recording with codes [T, K]; None where its text cannot be laid over it."""
        if not len(text_ids) or not len(codes):
            return None
        spoken = self._speak(text_ids, len(codes), text_features)
        if spoken is None:
            return None
        phones, units = spoken
        with torch.inference_mode():
            content = torch.from_numpy(codes[None, :, 0].astype(np.int64))
            device = next(self.tokenizer.parameters()).device
            logits = self.tokenizer.label_logits(content.to(device))[0].cpu()
        chosen = aligned_frames(logits, self._class[phones].tolist())
        if chosen is None:
            return None
        there = np.flatnonzero(chosen >= 0)
        # The silence around the speech belongs to the first and the last unit.
        nearest = chosen.copy()
        nearest[: there[0]], nearest[there[-1] + 1 :] = chosen[there[0]], chosen[there[-1]]
        said = np.where(chosen >= 0, phones[nearest], self._pause if self._pause >= 0 else phones[nearest])
        reads = units[nearest]
        reads[:1] = 0
        reads[there[-1] + 1 :] = len(text_ids) - 1
        return Labels(said, reads)

    def _speak(self, text_ids: np.ndarray, frames: int, features: np.ndarray | None) -> tuple[np.ndarray, ...] | None:
        """Phones that the text is read with, and the text unit of each; pauses of the model's own are left out."""
        prompts = build_prompts([], text_ids, len(self.decoder.model.codebook_sizes), text_features=features)
        options = DecodeOptions(
            top_k=1, phone_top_k=1, prosody_top_k=1, advance_temperature=0.0, max_frames=4 * frames + 100, seed=0
        )
        generated = self.decoder.generate(prompts, options=options)
        if generated.stopped_by != "eos" or not len(generated.codes):
            return None
        phones, of_frame = runs(generated.phones.numpy())
        units = generated.reads.numpy()[np.searchsorted(of_frame, np.arange(len(phones)))]
        keep = self._class[phones] >= 0
        # Silence around the speech is found by the alignment; pauses inside are the text's.
        voiced = np.flatnonzero(keep & (phones != self._pause))
        if not len(voiced):
            return None
        keep[: voiced[0]] = False
        keep[voiced[-1] + 1 :] = False
        return phones[keep], units[keep]
