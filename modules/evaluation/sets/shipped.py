"""Texts that come with the judge, in no training text, each with its phones: whoever judges needs no corpus.

`read_again` computes the phones with eSpeak NG and stores them; judging reads the stored ones.
"""

import json
from pathlib import Path
from typing import Any

from modules.checkpoint import write_atomic
from modules.data.store import entry_key
from modules.errors import UserError
from modules.evaluation.clips import Clip, base_language
from modules.evaluation.failures.rules import usual_seconds
from modules.evaluation.sets.readings import PhoneReader

FOLDER = Path(__file__).resolve().parent.parent / "sentences"
NAMES = ("plain", "switching", "melody", "plausible")
SHIPPED = "shipped"


def load_set(name: str) -> list[dict[str, Any]]:
    """The entries of one of `NAMES`."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def written_clip(text: str, language: str, phones: tuple[str, ...], source: str = SHIPPED) -> Clip:
    """A sentence that nobody said."""
    key = entry_key(source, language, text)
    return Clip(key, "", language, text, usual_seconds(phones), source, phones=phones)


def entry_clip(entry: dict[str, Any]) -> Clip:
    """An entry with `text`, `language` and `phones`."""
    return written_clip(entry["text"], entry["language"], tuple(entry.get("phones", "").split()))


def plain_sentences() -> list[Clip]:
    """The sentences of all languages, in their order."""
    return [entry_clip(entry) for entry in load_set("plain")]


def texts_of(path: Path, reader: PhoneReader) -> list[Clip]:
    """Sentences of one's own: JSON lines with `text` and `language` (and `phones`, if known), or `language|text`.

    Raises:
        UserError: texts_unreadable naming the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as cause:
        raise _unreadable(path, 0, str(cause)) from cause
    clips = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        entry = _entry(path, number, line.strip())
        phones = entry.get("phones")
        read = reader.phones(entry.get("reading") or entry["text"], entry["language"]) if not phones else None
        found = tuple(phones.split()) if phones else read
        clips.append(written_clip(entry["text"], entry["language"], found or (), "given"))
    if not clips:
        raise _unreadable(path, 0, "it holds no text")
    return clips


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    if line.startswith("{"):
        try:
            entry = json.loads(line)
        except ValueError as cause:
            raise _unreadable(path, number, str(cause)) from cause
    else:
        language, bar, text = line.partition("|")
        entry = {"language": language.strip(), "text": text.strip()} if bar else {}
    if not all(isinstance(entry.get(name), str) and entry[name].strip() for name in ("language", "text")):
        raise _unreadable(path, number, "a language and a text are needed")
    if isinstance(entry.get("phones"), list) and all(isinstance(label, str) for label in entry["phones"]):
        entry["phones"] = " ".join(entry["phones"])
    for name in ("phones", "reading"):
        if not isinstance(entry.get(name) or "", str):
            raise _unreadable(path, number, f"{name} must be text")
    return entry | {"language": base_language(entry["language"])}


def _unreadable(path: Path, number: int, defect: str) -> UserError:
    return UserError(
        "texts_unreadable",
        "{file}, line {line}: {defect}; write one text a line as language|text, or as JSON with language and text.",
        file=str(path),
        line=number,
        defect=defect,
    )


def texts_in(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What has a text of one language: the entries, or the parts of entries that mix languages."""
    return [part for entry in entries for part in entry.get("parts", [entry]) if "text" in part]


def read_again(reader: PhoneReader) -> dict[str, int]:
    """Compute and store the phones of every text; returns how many texts of each set could be read. A text that cannot
    be read keeps the phones that it has.

    Raises:
        UserError: judge_sentences_unread where none can be read; nothing is stored then.
    """
    sets = {name: load_set(name) for name in NAMES}
    counts: dict[str, int] = {}
    for name, entries in sets.items():
        for part in texts_in(entries):
            phones = reader.phones(part.get("reading") or part["text"], part["language"])
            if phones:
                part["phones"] = " ".join(phones)
            counts[name] = counts.get(name, 0) + bool(phones)
    if not any(counts.values()):
        raise UserError(
            "judge_sentences_unread",
            "None of the written sentences could be read into phones, and nothing was changed. {reason}",
            reason=reader.reason,
        )
    for name, entries in sets.items():
        save_set(name, entries)
    return counts


def save_set(name: str, entries: list[dict[str, Any]]) -> Path:
    """Write the entries of a set."""
    document = json.dumps(entries, ensure_ascii=False, indent=1) + "\n"
    return write_atomic(FOLDER / f"{name}.json", document.encode("utf-8"))
