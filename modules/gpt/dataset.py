"""Training rows for the language model, out of feature stores.

An item is a target utterance, with or without other utterances of the same speaker before it as prompts (the
zero-shot task itself). Whole utterances only: text and speech must stay together. Which prompts an item gets
depends on its index alone, so the sampler can plan lengths without reading any codes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modules.data.columns import Rows
from modules.data.features import open_store
from modules.errors import UserError
from modules.gpt.patterns import IGNORED, Pattern
from modules.gpt.sequence import Part, part_length
from modules.gpt.unit_alignment import UnitAligner, runs

PHONES = "phones"
"""Column of feature stores: the phone of each frame by its name, with spaces between; empty where nobody knows."""


ALIKE = 100
"""So many slower and so many faster recordings count as of like pace."""


@dataclass(frozen=True)
class MixOptions:
    """What rows are made of.

    Args:
        pair_ratio: share of targets that get prompts of the same speaker.
        max_references: most prompts before a target; their number is drawn evenly from 1 to this.
        foreign_prompts: share of the prompted synthetic targets whose prompts are recordings of like pace, by anybody.
            Speech tokens of recordings are less clear than those of synthetic speech; a model that never saw the one
            before the other goes on as unclearly as a real voice begins.
        text_drop: share of prompts that lose their text, so that a reference without transcript is no surprise.
        hidden_prompts: share of rows whose prompts are as at run time, for models that learn from more than that.
        untold: share of targets without text, for such models too: guidance asks what would be said without it.
        share_recorded: share of recorded speech among the targets; None keeps the store's own.
        language_exponent: a language of n utterances gets weight n ** this; 1 keeps the store's own, 0 evens out.
        min_seconds, max_seconds: utterances outside are left out.
        max_length: longest row in positions; prompts that do not fit are left out.
    """

    pair_ratio: float = 0.75
    max_references: int = 2
    foreign_prompts: float = 0.0
    text_drop: float = 0.03
    hidden_prompts: float = 0.5
    untold: float = 0.06
    share_recorded: float | None = None
    language_exponent: float = 1.0
    min_seconds: float = 0.4
    max_seconds: float = 12.0
    max_length: int = 1024


@dataclass(frozen=True)
class Row:
    """Parts of one sequence, the target last, and the group its losses are counted under."""

    parts: tuple[Part, ...]
    group: int


class PromptDataset:
    """Utterances of several stores as rows of prompts and a target.

    `get(index, rng)` takes indices beyond the number of utterances: index modulo that number is the target, and the
    index as a whole decides its prompts, so a repeated target meets others. Groups are
    `2 * language + (1 if prompted)`, see `group_name`.

    Args:
        stores: folders of feature stores.
        split: "train", "dev" or another; rows of other splits do not exist for this dataset.
        options: see `MixOptions`.
        features: hand text features on (column text_features, U * F values).
        pattern: of the model that is trained, which says how long a row is; None = one frame a step.
        phones: names of the model's phones; rows whose phones are known get them.

    Raises:
        UserError: gpt_no_utterances when nothing is left, and those of `open_store`.
    """

    COLUMNS = ("text_ids", "codes")

    def __init__(
        self,
        stores: Sequence[Path],
        split: str,
        options: MixOptions,
        features: bool = False,
        pattern: Pattern | None = None,
        phones: Sequence[str] = (),
    ):
        self.options, self.pattern = options, pattern
        self._phones = {name: number for number, name in enumerate(phones)}
        self._found: dict[int, np.ndarray] = {}
        self._tells: dict[int, bool] = {}
        self.reads: dict[int, np.ndarray] = {}
        """Utterance -> the text unit that each of its frames says, [T]; filled by `align`."""
        self._stores = [open_store(folder) for folder in stores]
        self._columns = (*self.COLUMNS, "text_features") if features else self.COLUMNS
        tables = [_table(i, store, split, options, pattern) for i, store in enumerate(self._stores) if len(store)]
        table = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]} if tables else {}
        if not tables or not len(table["row"]):
            raise UserError(
                "gpt_no_utterances",
                "No {split} utterance of {low} to {high} seconds in {stores}; extract more or change the limits.",
                split=split,
                low=options.min_seconds,
                high=options.max_seconds,
                stores=", ".join(str(folder) for folder in stores),
            )
        self.store_of, self.row_of = table["store"], table["row"]
        self.frames, self.units, self.recorded = table["frames"], table["units"], table["recorded"]
        self.languages, self.language_of = np.unique(table["language"], return_inverse=True)
        _, self.speaker_of = np.unique(table["speaker"], return_inverse=True)
        order = np.argsort(self.speaker_of, kind="stable")
        cuts = np.flatnonzero(np.diff(self.speaker_of[order])) + 1
        self._members = np.split(order, cuts)
        self._pace, self._by_pace = self._paces() if options.foreign_prompts else (None, order[:0])

    def __len__(self) -> int:
        """Number of different targets."""
        return len(self.row_of)

    @property
    def frames_per_unit(self) -> float:
        """Mean speech frames per text unit; what a normal pace is."""
        return float(self.frames.sum() / max(int(self.units.sum()), 1))

    def group_name(self, group: int) -> str:
        """Readable name of a group, for instance `en_pair`."""
        return f"{self.languages[group // 2]}_{'pair' if group % 2 else 'alone'}"

    def choose(self, index: int) -> list[int]:
        """Utterances of row `index`, prompts first and target last."""
        target, rng = index % len(self), np.random.default_rng(index)
        members = self._members[self.speaker_of[target]]
        if rng.random() >= self.options.pair_ratio:
            return [target]
        if len(self._by_pace) and not self.recorded[target] and rng.random() < self.options.foreign_prompts:
            members = self._alike(target)
        elif len(members) < 2:
            return [target]
        wanted = int(rng.integers(1, self.options.max_references + 1))
        picks = members[rng.integers(0, len(members), 3 * wanted)]
        room = self.options.max_length - self._length(target)
        chosen: list[int] = []
        for pick in picks.tolist():
            if len(chosen) < wanted and pick != target and pick not in chosen and self._length(pick) <= room:
                chosen.append(pick)
                room -= self._length(pick)
        return [*chosen, target]

    def _paces(self) -> tuple[np.ndarray, np.ndarray]:
        """How slow each utterance is among those of its language that are recorded or synthetic like it, 0 to 1, and
        the recordings in that order."""
        pace = np.zeros(len(self))
        group = 2 * self.language_of + self.recorded
        for number in np.unique(group):
            rows = np.flatnonzero(group == number)
            ranks = np.argsort(np.argsort(self.frames[rows] / self.units[rows], kind="stable"), kind="stable")
            pace[rows] = (ranks + 0.5) / len(rows)
        recordings = np.flatnonzero(self.recorded)
        return pace, recordings[np.argsort(pace[recordings], kind="stable")]

    def _alike(self, target: int) -> np.ndarray:
        """The recordings whose pace is the most like that of a target."""
        place = int(np.searchsorted(self._pace[self._by_pace], self._pace[target]))
        return self._by_pace[max(0, place - ALIKE) : place + ALIKE]

    def length(self, chosen: Sequence[int]) -> int:
        """Positions of a row of those utterances."""
        return sum(self._length(i) for i in chosen) - 1

    def get(self, index: int, rng: np.random.Generator) -> Row:
        """Row `index`; `rng` decides which prompts lose their text."""
        chosen = self.choose(index)
        drop = rng.random(len(chosen)) < self.options.text_drop
        hidden = rng.random() < self.options.hidden_prompts and bool(self._phones)
        untold = rng.random() < self.options.untold and bool(self._phones)
        parts = [self.part(i, bool(d), hidden) for i, d in zip(chosen[:-1], drop[:-1], strict=True)]
        return self.row([*parts, self.part(chosen[-1], untold=untold)], chosen[-1])

    def row(self, parts: Sequence[Part], target: int) -> Row:
        """A row with the group of its target."""
        return Row(tuple(parts), int(2 * self.language_of[target] + (len(parts) > 1)))

    def part(self, utterance: int, drop_text: bool = False, hidden: bool = False, untold: bool = False) -> Part:
        """Read one utterance, without its text if asked (an untold one still teaches its phones); a hidden one is a
        reference as at run time."""
        drop_text, teaches = drop_text or untold, untold or not (hidden or drop_text)
        values = self._stores[self.store_of[utterance]].row(int(self.row_of[utterance]), self._columns)
        text_ids = values["text_ids"][:0] if drop_text else values["text_ids"]
        features = values.get("text_features")
        if features is not None:
            features = features.reshape(len(values["text_ids"]), -1)[: len(text_ids)]
        codes = values["codes"].reshape(int(self.frames[utterance]), -1)
        phones = self.phones(utterance) if teaches else None
        reads = None if phones is None or drop_text else self.reads.get(utterance)
        # What a model with phones is not told of teaches it nothing.
        return Part(text_ids, codes, features, phones, reads, hidden or (bool(self._phones) and phones is None))

    def phones(self, utterance: int) -> np.ndarray | None:
        """Phone of each frame, int64 [T] (IGNORED where the model has no such phone); None where nobody knows."""
        if utterance in self._found:
            return self._found[utterance]
        store = self._stores[self.store_of[utterance]]
        if not self._phones or PHONES not in store.columns:
            return None
        names = store.row(int(self.row_of[utterance]), (PHONES,))[PHONES]
        if not names:
            return None
        numbers = [self._phones.get(name, IGNORED) for name in names.split(" ")]
        return np.array(numbers, np.int64)[: int(self.frames[utterance])]

    def label(
        self, labeller: Callable[[np.ndarray, np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray] | None]
    ) -> Iterator[int]:
        """Let a labeller (text ids [U], codes [T, K], text features -> phones [T] and reads [T], or None) find out what
        nobody knows. Gives the number of utterances asked about so far, after each."""
        for asked, utterance in enumerate(self.to_label, 1):
            part = self.part(utterance)
            if found := labeller(part.text_ids, part.codes, part.text_features):
                self._found[utterance], self.reads[utterance] = found
            yield asked

    @property
    def to_label(self) -> list[int]:
        """Utterances whose phones are not known and of which their store does not tell that either."""
        return [index for index in range(len(self)) if self.phones(index) is None and not self._told(index)]

    def _told(self, utterance: int) -> bool:
        """Whether a store says of its utterances what their phones are, if only that this one's are not known."""
        number = int(self.store_of[utterance])
        if number not in self._tells:
            store = self._stores[number]
            self._tells[number] = PHONES in store.columns and any(store.column(PHONES))
        return self._tells[number]

    @property
    def unlabelled(self) -> np.ndarray:
        """Utterances whose phones nobody knows, bool [len(self)]."""
        return np.array([self.phones(utterance) is None for utterance in range(len(self))])

    def align(self, aligner: UnitAligner, vocab: int) -> int:
        """Find out which text unit each frame says, where the phones are known; returns for how many utterances."""
        known, units, said, frames = [], [], [], []
        for utterance in range(len(self)):
            phones = self.phones(utterance)
            if utterance not in self.reads and phones is not None and (phones >= 0).all():
                sounds, of_frame = runs(phones)
                known.append(utterance)
                units.append(np.minimum(self.text_ids(utterance), vocab - 1).astype(np.int64))
                said.append(sounds)
                frames.append(of_frame)
        owners = aligner.align_all(units, said)
        found = zip(known, owners, frames, strict=True)
        reads = {u: _from_the_start(owner[of_frame]) for u, owner, of_frame in found if owner is not None}
        self.reads |= reads
        return len(reads)

    def text_ids(self, utterance: int) -> np.ndarray:
        """Text units of an utterance, int [U]."""
        return self._stores[self.store_of[utterance]].row(int(self.row_of[utterance]), ("text_ids",))["text_ids"]

    def target_weights(self) -> np.ndarray:
        """How often each utterance is a target in an epoch, 1 on average: [len(self)]."""
        count = np.bincount(self.language_of).astype(np.float64)
        weights = (count ** (self.options.language_exponent - 1))[self.language_of]
        if self._phones:
            unknown = self.unlabelled
            if unknown.all():
                raise UserError(
                    "gpt_nothing_labelled",
                    "Of none of the {count} utterances is known which sounds they hold: their texts do not fit their "
                    "recordings, or they are in languages that the model does not read. Check the texts.",
                    count=len(self),
                )
            weights = np.where(unknown, 0.0, weights)
        share, recorded = self.options.share_recorded, self.recorded
        if share is not None and weights[recorded].any() and weights[~recorded].any():
            weights[recorded] *= share / weights[recorded].sum()
            weights[~recorded] *= (1 - share) / weights[~recorded].sum()
        return weights * (len(weights) / weights.sum())

    def _length(self, utterance: int) -> int:
        return part_length(int(self.units[utterance]), int(self.frames[utterance]), self.pattern)


