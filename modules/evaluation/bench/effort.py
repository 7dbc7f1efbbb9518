"""How much is measured: everything properly, or a look within a minute."""

from dataclasses import dataclass

from modules.evaluation.bench.timing import Rounds


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
        sound_seconds: that a decoder renders in one turn.
        batches: sentences that are spoken together.
        batch_rounds: in which batches take turns with their sentences alone.
        batch_seconds: forced length of base's sentences in batches.
        memory_requests: of nano, of which the first `settling` fill caches.
        starts: of the page.
    """

    rounds: Rounds
    steps: int
    cache_steps: int
    requests: Rounds
    base_requests: Rounds
    forced_seconds: float
    sound_seconds: float
    batches: tuple[int, ...]
    batch_rounds: Rounds
    batch_seconds: float
    memory_requests: int
    settling: int
    starts: int


FULL = Effort(
    rounds=Rounds(11, 120.0),
    steps=16,
    cache_steps=8,
    requests=Rounds(24, 240.0),
    base_requests=Rounds(5, 120.0),
    forced_seconds=5.0,
    sound_seconds=3.0,
    batches=(1, 2, 4, 8, 16),
    batch_rounds=Rounds(3, 150.0),
    batch_seconds=2.0,
    memory_requests=500,
    settling=20,
    starts=3,
)
QUICK = Effort(
    rounds=Rounds(3, 2.5),
    steps=4,
    cache_steps=2,
    requests=Rounds(4, 4.0),
    base_requests=Rounds(1, 1.0),
    forced_seconds=5.0,
    sound_seconds=1.0,
    batches=(1, 8),
    batch_rounds=Rounds(1, 1.0),
    batch_seconds=0.6,
    memory_requests=30,
    settling=20,
    starts=1,
)
"""On two slow cores within a minute; its figures tell the size of things, not their second digit."""
