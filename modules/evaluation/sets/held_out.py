"""What no corpus may hold: the texts that models are judged with."""

from modules.corpus.cleaning import phrase_key
from modules.evaluation.sets.shipped import NAMES, load_set


def held_out_keys() -> frozenset[str]:
    """Keys (`phrase_key`) of all shipped texts. Single words and letters are everybody's."""
    keys: set[str] = set()
    for entry in (entry for name in NAMES for entry in load_set(name)):
        if entry.get("kind") not in ("word", "letter"):
            parts = entry.get("parts", [entry])
            texts = [part.get(name) for part in parts for name in ("text", "statement", "question")]
            keys |= {phrase_key(text) for text in texts if text}
    return frozenset(keys - {""})
