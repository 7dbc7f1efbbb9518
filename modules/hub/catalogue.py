"""The published models that presets need: where they are published, which files, how large, under which licence.

The list itself is `catalogue.json`. Hashes, sizes and revisions stand there only where they are known for certain; what
is left open (an empty hash, the revision "main", a size that is not exact) is taken from the hub at the download and
written down beside the files (see modules/hub/notes.py).
"""

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modules.config import from_dict
from modules.errors import ConfigError, UserError

CATALOGUE = Path(__file__).with_name("catalogue.json")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"main|[0-9a-f]{40}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class CatalogueFile:
    """A published file.

    Args:
        name: path inside its repository, and inside its folder here.
        size_bytes: 0 = not known.
        sha256: empty = not known; then what the hub states is believed.
        size_exact: False for a size that was read off a page ("378 MB").
    """

    name: str
    size_bytes: int
    sha256: str = ""
    size_exact: bool = True


@dataclass(frozen=True)
class Entry:
    """A published model; its folder has its name.

    Args:
        purpose: what it is for, in English; `purpose_key` is the page's name for the same text.
        terms: the licence in a sentence, in English.
        repository: on the hub; `modelscope` is its name on modelscope.cn where that differs.
        revision: a commit, or "main" where none is known for certain.
        convert: (pickle, safetensors file that is made of it). A pickle that is not among `files` is not downloaded,
            but taken when it was put there by hand.
    """

    name: str
    purpose_key: str
    purpose: str
    repository: str
    revision: str
    files: tuple[CatalogueFile, ...]
    licence: str
    licence_url: str
    terms: str = ""
    non_commercial: bool = False
    convert: tuple[tuple[str, str], ...] = ()
    modelscope: str = ""

    @property
    def total_bytes(self) -> int:
        """Of all files to be downloaded, as far as it is known."""
        return sum(file.size_bytes for file in self.files)

    @property
    def pinned(self) -> bool:
        """Whether the hash of every file is known beforehand."""
        return all(file.sha256 for file in self.files)

    def kept_name(self, name: str) -> str:
        """Under which name a published file lies here in the end."""
        return dict(self.convert).get(name, name)


@functools.cache
def load_catalogue(path: Path = CATALOGUE) -> dict[str, Entry]:
    """All entries by name, in the order of the file. Raises ConfigError when the file is not a valid catalogue."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        entries = [from_dict(Entry, value, str(value.get("name"))) for value in values]
        for entry in entries:
            _check(entry)
    except (OSError, ValueError, TypeError, AttributeError) as cause:
        raise ConfigError(
            "catalogue_broken", "{file} is not a valid catalogue of models: {cause}", file=str(path), cause=cause
        ) from cause
    return {entry.name: entry for entry in entries}


def find_entry(name: str, catalogue: dict[str, Entry] | None = None) -> Entry:
    """The entry of that name. Raises UserError: model_unknown."""
    entries = load_catalogue() if catalogue is None else catalogue
    if name not in entries:
        raise UserError(
            "model_unknown",
            "There is no model {name} in the catalogue; choose one of {valid}.",
            name=name,
            valid=", ".join(entries),
        )
    return entries[name]


def is_safe_name(name: str) -> bool:
    """Whether a file name stays inside the folder it is joined to, on every system."""
    parts = PurePosixPath(name).parts
    return bool(parts) and all(_PART.fullmatch(part) and not _DEVICES.fullmatch(part) for part in parts)


def _check(entry: Entry) -> None:
    """Raises ValueError, naming the entry, for a value that no download could be trusted with."""
    names = [file.name for file in entry.files]
    unsafe = [name for name in (entry.name, *names, *sum(entry.convert, ())) if not is_safe_name(name)]
    if unsafe:
        raise ValueError(f"{entry.name}: unsafe names {unsafe}")
    if not names or len(set(names)) != len(names) or any(len(pair) != 2 for pair in entry.convert):
        raise ValueError(f"{entry.name}: files and conversions must be named once each")
    if not _REVISION.fullmatch(entry.revision):
        raise ValueError(f"{entry.name}: revision {entry.revision} is neither a commit nor main")
    for repository in (entry.repository, entry.modelscope or entry.repository):
        if not _REPOSITORY.fullmatch(repository):
            raise ValueError(f"{entry.name}: {repository} is no repository")
    for file in entry.files:
        if file.sha256 and not _SHA256.fullmatch(file.sha256):
            raise ValueError(f"{entry.name}: {file.name} has no valid sha256")
        if file.size_bytes < 0:
            raise ValueError(f"{entry.name}: {file.name} has a negative size")
