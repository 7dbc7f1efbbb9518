"""A sentence made ready to be spoken: its units, the prompts that say it in a voice, how long it may take.

Shapes: T frames of speech tokens, K codebooks, U text units, F features, D style.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from modules.gpt.decode import DecodeOptions, Prompt, PromptReference, build_prompts
from modules.gpt.sequence import part_length
from modules.inference.lengths import LONGEST_SECONDS, Lengths, expect_lengths
from modules.inference.options import SpeakOptions
from modules.inference.parts import Parts
from modules.text.spoken import spoken_text

UNVOICED_MEDIAN_HZ = 150.0
"""Pitch of a voice that was only heard whispering."""
TAIL_SECONDS = 0.3
"""Silence after the text that ends a sentence."""
PAUSE_SECONDS = 0.8
"""Longest pause inside a sentence: of 100 recordings one has a longer one."""


@dataclass(frozen=True)
class Features:
    """What is computed once for a reference: codes [T, K], style [1, D], median pitch (0 if never voiced), text ids,
    and features [U, F] of the text for models that read them."""

    codes: Tensor
    style: Tensor
    median_hz: float
    text_ids: tuple[int, ...]
    seconds: float
    text: str
    text_features: np.ndarray | None = None


@dataclass(frozen=True)
class Timbre:
    """What the decoder knows of a voice: style [1, D] and median pitch, Hz."""

    style: Tensor
    median_hz: float

    @property
    def is_pitched(self) -> bool:
        """False for a voice that was only heard whispering, which may go on so."""
        return self.median_hz != UNVOICED_MEDIAN_HZ


@dataclass(frozen=True)
class Written:
    """A sentence as models read it: text ids [U] and, for models that read them, features [U, F]."""

    text: str
    ids: list[int]
    features: np.ndarray | None


@dataclass(frozen=True)
class Sentence:
    """A sentence with what says it."""

    written: Written
    prompts: list[Prompt]
    lengths: Lengths


def write(parts: Parts, text: str) -> Written:
    """A text as the models of `parts` read it."""
    spoken = spoken_text(text)
    return Written(spoken, parts.text.encode(spoken), features_of(parts, spoken))


def features_of(parts: Parts, text: str) -> np.ndarray | None:
    """Features [U, F] of a text for models that read them."""
    found = parts.text.features([text])
    return found[0] if found is not None else None


def make_sentence(
    parts: Parts, text: str, references: Sequence[tuple[Features, float]], options: SpeakOptions
) -> Sentence:
    """A sentence in the voice of references, whose words are known, with weights."""
    written, rate = write(parts, text), parts.speech.frame_rate
    heard = [(f.text, f.text_ids, len(f.codes), weight) for f, weight in references]
    lengths = expect_lengths(written.text, written.ids, heard, parts.gpt.model, rate)
    if options.forced_seconds:
        lengths = lengths.forced(max(1, round(options.forced_seconds * rate)))
    return Sentence(written, choose_prompts(parts, references, written, lengths), lengths)


def choose_prompts(
    parts: Parts, references: Sequence[tuple[Features, float]], written: Written, lengths: Lengths
) -> list[Prompt]:  # fmt: skip
    """Prompts that leave room for the sentence; the lightest references are left out first."""
    model = parts.gpt.model
    pattern = model.pattern
    longest, usual = pattern.steps(lengths.most), pattern.steps(int(1.3 * lengths.expected))
    # No position beyond those seen in training, if known; the heaviest reference may go to the model's limit.
    capacity = model.config.max_positions - len(written.ids) - longest - 8
    trained = int(model.statistics.get("max_length", model.config.max_positions))
    room = min(capacity, trained - len(written.ids) - usual)
    kept: list[PromptReference] = []
    for features, weight in sorted(references, key=lambda pair: -pair[1]):
        length = part_length(len(features.text_ids), len(features.codes), pattern)
        if length <= (room if kept else capacity):
            kept.insert(0, PromptReference(features.text_ids, features.codes, weight, features.text_features))
            room, capacity = room - length, capacity - length
    return build_prompts(kept, written.ids, len(parts.speech.codebook_sizes), text_features=written.features)


def decode_options(options: SpeakOptions, lengths: Lengths, seed: int, frame_rate: float) -> DecodeOptions:
    """How the frames of a sentence are drawn."""
    guarded = options.guards and not options.forced_seconds
    bounded = options.guards or options.forced_seconds
    chosen = DecodeOptions(
        top_k=options.top_k,
        top_p=options.top_p,
        temperature=options.temperature,
        repetition_penalty=options.repetition_penalty,
        guidance=options.guidance,
        min_frames=lengths.least if bounded else 1,
        max_frames=lengths.most if bounded else round(LONGEST_SECONDS * frame_rate),
        guard=guarded,
        seed=seed,
    )
    if not guarded:
        return chosen if options.guards else replace(chosen, ras_window=0)
    return replace(
        chosen,
        usual_frames=round(lengths.expected),
        tail_frames=round(TAIL_SECONDS * frame_rate),
        pause_frames=round(PAUSE_SECONDS * frame_rate),
    )
