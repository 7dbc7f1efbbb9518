"""Voices to speak in: the bundled examples, a list, or a folder of recordings."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from modules.audio.io import probe
from modules.data.manifest import read_manifest
from modules.data.store import entry_key
from modules.errors import UserError
from modules.evaluation.clips import REFERENCE_SECONDS, Clip, VoiceTest
from modules.paths import EXAMPLES

SUFFIXES = frozenset((".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".webm", ".aac", ".wma"))


def example_clips() -> list[Clip]:
    """The voices that come with the program."""
    entries = json.loads((EXAMPLES / "voices.json").read_text(encoding="utf-8"))
    return [_clip(EXAMPLES / entry["file"], entry["name"], "", entry["text"]) for entry in entries]


def listed_clips(path: Path) -> list[Clip]:
    """The recordings of a dataset list (`wav|speaker|LANG|text`, JSON lines or a table).

    Raises:
        UserError: what `read_manifest` raises.
    """
    return [_clip(Path(u.audio), u.speaker, u.language, u.text) for u in read_manifest(path)]


def folder_clips(folder: Path) -> list[Clip]:
    """Every recording below a folder; a recording in a folder of its own is said by the speaker of that name, others
    by themselves. A text file of the same name beside it holds what is said.

    Raises:
        UserError: references_none; words_unreadable.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    clips = []
    for path in files:
        said = path.with_suffix(".txt")
        text = _words(said) if said.is_file() else ""
        clips.append(_clip(path, path.stem if path.parent == folder else path.parent.name, "", text))
    if not clips:
        raise UserError(
            "references_none",
            "There are no recordings in {folder}; choose a folder that holds some.",
            folder=str(folder),
        )
    return clips


def _words(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as cause:
        raise UserError(
            "words_unreadable",
            "The words of a recording in {file} cannot be read: {defect}; save the file as UTF-8 text.",
            file=str(path),
            defect=str(cause),
        ) from cause


def _clip(path: Path, speaker: str, language: str, text: str) -> Clip:
    key = entry_key("reference", str(path.resolve()), str(path.stat().st_mtime_ns) if path.is_file() else "", text)
    return Clip(key, speaker or path.stem, language, text, probe(path).seconds, "recorded", path=str(path))


def as_voices(clips: Iterable[Clip]) -> list[VoiceTest]:
    """One voice a speaker: the longest clip of a handy length, else the longest, is the reference; the others are what
    outputs are compared with."""
    by_speaker: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_speaker[clip.speaker].append(clip)
    low, high = REFERENCE_SECONDS
    voices = []
    for speaker, members in by_speaker.items():
        handy = [clip for clip in members if low <= clip.seconds <= high] or members
        reference = max(handy, key=lambda clip: (min(clip.seconds, 8.0), clip.key))
        voices.append(VoiceTest(speaker, reference, tuple(clip for clip in members if clip.key != reference.key)))
    return voices
