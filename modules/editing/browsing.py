"""Finding rows of a dataset: search, filters, pages."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modules.config import field
from modules.data.manifest import Utterance
from modules.data.measures import CLIPPED_SHARE, clip_clipping, clip_seconds, same_content
from modules.editing.rows import Row
from modules.errors import Stopped, UserError

PAGE_ROWS = 10


@dataclass(frozen=True)
class Filters:
    """Which rows to show: those with at least one of the chosen marks; all rows when none is chosen."""

    empty: bool = field(False, "rows without text")
    low_confidence: bool = field(False, "rows whose text the transcriber was not sure of")
    too_long: bool = field(False, "clips that are too long")
    too_short: bool = field(False, "clips that are too short")
    clipped: bool = field(False, "clips that are overdriven; reads every clip, so it takes time")
    duplicate: bool = field(False, "rows that share their audio with another row; may read clips")
    missing: bool = field(False, "rows whose audio file is not there")
    review: bool = field(False, "rows whose text the program divided, for a person to look at")
    confidence_below: float = field(0.5, "what counts as not sure, 0 to 1", 0, 1)
    longest_seconds: float = field(15.0, "longer clips are too long", 0, 3600)
    shortest_seconds: float = field(1.0, "shorter clips are too short", 0, 3600)

    @property
    def any(self) -> bool:
        """Whether a mark is chosen."""
        return any(getattr(self, name) for name in _MARKS)


_MARKS = ("empty", "low_confidence", "too_long", "too_short", "clipped", "duplicate", "missing", "review")


@dataclass(frozen=True)
class Shown:
    """A row as a page shows it.

    Args:
        number: position in what is shown, from 1.
        row: the row itself.
        seconds: length of its clip; 0 where the file is missing or no sound.
        selected: whether it is ticked.
        missing: there is no such audio file.
    """

    number: int
    row: Row
    seconds: float
    selected: bool
    missing: bool


@dataclass(frozen=True)
class Page:
    """Some rows.

    Args:
        rows: what is shown.
        index, pages: which page this is, from 0, and how many there are (at least one).
        total: rows on all pages.
        revision: state of the dataset; edits give it back so that one made on an older page is noticed.
    """

    rows: tuple[Shown, ...]
    index: int
    pages: int
    total: int
    revision: int


class ClipCache:
    """Lengths and clipping of sound files, read when first asked for and again when a file has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[tuple[int, int], float]] = {}

    def seconds(self, utterance: Utterance) -> float:
        """Length of a clip: as its list has it, else from the file; 0 where that cannot be read."""
        return utterance.seconds or self._ask("seconds", utterance.audio, clip_seconds)

    def clipped_share(self, utterance: Utterance) -> float:
        """Share of clipped samples; 0 where the file cannot be read."""
        return self._ask("clipped", utterance.audio, clip_clipping)

    def _ask(self, what: str, audio: str, measure: Callable[[str], float]) -> float:
        try:
            status = os.stat(audio)
        except (OSError, ValueError):
            return 0.0
        state = (status.st_size, status.st_mtime_ns)
        known = self._known.get((what, audio))
        if known is not None and known[0] == state:
            return known[1]
        try:
            value = measure(audio)
        except UserError:
            value = 0.0
        self._known[what, audio] = (state, value)
        return value


def folded(text: str) -> str:
    """Text for comparing: without case, width and other variants of form, or doubled spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def search(rows: Sequence[Row], query: str) -> list[Row]:
    """The rows that have the query in their text, speaker or file name; all rows for an empty query."""
    wanted = folded(query)
    return [row for row in rows if not wanted or any(wanted in folded(value) for value in _searched(row.utterance))]


def filtered(
    rows: Sequence[Row],
    filters: Filters,
    cache: ClipCache,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """The rows with at least one of the chosen marks.

    Args:
        rows: all rows that may be shown; duplicates are looked for among them.
        filters: what is chosen.
        cache: lengths and clipping that are known already.
        on_progress: gets (done, total) rows.
        should_stop: asked before each row.

    Raises:
        Stopped: should_stop said so.
    """
    if not filters.any:
        return list(rows)
    twins = _twins(rows, should_stop) if filters.duplicate else set()
    found = []
    for done, row in enumerate(rows):
        if should_stop():
            raise Stopped
        on_progress(done, len(rows))
        if row.id in twins or _marked(row, filters, cache):
            found.append(row)
    on_progress(len(rows), len(rows))
    return found


def _marked(row: Row, filters: Filters, cache: ClipCache) -> bool:
    """Whether a row has a chosen mark other than being a duplicate; cheap ones are looked at first."""
    utterance = row.utterance
    return (
        (filters.empty and not utterance.text.strip())
        or (filters.review and row.review)
        or (filters.low_confidence and 0 <= utterance.confidence < filters.confidence_below)
        or (filters.missing and not os.path.isfile(utterance.audio))
        or (filters.too_long and cache.seconds(utterance) > filters.longest_seconds)
        or (filters.too_short and 0 < cache.seconds(utterance) < filters.shortest_seconds)
        or (filters.clipped and cache.clipped_share(utterance) > CLIPPED_SHARE)
    )


def _twins(rows: Sequence[Row], should_stop: Callable[[], bool]) -> set[int]:
    """Ids of all rows that share their audio, by path or by content, with another row."""
    by_path: dict[str, list[int]] = {}
    for row in rows:
        by_path.setdefault(os.path.normcase(os.path.abspath(row.utterance.audio)), []).append(row.id)
    paths = list(by_path)
    twins = {id for ids in by_path.values() if len(ids) > 1 for id in ids}
    for later, earlier in same_content(paths, should_stop).items():
        twins.update(by_path[paths[later]], by_path[paths[earlier]])
    return twins


def _searched(utterance: Utterance) -> tuple[str, str, str]:
    name = PurePosixPath(Path(utterance.audio).as_posix()).name
    return utterance.text, utterance.speaker, name
