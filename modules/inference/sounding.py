"""Codes to the decoder's raw sound, one sentence or several together.

Shapes: B sentences, T frames of speech tokens, K codebooks, U text units, S samples.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modules.inference.lengths import SHORTEST_SECONDS
from modules.inference.options import SpeakOptions
from modules.inference.parts import Parts
from modules.inference.sentences import Timbre, Written

MOST_TOGETHER = 8
"""Sentences that are spoken as one batch."""
MOST_SECONDS = 60.0
"""Sound that is decoded as one batch, padding included; it bounds the memory."""


@torch.inference_mode()
def sounds(
    parts: Parts,
    codes: Sequence[Tensor],
    texts: Sequence[Written],
    timbre: Timbre,
    options: SpeakOptions,
    seeds: Sequence[int],
) -> list[np.ndarray]:
    """Codes [T, K] of each sentence to its sound float32 [S]; a sentence sounds the same alone and in company."""
    silence = np.zeros(round(SHORTEST_SECONDS * parts.vits2.audio.sample_rate), np.float32)
    spoken = [i for i, said in enumerate(codes) if len(said)]
    found = [silence] * len(codes)
    if not spoken:
        return found
    longest, fitting = max(len(codes[i]) for i in spoken), MOST_SECONDS * parts.speech.frame_rate
    most = max(1, int(fitting / longest))
    if len(spoken) > most:
        for first in range(0, len(spoken), most):
            some = spoken[first : first + most]
            together = sounds(
                parts, [codes[i] for i in some], [texts[i] for i in some], timbre, options, [seeds[i] for i in some]
            )
            for i, wav in zip(some, together, strict=True):
                found[i] = wav
        return found
    device, rows = parts.device, [texts[i] for i in spoken]
    lengths = torch.tensor([len(codes[i]) for i in spoken], device=device)
    text_lengths = torch.tensor([len(text.ids) for text in rows], device=device)
    features = None
    if rows[0].features is not None:
        features = pad_sequence([torch.from_numpy(text.features) for text in rows], batch_first=True).to(device)
    wavs, samples = parts.vits2.infer_batch(
        pad_sequence([codes[i] for i in spoken], batch_first=True).to(device),
        pad_sequence([torch.tensor(text.ids, dtype=torch.int64) for text in rows], batch_first=True).to(device),
        timbre.style.expand(len(rows), -1),
        torch.full((len(rows),), timbre.median_hz, device=device),
        lengths=lengths,
        text_lengths=text_lengths,
        noise_scale=options.noise_scale,
        speed=options.speed,
        generators=[torch.Generator().manual_seed(seeds[i]) for i in spoken],
        text_features=features,
    )
    for i, wav, count in zip(spoken, wavs.cpu(), samples.tolist(), strict=True):
        found[i] = wav[:count].numpy()
    return found
