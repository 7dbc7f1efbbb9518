"""Clips into a transcribed dataset: which results are good enough, and the lists that later steps read.

Every result goes into a journal at once, so a killed run goes on where it ended and comes to the same lists.
"""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modules.corpus.journal import JOURNAL_NAME, Journal, content_key
from modules.corpus.outputs import REJECTED_NAME, write_rejected
from modules.corpus.recognition import (
    RATE_HZ,
    Recognition,
    RecognitionOptions,
    Recognizer,
    has_voice,
    list_language,
)
from modules.data.manifest import Utterance, write_list, write_manifest
from modules.data.own_lists import OwnLists
from modules.errors import Stopped, UserError
from modules.progress import StepProgress

SILENCE = "silence"
NO_WORDS = "no words"
LOW_CONFIDENCE = "low confidence"
UNREADABLE = "unreadable"
TOO_LONG = "too long without words"
REPEATED = "repeated phrase"
FAILED = "recognition failed"

MANIFEST_NAME = "manifest.jsonl"
_JUDGED_SECONDS = 3.0
_SHORTEST_SECONDS = 0.1
_SILENT_PEAK = 1e-4
_LONGEST_PHRASE = 30
_LONGEST_WORD = 12
"""Longer words on average mean a script without spaces."""
_LOOP_SHARE = 0.6


@dataclass(frozen=True)
class TranscribeReport:
    """What a run made: paths of the lists, counts, reasons with their counts, and what the user should know.

    Args:
        kept: lists of the same names that somebody had edited, under their new names.
    """

    manifest: Path
    list: Path
    clips: int
    seconds: float
    rejected: dict[str, int]
    languages: dict[str, int]
    notes: tuple[str, ...] = ()
    kept: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Outcome:
    """Of one clip: what was heard, or the reason why nothing was."""

    heard: Recognition | None
    reason: str = ""


def judge(heard: Recognition, options: RecognitionOptions) -> str:
    """Why a recognised clip is left out; empty when it is good."""
    letters = sum(character.isalnum() for character in heard.text)
    if not letters:
        return NO_WORDS
    phrase = repeated_phrase(heard.text)
    if phrase:
        return f"{REPEATED}: {phrase}"
    if heard.seconds > _JUDGED_SECONDS and heard.seconds / letters > options.max_seconds_per_letter:
        return f"{TOO_LONG}: {letters} letters in {heard.seconds:.1f} s"
    if heard.confidence < options.min_confidence:
        return f"{LOW_CONFIDENCE}: {heard.confidence:.2f}"
    return ""


