"""Whose voice is it? Speaker similarity by Resemblyzer (GE2E, Wan et al. 2018), which saw none of our data.

A speaker is compared by the mean over several outputs, never by one clip.

Shapes: S samples, E embedding size, N speakers.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.evaluation.clips import VoiceTest
from modules.evaluation.judging import GROUPS, Judge
from modules.evaluation.packages import need
from modules.evaluation.results import Finding, Table, percent
from modules.evaluation.shares import mean_interval

SAMPLE_RATE = 16000
OUTPUTS_PER_SPEAKER = 6
LINE_UP = 20
_NOTE = (
    "Cosine similarity of a speaker's mean embedding to other clips of the same speaker, and to the other speakers'. "
    "Identified: the right one of a line-up of {line_up} (chance {chance}). Recordings: the reference itself, the "
    "ceiling. Copy-synthesis: the reference through the decoder's posterior. WORLD copy: through that vocoder. A voice "
    "with one clip alone is compared with that clip, and left out of what recordings have in common."
)


class Embedder:
    """Speaker embeddings of unit length.

    Raises:
        UserError: judge_package_missing.
    """

    def __init__(self) -> None:
        self._package = need("resemblyzer")
        self._encoder = self._package.VoiceEncoder("cpu", verbose=False)

    def __call__(self, wav: np.ndarray) -> np.ndarray:
        """wav float32 [S] at 16 kHz -> [E]."""
        wav = np.clip(np.nan_to_num(wav), -1, 1)
        if not np.any(wav):
            wav = np.full(max(len(wav), SAMPLE_RATE), 1e-6)
        spoken = self._package.preprocess_wav(wav)
        # Where its voice detector hears too little, the whole sound is used.
        return self._encoder.embed_utterance(spoken if len(spoken) > SAMPLE_RATE // 4 else wav)


@dataclass(frozen=True)
class Likeness:
    """How like their speakers some sounds are.

    Args:
        same, different: mean cosine to the same and to other speakers; different_alike: to others of the same gender.
        identified: share of speakers picked out of a line-up; nearest_of_all: share whose own is nearest of all.
        compared: speakers that `same` and `identified` are taken over.
        low, high: 95 % interval of `same` over speakers, nan of a single one; the others likewise.
    """

    same: float
    different: float
    different_alike: float
    identified: float
    nearest_of_all: float
    speakers: int
    compared: int
    low: float = float("nan")
    high: float = float("nan")
    different_low: float = float("nan")
    different_high: float = float("nan")
    identified_low: float = float("nan")
    identified_high: float = float("nan")


def centroid(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Mean direction of embeddings, [E] of unit length."""
    mean = np.mean(np.stack(list(embeddings)), axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-9)


def identified_share(queries: np.ndarray, gallery: np.ndarray, line_up: int, seed: int = 0, draws: int = 50) -> float:
    """Share of queries [N, E] whose own gallery entry [N, E] is the most similar of `line_up` drawn ones."""
    right = identified_each(queries, gallery, line_up, seed, draws)
    return float(right.mean()) if len(right) else 0.0


def identified_each(queries: np.ndarray, gallery: np.ndarray, line_up: int, seed: int, draws: int) -> np.ndarray:
    """The share of draws in which each query is told, [N]."""
    scores = queries @ gallery.T
    count = len(scores)
    size = min(line_up, count)
    rng = np.random.default_rng([seed, 3])
    right = np.zeros(count)
    for speaker in range(count):
        others = np.delete(np.arange(count), speaker)
        for _ in range(draws):
            rivals = rng.choice(others, size - 1, replace=False)
            right[speaker] += bool(np.all(scores[speaker, speaker] > scores[speaker, rivals]))
    return right / draws


def likeness(
    queries: np.ndarray,
    gallery: np.ndarray,
    genders: Sequence[str],
    line_up: int,
    seed: int = 0,
    own: Sequence[bool] | None = None,
) -> Likeness:
    """Compare unit queries [N, E] with unit gallery entries [N, E] of the same speakers in the same order; only those
    of `own` [N] (all without it) count as the same: where a query is its own gallery entry it proves nothing."""
    scores = queries @ gallery.T
    off = ~np.eye(len(scores), dtype=bool)
    alike = off & np.array([[a == b and a != "" for b in genders] for a in genders]).reshape(off.shape)
    known = np.ones(len(scores), bool) if own is None else np.asarray(own, bool)
    told = identified_each(queries, gallery, line_up, seed, 50)[known] if len(scores) else np.zeros(0)
    foreign = [float(row[keep].mean()) for row, keep in zip(scores, off) if keep.any()]
    same, different, identified = (mean_interval(v) for v in (np.diagonal(scores)[known], foreign, told))
    nearest = (scores.argmax(1) == np.arange(len(scores)))[known]
    return Likeness(
        _number(same["mean"]),
        float(scores[off].mean()) if off.any() else float("nan"),
        float(scores[alike].mean()) if alike.any() else float("nan"),
        _number(identified["mean"]),
        float(nearest.mean()) if len(nearest) else float("nan"),
        len(scores),
        int(known.sum()),
        *(_number(found[end]) for found in (same, different, identified) for end in ("low", "high")),
    )


