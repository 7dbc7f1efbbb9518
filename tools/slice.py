"""Cut recordings into clips at their silences or around their voices.

    python -m tools.slice --input recordings/ --output output/slices
    python -m tools.slice --input talk.m4a --output output/slices --method voice --max-seconds 10

Clips, `clips.jsonl` and `rejected.jsonl` appear in the output folder. Run again after an interruption, only what is
missing is made. Clips of an earlier cut stay, for lists that name them, until --clean deletes them.
"""

import argparse
import functools
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from modules.audio.slicing import Cut, SliceOptions, check
from modules.corpus.journal import refuse_other_step
from modules.data.clips import (
    MANIFEST_NAME,
    REJECTED_NAME,
    SliceJournal,
    SliceRecord,
    Source,
    name_sources,
    rejected,
    slice_source,
    write_results,
)
from modules.data.sources import clean_path, list_audio
from modules.errors import Stopped, UserError
from modules.progress import StepProgress
from modules.runtime import set_threads
from tools.flags import add_options, options_from
from tools.running import run_step, say

USUAL_PROCESSES = 4
_LOOK_SECONDS = 0.5
_DIED = "The process that read it was ended from outside or crashed; convert the file to wav, or use fewer processes."


@dataclass(frozen=True)
class _Task:
    """One recording to cut; `known` are the cuts of an earlier run, if only clips are missing."""

    source: Source
    output: Path
    options: SliceOptions
    known: tuple[Cut, ...] | None = None

    def run(self) -> SliceRecord:
        return slice_source(self.source, self.output, self.options, self.known)


def main(argv: list[str] | None = None) -> int:
    """Parse flags and slice; 0 done, 2 a mistake in the input, 3 stopped."""
    arguments = _parser().parse_args(argv)
    work = functools.partial(_run, arguments)
    return run_step(work, arguments.job, stopped="stopped; run the same command again to go on")


def _run(arguments: argparse.Namespace, progress: StepProgress) -> None:
    options = options_from(arguments, SliceOptions)
    check(options)
    root, output = clean_path(arguments.input), clean_path(arguments.output)
    sources = _sources(root, output)
    speaker = arguments.speaker or (root.resolve().name if root.is_dir() else root.stem)
    started = time.monotonic()
    try:
        refuse_other_step("slice", output)
        journal = SliceJournal(output)
        sources = journal.name(sources)
        tasks, records = _plan(sources, options, journal)
        already = len(records)
        _work(tasks, records, arguments.processes, journal, progress)
        written = write_results(output, [records[source] for source in sources], speaker, arguments.clean)
        journal.close()
    except OSError as cause:
        raise UserError(
            "output_folder_unwritable",
            "Nothing can be written to {folder} ({cause}); free some space or choose another folder.",
            folder=str(output),
            cause=cause,
        ) from cause
    elapsed = max(time.monotonic() - started, 1e-6)
    notes = list(written.notes)
    if written.earlier:
        notes.append(
            f"{len(written.earlier)} clips of earlier runs stay in the folder, for lists that name them, "
            f"but are not in {MANIFEST_NAME}; --clean deletes them."
        )
    read_seconds = sum(records[task.source].seconds for task in tasks)
    result = {
        "manifest": str(output / MANIFEST_NAME),
        "rejected": str(output / REJECTED_NAME),
        "files": len(sources),
        "files_rejected": sum(bool(record.reason) for record in records.values()),
        "files_already_done": already,
        "clips": len(written.utterances),
        "clip_seconds": round(sum(utterance.seconds for utterance in written.utterances), 2),
        "earlier_clips": len(written.earlier),
        "kept": [str(path) for path in written.kept],
        "notes": notes,
        "read_seconds": round(read_seconds, 2),
        "times_real_time": round(read_seconds / elapsed, 1),
    }
    say("{clips} clips, {clip_seconds} s, from {files} recordings; {files_rejected} left out".format(**result))
    say(f"{read_seconds:.1f} s of sound in {elapsed:.1f} s: {read_seconds / elapsed:.1f} times real time")
    for note in notes:
        say(note)
    progress.finish(result)


