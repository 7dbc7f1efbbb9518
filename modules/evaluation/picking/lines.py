"""Which lines of an experiment its weights are heard on, and beside which recordings.

Shapes: S samples.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from modules.data.store import FeatureStore
from modules.errors import UserError
from modules.text.sentences import is_speakable

HELD_OUT, TRAINED = "dev", "train"
HANDY_SECONDS = (1.0, 9.0)
REFERENCE_SECONDS = (2.5, 12.0)
_BEST_REFERENCE_SECONDS = 6.0
FEWEST = 2
MOST_TRAINED = 6
"""Lines of the training split that stand in where nothing was held out."""
GALLERY = 12
"""Recordings that say how a voice sounds."""
FEWEST_OUTPUTS, MOST_SEEDS = 12, 6
ROW_SECONDS = 42.0
"""Speech that a row is heard on at most: what two processor cores speak and judge in about a quarter of a minute."""


@dataclass(frozen=True)
class Line:
    """One line: its row in the store, and the rows to clone the voice from and to compare the voice with."""

    row: int
    speaker: str
    language: str
    text: str
    seconds: float
    reference: int = -1
    reference_text: str = ""
    gallery: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lines:
    """Lines to be heard, what of them was `held_out` of the training, and each output's line and seed number."""

    lines: tuple[Line, ...]
    held_out: bool
    plan: tuple[tuple[int, int], ...]


def choose_lines(store: FeatureStore, count: int, seed: int) -> Lines:
    """Up to `count` held-out lines, speakers in turn; fewer than two held-out ones give way to lines of the training.

    Raises:
        UserError: pick_no_lines.
    """
    clips = _clips(store)
    held, trained = ([clip for clip in clips[split] if is_speakable(clip.text)] for split in (HELD_OUT, TRAINED))
    held_out = len(held) >= FEWEST
    # What little was held out is heard as well.
    chosen = _spread(held if held_out else held + trained, count if held_out else min(count, MOST_TRAINED), seed)
    if not chosen:
        raise UserError(
            "pick_no_lines",
            "The features in {folder} hold no line with sound and text; extract them again, with audio.",
            folder=str(store.folder),
        )
    everything = clips[HELD_OUT] + clips[TRAINED]
    lines = tuple(_with_company(line, chosen, clips[TRAINED], everything) for line in chosen)
    return Lines(lines, held_out, _plan(lines))


def sound(store: FeatureStore, row: int) -> np.ndarray:
    """The recording of a row, float32 [S] at the decoder's rate."""
    return store.row(row, ("audio",))["audio"].astype(np.float32) / 32768


def _clips(store: FeatureStore) -> dict[str, list[Line]]:
    """Rows with sound by split."""
    found: dict[str, list[Line]] = {HELD_OUT: [], TRAINED: []}
    if not len(store):
        return found
    columns = [store.column(name) for name in ("split", "speaker", "language", "text", "seconds")]
    for row, (split, *values) in enumerate(zip(*columns, strict=True)):
        if split in found:
            found[split].append(Line(row, *values))
    lengths = store.lengths("audio") if "audio" in store.columns else np.zeros(len(store))
    return {split: [clip for clip in clips if lengths[clip.row] > 0] for split, clips in found.items()}


def _spread(clips: Sequence[Line], count: int, seed: int) -> list[Line]:
    """`count` of them in a seeded order, handy lengths first, speakers in turn."""
    low, high = HANDY_SECONDS
    rng = np.random.default_rng([seed, 7])
    order = [clips[i] for i in rng.permutation(len(clips))]
    order.sort(key=lambda clip: not low <= clip.seconds <= high)
    handy = [clip for clip in order if low <= clip.seconds <= high]
    queues: dict[str, list[Line]] = defaultdict(list)
    for clip in handy if len(handy) >= FEWEST else order:
        queues[clip.speaker].append(clip)
    chosen: list[Line] = []
    while len(chosen) < count and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return chosen


def _with_company(line: Line, chosen: Sequence[Line], trained: Sequence[Line], everything: Sequence[Line]) -> Line:
    """The line with its reference and its gallery, both of its speaker."""
    used = {other.row for other in chosen}
    own = [clip for clip in trained if clip.speaker == line.speaker and clip.row != line.row]
    # A line that is heard elsewhere is a poor reference only where it is in the training too.
    references = [clip for clip in own if clip.row not in used] or own
    references = references or [c for c in everything if c.speaker == line.speaker and c.row != line.row] or [line]
    reference = min(references, key=lambda clip: _unfitness(clip, line))
    voice = [clip for clip in everything if clip.speaker == line.speaker]
    # The decoder is told the style of the reference, which must not be all that it is compared with.
    gallery = [clip.row for clip in voice if clip.row != reference.row] or [reference.row]
    return replace(line, reference=reference.row, reference_text=reference.text, gallery=tuple(gallery[:GALLERY]))


def _unfitness(clip: Line, line: Line) -> tuple:
    low, high = REFERENCE_SECONDS
    unhandy = not (low <= clip.seconds <= high and is_speakable(clip.text))
    return unhandy, clip.language != line.language, abs(clip.seconds - _BEST_REFERENCE_SECONDS), clip.row


def _plan(lines: Sequence[Line]) -> tuple[tuple[int, int], ...]:
    """Lines and seeds: every line once, then again with other seeds until there are enough outputs; in all not more
    speech than a row may take, but two lines whatever their length."""
    plan: list[tuple[int, int]] = []
    seconds = 0.0
    for seed in range(MOST_SEEDS):
        for number, line in enumerate(lines):
            enough = seed > 0 and len(plan) >= FEWEST_OUTPUTS
            if enough or (len(plan) >= FEWEST and seconds + line.seconds > ROW_SECONDS):
                continue
            plan.append((number, seed))
            seconds += line.seconds
    return tuple(plan)
