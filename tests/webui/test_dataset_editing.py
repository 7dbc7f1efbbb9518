"""Proofreading without a browser: what is typed is kept, whatever is pressed."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from modules.data.manifest import read_manifest
from modules.editing.browsing import Filters
from tests.webui.dataset_helpers import ENGLISH, refused
from tools.webui import edit_rows
from tools.webui.dataset_folders import work_folder
from tools.webui.edit_session import EditSession, Typed
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
    assert mine.commit(token, rows) == 1  # repeated after being told: meant
    assert texts(mine)[0] == "mine"


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
