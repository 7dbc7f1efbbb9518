"""What a job promises: it is seen from anywhere, ends as a whole, never lies about its end, and waits its turn."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from modules.errors import UserError
from modules.paths import PROJECT_ROOT
from modules.processes import Started, find_leader
from modules.progress import write_json
from tools.jobs import CONFIG_NAME, LOG_NAME, Job, JobStore

POSIX = os.name == "posix"
# One small program for every tale; the "module" of a job chooses one.
CHILD = """
import os, signal, subprocess, sys, time
from pathlib import Path
from modules.errors import UserError
from modules.progress import StepProgress

tale, *arguments = sys.argv[1:]
folder = Path(arguments[-1])
if tale == "work":
    print("drawn\\rdrawn over")
    with StepProgress(folder, 4) as progress:
        progress.update(1, message="a.wav", files=["a.wav"])
        progress.reject("b.wav", "no audio inside")
        progress.update(3, message="c.wav", files=["c.wav"])
        progress.finish({"arguments": arguments})
elif tale == "turn":
    for word in ("begin", "end"):
        with open(arguments[0], "a") as file:
            file.write(word + "\\n")
        time.sleep(0.2)
    with StepProgress(folder) as progress:
        progress.finish({})
elif tale == "raise":
    raise RuntimeError(arguments[0])
elif tale == "refuse":
    with StepProgress(folder):
        raise UserError("path_missing", "There is no {path}.", path="a{b}.wav")
elif tale == "exit":
    print("last words")
    sys.exit(int(arguments[0]))
elif tale == "late":
    (folder / "up").touch()
    while not (folder / "stop").exists():
        time.sleep(0.02)
    raise RuntimeError("broken")
elif tale == "polite":
    (folder / "up").touch()
    while not (folder / "stop").exists():
        time.sleep(0.02)
    sys.exit(3)
elif tale == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    orphan = "import subprocess, sys; print(subprocess.Popen(%r, start_new_session=%s, stdout=2).pid)"
    lost = [sys.executable, "-S", "-c"]
    pids = [os.getpid(), subprocess.Popen(sleep).pid]
    for session in (False, True):
        pids.append(int(subprocess.run([*lost, orphan % (sleep, session)], stdout=-1, text=True).stdout))
    if arguments[0] == "leave":
        print(*pids)
        os._exit(1)
    (folder / "up").write_text(" ".join(map(str, pids)))
    time.sleep(600)
"""
COMMAND = (sys.executable, "-S", "-c", CHILD)
APP = """
import sys
from tools.jobs import JobStore
store = JobStore(sys.argv[1], command=sys.argv[2:])
store.start("one", "stubborn", ["stay"], "one")
store.start("two", "work", [], "two")
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "my jobs", command=COMMAND)
    yield store
    store.close()
    for job in store.jobs():
        job.stop(0)


