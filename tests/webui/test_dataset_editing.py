"""Proofreading without a browser: what is typed is kept, whatever is pressed."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from modules.data.manifest import read_manifest
from modules.editing.browsing import Filters
from modules.editing.exports import edited_path
from tests.webui.dataset_helpers import ENGLISH, refused
from tools.webui import edit_actions, edit_rows
from tools.webui.dataset_folders import DatasetFolders, work_folder
from tools.webui.edit_panel import EditPanel
from tools.webui.edit_session import EditSession, Typed
from tools.webui.form import Form
from tools.webui.messages import Messages
from tools.webui.step_panel import Desk
from tools.webui.steps import existing_lists


def opened(listed: Path, tmp_path: Path) -> EditSession:
    return EditSession([listed], work_folder([listed], tmp_path / "logs"))


def typed(session: EditSession, **changed: dict) -> tuple[str, list[Typed]]:
    """The current page as it stands in the browser, some rows changed: typed(session, r2={"text": "new"})."""
    token, page = session.page()
    rows = []
    for number in range(10):
        shown = page.rows[number] if number < len(page.rows) else None
        utterance = shown.row.utterance if shown else None
        values = {
            "text": utterance.text if utterance else "",
            "speaker": utterance.speaker if utterance else "",
            "language": utterance.language if utterance else "",
            "selected": bool(shown and shown.selected),
        }
        rows.append(Typed(**{**values, **changed.get(f"r{number + 1}", {})}))
    return token, rows


def texts(session: EditSession) -> Sequence[str]:
    return [utterance.text for utterance in session.editor.utterances]


def test_what_is_typed_is_there_after_the_page_is_gone(listed: Path, tmp_path: Path) -> None:
    session = opened(listed, tmp_path)
    token, rows = typed(session, r1={"text": "new\nwords"}, r2={"speaker": "bruno", "language": "ZH"})
    assert session.commit(token, rows) == 2
    assert session.commit(token, rows) == 0
    again = opened(listed, tmp_path)
    assert texts(again)[0] == "new words"
    assert (again.editor.utterances[1].speaker, again.editor.utterances[1].language) == ("bruno", "ZH")
    assert "new" not in listed.read_text(encoding="utf-8")


def test_a_late_answer_of_an_older_page_changes_that_pages_rows(listed: Path, tmp_path: Path) -> None:
    session = opened(listed, tmp_path)
    token, rows = typed(session, r1={"text": "typed late"})
    session.go(1)
    session.page()
    session.commit(token, rows)
    assert texts(session)[0] == "typed late" and texts(session)[10] == ""
    assert session.commit("unknown", rows) == 0


def test_another_tabs_text_is_not_written_over(listed: Path, tmp_path: Path) -> None:
    mine, other = opened(listed, tmp_path), opened(listed, tmp_path)
    token, rows = typed(mine, r1={"text": "mine"}, r2={"text": "also mine"})
    other_token, other_rows = typed(other, r1={"text": "other"}, r3={"text": "third"})
    other.commit(other_token, other_rows)
    assert refused(lambda: mine.commit(token, rows)) == "edit_stale"
    assert list(texts(mine)[:3]) == ["other", "also mine", "third"]
    # Leaving a box and pressing a button send the same page twice: the second answer knows no more than the first.
    assert refused(lambda: mine.commit(token, rows)) == "edit_stale"
    assert texts(mine)[0] == "other" and [row.text for row in mine.refused(token)] == ["mine"]
    again = mine.reshow(token)
    assert {place: row.text for place, row in again.rows.items()} == {0: "other"}
    assert mine.commit(again.token, rows) == 1  # typed again where the other's text was shown: meant
    assert texts(mine)[0] == "mine"


def test_rows_of_a_page_that_is_not_there_any_more_are_not_shown_again(listed: Path, tmp_path: Path) -> None:
    mine, other = opened(listed, tmp_path), opened(listed, tmp_path)
    token, rows = typed(mine, r1={"text": "mine"}, r2={"text": "also mine"})
    other.editor.set_text(0, "other")
    assert refused(lambda: mine.commit(token, rows)) == "edit_stale"
    mine.go(1)
    mine.page()
    assert mine.reshow(token) is None
    mine.go(-1)
    token, rows = typed(mine, r1={"text": "mine"})
    other.editor.refresh()
    other.editor.delete([0])
    assert refused(lambda: mine.commit(token, rows)) == "edit_stale"
    assert mine.reshow(token) is None, "a row that is gone cannot be shown"
    assert refused(lambda: mine.reshow("unknown") or mine.delete()) == "edit_none_selected"


def press(session: EditSession, page: tuple[str, list[Typed]], act: Callable[[], object]) -> None:
    with session.answering(*page):
        act()


def test_a_button_does_not_undo_what_its_page_does_not_show(listed: Path, tmp_path: Path) -> None:
    mine, other = opened(listed, tmp_path), opened(listed, tmp_path)
    press(mine, typed(mine, r1={"text": "mine"}), lambda: None)
    page = typed(mine)
    other.editor.refresh()
    other.editor.set_text(1, "other")
    mine.editor.select([2])
    page[1][2] = dataclasses.replace(page[1][2], selected=True)
    edits = (mine.undo, mine.redo, mine.delete, lambda: mine.split(0.2), mine.export)
    actions = (edit_actions.rename, edit_actions.set_language)
    values = {"edit_old_speaker": "", "edit_new_speaker": "bruno", "edit_new_language": "zh"}
    for edit in (*edits, *(lambda action=action: action(mine, values, ENGLISH) for action in actions)):
        assert refused(lambda edit=edit: press(mine, page, edit)) == "edit_stale"
    assert list(texts(mine)[:2]) == ["mine", "other"] and len(mine.editor) == 12
    press(mine, typed(mine), mine.undo)
    assert list(texts(mine)[:2]) == ["mine", "text 1"]


def test_a_tabs_own_edits_are_no_news_to_it(listed: Path, tmp_path: Path) -> None:
    session = opened(listed, tmp_path)
    page = typed(session, r1={"text": "one"}, r2={"text": "two", "speaker": "bruno"})
    session.commit(*page)
    for _ in range(2):  # the second press comes before the answer to the first
        press(session, page, session.undo)
    assert list(texts(session)[:2]) == ["text 0", "text 1"]


def test_a_page_of_an_earlier_session_changes_nothing(listed: Path, tmp_path: Path) -> None:
    first = opened(listed, tmp_path)
    token, rows = typed(first, r1={"text": "typed"})
    second = opened(listed, tmp_path)
    second.jump(12)
    typed(second)
    assert second.commit(token, rows) == 0
    assert refused(lambda: press(second, (token, rows), lambda: second.editor.delete([0], second.seen))) == "edit_stale"


def test_a_text_of_several_lines_can_be_typed_on(listed: Path, tmp_path: Path) -> None:
    session = opened(listed, tmp_path)
    token, rows = typed(session, r1={"text": "two\nlines "})
    session.commit(token, rows)
    assert session.commit(token, [dataclasses.replace(rows[0], text="two\nlines and more"), *rows[1:]]) == 1
    assert texts(session)[0] == "two lines and more"


def test_ticks_are_taken_over_and_stay_on_other_pages(listed: Path, tmp_path: Path) -> None:
    session = opened(listed, tmp_path)
    token, rows = typed(session, r1={"selected": True}, r2={"selected": True})
    session.commit(token, rows)
    session.jump(12)
    assert session.index == 1
    token, rows = typed(session)
    session.commit(token, rows)
    assert len(session.editor.selected) == 2
    assert session.delete() == 2 and len(session.editor) == 10
    assert refused(session.delete) == "edit_none_selected"
    session.editor.undo()
    assert len(session.editor) == 12


def test_merged_and_split_rows_stay_in_sight_of_a_search(listed: Path, tmp_path: Path) -> None:
    session = opened(listed, tmp_path)
    assert session.find("TEXT 1", Filters()) == 1
    session.editor.select(session.found)
    session.split(0.25)
    assert len(session.found) == 2 and len(session.editor) == 13
    session.editor.select(session.found)
    session.merge(0.1)
    assert len(session.found) == 1 and len(session.editor) == 12
    assert refused(lambda: session.split(0.2)) == "edit_select_one"
    assert session.find("", Filters(empty=True)) == 2
    assert session.find("", Filters()) is None


def test_undo_and_redo_keep_rows_in_sight_of_a_search(listed: Path, tmp_path: Path) -> None:
    session = opened(listed, tmp_path)
    session.find("text", Filters())
    found = list(session.found)
    session.editor.select(found[:2])
    session.merge(0)
    merged = list(session.found)
    session.undo()
    assert session.found == found and session.page()[1].total == len(found)
    session.redo()
    assert session.found == merged
    session.undo()
    session.editor.select(found[3:4])
    session.split(0.2)
    session.undo()
    assert session.found == found
    session.editor.select(found[:1])
    session.delete()
    session.undo()
    assert session.page()[1].total == len(found)


def test_clips_that_a_search_hides_are_not_deleted(listed: Path, tmp_path: Path) -> None:
    session = opened(listed, tmp_path)
    session.editor.select([0])
    session.find("TEXT 1", Filters())
    assert refused(session.delete) == "edit_selected_hidden" and len(session.editor) == 12
    session.editor.select(session.found)
    assert session.delete() == 1
    assert session.editor.selected == [0] and session.hidden == {0} and len(session.editor) == 11


def test_a_page_fills_the_rows_and_empties_the_rest(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit_rows, "served", lambda audio: f"copy of {Path(audio).name}")
    session = opened(listed, tmp_path)
    session.go(1)
    values, used = edit_rows.page_values(session, ENGLISH)
    assert used == 2 and set(values) == set(edit_rows.SHOWN_NAMES)
    assert values["edit_1_sound"] == "copy of clip.wav" and values["edit_3_sound"] is None
    assert "11" in values["edit_1_note"] and "Page 2 of 2" in values["edit_status"]
    read_back = edit_rows.typed_rows(values)
    assert session.commit(values["edit_token"], read_back) == 0


def test_problems_are_told_with_their_lines(tmp_path: Path) -> None:
    listed = tmp_path / "odd.list"
    listed.write_text("only|two\n" + str(tmp_path / "no.wav") + "|ada|EN|hello <b>\n", encoding="utf-8")
    session = opened(listed, tmp_path)
    shown = edit_rows.problems_html(session.editor.problems, ENGLISH)
    assert "Line 1" in shown and "left out" in shown and "Line 2" in shown and "no.wav" in shown
    values, _ = edit_rows.page_values(session, ENGLISH)
    assert "missing" in values["edit_1_note"] and values["edit_1_sound"] is None


def test_every_choice_of_lists_has_a_folder_of_its_own(tmp_path: Path) -> None:
    first, second, third = tmp_path / "a" / "x.list", tmp_path / "b" / "x.list", tmp_path / "a" / "x.jsonl"
    choices = [[first], [second], [third], [first, second], [second, first]]
    assert len({work_folder(lists, tmp_path) for lists in choices}) == 5
    assert work_folder([first], tmp_path) == work_folder([first], tmp_path)


def test_several_lists_are_edited_as_one(listed: Path, tmp_path: Path) -> None:
    second = tmp_path / "second one.list"
    second.write_text(listed.read_text(encoding="utf-8").splitlines()[3] + "\n", encoding="utf-8")
    lists = existing_lists(f'{listed}\n\n "{second}" ')
    assert lists == [listed, second]
    session = EditSession(lists, work_folder(lists, tmp_path / "logs"))
    assert list(texts(session))[-1] == "text 3" and len(session.editor) == 13
    assert refused(lambda: existing_lists(" \n")) == "path_empty"
    assert refused(lambda: existing_lists(f"{listed}\n/no/such.list")) == "path_missing"


def test_an_empty_list_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.list").touch()
    values, used = edit_rows.page_values(opened(tmp_path / "empty.list", tmp_path), ENGLISH)
    assert used == 0 and "no clips" in values["edit_status"]


def test_an_edited_list_is_written_where_it_was_asked_for(listed: Path, tmp_path: Path) -> None:
    session = opened(listed, tmp_path)
    token, rows = typed(session, r1={"text": "better"})
    session.commit(token, rows)
    session.editor.export(tmp_path / "out.jsonl")
    assert [row.text for row in read_manifest(tmp_path / "out.jsonl")][:2] == ["better", "text 1"]


def test_a_list_is_saved_beside_the_one_that_is_open(listed: Path, tmp_path: Path) -> None:
    session = opened(listed, tmp_path)
    before = listed.read_bytes()
    edit_actions.export(session, {"edit_export": "  "}, ENGLISH)
    edited = listed.with_name(f"{listed.stem}.edited.list")
    assert edited.is_file() and listed.read_bytes() == before
    assert opened(edited, tmp_path).export_path == edited, "an edited list goes on under its own name"
    assert edited_path(tmp_path / "manifest.jsonl") == tmp_path / "manifest.edited.list"


@pytest.fixture
def panel(tmp_path: Path) -> EditPanel:
    """The panel of a page that nobody looks at."""
    services = SimpleNamespace(messages=Messages(), log_file=None, logs=tmp_path / "logs")
    with gr.Blocks():
        desk = Desk(Form(), services, services.messages.frontend(), gr.State([]), gr.Timer(active=False))
        return EditPanel(desk, DatasetFolders("mine", tmp_path / "output", tmp_path / "logs"))


def test_leaving_a_box_and_pressing_a_button_saves_nothing_over_another_tabs_text(
    listed: Path, tmp_path: Path, panel: EditPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(edit_rows, "served", lambda audio: audio)
    monkeypatch.setattr(edit_actions, "warn", lambda say, text: told.append(text))
    mine, other = opened(listed, tmp_path), opened(listed, tmp_path)
    shown = edit_rows.page_values(mine, ENGLISH)[0]
    other.editor.set_text(0, "other")
    values = {name: shown[name] for name in edit_rows.TYPED_NAMES} | {"edit_token": shown["edit_token"]}
    values["edit_1_text"] = "mine"
    form = panel.desk.form
    left = panel._keeper()(request=None, session=mine, **values)
    assert left[form["edit_1_text"]] == "other" and form["edit_2_text"] not in left
    assert left[form["edit_token"]] not in ("", values["edit_token"])
    pressed = panel._presser(lambda session, values, say: session.delete())(request=None, session=mine, **values)
    assert pressed[form["edit_1_text"]] == "other" and len(mine.editor) == 12
    assert texts(mine)[0] == "other" and len(told) == 2 and all("Not saved: mine" in text for text in told)


def test_typing_goes_on_while_a_button_is_answered(
    listed: Path, tmp_path: Path, panel: EditPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit_rows, "served", lambda audio: audio)
    session, form = opened(listed, tmp_path), panel.desk.form
    shown = edit_rows.page_values(session, ENGLISH)[0]
    sent = {name: shown[name] for name in edit_rows.TYPED_NAMES} | {"edit_token": shown["edit_token"]}
    tick = panel._presser(edit_actions.select_page)(request=None, session=session, **sent)
    assert tick[form["edit_1_selected"]] is True and form["edit_1_text"] not in tick
    sent |= {f"edit_{number}_selected": True for number in range(1, 11)} | {"edit_token": tick[form["edit_token"]]}
    sent["edit_1_text"] = "typed on"
    turned = panel._presser(lambda session, values, say: session.go(1))(request=None, session=session, **sent)
    assert texts(session)[0] == "typed on" and all(form[name] in turned for name in edit_rows.TYPED_NAMES)


def test_a_second_press_before_the_first_answer_fills_the_whole_page(
    listed: Path, tmp_path: Path, panel: EditPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit_rows, "served", lambda audio: audio)
    session, form = opened(listed, tmp_path), panel.desk.form
    shown = edit_rows.page_values(session, ENGLISH)[0]
    sent = {name: shown[name] for name in edit_rows.TYPED_NAMES} | {"edit_token": shown["edit_token"]}
    panel._presser(edit_actions.select_page)(request=None, session=session, **sent)
    none = panel._presser(lambda session, values, say: session.editor.deselect())(request=None, session=session, **sent)
    assert none[form["edit_1_selected"]] is False, "the first answer ticks it"


def test_opening_a_list_fills_in_where_it_is_saved(listed: Path, panel: EditPanel) -> None:
    shown = panel._opener("ask")(str(listed), "", None)
    assert shown[panel.desk.form["edit_export"]] == str(listed.with_name(f"{listed.stem}.edited.list"))
