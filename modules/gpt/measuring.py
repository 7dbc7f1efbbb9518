"""What a language model is told of its data before it learns: silence, usual lengths, phones and who says them.

Shape letters: T frames, U text units.
"""

from collections.abc import Sequence

import numpy as np

from modules.data.columns import Rows
from modules.gpt.dataset import PHONES, PromptDataset
from modules.gpt.unit_alignment import UnitAligner, runs


def quiet_codes(dataset: PromptDataset, samples: int = 500, run: int = 8, cover: float = 0.9) -> list[int]:
    """Content codes that stand for silence: the commonest ones inside long unvoiced runs (prosody code 0).

    No phone stays unvoiced for `run` frames (0.32 s at 25 Hz), a pause does. Empty without a prosody stream.
    """
    counts: dict[int, int] = {}
    for utterance in np.random.default_rng(0).permutation(len(dataset))[:samples].tolist():
        codes = dataset.part(utterance).codes
        if codes.shape[1] < 2:
            return []
        voiced = np.flatnonzero(np.concatenate([[1], codes[:, 1], [1]]))
        for left, right in zip(voiced[:-1], voiced[1:], strict=True):
            if right - left > run:
                for code in codes[left + 1 : right - 2, 0].tolist():  # the run's edges may still be speech
                    counts[code] = counts.get(code, 0) + 1
    ranked = sorted(counts, key=counts.__getitem__, reverse=True)
    covered = np.cumsum([counts[code] for code in ranked])
    return ranked[: int(np.searchsorted(covered, cover * covered[-1])) + 1] if ranked else []


def measure_unit_frames(dataset: PromptDataset, vocab: int, strength: float = 20.0, least: float = 0.2) -> np.ndarray:
    """Speech frames that each text unit usually takes: float32 [vocab].

    Ridge regression of the lengths of the utterances on the counts of their units; `strength` counts as so many
    sightings of the mean length, so that rare units stay near it; those that never occur get the mean.
    """
    from scipy.sparse import csr_matrix, eye
    from scipy.sparse.linalg import cg

    usual = dataset.frames_per_unit
    texts = [_known(dataset, utterance, vocab) for utterance in range(len(dataset))]
    ends = np.cumsum([0, *map(len, texts)])
    units = np.concatenate(texts) if texts else np.zeros(0, np.int64)
    counts = csr_matrix((np.ones(len(units)), units, ends), (len(texts), vocab))  # equal entries are added up
    moment = counts.T @ (dataset.frames - usual * np.diff(ends))
    more, _ = cg(counts.T @ counts + strength * eye(vocab), moment, rtol=1e-8)
    return np.maximum(usual + more, least).astype(np.float32)


def learn_alignment(dataset: PromptDataset, vocab: int, phones: int, samples: int = 20_000) -> UnitAligner:
    """Learn which text units say which phones, from utterances whose phones are known."""
    units, said = [], []
    for utterance in np.random.default_rng(0).permutation(len(dataset)).tolist():
        found = dataset.phones(utterance)
        if found is not None and (found >= 0).all():
            units.append(np.minimum(dataset.text_ids(utterance), vocab - 1).astype(np.int64))
            said.append(runs(found)[0])
            if len(units) >= samples:
                break
    return UnitAligner.train(units, said, vocab, phones)


def phone_names(stores: Sequence[Rows]) -> list[str]:
    """The phones that occur in the stores, in alphabetical order."""
    found: set[str] = set()
    for store in stores:
        if PHONES in store.columns:
            for names in store.column(PHONES):
                found.update(names.split(" "))
    return sorted(found - {""})


def _known(dataset: PromptDataset, utterance: int, vocab: int) -> np.ndarray:
    """Text units of an utterance that the model has, int [U]."""
    ids = dataset.text_ids(utterance)
    return ids[ids < vocab]
