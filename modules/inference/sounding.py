"""Codes to the decoder's raw sound, one sentence or several together.

Shapes: B sentences, T frames of speech tokens, K codebooks, U text units, S samples.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modules.inference.lengths import SHORTEST_SECONDS
from modules.inference.options import SpeakOptions
from modules.inference.parts import Parts
from modules.inference.sentences import Timbre, Written
from modules.runtime import full_threads, threads_within

MOST_TOGETHER = 8
"""Sentences that are spoken as one batch."""
MOST_SECONDS = 60.0
"""Sound that is decoded as one batch, padding included; it bounds the memory."""


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
    found = [silence] * len(codes)
    lengths = {i: len(said) for i, said in enumerate(codes) if len(said)}
    # Threads that share a sentence wait for each other in every layer: cores rather have sentences of their own.
    workers = min(full_threads(), len(lengths)) if parts.device.type == "cpu" else 1
    groups = _groups(lengths, max(workers, 1), round(MOST_SECONDS * parts.speech.frame_rate))

    def decode(group: list[int]) -> None:
        some = [codes[i] for i in group], [texts[i] for i in group], timbre, options, [seeds[i] for i in group]
        with threads_within(full_threads() // workers, full_threads()):
            for i, wav in zip(group, _decoded(parts, *some), strict=True):
                found[i] = wav

    if len(groups) > 1 and workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(decode, groups))
    else:
        for group in groups:
            decode(group)
    return found


def _groups(lengths: Mapping[int, int], workers: int, most_frames: int) -> list[list[int]]:
    """Which sentences are decoded together: the frames of each, by its place, are dealt out so that all workers have as
    much to do, and that what is decoded at the same time, padding included, is at most so many frames."""
    ordered = sorted(lengths, key=lambda i: -lengths[i])
    groups = []
    for worker in range(workers):
        mine = ordered[worker::workers]
        while mine:
            size = max(1, most_frames // workers // lengths[mine[0]])
            groups.append(mine[:size])
            mine = mine[size:]
    return groups


@torch.inference_mode()
def _decoded(
    parts: Parts,
    codes: Sequence[Tensor],
    rows: Sequence[Written],
    timbre: Timbre,
    options: SpeakOptions,
    seeds: Sequence[int],
) -> list[np.ndarray]:
    """`sounds` of one batch in which something is said everywhere."""
    device = parts.device
    lengths = torch.tensor([len(said) for said in codes], device=device)
    text_lengths = torch.tensor([len(text.ids) for text in rows], device=device)
    features = None
    if rows[0].features is not None:
        features = pad_sequence([torch.from_numpy(text.features) for text in rows], batch_first=True).to(device)
    wavs, samples = parts.vits2.infer_batch(
        pad_sequence(list(codes), batch_first=True).to(device),
        pad_sequence([torch.tensor(text.ids, dtype=torch.int64) for text in rows], batch_first=True).to(device),
        timbre.style.expand(len(rows), -1),
        torch.full((len(rows),), timbre.median_hz, device=device),
        lengths=lengths,
        text_lengths=text_lengths,
        noise_scale=options.noise_scale,
        speed=options.speed,
        generators=[torch.Generator().manual_seed(seed) for seed in seeds],
        text_features=features,
    )
    return [wav[:count].numpy() for wav, count in zip(wavs.cpu(), samples.tolist(), strict=True)]