def validation_rows(dataset: PromptDataset, per_language: int, seed: int = 0) -> list[Row]:
    """A fixed set of rows: up to `per_language` targets of each language, alone and, where the speaker has another
    utterance, with one prompt. Only the target should be predicted (`Collate(last_only=True)`)."""
    rng, rows = np.random.default_rng(seed), []
    for language in range(len(dataset.languages)):
        candidates = np.flatnonzero(dataset.language_of == language)
        for target in rng.permutation(candidates)[:per_language].tolist():
            others = dataset._members[dataset.speaker_of[target]]
            others = others[others != target]
            part = dataset.part(target)
            rows.append(dataset.row([part], target))
            if len(others):
                rows.append(dataset.row([dataset.part(int(rng.choice(others)), hidden=True), part], target))
    return rows


def _from_the_start(reads: np.ndarray) -> np.ndarray:
    """Speaking begins at the first unit, also where that one is silent: so does what is learned."""
    reads = reads.astype(np.int16)
    reads[:1] = 0
    return reads


def _table(number: int, store: Rows, split: str, options: MixOptions, pattern: Pattern | None) -> dict[str, Any]:
    seconds = store.array("seconds")
    keep = (seconds >= options.min_seconds) & (seconds <= options.max_seconds)
    split_of, splits = store.labels("split")
    keep &= (splits == split)[split_of]
    codebooks = np.maximum(store.array("codebooks"), 1)
    frames, units = store.lengths("codes") // codebooks, store.lengths("text_ids")
    keep &= (frames > 0) & (units > 0) & (part_length(units, frames, pattern) <= options.max_length)
    rows = np.flatnonzero(keep)
    source_of, sources = store.labels("source")
    language_of, languages = store.labels("language")
    speaker_of, speakers = store.labels("speaker")
    return {
        "store": np.full(len(rows), number),
        "row": rows,
        "frames": frames[rows],
        "units": units[rows],
        "recorded": (sources == "recorded")[source_of[rows]],
        "language": languages[language_of[rows]],
        "speaker": np.asarray([f"{number}:{name}" for name in speakers], dtype=str)[speaker_of[rows]],
    }
