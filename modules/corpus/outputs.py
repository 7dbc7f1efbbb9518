"""Where a step over many files puts what it makes of each, and the list of those it left out."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from modules.checkpoint import write_atomic
from modules.corpus.journal import JOURNAL_NAME, Journal, content_key
from modules.data.earlier import mark_earlier
from modules.data.sources import list_audio
from modules.errors import UserError
from modules.progress import StepProgress

REJECTED_NAME = "rejected.jsonl"
_LONGEST_NAME_BYTES, _SHORTENED_BYTES = 255, 200


class Results:
    """What becomes of the files of a run: made now, made before from the same content, or left out for a reason.

    Args:
        step: its name; the folder of another step is refused.
        output: the step's folder; it gets the journal and, by `close`, the list of what was left out.
        folders: those that the results go into, each under the same names.
        settings: all that changes what is made of a file.
        progress: is told of each file that is left out.
        fresh: make everything again.

    Raises:
        UserError: output_of_other_step.
    """

    def __init__(
        self,
        step: str,
        output: Path,
        folders: Sequence[Path],
        settings: str,
        progress: StepProgress,
        fresh: bool = False,
    ):
        self.made = self.already = 0
        self.reasons: Counter[str] = Counter()
        self.failures: list[UserError] = []
        self._path, self._settings, self._progress = output / REJECTED_NAME, settings, progress
        self._journal = Journal(output / JOURNAL_NAME, step=step)
        self._folders, self._fresh = folders, fresh
        self._rejected: list[dict[str, Any]] = []
        self._current: set[str] = set()
        self._left_out: set[str] = set()

    def claim(self, files: Sequence[Path], targets: Sequence[Path]) -> list[Path]:
        """The relative paths under which the results of `files` are kept: `targets`, as far as they are free.

        One that holds the result of another recording, of an earlier run, stays as it is: the new one gets the first
        8 hex digits of the SHA-256 of its recording's path appended. What earlier runs made of recordings that are no
        longer given is marked (`modules.data.earlier`), so that the next step does not work on it.
        """
        claimed = []
        for file, target in zip(files, targets):
            if self._belongs_to_another(file, target.as_posix()):
                target = _numbered(target, os.path.abspath(file))
            claimed.append(target)
        self._current = {target.as_posix() for target in claimed}
        self._mark(self._current)
        if self._fresh:
            for key in sorted(self._current & self._journal.keys()):
                self._journal.add(key, {**(self._journal.get(key) or {}), "made_of": ""})
        return claimed

    def _belongs_to_another(self, file: Path, key: str) -> bool:
        known = self._journal.get(key)
        if known is None or known.get("source") in (None, os.path.abspath(file)):
            return False
        try:
            return content_key(file, self._settings) != known["made_of"]  # equal: the recording was moved
        except UserError:
            return True

    def _mark(self, current: set[str]) -> None:
        for folder in self._folders:
            mark_earlier(folder, (self._journal.keys() | self._current) - current)

    def make(
        self, file: Path, key: str, outputs: Sequence[Path], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Do `work`, unless an earlier run did it; what it told of the file, or None where that is left out.

        Args:
            key: names the file in the journal.
            outputs: what `work` writes; where one is missing, all are made again.
            work: its UserError leaves this file out, anything else ends the run.
        """
        try:
            made_of = content_key(file, self._settings)
            known = self._journal.get(key)
            if known is not None and known["made_of"] == made_of and all(path.is_file() for path in outputs):
                self.already += 1
                return known
            source = os.path.abspath(file)
            # From here on neither the old result can be trusted nor does a new one, cut short by a kill, look foreign.
            self._journal.add(key, {"made_of": "", "source": source})
            known = {"made_of": made_of, "source": source, **work()}
            self._journal.add(key, known)
            self.made += 1
            return known
        except UserError as cause:
            self._left_out.add(key)
            self._rejected.append({"file": str(file), "reason": " ".join(str(cause).split())})
            self.reasons[cause.code] += 1
            self.failures.append(cause)
            self._progress.reject(file, self._rejected[-1]["reason"])
            return None

    def close(self) -> None:
        """Write the list of what was left out, of which no older result counts either."""
        self._mark(self._current - self._left_out)
        write_rejected(self._path, self._rejected)


def mirrored(files: Sequence[Path], root: Path, suffix: str) -> list[Path]:
    """For every file the relative path of its result: the folders and names under `root`, with another suffix.

    Two files that differ in their suffix alone (a.mp3, a.wav) would meet; the later one keeps its own suffix as a part
    of the name (a.wav.flac). A name that becomes too long is shortened.
    """
    root = root if root.is_dir() else root.parent
    taken: set[str] = set()
    targets = []
    for file in files:
        relative = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
        target = relative.with_name(relative.stem + suffix)
        if str(target).casefold() in taken:  # some file systems take A.wav and a.wav for one
            target = relative.with_name(relative.name + suffix)
        if len(os.fsencode(target.name)) > _LONGEST_NAME_BYTES:
            target = _numbered(target, str(relative))
        taken.add(str(target).casefold())
        targets.append(target)
    return targets


def _numbered(target: Path, told_apart_by: str) -> Path:
    """The path with the first 8 hex digits of a text's SHA-256 appended to its stem, which is shortened to fit."""
    digest = hashlib.sha256(os.fsencode(told_apart_by)).hexdigest()[:8]
    stem = target.stem.encode("utf-8", "backslashreplace")[:_SHORTENED_BYTES].decode("utf-8", "ignore")
    return target.with_name(f"{stem}-{digest}{target.suffix}")


def without_results(files: Iterable[Path], source: Path, output: Path) -> list[Path]:
    """The files without those that an earlier run put into `output`, when that lies inside of the input folder.

    Raises:
        UserError: output_is_input.
    """
    output = output.absolute()
    source = source.absolute()
    folder = source if source.is_dir() else source.parent
    if output.resolve() == folder.resolve():
        raise UserError(
            "output_is_input",
            "{folder} is the folder of the recordings too, which must stay as they are; choose another output folder.",
            folder=str(output),
        )
    return [file for file in files if not file.absolute().is_relative_to(output)]


def recordings_in(source: Path, output: Path) -> list[Path]:
    """The recordings that a file or a folder stands for, results of an earlier run left out.

    Raises:
        UserError: path_missing, output_is_input, no_recordings.
    """
    files = without_results(list_audio(source), source, output)
    if not files:
        raise no_recordings(source)
    return files


def no_recordings(source: Path) -> UserError:
    """The error of a place that holds nothing to work on."""
    return UserError("no_recordings", "There are no recordings in {path}; check the path.", path=str(source))


def write_rejected(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write what was left out as JSON lines, each with `file` and `reason`; an empty file tells that all was good."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # A file name that is not valid UTF-8 comes from the system with lone surrogates.
    write_atomic(path, text.encode("utf-8", "backslashreplace"))