def until(true: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def ended(job: Job) -> str:
    until(lambda: job.state() not in ("waiting", "running"))
    return job.state()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start(store: JobStore, tale: str, *arguments: str, key: str = "", light: bool = True) -> Job:
    return store.start(tale, tale, arguments, key or tale, "light" if light else "heavy")


def cause(job: Job) -> UserError:
    assert ended(job) == "failed"
    failure = job.failure()
    assert failure is not None
    return failure


def test_progress_result_and_log_arrive(store: JobStore) -> None:
    job = start(store, "work")
    assert ended(job) == "done" and job.failure() is None
    progress = job.progress()
    assert (progress.done, progress.total, progress.percent, progress.message) == (3, 4, 100.0, "c.wav")
    assert (progress.files, progress.rejected) == (("a.wav", "c.wav"), (("b.wav", "no audio inside"),))
    assert job.log_tail() == ["drawn over"]
    assert job.exit_code() == 0 and job.seconds() > 0 and job.usage() is None
    assert JobStore(store.folder).job(job.id).state() == "done"


def test_arguments_reach_the_tool_unchanged(store: JobStore) -> None:
    odd = ["a b", 'say "no"', "it's", "$HOME `id` ; | & %PATH%", "录音/声.wav", "", "back\\", "--x=\n", "*"]
    job = start(store, "work", *odd)
    assert ended(job) == "done"
    result = job.result()
    assert result is not None and result["arguments"] == [*odd, "--job", str(job.folder)]


def test_a_finished_child_is_no_zombie_and_leaves_its_exit_code(store: JobStore) -> None:
    job = start(store, "work")
    until(lambda: job.config().ended)
    assert job.config().exit_code == 0
    assert not psutil.pid_exists(job.config().pid or 0)


@pytest.mark.parametrize(
    ("tale", "argument", "code", "words"),
    [
        ("raise", "strange", "job_failed", "RuntimeError: strange"),
        ("raise", "CUDA out of memory. Tried", "job_gpu_memory", "smaller batch"),
        ("raise", "[Errno 28] No space left on device", "job_disk_full", "Free some space"),
        ("raise", "No module named 'demucs'", "job_module_missing", "demucs"),
        ("refuse", "", "path_missing", "There is no a{b}.wav."),
        ("exit", "2", "job_refused", "last words"),
        ("exit", "0", "job_no_result", "without a result"),
        ("exit", "7", "job_failed", "last words (exit code 7)"),
    ],
)
def test_a_failure_is_told_with_its_cause(store: JobStore, tale: str, argument: str, code: str, words: str) -> None:
    failure = cause(start(store, tale, argument))
    assert failure.code == code and words in str(failure)


def test_a_program_that_cannot_be_started_is_a_failure(tmp_path: Path) -> None:
    store = JobStore(tmp_path, command=[str(tmp_path / "nothing")])
    failure = cause(store.start("x", "work", [], "x"))
    assert failure.code == "job_failed" and "nothing" in str(failure)


@pytest.mark.skipif(not POSIX, reason="needs signals")
def test_a_killed_child_is_failed_and_the_next_one_starts(store: JobStore) -> None:
    first, second = start(store, "polite", light=False), start(store, "work", light=False)
    until((first.folder / "up").exists)
    os.kill(first.config().pid or 0, signal.SIGKILL)
    assert cause(first).code == "job_killed"
    assert ended(second) == "done"


def test_stop_lets_a_polite_tool_end_by_itself(store: JobStore) -> None:
    job = start(store, "polite")
    until((job.folder / "up").exists)
    assert job.state() == "running"
    job.stop(60)
    assert (job.state(), job.exit_code(), job.failure()) == ("stopped", 3, None)
    job.stop()
    assert job.state() == "stopped"


def test_a_job_that_fails_by_itself_is_not_told_as_stopped(store: JobStore) -> None:
    """Whether Stop was pressed while it broke, or after that but before anybody had looked."""
    job = start(store, "late")
    until((job.folder / "up").exists)
    job.stop(60)
    assert "broken" in str(cause(job))
    broken = start(store, "raise", "strange")
    until(lambda: find_leader(Started(broken.folder, broken.config().pid, broken.config().process_created)) is None)
    broken.stop(60)
    assert not broken.stop_was_asked() and "strange" in str(cause(broken))


@pytest.mark.skipif(not POSIX, reason="needs sessions")
def test_stop_leaves_no_process_of_a_stubborn_family(store: JobStore) -> None:
    """A child, a grandchild whose parent has died, and one that has also left the session."""
    job = start(store, "stubborn", "stay")
    until((job.folder / "up").exists)
    until(lambda: (job.folder / "up").read_text().count(" ") == 3)
    pids = [int(pid) for pid in (job.folder / "up").read_text().split()]
    assert all(map(alive, pids))
    usage = job.usage()
    assert usage is not None and usage.processes == 2 and usage.memory_bytes > 0
    JobStore(store.folder).job(job.id).stop(0.1)  # as an app would that did not start it
    assert not any(map(alive, pids))
    assert job.state() == "stopped"


@pytest.mark.skipif(not POSIX, reason="needs sessions")
def test_what_a_crashed_job_leaves_behind_is_ended_too(store: JobStore) -> None:
    job = start(store, "stubborn", "leave")
    assert ended(job) == "failed"
    until(lambda: job.config().ended)
    pids = [int(pid) for pid in job.log_tail()[0].split()]
    assert len(pids) == 4 and not any(map(alive, pids))


def test_heavy_jobs_never_overlap_even_with_two_stores_and_threads(store: JobStore, tmp_path: Path) -> None:
    book = tmp_path / "book"
    other = JobStore(store.folder, command=COMMAND)
    jobs = [start((store, other)[n % 2], "turn", str(book), key=str(n), light=False) for n in range(3)]
    threads = [threading.Thread(target=s.pump) for s in (store, other) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ended(job) for job in jobs] == ["done"] * 3
    assert book.read_text().split() == ["begin", "end"] * 3


def test_a_waiting_job_says_what_it_waits_for_and_light_ones_do_not_wait(store: JobStore) -> None:
    first = start(store, "polite", key="1", light=False)
    second, third = (start(store, "work", key=key, light=False) for key in "23")
    assert (second.state(), third.state()) == ("waiting", "waiting")
    assert [job.id for job in third.waits_for()] == [first.id, second.id]
    assert first.waits_for() == ()
    assert ended(start(store, "work", key="4")) == "done"
    second.stop()
    assert second.state() == "stopped" and not (second.folder / LOG_NAME).exists()
    first.stop(60)
    assert ended(third) == "done"
    assert [job.id for job in store.jobs()][1:] == [third.id, second.id, first.id]


def test_the_same_work_is_not_started_twice(store: JobStore) -> None:
    first = start(store, "polite", key="logs/mine")
    with pytest.raises(UserError) as refused:
        JobStore(store.folder, command=COMMAND).start("again", "work", [], "logs/mine")
    assert refused.value.code == "job_twice" and refused.value.fields["job"] == first.id
    first.stop(60)
    assert ended(start(store, "work", key="logs/mine")) == "done"


@pytest.mark.skipif(not POSIX, reason="needs signals")
def test_after_a_restart_of_the_app_running_and_waiting_jobs_go_on(store: JobStore) -> None:
    app = [sys.executable, "-c", APP, str(store.folder), *COMMAND]
    subprocess.run(app, cwd=PROJECT_ROOT, check=True, timeout=120)
    second, first = store.jobs()
    assert (first.state(), second.state()) == ("running", "waiting")
    assert store.pump() == [] and second.waits_for() == (first,)
    until((first.folder / "up").exists)
    os.kill(first.config().pid or 0, signal.SIGKILL)
    assert cause(first).code == "job_vanished"
    store.watch(0.05)
    assert ended(second) == "done"
    assert JobStore(store.folder).job(first.id).state() == "failed"


def test_a_process_with_a_reused_pid_is_not_taken_for_the_job(store: JobStore) -> None:
    job = start(store, "exit", "0")
    assert ended(job) == "failed"
    until(lambda: job.config().ended)
    bystander = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=POSIX)
    try:
        lie = replace(job.config(), pid=bystander.pid, process_created=time.time() - 900, ended=None)
        write_json(job.folder / CONFIG_NAME, vars(lie))
        assert job.state() == "failed"
        job.stop(0)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_start_that_could_not_be_written_down_is_not_repeated(store: JobStore) -> None:
    """An app that dies between starting a process and noting its pid leaves a waiting job that runs already."""
    job = start(store, "polite")
    until((job.folder / "up").exists)
    pid = job.config().pid
    write_json(job.folder / CONFIG_NAME, vars(replace(job.config(), pid=None, process_created=None)))
    fresh = JobStore(store.folder, command=COMMAND)
    fresh.pump()
    assert fresh.job(job.id).config().pid == pid


def test_only_ended_jobs_are_removed(store: JobStore) -> None:
    job = start(store, "polite")
    with pytest.raises(UserError) as refused:
        store.remove(job)
    assert refused.value.code == "job_still_active"
    job.stop(60)
    store.remove(job)
    assert not job.folder.exists() and store.jobs() == []
    with pytest.raises(UserError) as gone:
        store.job(job.id)
    assert gone.value.code == "job_missing"


def test_a_name_for_people_is_no_path(store: JobStore) -> None:
    job = store.start("../切分 my/voice", "work", [], "x", "light")
    assert job.folder.parent == store.folder and job.config().name == "../切分 my/voice"
    assert ended(job) == "done"


def test_a_broken_job_folder_hides_no_other(store: JobStore) -> None:
    job = start(store, "work")
    (store.folder / "broken").mkdir()
    (store.folder / "broken" / CONFIG_NAME).write_text("{")
    assert store.jobs() == [job] and ended(job) == "done"