def _number(value: float | int | None) -> float:
    return float("nan") if value is None else float(value)


def judge_voices(judge: Judge) -> Finding:
    """A table for each group of voices."""
    values, tables = {}, []
    for group in GROUPS:
        tests = judge.voice_tests[group]
        if not tests or not judge.requests[group]:
            continue
        rows = []
        own = sum(not test.others for test in tests)
        values[group] = {"speakers": [test.speaker for test in tests], "alone": own}
        for name, result in _compare(judge, group, tests).items():
            values[group][name] = {**vars(result), "line_up": min(LINE_UP, result.speakers)}
            rows.append(
                (name, result.speakers, result.same, result.different, result.different_alike,
                 percent(result.identified), percent(result.nearest_of_all))
            )  # fmt: skip
        line_up = min(LINE_UP, max((row[1] for row in rows), default=0))
        header = f"sound|speakers|same|different|different, one gender|right of {line_up}|nearest of all"
        note = _NOTE.format(line_up=line_up, chance=percent(1 / max(1, line_up)))
        tables.append(Table(f"Speaker similarity, {group} voices", tuple(header.split("|")), tuple(rows), note))
    return Finding("voices", values, tuple(tables))


def _compare(judge: Judge, group: str, tests: list[VoiceTest]) -> dict[str, Likeness]:
    outputs = defaultdict(list)
    for request, spoken in judge.say_all(group):
        if len(outputs[request.reference.speaker]) < OUTPUTS_PER_SPEAKER:
            outputs[request.reference.speaker].append(spoken)
    tests = [test for test in tests if outputs[test.speaker]]
    gallery, queries = [], defaultdict(list)
    if not tests:
        return {}
    for number, test in enumerate(tests):
        others = test.others or (test.reference,)
        gallery.append(centroid([judge.embedder(judge.reader.wav(clip, SAMPLE_RATE)) for clip in others]))
        queries["recordings"].append(judge.embedder(judge.reader.wav(test.reference, SAMPLE_RATE)))
        said = [judge.embedder(spoken.wav(SAMPLE_RATE)) for spoken in outputs[test.speaker]]
        queries["outputs"].append(centroid(said))
        queries["one output"].append(said[0])
        if not judge.options.deadline_seconds:  # that vocoder takes longer than all the rest
            queries["WORLD copy"].append(judge.embedder(_world_copy(judge.reader.wav(test.reference, SAMPLE_RATE))))
        judge.progress(f"comparing voices, {group}", number + 1, len(tests))
    if judge.posterior is not None:
        queries["copy-synthesis"] = _copies(judge, tests)
    genders = [test.gender for test in tests]
    other = [bool(test.others) for test in tests]
    return {
        name: likeness(
            np.stack(found), np.stack(gallery), genders, LINE_UP, judge.options.seed,
            other if name == "recordings" else None,
        )
        for name, found in queries.items()
    }  # fmt: skip


def _world_copy(wav: np.ndarray) -> np.ndarray:
    """Analysis and synthesis by WORLD (Morise et al. 2016), float32 [S] at 16 kHz."""
    world = need("pyworld")
    samples = wav.astype(np.float64)
    f0, times = world.dio(samples, SAMPLE_RATE, f0_floor=60.0, f0_ceil=600.0)
    f0 = world.stonemask(samples, f0, times, SAMPLE_RATE)
    spectrum = world.cheaptrick(samples, f0, times, SAMPLE_RATE)
    aperiodicity = world.d4c(samples, f0, times, SAMPLE_RATE)
    return world.synthesize(f0, spectrum, aperiodicity, SAMPLE_RATE)[: len(wav)].astype(np.float32)


def _copies(judge: Judge, tests: list[VoiceTest]) -> list[np.ndarray]:
    """Embeddings of each reference after the decoder's posterior and generator."""
    import torch

    from modules.audio.resample import resample
    from modules.evaluation.copies import from_posterior, levelled
    from modules.vits2.model import load_vits2

    model = load_vits2(judge.posterior)
    rate, copies = model.audio.sample_rate, []
    for test in tests:
        copy = from_posterior(model, levelled(torch.from_numpy(judge.reader.wav(test.reference, rate)), model))
        copies.append(judge.embedder(resample(copy.numpy(), rate, SAMPLE_RATE)))
    return copies
