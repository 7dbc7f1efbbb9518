"""Listening while it is spoken, in a real Chromium: when sound begins, that it is all there, and what ends it."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from tests.webui.live_helpers import RATE, SlowEngine, SlowSynthesizer
from tools.webui.history import list_entries
from tools.webui.services import Services

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

REPORT = "liveSpeech.report()"
LONGEST_WAIT_SECONDS = 120
RECORD = """() => {
    window.recorded = [];
    const start = AudioBufferSourceNode.prototype.start;
    AudioBufferSourceNode.prototype.start = function (when) {
        recorded.push({when, samples: Array.from(this.buffer.getChannelData(0))});
        return start.call(this, when);
    };
}"""
"""Notes what is handed to the browser's clock, and when it is to sound."""


@pytest.fixture(scope="module")
def slow_services(services_in: Callable[..., Services], tmp_path_factory: pytest.TempPathFactory) -> Services:
    return dataclasses.replace(services_in(tmp_path_factory.mktemp("live")), engine=SlowEngine())


@pytest.fixture(scope="module")
def slow_address(slow_services: Services, served: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    with served(slow_services) as address:
        yield address


@pytest.fixture
def slow(slow_services: Services) -> Iterator[SlowSynthesizer]:
    """The synthesizer behind the page; it does not wait unless a test says so."""
    synthesizer = slow_services.engine.slow
    synthesizer.ways.clear()
    yield synthesizer
    synthesizer.gate = lambda: None


@pytest.fixture
def page(visitor: Callable[..., "Page"], open_page: Callable[..., None], slow_address: str, slow: object) -> "Page":
    """A visitor who has chosen a voice and a text of six sentences."""
    page = visitor()
    open_page(page, slow_address)
    choose(page)
    return page


def choose(page: "Page") -> None:
    page.click("#example-voice-1")
    page.wait_for_selector("#reference-1-note:has-text('s are used')")
    page.fill("#text textarea", "\n".join(f"Sentence {number}." for number in range(6)))


def held(slow: SlowSynthesizer) -> Callable[[], None]:
    """Let the synthesizer wait from its second sentence on; returns what lets it go on."""
    go_on, pieces = threading.Event(), iter(range(10**6))
    slow.gate = lambda: next(pieces) < 3 or go_on.wait(LONGEST_WAIT_SECONDS)
    return go_on.set


def wait_for(page: "Page", what: str) -> dict[str, Any]:
    page.wait_for_function(f"(() => {{ const told = {REPORT}; return told && ({what}); }})()")
    return page.evaluate(REPORT)


def wait_for_status(page: "Page", words: str) -> str:
    page.wait_for_selector(f"#status:has-text('{words}')")
    return page.inner_text("#status")


def test_it_sounds_before_it_is_finished_and_all_of_it(
    page: "Page", slow: SlowSynthesizer, slow_services: Services
) -> None:
    go_on = held(slow)
    page.click("#speak")
    told = wait_for(page, "told.samples > 0")
    assert slow.running.is_set() and told["state"] == "running" and told["rate"] == RATE
    assert told["samples"] <= 0.8 * RATE
    page.wait_for_selector("#live.sounding")
    assert not page.query_selector("#player a[download]")
    go_on()
    status = wait_for_status(page, "Saved as")
    assert "First sound after" in status
    told = wait_for(page, "told.over")
    saved = list_entries(slow_services.output, 1)[0].audio
    assert told["samples"] == soundfile.info(saved).frames
    assert slow.ways == ["stream"]
    wait_for(page, "!told.sounding")
    page.wait_for_selector("#live", state="hidden")
    # The finished one is there to be played, and does not begin by itself.
    page.wait_for_selector("#player a[download]")
    assert not page.evaluate("[...document.querySelectorAll('audio')].some(audio => !audio.paused)")


def test_what_sounds_is_what_was_sent(page: "Page", slow: SlowSynthesizer, slow_services: Services) -> None:
    """Noted where it leaves the player, so that order, joins and gaps count, too."""
    page.evaluate(RECORD)
    page.click("#speak")
    wait_for_status(page, "Saved as")
    told = wait_for(page, "told.over && !told.sounding")
    assert told["gaps"] == 0
    saved, _ = soundfile.read(list_entries(slow_services.output, 1)[0].audio, dtype="float32")
    heard = np.zeros(len(saved), np.float32)
    pieces = page.evaluate("recorded")
    first = pieces[0]["when"]
    for piece in pieces:
        at = round((piece["when"] - first) * RATE)
        assert abs((piece["when"] - first) * RATE - at) < 1e-3
        heard[at : at + len(piece["samples"])] += np.array(piece["samples"], np.float32)
    assert np.abs(heard - saved).max() < 1e-3


def test_stop_is_silence_at_once_and_keeps_what_is_finished(page: "Page", slow: SlowSynthesizer) -> None:
    go_on = held(slow)
    page.click("#speak")
    wait_for(page, "told.sounding")
    page.click("#stop")
    told = page.evaluate(REPORT)
    assert told["stopped"] and not told["sounding"]
    page.wait_for_selector("#live", state="hidden")
    go_on()
    assert "of 6 sentences" in wait_for_status(page, "Stopped after")
    page.wait_for_selector("#player a[download]")
    page.wait_for_selector("#speak:not([disabled])")
    page.click("#speak")
    wait_for_status(page, "Saved as")
    assert wait_for(page, "told.over")["samples"] > 6 * 0.8 * RATE


def test_a_reload_in_the_middle_leaves_the_page_able_to_speak(
    page: "Page", slow: SlowSynthesizer, open_page: Callable[..., None], slow_address: str
) -> None:
    go_on = held(slow)
    page.click("#speak")
    wait_for(page, "told.sounding")
    open_page(page, slow_address)
    go_on()
    slow.gate = lambda: None
    choose(page)
    page.click("#speak")
    wait_for_status(page, "Saved as")
    assert wait_for(page, "told.over")["samples"] > 6 * 0.8 * RATE
    assert slow.ways == ["stream", "stream"]


def test_when_it_is_off_or_impossible_it_is_spoken_as_a_whole(page: "Page", slow: SlowSynthesizer) -> None:
    page.click("#play-live input")
    page.click("#speak")
    assert "First sound" not in wait_for_status(page, "Saved as")
    page.wait_for_selector("#speak:not([disabled])")
    page.click("#play-live input")
    page.evaluate("delete window.AudioContext")
    page.click("#speak")
    page.wait_for_selector("#speak[disabled]")
    page.wait_for_selector("#speak:not([disabled])")
    wait_for_status(page, "Saved as")
    assert slow.ways == ["speak", "speak"] and page.evaluate(REPORT) is None


def test_the_wish_is_remembered(page: "Page", open_page: Callable[..., None], slow_address: str) -> None:
    assert page.is_checked("#play-live input")
    page.click("#play-live input")
    page.wait_for_timeout(1500)
    open_page(page, slow_address)
    page.wait_for_function("!document.querySelector('#play-live input').checked")
