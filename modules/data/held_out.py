"""Lines that are never trained on, so that a training can be judged by them: chosen once, and kept."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from modules.data.manifest import Utterance, write_whole
from modules.data.store import entry_key

SHARE = 0.05
FEWEST, ENOUGH, MOST = 2, 4, 64
"""Lines held out: of a small dataset every eighth until there are enough of them to compare weights by."""
FEWEST_CLIPS = 8
"""A dataset of fewer clips is trained on whole: held out, they would be missed more than they tell."""


def hold_out(utterances: Sequence[Utterance], memory: Path) -> list[Utterance]:
    """The utterances with split "dev" for those that are held out and "train" for the others.

    A list that names splits of its own is taken at its word. A recording keeps its split when lines are added or its
    text is corrected, and the share of held-out lines is made up from the new ones alone.

    Args:
        utterances: the whole dataset.
        memory: JSON file that tells the splits of an earlier time; written anew.
    """
    if any(utterance.split != "train" for utterance in utterances):
        return list(utterances)
    known = _read(memory)
    names = [entry_key(utterance.audio) for utterance in utterances]
    few = max(FEWEST, min(ENOUGH, len(names) // 8))
    wanted = min(MOST, max(few, round(SHARE * len(names)))) if len(names) >= FEWEST_CLIPS else 0
    held = {name for name in names if known.get(name) == "dev"}
    fresh = sorted(name for name in set(names) if name not in known)  # a hash's order is as good as a draw
    held |= set(fresh[: max(0, wanted - len(held))])
    splits = {name: "dev" if name in held else "train" for name in names}
    write_whole(memory, [json.dumps(known | splits, indent=0, sort_keys=True).encode()])
    return [dataclasses.replace(u, split=splits[name]) for u, name in zip(utterances, names, strict=True)]


def _read(memory: Path) -> dict[str, str]:
    try:
        values = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
