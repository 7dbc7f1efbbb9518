"""Which recordings a step is asked to work on: paths as people paste them, folders with everything in them."""

import errno
import os
from pathlib import Path

from modules.data.earlier import earlier_in
from modules.errors import UserError

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .mp3 .ogg .oga .opus .m4a .aac .wma .aif .aiff .aifc .caf .au .w64 .amr .ape .wv .ac3 "
    ".mp4 .m4v .mkv .webm .mov .avi .flv .ts .mpg .mpeg .3gp .wmv .mka".split()
)
"""Sound files, and films whose sound can be used; compared in lower case."""

_QUOTES = "\"'“”‘’"
# Marks of writing direction and of byte order: invisible, and pasted along from file managers and chats.
_INVISIBLE = dict.fromkeys(map(ord, "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\0"))


def clean_path(text: str | Path) -> Path:
    """The path that was meant by pasted text: without invisible marks, quotes, spaces and slashes around it.

    Text that names something existing is taken as it is.

    Raises:
        UserError: path_empty (nothing is left), path_too_long, file_unreadable (the system tells nothing of it).
    """
    given = str(text).translate(_INVISIBLE)
    if given.strip() and _exists(Path(given)):
        return Path(given)
    cleaned, before = given, None
    while cleaned != before:
        before = cleaned
        cleaned = cleaned.strip().strip(_QUOTES)
        shorter = cleaned.rstrip("/\\")
        # "/" and "C:\" are folders themselves.
        cleaned = shorter if shorter and not shorter.endswith(":") else cleaned
    if not cleaned:
        raise UserError("path_empty", "No file or folder is named; type or paste its path.")
    _exists(Path(cleaned), strict=True)
    return Path(cleaned)


def _exists(path: Path, strict: bool = False) -> bool:
    """Whether there is a file or folder. `strict` raises the UserErrors of `clean_path` where that cannot be told."""
    try:
        return path.exists()
    except OSError as cause:
        if not strict:
            return False
        if cause.errno == errno.ENAMETOOLONG:
            raise UserError(
                "path_too_long",
                "The path {path} is longer than this system allows; shorten the name or choose a shorter folder.",
                path=f"{str(path)[:60]}...{str(path)[-20:]}",
            ) from cause
        raise UserError(
            "file_unreadable",
            "{file} cannot be opened ({cause}); check that it exists and that you may read it.",
            file=str(path),
            cause=cause.strerror or str(cause),
        ) from cause


def list_audio(path: str | Path) -> list[Path]:
    """The recordings that `path` stands for, in sorted order.

    A file is taken whatever its name is. A folder is walked with all its subfolders for files with a known audio or
    video suffix; hidden files and folders are skipped, and links to folders are not followed. Results that an
    earlier run of another step left among newer ones are skipped too (`modules.data.earlier`).

    Raises:
        UserError: path_missing, and those of `clean_path`.
    """
    path = clean_path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError("path_missing", "There is no file or folder {path}; check the path.", path=str(path))
    found = []
    earlier = set().union(*map(earlier_in, Path(os.path.abspath(path)).parents))
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        earlier |= earlier_in(Path(folder))
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                found.append(Path(folder, name))
    found = [file for file in found if os.path.abspath(file) not in earlier]
    return sorted(found, key=lambda file: file.relative_to(path).parts)
