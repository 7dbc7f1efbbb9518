"""Rows whose clips are joined or cut: new audio files, and the utterances that name them."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from modules.editing.cutting import cut_clip, divide_text, join_clips, join_texts
from modules.editing.rows import Row
from modules.errors import UserError

T = TypeVar("T")

EDITED_FOLDER = "edited"
"""Where in the work folder new clips go."""


def merged_row(rows: Sequence[Row], id: int, gap_seconds: float, folder: Path, revision: int) -> Row:
    """One row with the clips of `rows` in a new file, silence between them; see `DatasetEditor.merge`.

    Args:
        rows: at least two, of one speaker.
        id: of the new row.
        gap_seconds: silence between the clips.
        folder: the work folder.
        revision: goes into the file's name.

    Raises:
        UserError: merge_too_few, merge_speakers, option_invalid (gap), output_unwritable, audio errors.
    """
    if len(rows) < 2:
        raise UserError("merge_too_few", "Select at least two rows to merge.")
    speakers = sorted({row.utterance.speaker for row in rows})
    if len(speakers) > 1:
        raise UserError(
            "merge_speakers",
            "The rows have different speakers ({speakers}); give them the same one before merging.",
            speakers=", ".join(speakers),
        )
    first = rows[0].utterance
    target = _new_file(folder, first.audio, revision, "merged")
    sounds = [row.utterance.audio for row in rows]
    utterance = dataclasses.replace(
        first,
        audio=str(target),
        text=join_texts([row.utterance.text for row in rows]),
        seconds=_writing(target, lambda: join_clips(sounds, target, gap_seconds)),
        confidence=min(row.utterance.confidence for row in rows),  # unknown is below all others
    )
    return Row(id, utterance, any(row.review for row in rows))


def split_rows(row: Row, id: int, at_seconds: float, folder: Path, revision: int) -> tuple[Row, Row]:
    """Two rows with the clip of `row` before and after a time, in new files; see `DatasetEditor.split`.

    Args:
        row: what is cut.
        id: of the first part; the second has the next one.
        at_seconds: where to cut.
        folder: the work folder.
        revision: goes into the files' names.

    Raises:
        UserError: split_outside, output_unwritable, audio errors.
    """
    sound = row.utterance.audio
    files = (_new_file(folder, sound, revision, "a"), _new_file(folder, sound, revision, "b"))
    lengths = _writing(files[0], lambda: cut_clip(sound, at_seconds, *files))
    texts = divide_text(row.utterance.text, lengths[0] / sum(lengths))
    first, second = (
        dataclasses.replace(row.utterance, audio=str(file), text=text, seconds=seconds, confidence=-1.0)
        for file, text, seconds in zip(files, texts, lengths, strict=True)
    )
    return Row(id, first, review=True), Row(id + 1, second, review=True)


def _new_file(folder: Path, audio: str, revision: int, part: str) -> Path:
    """A name in the work folder that no file has: not even what an undone edit made is written over."""
    stem = re.sub(r"[|\s]+", "_", Path(audio).stem)[:60]
    for number in itertools.count(1):
        more = f"_{number}" if number > 1 else ""
        path = folder / EDITED_FOLDER / f"{stem}_{revision:06d}_{part}{more}.wav"
        if not path.exists():
            break
    return path


def _writing(target: Path, write: Callable[[], T]) -> T:
    try:
        return write()
    except OSError as cause:
        raise UserError(
            "output_unwritable", "{file} cannot be written; choose another place.", file=str(target)
        ) from cause