def _plan(
    sources: Sequence[Source], options: SliceOptions, journal: SliceJournal
) -> tuple[list[_Task], dict[Source, SliceRecord]]:
    """What is to be done, and the records of what an earlier run has done."""
    tasks, done = [], {}
    for source in sources:
        earlier = journal.known(source, options)
        if earlier is not None and journal.is_complete(earlier):
            done[source] = earlier
        else:
            tasks.append(_Task(source, journal.output, options, earlier.cuts if earlier else None))
    return tasks, done


def _work(
    tasks: Sequence[_Task],
    records: dict[Source, SliceRecord],
    processes: int,
    journal: SliceJournal,
    progress: StepProgress,
) -> None:
    """Do the tasks, and add their records to `records`."""
    total = len(records) + len(tasks)
    message = f"{len(records)} of {total} recordings are sliced already" if records else ""
    progress.update(len(records), total, message)
    for task, record in _each(tasks, processes, journal, progress):
        records[task.source] = record
        journal.add(record)
        if record.reason:
            progress.reject(record.source, record.reason)
        made = [journal.output / name for name in record.clip_names()]
        progress.update(len(records), message=f"{task.source.path.name}: {len(made)} clips", files=made)


def _sources(root: Path, output: Path) -> list[Source]:
    if root.is_dir() and root.resolve() == output.resolve():
        raise UserError(
            "slice_same_folder",
            "The clips would land among the recordings in {folder}; choose another output folder.",
            folder=str(root),
        )
    # Clips of an earlier run that lie inside of the input folder are no recordings.
    inside = output.resolve()
    paths = [path for path in list_audio(root) if path == root or not path.resolve().is_relative_to(inside)]
    if not paths:
        raise UserError(
            "audio_none_found",
            "There is no audio or video file in {folder} or its subfolders; choose another folder, or convert the "
            "recordings to wav or flac.",
            folder=str(root),
        )
    return name_sources(paths, root)


def _each(
    tasks: Sequence[_Task], processes: int, journal: SliceJournal, progress: StepProgress
) -> Iterator[tuple[_Task, SliceRecord]]:
    """The tasks with their records, in the order in which they end; raises Stopped between two recordings."""
    processes = min(processes, len(tasks))
    if processes <= 1:
        set_threads(1)
        for task in tasks:
            if progress.should_stop():
                raise Stopped
            if task.known is None:
                journal.begin(task.source)
            yield task, task.run()
        return
    waiting = deque(tasks)
    while waiting:
        lost: list[_Task] = []
        yield from _pooled(waiting, processes, journal, progress, lost)
        for task in lost:  # the one among them that kills its process shows when it runs alone
            again: list[_Task] = []
            yield from _pooled(deque([task]), 1, journal, progress, again)
            if again:
                yield task, rejected(task.source, task.options, _DIED)


def _pooled(
    waiting: deque[_Task], processes: int, journal: SliceJournal, progress: StepProgress, lost: list[_Task]
) -> Iterator[tuple[_Task, SliceRecord]]:
    """Work off `waiting` in processes of one thread each; ends early with `lost` filled when a process dies."""
    stopping = False
    running: dict[Future[SliceRecord], _Task] = {}
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=set_threads, initargs=(1,)) as pool:
        while running or (waiting and not lost and not stopping):
            stopping = stopping or progress.should_stop()
            while waiting and len(running) < processes and not lost and not stopping:
                task = waiting.popleft()
                if task.known is None:
                    journal.begin(task.source)
                try:
                    running[pool.submit(task.run)] = task
                except BrokenProcessPool:
                    lost.append(task)
            for future in wait(running, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    record = future.result()
                except BrokenProcessPool:
                    lost.append(task)
                    continue
                yield task, record
    if stopping and (waiting or lost):
        raise Stopped


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.slice", description=__doc__.split("\n")[0])
    parser.add_argument("--input", required=True, help="recording, or folder that is walked with its subfolders")
    parser.add_argument("--output", required=True, help="folder of the clips and their manifest")
    parser.add_argument("--speaker", default="", help="name of the voice; the input's name when left out")
    parser.add_argument(
        "--processes", type=int, default=min(USUAL_PROCESSES, os.cpu_count() or 1),
        help="recordings cut at the same time",
    )  # fmt: skip
    parser.add_argument(
        "--clean", action="store_true", help="delete clips of earlier runs that clips.jsonl does not name"
    )
    parser.add_argument("--job", type=Path, help="run folder that progress is reported to")
    add_options(parser.add_argument_group("how to cut"), SliceOptions, show_defaults=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
