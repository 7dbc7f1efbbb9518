"""Clips that a report says are to be left out (`tools.corpus clean` writes such reports)."""

import json
from pathlib import Path

from modules.errors import UserError


def read_dropped(path: Path) -> frozenset[str]:
    """Keys of the rows that a report lists under "dropped".

    Raises:
        UserError: drop_list_unreadable.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["dropped"]
        return frozenset(str(row["key"]) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise UserError(
            "drop_list_unreadable",
            "{file} is not a report of clips to leave out; choose one written by tools.corpus clean.",
            file=str(path),
        ) from cause
