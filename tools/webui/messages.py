"""What the page says, in the reader's language.

Labels are translated in the browser from the same tables (`Messages.frontend`); toasts, progress and status
lines are built on the server and follow the request's Accept-Language (`Messages.for_request`).
"""

import functools
import html
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import Stopped, UserError
from modules.paths import LOCALES

DEFAULT_LANGUAGE = "en"
SAME_AS = {"zh": "zh-CN", "zh-TW": "zh-CN", "zh-HK": "zh-CN", "zh-SG": "zh-CN", "zh-Hans": "zh-CN", "zh-Hant": "zh-CN"}
"""Browser languages that are served by the table of another one."""

log = logging.getLogger(__name__)


class Translator:
    """Sentences in one language. A missing key falls back to English."""

    def __init__(self, table: Mapping[str, str], fallback: Mapping[str, str]):
        self._table, self._fallback = table, fallback

    def __call__(self, key: str, **fields: object) -> str:
        template = self._table.get(key) or self._fallback[key]
        return template.format(**fields)

    def error(self, error: UserError) -> str:
        """The error in this language, or its own English sentence when nobody has translated it."""
        key = f"error.{error.code}"
        template = self._table.get(key) or self._fallback.get(key)
        if template is None:
            return str(error)
        try:
            return template.format(**{name: self._shown(value) for name, value in error.fields.items()})
        except (KeyError, IndexError, ValueError):
            return str(error)

    def _shown(self, value: object) -> object:
        """A field as people know it: an uploaded file without its temporary folder, an option by its label."""
        if not isinstance(value, str):
            return value
        if value.startswith(gr.utils.get_upload_folder()):
            return Path(value).name
        return self._table.get(value) or self._fallback.get(value) or value


class Messages:
    """The tables of every language.

    Args:
        folder: holds one `<language>.json` per language, each a flat object of key -> text.
        language: show this language to everyone; None follows each browser.
    """

    def __init__(self, folder: Path = LOCALES, language: str | None = None):
        self.tables = {
            path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.json"))
        }
        self.language = language

    def translator(self, language: str) -> Translator:
        """A translator into one of the languages that have a table."""
        return Translator(self.tables[language], self.tables[DEFAULT_LANGUAGE])

    def for_request(self, request: gr.Request | None) -> Translator:
        """A translator into the first language of the request that has a table."""
        if self.language:
            return self.translator(self.language)
        headers = getattr(request, "headers", None) or {}
        return self.translator(self.best_language(headers.get("accept-language", "")))

    def best_language(self, accepted: str) -> str:
        """The table to use for an Accept-Language header such as `ja,en;q=0.8`."""
        wishes = []
        for position, item in enumerate(accepted.split(",")):
            tag, _, quality = item.strip().partition(";q=")
            try:
                wishes.append((-float(quality or 1), position, tag.strip()))
            except ValueError:
                continue
        for _, _, tag in sorted(wishes):
            for name in (tag, tag.split("-")[0]):
                name = SAME_AS.get(name, name)
                if name in self.tables:
                    return name
        return DEFAULT_LANGUAGE

    def frontend(self) -> gr.I18n:
        """The same tables for the browser."""
        if self.language:
            chosen = {**self.tables[DEFAULT_LANGUAGE], **self.tables[self.language]}
            return gr.I18n(**dict.fromkeys({*self.tables, *SAME_AS}, chosen))
        aliases = {alias: self.tables[name] for alias, name in SAME_AS.items() if name in self.tables}
        return gr.I18n(**aliases, **self.tables)


def inform(say: Translator, key: str, **fields: object) -> None:
    """Show a sentence in a corner of the page, for some seconds."""
    gr.Info(html.escape(say(key, **fields)), title=say("message.info_title"))


def warn(say: Translator, text: str) -> None:
    """Show a finished sentence that must not be missed."""
    gr.Warning(html.escape(text), title=say("message.warning_title"))


def guarded(messages: Messages, log_file: Path | None = None) -> Callable[[Callable], Callable]:
    """Decorator of a callback: failures become a translated toast, never a traceback on the page.

    A `UserError` is told as it is; `Stopped` is silent; anything else is logged in full and told as one general
    sentence that names the log. Works for functions and generators; the language comes from their `gr.Request`.
    """

    def translate(problem: Exception, arguments: tuple, named: dict[str, Any]) -> gr.Error:
        request = next((a for a in (*arguments, *named.values()) if isinstance(a, gr.Request)), None)
        say = messages.for_request(request)
        if isinstance(problem, UserError):
            text = say.error(problem)
        else:
            log.error("A callback failed", exc_info=problem)
            text = say("message.unexpected", file=log_file or "-")
        return gr.Error(html.escape(text), title=say("message.error_title"), print_exception=False)

    def decorate(function: Callable) -> Callable:
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generator(*arguments: Any, **named: Any) -> Iterator[Any]:
                try:
                    yield from function(*arguments, **named)
                except (gr.Error, Stopped) as known:
                    if isinstance(known, gr.Error):
                        raise
                except Exception as problem:
                    raise translate(problem, arguments, named) from problem

            return generator

        @functools.wraps(function)
        def plain(*arguments: Any, **named: Any) -> Any:
            try:
                return function(*arguments, **named)
            except gr.Error:
                raise
            except Exception as problem:
                raise translate(problem, arguments, named) from problem

        return plain

    return decorate
