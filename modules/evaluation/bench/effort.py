"""How much is measured: everything properly, or a look within a minute."""

from dataclasses import dataclass

from modules.evaluation.bench.timing import Rounds
from modules.text.encoder import Precision as TextPrecision


@dataclass(frozen=True)
class Effort:
    """Counts of a run.

    Args:
        rounds: of the ways of one part.
        steps: of a language model in one turn.
        cache_steps: of a language model at a long history in one turn.
        requests: of nano, from which percentiles are taken; the ways of speaking are its rounds.
        base_requests: of base.
        forced_seconds: length of what base says.
        text_precision: of base's text encoder on a processor; bytes are quicker to use and slow to make.
        sound_seconds: that a decoder renders in one turn.
        batches: sentences that are spoken together.
        batch_rounds: in which batches take turns with their sentences alone.
        batch_seconds: forced length of base's sentences in batches.
        batch_words: of a sentence in a batch, at most.
        memory_requests: of nano, of which the first `settling` fill caches.
        starts: of the page.
        left_out: ways to run the language model that take longer to prepare than to measure.
    """

    rounds: Rounds
    steps: int
    cache_steps: int
    requests: Rounds
    base_requests: Rounds
    forced_seconds: float
    text_precision: TextPrecision
    sound_seconds: float
    batches: tuple[int, ...]
    batch_rounds: Rounds
    batch_seconds: float
    batch_words: int
    memory_requests: int
    settling: int
    starts: int
    left_out: tuple[str, ...] = ()


FULL = Effort(
    rounds=Rounds(11, 120.0),
    steps=16,
    cache_steps=8,
    requests=Rounds(24, 240.0),
    base_requests=Rounds(5, 120.0),
    forced_seconds=5.0,
    text_precision="int8",
    sound_seconds=3.0,
    batches=(1, 2, 4, 8, 16),
    batch_rounds=Rounds(3, 150.0),
    batch_seconds=2.0,
    batch_words=20,
    memory_requests=500,
    settling=20,
    starts=3,
)
QUICK = Effort(
    rounds=Rounds(3, 2.5),
    steps=2,
    cache_steps=2,
    requests=Rounds(4, 2.5, warm=False),
    base_requests=Rounds(1, 1.0, warm=False),
    forced_seconds=1.6,
    text_precision="float32",
    sound_seconds=0.5,
    batches=(8,),
    batch_rounds=Rounds(1, 1.0, warm=False),
    batch_seconds=0.32,
    batch_words=5,
    memory_requests=30,
    settling=20,
    starts=1,
    left_out=("plain int8", "ours int8"),
)
"""On two slow cores within a minute; its figures tell the size of things, not their second digit."""
