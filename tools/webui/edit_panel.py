"""Step 5: listen, correct, cut and join, ten clips a page."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from modules.editing.browsing import PAGE_ROWS
from modules.editing.sessions import IfChanged
from modules.errors import UserError
from tools.webui import edit_actions
from tools.webui.dataset_folders import DatasetFolders, work_folder
from tools.webui.edit_layout import EditLayout
from tools.webui.edit_rows import (
    TYPED_NAMES,
    news,
    page_values,
    problems_html,
    reshown_values,
    status_line,
    typed_rows,
)
from tools.webui.edit_session import EditSession
from tools.webui.messages import Translator, warn
from tools.webui.step_panel import TOLD, Desk
from tools.webui.steps import existing_lists, existing_path

Act = Callable[[EditSession, dict[str, Any], Translator], None]


class EditPanel(EditLayout):
    """The panel with its callbacks."""

    def __init__(self, desk: Desk, folders: DatasetFolders):
        super().__init__(desk, folders)
        self._bind()

    def _bind(self) -> None:
        form = self.desk.form
        boxes = [form["edit_list"], form["edit_audio_folder"]]
        ways: tuple[tuple[gr.Button, IfChanged], ...] = (
            (self.open, "ask"), (self.keep_aside, "keep_aside"), (self.start_over, "start_over"),
        )  # fmt: skip
        for button, if_changed in ways:
            button.click(self._opener(if_changed), boxes, self.outputs, **TOLD)
        for back, forth, undo, redo in (self.top, self.bottom):
            self._button(back, lambda session, values, say: session.go(-1))
            self._button(forth, lambda session, values, say: session.go(1))
            self._button(undo, lambda session, values, say: session.undo())
            self._button(redo, lambda session, values, say: session.redo())
        self._button(self.select_page, edit_actions.select_page)
        self._button(self.select_all, lambda session, values, say: session.editor.select_all(session.found))
        self._button(self.select_none, lambda session, values, say: session.editor.deselect())
        self._button(self.invert, lambda session, values, say: session.editor.invert(session.found))
        self._button(self.delete, edit_actions.delete)
        self._button(self.jump, lambda session, values, say: session.jump(int(values["edit_jump"] or 1)))
        self._button(self.merge, lambda session, values, say: session.merge(float(values["edit_gap"] or 0)))
        self._button(self.split, lambda session, values, say: session.split(float(values["edit_split_at"] or 0)))
        self._button(self.rename, edit_actions.rename)
        self._button(self.set_language, edit_actions.set_language)
        self._button(self.find, edit_actions.find, show_progress="full")
        self._button(self.show_all, edit_actions.show_all)
        self._button(self.export, edit_actions.export)
        inputs = {**form.only([*TYPED_NAMES, "edit_token"]), "session": self.session}
        for number in range(1, PAGE_ROWS + 1):
            for field in ("text", "speaker", "language"):
                form[f"edit_{number}_{field}"].blur(self._keeper(), inputs_kwargs=inputs, outputs=self.outputs, **TOLD)

    def open_if_edited(self, values: dict[str, Any], say: Translator) -> dict:
        """Updates that show a list again that was under edit when the page was left."""
        try:
            lists = existing_lists(values.get("edit_list"))
            if not (work_folder(lists, self.desk.services.logs) / "edits.jsonl").is_file():
                return {}
            return self._opened(self._session(lists, values.get("edit_audio_folder"), "ask"), say)
        except UserError:
            return {}  # pressing Open tells it

    def _session(self, lists: Sequence[Path], audio_folder: object, if_changed: IfChanged) -> EditSession:
        folder = existing_path(audio_folder) if str(audio_folder or "").strip() else None
        return EditSession(lists, work_folder(lists, self.desk.services.logs), folder, if_changed)

    def _opened(self, session: EditSession, say: Translator) -> dict:
        return {
            self.session: session,
            self.problems: problems_html(session.editor.problems, say),
            self.retry: gr.update(visible=False),
            self.desk.form["edit_export"]: str(session.export_path),
            **self._shown(session, say),
        }

    def _opener(self, if_changed: IfChanged) -> Callable[..., dict]:
        @self.desk.guard
        def open_list(listed: str, audio_folder: str, request: gr.Request) -> dict:
            """Open the list, with the edits that were made here before."""
            say = self.desk.say(request)
            try:
                return self._opened(self._session(existing_lists(listed), audio_folder, if_changed), say)
            except UserError as error:
                if error.code not in ("source_changed", "edits_damaged"):
                    raise
                warn(say, say.error(error))
                return {self.retry: gr.update(visible=True)}

        return open_list

    def _shown(self, session: EditSession, say: Translator, sent: Mapping[str, Any] | None = None) -> dict:
        values, used = page_values(session, say)
        values = values if sent is None else news(session, values, sent)
        shown = {row: gr.update(visible=number < used) for number, row in enumerate(self.rows)}
        return {**self.desk.form.updates(values), **shown, self.clips: gr.update(visible=True)}

    def _button(self, button: gr.Button, act: Act, **others: Any) -> None:
        """Let a button save what is typed, then act, then show the page."""
        names = [
            *TYPED_NAMES, "edit_token", "edit_jump", "edit_gap", "edit_split_at", "edit_old_speaker",
            "edit_new_speaker", "edit_new_language", "edit_query", "edit_marks", "edit_confidence_below",
            "edit_longest_seconds", "edit_shortest_seconds", "edit_export",
        ]  # fmt: skip

        inputs = {**self.desk.form.only(names), "session": self.session}
        button.click(self._presser(act), inputs_kwargs=inputs, outputs=self.outputs, **{**TOLD, **others})

    def _presser(self, act: Act) -> Callable[..., dict]:
        @self.desk.guard
        def pressed(request: gr.Request, **values: Any) -> dict:
            """One change, after everything that was typed is saved."""
            say, session = self.desk.say(request), edit_actions.needed(values.pop("session"))
            with session.locked():
                try:
                    with session.answering(values["edit_token"], typed_rows(values)):
                        act(session, values, say)
                except UserError as error:
                    if error.code != "edit_stale":
                        raise
                    edit_actions.tell_refused(session, values["edit_token"], say)
                return self._shown(session, say, values)

        return pressed

    def _keeper(self) -> Callable[..., dict]:
        @self.desk.guard
        def keep(request: gr.Request, **values: Any) -> Any:
            """Save what is typed as soon as its box is left; show rows again that another tab changed meanwhile."""
            session: EditSession | None = values.pop("session")
            if session is None:
                return {self.session: gr.skip()}
            say, token = self.desk.say(request), values["edit_token"]
            with session.locked():
                try:
                    session.commit(token, typed_rows(values))
                except UserError as error:
                    if error.code != "edit_stale":
                        raise
                    edit_actions.tell_refused(session, token, say)
                    again = session.reshow(token)
                    if again is None:
                        return self._shown(session, say, values)
                    return self.desk.form.updates(reshown_values(again))
                page = session.editor.page(session.index, PAGE_ROWS, session.found)
                return self.desk.form.updates({"edit_status": status_line(session, page, say)})

        return keep


def build_edit_panel(desk: Desk, folders: DatasetFolders) -> EditPanel:
    """Build the panel inside the current tab."""
    return EditPanel(desk, folders)
