"""A step on the command line: what Ctrl-C does to it."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from modules.errors import Stopped
from modules.progress import STOPPED_EXIT, StepProgress
from tools.running import run_step


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """Ctrl-C as a step meets it in a terminal; who runs the tests may have said otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_press_asks_and_the_second_ends(capsys: pytest.CaptureFixture[str]) -> None:
    before, told = signal.getsignal(signal.SIGINT), []

    def work(progress: StepProgress) -> None:
        told.append(progress.should_stop())
        press()
        told.append(progress.should_stop())
        press()
        told.append("never")

    assert run_step(work, None, stopped="that was it", finishes=True) == STOPPED_EXIT
    assert told == [False, True]
    assert "again to stop at once" in (said := capsys.readouterr().err) and "that was it" in said
    assert signal.getsignal(signal.SIGINT) is before


def test_a_step_that_was_asked_saves_and_stops() -> None:
    saved = []

    def work(progress: StepProgress) -> None:
        press()
        if progress.should_stop():
            saved.append(True)
            raise Stopped

    assert run_step(work, None, finishes=True) == STOPPED_EXIT and saved


def test_other_steps_end_at_once() -> None:
    after = []

    def work(progress: StepProgress) -> None:
        press()
        after.append(True)

    assert run_step(work, None) == STOPPED_EXIT and not after


def test_a_step_that_is_to_go_on_at_a_press_goes_on() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = []
    try:
        assert run_step(lambda progress: (press(), asked.append(progress.should_stop())), None, finishes=True) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == [False]


def test_a_step_in_another_thread_leaves_the_signal_alone() -> None:
    before, found = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: found.append(run_step(lambda progress: None, None, finishes=True)))
    thread.start()
    thread.join()
    assert found == [0] and signal.getsignal(signal.SIGINT) is before
