"""From recordings to a folder of levelled clips with a manifest; work that an earlier run did is not done again.

The output folder holds `{origin}_{start:010d}_{end:010d}.wav` (samples at 32 kHz), `clips.jsonl` (the manifest),
`rejected.jsonl` (a file and its reason a line) and `.slices.jsonl` (what was made from which recording, and how; it
decides what need not be made again).

`origin` is the recording's name without its suffix. Recordings that share a name, in different folders or with
different suffixes, all get the first 8 hex digits of the SHA-256 of their path below the input folder appended:
`take1-5e884898`. So a name depends on the input alone and not on the order of work. A name that the output folder has
given to another recording before is not given again (`SliceJournal.name`).

Clips of earlier cuts and of other recordings stay in the folder, because lists may name them. `clips.jsonl` does not,
and they are marked (`modules.data.earlier`), so that no step takes them for recordings.
"""

import dataclasses
import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.audio.io import read, write
from modules.audio.loudness import normalize
from modules.audio.slicing import Cut, SliceOptions, blend_peak, check, find_cuts
from modules.config import to_dict
from modules.data.earlier import mark_earlier
from modules.data.manifest import Utterance, write_manifest, write_whole
from modules.data.own_lists import OwnLists
from modules.errors import UserError

SAMPLE_RATE = 32000
"""Of the clips, Hz; every position in samples refers to it."""
MANIFEST_NAME, REJECTED_NAME, RECORDS_NAME = "clips.jsonl", "rejected.jsonl", ".slices.jsonl"
_VERSION = 1
"""Counted up when the same options come to make other clips, so that old ones are made anew."""
_LONGEST_ORIGIN_BYTES = 180
_WAV_HEADER_BYTES = 44
_CLIP_NAME = re.compile(r".+_\d{10}_\d{10}\.wav", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """A recording and the name that its clips begin with."""

    path: Path
    origin: str


@dataclass(frozen=True)
class SliceRecord:
    """What became of one recording.

    Args:
        source: its absolute path.
        origin: what its clips are called.
        size, mtime_ns: of the file when it was read; -1 where it could not be looked at.
        options: fingerprint of the options.
        seconds: length of the recording.
        cuts: its clips, in samples at 32 kHz.
        reason: why there are none; empty if there are some.
    """

    source: str
    origin: str
    size: int
    mtime_ns: int
    options: str
    seconds: float = 0.0
    cuts: tuple[Cut, ...] = ()
    reason: str = ""

    def clip_names(self) -> list[str]:
        """File names of the clips, in order."""
        return [f"{self.origin}_{cut.start:010d}_{cut.end:010d}.wav" for cut in self.cuts]


@dataclass(frozen=True)
class Preview:
    """What the options would do to a recording.

    Args:
        seconds: its length.
        envelope: lowest and highest sample of each bin, float32 [2, bins].
        cuts: the clips, in samples at `sample_rate`.
    """

    seconds: float
    envelope: np.ndarray
    cuts: tuple[Cut, ...]
    sample_rate: int = SAMPLE_RATE


def preview(path: str | Path, options: SliceOptions, bins: int = 1000) -> Preview:
    """Cut a recording on paper; nothing is written. Raises UserError like `read` and `check`."""
    wav = read(path, SAMPLE_RATE).numpy()
    # A bin that would hold no sample repeats its neighbour's.
    starts = np.arange(bins) * len(wav) // bins
    envelope = np.stack([np.minimum.reduceat(wav, starts), np.maximum.reduceat(wav, starts)])
    return Preview(len(wav) / SAMPLE_RATE, envelope, tuple(find_cuts(wav, SAMPLE_RATE, options)))


def name_sources(paths: Sequence[Path], root: Path) -> list[Source]:
    """Give each recording found under `root` (or the file `root`) a name that no other one has."""
    stems = [_clean_name(path.stem) for path in paths]
    # Some file systems do not tell upper from lower case, nor composed letters from decomposed ones.
    shared = Counter(map(_folded, stems))
    sources = []
    for path, stem in zip(paths, stems):
        if shared[_folded(stem)] > 1 or len(stem.encode()) > _LONGEST_ORIGIN_BYTES:
            inside = path.relative_to(root).as_posix() if path != root else path.name
            short = stem.encode()[:_LONGEST_ORIGIN_BYTES].decode(errors="ignore")
            stem = f"{short}-{hashlib.sha256(_utf8(inside).encode()).hexdigest()[:8]}"
        sources.append(Source(path, stem))
    return sources


def slice_source(
    source: Source, output: Path, options: SliceOptions, known: tuple[Cut, ...] | None = None
) -> SliceRecord:
    """Cut one recording and write its clips, levelled, into `output`.

    Args:
        known: the cuts found by an earlier run; only clips that are missing are then written.

    A recording that cannot be used gives a record with the reason instead of an error.

    Raises:
        UserError: slice_option_order.
        OSError: a clip cannot be written.
    """
    check(options)
    record = _unsliced(source, options)
    try:
        wav = read(source.path, SAMPLE_RATE)
        cuts = tuple(find_cuts(wav.numpy(), SAMPLE_RATE, options)) if known is None else known
    except UserError as error:
        return _without_clips(record, str(error))
    except MemoryError:
        return _without_clips(
            record, "There is not enough memory for this recording; use fewer processes, or split it first."
        )
    except Exception as error:  # whatever a decoder makes of one bad file, the other files still count
        return _without_clips(record, f"{type(error).__name__}: {error}")
    reason = "" if cuts else "It holds no speech, or is quieter than the threshold throughout; nothing was cut from it."
    record = dataclasses.replace(record, seconds=len(wav) / SAMPLE_RATE, cuts=cuts, reason=reason)
    for cut, name in zip(cuts, record.clip_names()):
        if known is None or not _is_whole(output / name, cut):
            write(output / name, _levelled(wav[cut.start : cut.end], options), SAMPLE_RATE)
    return record


def rejected(source: Source, options: SliceOptions, reason: str) -> SliceRecord:
    """The record of a recording that could not even be tried."""
    return _without_clips(_unsliced(source, options), reason)


class SliceJournal:
    """Remembers, in the output folder, what was made from which recording.

    Only the process that leads a run may write to it. A line is added when a recording is done, so a kill costs the
    recordings in work at most.
    """

    def __init__(self, output: Path):
        self.output = output
        self.path = output / RECORDS_NAME
        self.records: dict[str, SliceRecord] = {}
        content = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        self._cut_short = bool(content) and not content.endswith("\n")
        for line in content.split("\n"):
            try:
                record = _parse(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue  # a kill cut this line short
            self.records[record.source] = record

    def name(self, sources: Sequence[Source]) -> list[Source]:
        """The sources with origins that no other recording has had in this folder.

        One that was sliced into it before keeps its origin. A new one gets, where its origin is taken, the first 8 hex
        digits of the SHA-256 of its absolute path appended.
        """
        owners = Counter(_folded(record.origin) for record in self.records.values())
        named = []
        for source in sources:
            path, origin = _absolute(source.path), source.origin
            earlier = self.records.get(path)
            if earlier is not None and owners[_folded(earlier.origin)] == 1:
                origin = earlier.origin
            elif owners[_folded(origin)]:
                origin = f"{origin}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
            named.append(dataclasses.replace(source, origin=origin))
        return named

    def known(self, source: Source, options: SliceOptions) -> SliceRecord | None:
        """What an earlier run found in the same unchanged recording under the same name with the same options."""
        earlier = self.records.get(_absolute(source.path))
        if earlier is None or not earlier.cuts:
            return None
        same = dataclasses.replace(_unsliced(source, options), seconds=earlier.seconds, cuts=earlier.cuts)
        return earlier if earlier == same else None

    def is_complete(self, record: SliceRecord) -> bool:
        """Whether all its clips exist with the right length."""
        return all(_is_whole(self.output / name, cut) for cut, name in zip(record.cuts, record.clip_names()))

    def begin(self, source: Source) -> None:
        """Tell that a recording is about to be cut anew: from here on its old clips cannot be trusted."""
        earlier = self.records.get(_absolute(source.path))
        if earlier is not None:
            self._append(dataclasses.replace(earlier, options=""))

    def add(self, record: SliceRecord) -> None:
        """Remember a recording that is done."""
        self._append(record)

    def close(self) -> None:
        """Leave one line for each recording."""
        write_whole(self.path, (_line(dataclasses.asdict(record)) for record in self.records.values()))

    def _append(self, record: SliceRecord) -> None:
        self.records[record.source] = record
        self.output.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            file.write(b"\n" * self._cut_short + _line(dataclasses.asdict(record)))
        self._cut_short = False


@dataclass(frozen=True)
class SliceResults:
    """What a run leaves in its folder.

    Args:
        utterances: rows of the manifest.
        earlier: clips of earlier cuts or of other recordings, that the manifest does not name.
        kept: a manifest that somebody had edited, under its new name.
        notes: what a person should know of it.
    """

    utterances: list[Utterance]
    earlier: list[Path]
    kept: list[Path]
    notes: list[str]


def write_results(output: Path, records: Sequence[SliceRecord], speaker: str, clean: bool = False) -> SliceResults:
    """Write the manifest and the list of rejected files of a whole run, in the order given.

    Args:
        clean: delete the clips that the manifest does not name.
    """
    utterances = [
        Utterance(
            audio=str(output.absolute() / name),
            speaker=speaker,
            language="",
            text="",
            seconds=(cut.end - cut.start) / SAMPLE_RATE,
            source=record.source,
        )
        for record in records
        for cut, name in zip(record.cuts, record.clip_names())
    ]
    output.mkdir(parents=True, exist_ok=True)
    lists = OwnLists(output)
    lists.write(MANIFEST_NAME, lambda path: write_manifest(path, utterances))
    refused = ({"file": record.source, "reason": record.reason} for record in records if record.reason)
    write_whole(output / REJECTED_NAME, (_line(row) for row in refused))
    names = {name for record in records for name in record.clip_names()}
    earlier = sorted(path for path in output.iterdir() if _CLIP_NAME.fullmatch(path.name) and path.name not in names)
    if clean:
        for path in earlier:
            path.unlink(missing_ok=True)
    mark_earlier(output, [path.name for path in earlier])
    return SliceResults(utterances, [] if clean else earlier, lists.kept, lists.notes())


def _unsliced(source: Source, options: SliceOptions) -> SliceRecord:
    try:
        status = source.path.stat()
        size, mtime_ns = status.st_size, status.st_mtime_ns
    except OSError:
        size = mtime_ns = -1
    return SliceRecord(_absolute(source.path), source.origin, size, mtime_ns, _fingerprint(options))


def _without_clips(record: SliceRecord, reason: str) -> SliceRecord:
    return dataclasses.replace(record, reason=_utf8(reason))


def _levelled(clip: torch.Tensor, options: SliceOptions) -> torch.Tensor:
    if options.normalize:
        return normalize(clip, SAMPLE_RATE)
    return torch.from_numpy(blend_peak(clip.numpy(), options.max, options.alpha))


def _is_whole(path: Path, cut: Cut) -> bool:
    """Whether the clip exists with the length of its cut; clips appear whole or not at all, so its size tells."""
    try:
        return path.stat().st_size == _WAV_HEADER_BYTES + 2 * (cut.end - cut.start)
    except OSError:
        return False


def _fingerprint(options: SliceOptions) -> str:
    text = json.dumps({"version": _VERSION, "sample_rate": SAMPLE_RATE, **to_dict(options)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _clean_name(stem: str) -> str:
    """A stem without what a .list file or another system cannot hold."""
    return "".join("_" if letter in '|<>:"/\\?*' or not letter.isprintable() else letter for letter in stem)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _utf8(text: str) -> str:
    """Text that UTF-8 can hold: a file name that is not valid UTF-8 comes from the system with lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _absolute(path: Path) -> str:
    return _utf8(os.path.abspath(path))


def _line(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()


def _parse(values: dict[str, Any]) -> SliceRecord:
    return SliceRecord(**{**values, "cuts": tuple(Cut(**cut) for cut in values["cuts"])})
