"""What a step over many files has done so far, one JSON line per result, so that a killed run goes on where it ended.

The key of a line says what was done to which content (`content_key`): a changed file or another model is a new key,
and the old line is simply never asked for again. Every line names its step too, because two steps with one output
folder would overwrite each other's lists.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from modules.errors import UserError

JOURNAL_NAME = "journal.jsonl"
SLICES_NAME = ".slices.jsonl"
"""The journal of slicing, which has a form of its own; see `modules.data.clips`."""


class Journal:
    """Results by key, kept in a file that only grows.

    Args:
        path: the file; made when the first result is added. A line that a kill cut short is skipped.
        fresh: forget what is in it.
        step: whose results these are; without a name, nothing is refused.

    Raises:
        UserError: output_of_other_step.
    """

    def __init__(self, path: Path, fresh: bool = False, step: str = ""):
        self.path, self.step = path, step
        if step:
            refuse_other_step(step, path.parent)
        entries = _read(path)
        if fresh:
            path.unlink(missing_ok=True)
            entries = []
        self._results = {str(entry["key"]): dict(entry["result"]) for entry in entries}

    def get(self, key: str) -> dict[str, Any] | None:
        """The result under that key, or None."""
        return self._results.get(key)

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result; it is on disk when this returns."""
        self._results[key] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"step": self.step, "key": key, "result": result}
        # A file name that is not valid UTF-8 comes from the system with lone surrogates, which JSON can escape.
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with open(self.path, "ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # a kill cut the last line short; do not glue this one to it
            file.write(line)

    def keys(self) -> set[str]:
        """The keys of all results."""
        return set(self._results)

    def __len__(self) -> int:
        return len(self._results)


def content_key(path: Path, settings: str) -> str:
    """Hash of a file's bytes and of what is done to them.

    Raises:
        UserError: file_unreadable.
    """
    try:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as cause:
        raise UserError(
            "file_unreadable",
            "{file} cannot be opened ({cause}); check that it exists and that you may read it.",
            file=str(path),
            cause=cause.strerror or str(cause),
        ) from cause
    return hashlib.sha256(f"{content}\n{settings}".encode()).hexdigest()


def refuse_other_step(step: str, folder: Path) -> None:
    """Refuse an output folder that holds the journal of another step. Raises UserError output_of_other_step."""
    steps = {entry.get("step") or step for entry in _read(folder / JOURNAL_NAME)}
    if (folder / SLICES_NAME).is_file():
        steps.add("slice")
    others = sorted(steps - {step})
    if others:
        raise UserError(
            "output_of_other_step",
            "{folder} holds the results of another step ({step}), whose lists would be overwritten; "
            "choose another output folder.",
            folder=str(folder),
            step=", ".join(others),
        )


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, as {"step", "key", "result"}."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = json.loads(line)
            found.append({**entry, "key": str(entry["key"]), "result": dict(entry["result"])})
        except (ValueError, TypeError, KeyError):
            continue
    return found
