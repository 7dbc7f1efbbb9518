"""Real slicing and transcription as jobs: killed half way they are failed, go on, and end like unbroken runs; a stop
leaves none of their processes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.corpus.tiny_whisper import build_tiny_whisper
from tests.tiny import synthetic_speech, write_wav
from tools.jobs import Job, JobStore

RECORDINGS = 24
STOP_SECONDS = 5.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings to be sliced, and a tiny Whisper in the real format."""
    folder = tmp_path_factory.mktemp("killed")
    for number in range(RECORDINGS):
        wav = synthetic_speech(6.0, 32000, 100 + 4 * number, number)
        write_wav(folder / "my recordings" / f"第 {number:02d}.wav", wav)
    build_tiny_whisper(folder / "whisper")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs")
    yield store
    store.close()
    for job in JobStore(tmp_path / "jobs").jobs():
        job.stop(0)


def until(true: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def slicing(store: JobStore, place: Path, output: Path, processes: int = 1) -> Job:
    flags = [f"--input={place / 'my recordings'}", f"--output={output}", f"--processes={processes}"]
    return store.start("slice", "tools.slice", flags, str(output))


def transcription(store: JobStore, clips: Path, output: Path, model: Path) -> Job:
    flags = [f"--input={clips}", f"--output={output}", f"--model={model}", "--no-find-speech"]
    flags += ["--min-confidence=0", "--max-seconds-per-letter=60"]  # random weights say little, and not surely
    return store.start("transcribe", "tools.transcribe", flags, str(output))


def done(job: Job) -> Job:
    until(lambda: job.state() not in ("waiting", "running"))
    assert job.state() == "done", job.log_tail()
    return job


def killed(store: JobStore, job: Job, made: Callable[[], int]) -> JobStore:
    """Kill a job when it has made a few of its results, and start the app anew: there it has failed, with a cause."""
    until(lambda: made() >= 3)
    os.kill(job.config().pid or 0, getattr(signal, "SIGKILL", signal.SIGTERM))
    store.close()
    again = JobStore(store.folder)
    same = again.job(job.id)
    until(lambda: same.state() != "running")
    assert same.state() == "failed" and same.progress().done < same.progress().total
    failure = same.failure()
    assert failure is not None and failure.code and "Traceback" not in str(failure)
    return again


def told(folder: Path) -> dict[str, bytes]:
    """The lists and sounds of a folder, with its own path left out of them."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in (".jsonl", ".list", ".wav")]
    return {path.name: path.read_bytes().replace(os.fsencode(folder), b"HERE") for path in found if path.name[0] != "."}


def test_killed_jobs_fail_and_go_on_to_the_same_end(store: JobStore, place: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done(slicing(store, place, whole))
    store = killed(store, slicing(store, place, broken), lambda: len(list(broken.glob("*.wav"))))
    half = {path: path.stat().st_mtime_ns for path in broken.glob("*.wav")}
    assert 0 < len(half) < len(list(whole.glob("*.wav")))
    done(slicing(store, place, broken))
    assert told(whole) == told(broken) and len(told(whole)) > RECORDINGS
    kept = [path for path, written in half.items() if path.stat().st_mtime_ns == written]
    assert len(kept) >= len(half) - 2, "what was finished before the kill is not done again"

    model = place / "whisper" / "converted"
    done(transcription(store, whole, tmp_path / "texts", model))
    journal = tmp_path / "texts again" / "journal.jsonl"
    job = transcription(store, whole, tmp_path / "texts again", model)
    store = killed(store, job, lambda: journal.read_bytes().count(b"\n") if journal.exists() else 0)
    done(transcription(store, whole, tmp_path / "texts again", model))
    first, second = told(tmp_path / "texts"), told(tmp_path / "texts again")
    assert first == second and first["manifest.jsonl"].count(b"\n") >= 3


def test_a_stop_leaves_no_process_of_a_real_step(store: JobStore, place: Path, tmp_path: Path) -> None:
    job = slicing(store, place, tmp_path / "out", processes=2)
    leader = psutil.Process(job.config().pid)
    until(lambda: len(leader.children(recursive=True)) >= 2)
    family = [leader, *leader.children(recursive=True)]
    begin = time.monotonic()
    job.stop()
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family), 30)
    assert time.monotonic() - begin < STOP_SECONDS
    assert job.state() == "stopped"
    assert not list((tmp_path / "out").rglob("*.tmp"))
