"""Voices to speak in: the bundled examples, a list, or a folder of recordings."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from modules.audio.io import probe
from modules.data.manifest import read_manifest
from modules.data.sources import list_audio
from modules.data.store import entry_key
from modules.errors import UserError
from modules.evaluation.clips import REFERENCE_SECONDS, Clip, VoiceTest, base_language
from modules.paths import EXAMPLES

LeaveOut = Callable[[Path, UserError], None]
"""Gets a recording that cannot be read, and why."""


def example_clips() -> list[Clip]:
    """The voices that come with the program."""
    entries = json.loads((EXAMPLES / "voices.json").read_text(encoding="utf-8"))
    return [_clip(EXAMPLES / entry["file"], entry["name"], "", entry["text"]) for entry in entries]


def listed_clips(path: Path, leave_out: LeaveOut | None = None) -> list[Clip]:
    """The recordings of a dataset list (`wav|speaker|LANG|text`, JSON lines or a table); one that cannot be read is
    left out.

    Raises:
        UserError: what `read_manifest` raises; audio_missing, audio_empty, audio_unreadable where none can be read.
    """
    wanted = [(Path(u.audio), u.speaker, base_language(u.language), u.text) for u in read_manifest(path)]
    return _readable(wanted, leave_out)


def folder_clips(folder: Path, leave_out: LeaveOut | None = None) -> list[Clip]:
    """Every recording below a folder that can be read; a recording in a folder of its own is said by the speaker of
    that name, others by themselves. A text file of the same name beside it holds what is said.

    Raises:
        UserError: references_none; words_unreadable; audio_empty, audio_unreadable where none can be read.
    """
    folder = Path(folder)
    files = list_audio(folder) if folder.is_dir() else []
    if not files:
        raise UserError(
            "references_none",
            "There are no recordings in {folder}; choose a folder that holds some.",
            folder=str(folder),
        )
    wanted = []
    for path in files:
        said = path.with_suffix(".txt")
        text = _words(said) if said.is_file() else ""
        wanted.append((path, path.stem if path.parent == folder else path.parent.name, "", text))
    return _readable(wanted, leave_out)


def _readable(wanted: Iterable[tuple[Path, str, str, str]], leave_out: LeaveOut | None) -> list[Clip]:
    """Clips of (path, speaker, language, text); the first defect is raised where nothing is left."""
    clips, first = [], None
    for path, speaker, language, text in wanted:
        try:
            clips.append(_clip(path, speaker, language, text))
        except UserError as error:
            first = first or error
            if leave_out is not None:
                leave_out(path, error)
    if not clips and first is not None:
        raise first
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
