"""Walks through the page in a real Chromium: what a person does, and what they then see."""

import wave
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tools.webui.services import Services

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

DURATION = """async link => {
    const data = await (await fetch(link)).arrayBuffer();
    return (await new OfflineAudioContext(1, 1, 32000).decodeAudioData(data)).duration;
}"""


@pytest.fixture
def visit(visitor: Callable[..., "Page"], open_page: Callable[..., None], address: str) -> Callable[..., "Page"]:
    """`visit(locale="en-US", width=1440)`: a fresh visitor's page, ready to use."""

    def come(**wishes: object) -> "Page":
        page = visitor(**wishes)
        open_page(page, address)
        return page

    return come


def upload(page: "Page", number: int, path: Path) -> None:
    page.set_input_files(f"#reference-{number}-audio input[type=file]", str(path))


def paste(page: "Page", text: str) -> None:
    """Put many lines into the text box at once: `fill` has Chromium insert them one by one, each slower."""
    page.eval_on_selector(
        "#text textarea",
        "(box, text) => { box.value = text; box.dispatchEvent(new Event('input', {bubbles: true})); }",
        text,
    )


def wait_for_status(page: "Page", words: str) -> str:
    page.wait_for_selector(f"#status:has-text('{words}')")
    return page.inner_text("#status")


def player_seconds(page: "Page") -> float:
    link = page.wait_for_selector("#player a[download]").get_attribute("href")
    return page.evaluate(DURATION, link)


def test_upload_type_speak_listen(visit: Callable[..., "Page"], example: Path) -> None:
    page = visit()
    upload(page, 1, example)
    page.wait_for_selector("#reference-1-note:has-text('s are used')")
    page.fill("#text textarea", "A first sentence to hear.")
    page.click("#speak")
    wait_for_status(page, "Saved as")
    assert player_seconds(page) > 0
    assert "A first sentence to hear." in page.inner_text("#sentences")
    page.wait_for_selector("#speak:not([disabled])")
    page.click("#advanced > button")
    assert int(page.input_value("#seed input")) > 0


def test_two_references_with_weights(visit: Callable[..., "Page"], services: Services) -> None:
    page = visit()
    assert not page.is_visible("#reference-2-audio")
    page.click("#example-voice-1")
    page.wait_for_selector("#reference-1-note:has-text('s are used')")
    page.click("#add-reference")
    page.wait_for_selector("#reference-2-audio")
    page.click("#example-voice-2")
    page.wait_for_selector("#reference-2-note:has-text('s are used')")
    page.fill("#reference-2-weight input[type=number]", "0.5")
    page.press("#reference-2-weight input[type=number]", "Tab")
    page.fill("#text textarea", "Two voices in one.")
    page.click("#speak")
    wait_for_status(page, "Saved as")
    from tools.webui.history import list_entries

    references = list_entries(services.output, 1)[0].settings["references"]
    assert [reference["weight"] for reference in references] == [1.0, 0.5]
    page.click("#remove-reference")
    page.wait_for_selector("#reference-2-audio", state="hidden")


def test_stop_keeps_what_is_finished(visit: Callable[..., "Page"]) -> None:
    page = visit()
    page.click("#example-voice-1")
    page.wait_for_selector("#reference-1-note:has-text('s are used')")
    paste(page, "\n".join(f"Line {number} of a long poem." for number in range(400)))
    page.click("#speak")
    page.wait_for_selector("#sentences [data-row='0'][data-col='1']")
    page.click("#stop")
    assert "of 400 sentences" in wait_for_status(page, "Stopped after")
    assert player_seconds(page) > 0
    page.wait_for_selector("#speak:not([disabled])")
    page.click("#stop")
    page.wait_for_selector("text=Nothing is running.")


def test_a_wrong_file_is_told_in_the_readers_language(visit: Callable[..., "Page"], tmp_path: Path) -> None:
    fake = tmp_path / "words.wav"
    fake.write_text("only words, no sound", encoding="utf-8")
    silent = tmp_path / "silence.wav"
    with wave.open(str(silent), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(2 * 16000 * 3))
    page = visit(locale="zh-CN")
    upload(page, 1, fake)
    page.wait_for_selector("text=无法把 words.wav 作为音频读取")
    page.reload()
    page.wait_for_selector("#device:has-text('CPU')")
    upload(page, 1, silent)
    page.wait_for_selector("text=silence.wav 是静音")


def test_nothing_chosen_is_told_and_the_button_comes_back(visit: Callable[..., "Page"]) -> None:
    page = visit(locale="ja-JP")
    page.fill("#text textarea", "こんにちは。")
    page.click("#speak")
    page.wait_for_selector("text=参照音声がありません")
    page.wait_for_selector("#speak:not([disabled])")
    wait_for_status(page, "エラーで終了しました")


def test_settings_survive_a_reload(visit: Callable[..., "Page"], open_page: Callable[..., None], address: str) -> None:
    page = visit()
    page.fill("#text textarea", "Remember me.")
    page.fill("#speed input[type=number]", "1.25")
    page.press("#speed input[type=number]", "Tab")
    page.click("#cut input")
    page.click("li:has-text('Every 4 clauses')")
    page.wait_for_timeout(1500)
    open_page(page, address)
    page.wait_for_function("document.querySelector('#text textarea').value === 'Remember me.'")
    assert page.input_value("#speed input[type=number]") == "1.25"
    assert page.input_value("#cut input") == "Every 4 clauses"


@pytest.mark.parametrize(("locale", "label"), [("zh-CN", "开始合成"), ("zh-TW", "开始合成"), ("ja-JP", "合成する")])
def test_labels_follow_the_browser(visit: Callable[..., "Page"], locale: str, label: str) -> None:
    page = visit(locale=locale, width=390, scheme="dark")
    page.wait_for_selector(f"#speak:has-text('{label}')")
    page.click("#advanced > button")
    page.click("#model > button")
    page.wait_for_selector("#vits2-weights input")
    words = page.inner_text("body")
    assert not [key for key in ("options.", "speech.", "references.", "page.", "__i18n__") if key in words]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_only_what_can_speak_is_offered_and_history_brings_settings_back(visit: Callable[..., "Page"]) -> None:
    page = visit()
    page.click("#model > button")
    page.click("#preset input")
    page.wait_for_selector("li:has-text('nano')")
    assert page.locator("ul[role=listbox] li").count() == 1
    assert "tab Models" in page.inner_text("#preset")
    page.click("li:has-text('nano')")
    assert not page.is_visible("#preset-remark")
    page.click("#example-voice-3")
    page.wait_for_selector("#reference-1-note:has-text('s are used')")
    page.fill("#text textarea", "A line for the history.")
    page.click("#speak")
    wait_for_status(page, "Saved as")
    page.fill("#text textarea", "Something else.")
    page.click("#history-accordion > button")
    page.click("#history [data-row='0'][data-col='1']")
    page.wait_for_selector("#history-player a[download]")
    page.click("#history-reload")
    page.wait_for_function("document.querySelector('#text textarea').value === 'A line for the history.'")
    page.wait_for_selector("text=are back in the form")