def repeated_phrase(text: str) -> str:
    """The phrase that a text says over and over, as Whisper does when it loops; empty for a text that does not.

    Short phrases may be said more often than long ones before they count (see `_allowed`), and the repetitions must
    be most of the text. Words are compared where there are spaces, characters elsewhere.
    """
    plain = re.sub(r"[^\w\s]|_", " ", text.casefold())
    words = plain.split()
    spaced = len(words) > 1 and len("".join(words)) / len(words) < _LONGEST_WORD
    units = words if spaced else list("".join(words))
    for length in range(1, min(_LONGEST_PHRASE, len(units) // 3) + 1):
        run = 0
        for i in range(length, len(units)):
            run = run + 1 if units[i] == units[i - length] else 0
            said = (run + length) / length
            phrase = units[i - length + 1 : i + 1]
            if said > _allowed(phrase, spaced) and run + length >= _LOOP_SHARE * len(units):
                return (" " if spaced else "").join(phrase)
    return ""


def _allowed(phrase: list[str], spaced: bool) -> int:
    """How often people say a phrase in a row: "no, no, no, no, no" but not a whole sentence three times."""
    letters = sum(map(len, phrase)) * (1 if spaced else 2)  # a character of a script without spaces says more
    return 5 if letters <= 3 else 3 if letters <= 8 else 2


def transcribe_clips(
    items: Sequence[Utterance],
    recognizer: Recognizer,
    options: RecognitionOptions,
    output: Path,
    name: str,
    progress: StepProgress,
    fresh: bool = False,
) -> TranscribeReport:
    """Recognise clips and write `manifest.jsonl`, `{name}.list`, `rejected.jsonl` and the journal into `output`.

    Lists of an earlier run are replaced, unless somebody edited them: then they are kept under another name.

    Args:
        items: clips; their text and language are replaced, everything else is kept.
        fresh: forget what an earlier run heard.

    Raises:
        Stopped: asked for by `progress`; what was heard so far stays in the journal.
        UserError: of the model; asr_all_failed when every clip made it fail; output_of_other_step.
    """
    journal = Journal(output / JOURNAL_NAME, fresh, "transcribe")
    good: list[Utterance] = []
    rejected: list[dict[str, Any]] = []
    failed = 0
    outcomes = _outcomes(items, recognizer, options, journal, progress)
    for done, (item, outcome) in enumerate(outcomes, start=1):
        heard = outcome.heard
        reason = judge(heard, options) if heard else outcome.reason
        if heard and not reason:
            good.append(
                dataclasses.replace(
                    item,
                    text=heard.text,
                    language=heard.language,
                    seconds=heard.seconds,
                    confidence=heard.confidence,
                )
            )
        else:
            failed += reason.startswith(FAILED)
            said = {"text": heard.text, "confidence": heard.confidence} if heard else {}
            rejected.append({"file": item.audio, "reason": reason, **said})
            progress.reject(item.audio, reason)
        progress.update(done, len(items), Path(item.audio).name, [item.audio])
    if failed and failed == len(items):
        raise UserError(
            "asr_all_failed",
            "None of the {count} clips could be recognised ({cause}); try another model or device.",
            count=failed,
            cause=str(rejected[-1]["reason"]),
        )
    return _write(good, rejected, output, name, recognizer.notes)


def _write(
    good: list[Utterance], rejected: list[dict[str, Any]], output: Path, name: str, notes: Sequence[str]
) -> TranscribeReport:
    notes = list(notes)
    listed = [one for one in good if "|" not in one.audio + one.speaker]
    if len(listed) < len(good):
        notes.append(f'{len(good) - len(listed)} clips have a "|" in their path or speaker and are not in {name}.list.')
    tagged = [dataclasses.replace(one, language=list_language(one.language)) for one in listed]
    lists = OwnLists(output)
    manifest = lists.write(MANIFEST_NAME, lambda path: write_manifest(path, good))
    list_path = lists.write(f"{name}.list", lambda path: write_list(path, tagged))
    write_rejected(output / REJECTED_NAME, rejected)
    return TranscribeReport(
        manifest=manifest,
        list=list_path,
        clips=len(good),
        seconds=round(sum(one.seconds for one in good), 3),
        rejected=dict(Counter(str(row["reason"]).split(":")[0] for row in rejected)),
        languages=dict(Counter(list_language(one.language) for one in good)),
        notes=(*notes, *lists.notes()),
        kept=tuple(lists.kept),
    )


def check_targets(source: Path, output: Path, name: str) -> None:
    """Refuse to write over the list that the clips come from. Raises UserError transcribe_over_input."""
    for target in (output / each for each in (MANIFEST_NAME, f"{name}.list", REJECTED_NAME, JOURNAL_NAME)):
        if target.exists() and source.exists() and target.samefile(source):
            raise UserError(
                "transcribe_over_input",
                "The result would replace {file}, which is to be read; choose another output folder or another name "
                "(--name).",
                file=str(source),
            )


def _outcomes(
    items: Sequence[Utterance],
    recognizer: Recognizer,
    options: RecognitionOptions,
    journal: Journal,
    progress: StepProgress,
) -> Iterator[tuple[Utterance, _Outcome]]:
    """Every clip with its outcome, in order.

    Batches are cut from the whole list, finished clips included, so that a run that goes on computes the same batches.
    """
    identity = recognizer.identity
    for start in range(0, len(items), options.batch_size):
        if progress.should_stop():
            raise Stopped
        group = items[start : start + options.batch_size]
        keys = [_key(item, identity) for item in group]
        known = [journal.get(key) if key else None for key in keys]
        # What cannot be read needs no recognition, and would else have its batch heard again in every run.
        read = [_load(item) if result is None else None for item, result in zip(group, known)]
        if not any(isinstance(one, np.ndarray) for one in read):
            outcomes = [one or _restore(result or {}) for one, result in zip(read, known)]
        else:
            wavs = [_load(item) if one is None else one for item, one in zip(group, read)]
            outcomes = _recognize(wavs, recognizer, options)
            for key, outcome, before in zip(keys, outcomes, known):
                if key and before is None and not outcome.reason.startswith((UNREADABLE, FAILED)):
                    journal.add(key, _keep(outcome))
        yield from zip(group, outcomes)


def _load(item: Utterance) -> np.ndarray | _Outcome:
    """The clip's sound [S], or why it cannot be read."""
    from modules.audio.io import read

    try:
        return read(item.audio, RATE_HZ).numpy()
    except UserError as cause:
        return _Outcome(None, f"{UNREADABLE}: {' '.join(str(cause).split())}")
    except OSError as cause:
        return _Outcome(None, f"{UNREADABLE}: {cause}")


def _recognize(
    clips: Sequence[np.ndarray | _Outcome], recognizer: Recognizer, options: RecognitionOptions
) -> list[_Outcome]:
    outcomes: list[_Outcome | None] = [None] * len(clips)
    wavs: dict[int, np.ndarray] = {}
    for i, wav in enumerate(clips):
        if isinstance(wav, _Outcome):
            outcomes[i] = wav
            continue
        too_quiet = len(wav) < _SHORTEST_SECONDS * RATE_HZ or float(np.abs(wav).max()) < _SILENT_PEAK
        if too_quiet or (options.find_speech and not has_voice(wav)):
            outcomes[i] = _Outcome(None, SILENCE)
        else:
            wavs[i] = wav
    if wavs:
        for i, outcome in zip(wavs, _hear(list(wavs.values()), recognizer)):
            outcomes[i] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _hear(wavs: list[np.ndarray], recognizer: Recognizer) -> list[_Outcome]:
    """Outcomes of a batch; if it fails, of its clips one by one, so that one odd clip costs only itself."""
    try:
        return [_Outcome(heard) for heard in recognizer.recognize(wavs)]
    except (RuntimeError, ValueError) as cause:
        if len(wavs) > 1:
            return [outcome for wav in wavs for outcome in _hear([wav], recognizer)]
        return [_Outcome(None, f"{FAILED}: {' '.join(str(cause).split())[:200]}")]


def _key(item: Utterance, identity: str) -> str:
    try:
        return content_key(Path(item.audio), identity)
    except UserError:
        return ""  # told when it is read


def _keep(outcome: _Outcome) -> dict[str, Any]:
    return dataclasses.asdict(outcome.heard) if outcome.heard else {"reason": outcome.reason}


def _restore(result: dict[str, Any]) -> _Outcome:
    if "reason" in result:
        return _Outcome(None, str(result["reason"]))
    return _Outcome(Recognition(**result))


def clips_of(folder: Path, files: Sequence[Path], rows: Sequence[Utterance], speaker: str) -> list[Utterance]:
    """Utterances of the sound files of a folder; what `rows` tell of a file is kept.

    Args:
        speaker: name of the voice; empty keeps that of the row, or takes the folder's name.
    """
    told = {os.path.abspath(row.audio): row for row in rows}
    items = []
    for file in files:
        path = os.path.abspath(file)
        row = told.get(path) or Utterance(path, "", "", "")
        items.append(dataclasses.replace(row, audio=path, speaker=speaker or row.speaker or folder.name))
    return items
