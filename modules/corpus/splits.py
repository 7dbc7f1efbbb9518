"""Which texts and voices belong to train, dev and test, and the file that says so.

A text's split follows from a hash of its letters, hence the same sentence lands in the same split in every corpus,
whatever the seed and whoever speaks it.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from modules.corpus.cleaning import phrase_key

HELD_PERCENT = 6  # of the texts, for dev and for test each
FILE_NAME = "splits.json"


def text_split(text: str) -> str:
    """ "train", "dev" or "test" for a text."""
    digest = hashlib.sha256(phrase_key(text).encode()).digest()
    place = int.from_bytes(digest[:4], "big") % 100
    if place < HELD_PERCENT:
        return "test"
    return "dev" if place < 2 * HELD_PERCENT else "train"


def held_count(utterances: int) -> int:
    """Utterances of dev (and of test) out of `utterances`: 3 %, at least 150, never more than a tenth."""
    return min(max(150, round(0.03 * utterances)), utterances // 10)


def write_splits(folder: Path, speakers: dict[str, list[str]], texts: dict[str, Iterable[str]]) -> Path:
    """Write `splits.json`: the speakers and the text keys of each split."""
    path = Path(folder) / FILE_NAME
    document = {
        "speakers": {split: sorted(names) for split, names in speakers.items()},
        "texts": {split: sorted({phrase_key(text) for text in found}) for split, found in texts.items()},
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(temporary, path)
    return path
