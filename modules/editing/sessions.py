"""How an editing session begins: which lists the journal in a work folder belongs to, and whether it still does.

The journal's first line names the lists with the hash of their bytes, and has an id of its own: an editor that still
has an older journal of the same lists open must not take a new one for it. A copy of each is kept, by its hash, because
the edits are edits of those bytes: the list itself may later be overwritten by an export.
"""

import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from modules.data.manifest import write_whole
from modules.data.validation import Checked, check_manifest
from modules.editing.journal import Journal
from modules.errors import UserError

IfChanged = Literal["ask", "keep_aside", "start_over"]
_VERSION = 1
_COPIES_FOLDER = "source"


def begin(
    journal: Journal,
    paths: Sequence[Path],
    audio_folder: str | Path | None,
    if_changed: IfChanged,
    *,
    anew: bool = False,
) -> tuple[Checked, list[dict[str, Any]]]:
    """The lists as they were when editing began, and the journal: its header, and the edits since. Under its lock.

    Args:
        journal: not read yet, unless `anew`.
        paths: the lists.
        audio_folder: where their audio lies, if not where they say.
        if_changed: see `DatasetEditor.open`.
        anew: the journal proved useless; give it up in the way that `if_changed` says.

    Raises:
        UserError: see `DatasetEditor.open`.
    """
    contents = [_content(path) for path in paths]
    records: list[dict[str, Any]] = []
    if anew:
        _give_up(journal, if_changed)
    else:
        try:
            records = journal.read_new()
            if records:
                _compare(journal, records, paths, contents)
        except UserError as error:
            if if_changed == "ask" or error.code == "edits_other_source":
                raise
            _give_up(journal, if_changed)
            records = []
    if not records:
        records = [_start(journal, paths, contents)]
    copies = [journal.folder / source["copy"] for source in records[0]["sources"]]
    checked = check_manifest(paths, audio_folder, require_audio=False, contents=copies)
    return checked, records


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(
            "manifest_missing",
            "There is no dataset list {file}; check the path, or run the step that writes it.",
            file=str(path),
        )
    return path.read_bytes()


def _start(journal: Journal, paths: Sequence[Path], contents: Sequence[bytes]) -> dict[str, Any]:
    """Keep copies of the lists and write the journal's first line."""
    sources = []
    for path, content in zip(paths, contents, strict=True):
        digest = hashlib.sha256(content).hexdigest()
        copy = f"{_COPIES_FOLDER}/{digest[:16]}{path.suffix}"
        write_whole(journal.folder / copy, [content])
        sources.append({"file": str(path.absolute()), "sha256": digest, "copy": copy})
    header = {"kind": "open", "version": _VERSION, "id": secrets.token_hex(8), "sources": sources}
    journal.append(header)
    return header


def _compare(
    journal: Journal, records: Sequence[dict[str, Any]], paths: Sequence[Path], contents: Sequence[bytes]
) -> None:
    """Refuse a journal of other lists, of lists that somebody else has changed, or without its copies."""
    try:
        header = records[0]
        if header["kind"] != "open" or header["version"] != _VERSION:
            raise ValueError("not a journal of this version")
        sources = [(source["file"], source["sha256"], journal.folder / source["copy"]) for source in header["sources"]]
        exports = [record for record in records if record["kind"] == "export"]
        exported = {record["sha256"] for record in exports if record.get("source", True)}
    except (LookupError, TypeError, ValueError) as cause:
        raise journal.damaged(1) from cause
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    ours = len(sources) == len(paths)
    changed = [] if ours else list(paths)
    if ours:
        pairs = zip(paths, digests, sources, strict=True)
        changed = [path for path, digest, source in pairs if digest not in {source[1], *exported}]
        ours = not changed or [source[0] for source in sources] == [str(path.absolute()) for path in paths]
    if not ours:
        raise UserError(
            "edits_other_source",
            "{folder} holds the edits of {files}; choose another work folder for this list.",
            folder=str(journal.folder),
            files=", ".join(source[0] for source in sources),
        )
    if changed:
        raise UserError(
            "source_changed",
            "{file} was changed since it was edited here. Open it as it is now, and the edits are kept as {kept}: "
            "to get them back later, put {copy} in the place of the list and rename {kept} to edits.jsonl. "
            "Or start over without them.",
            file=str(changed[0]),
            kept=str(journal.aside),
            copy=str(sources[[str(path) for path in paths].index(str(changed[0]))][2]),
        )
    for _, digest, copy in sources:
        if not copy.is_file() or hashlib.sha256(copy.read_bytes()).hexdigest() != digest:
            raise journal.damaged(1)


def _give_up(journal: Journal, if_changed: IfChanged) -> None:
    if if_changed == "keep_aside":
        journal.set_aside()
    else:
        journal.remove()
