"""Every language says everything, with the same fields; no key is missing, none is left over."""

import ast
import re
import string
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.errors import UserError
from modules.paths import LOCALES, PROJECT_ROOT
from tools.webui.messages import Messages, Translator

MESSAGES = Messages()
ENGLISH = MESSAGES.tables["en"]
SOURCES = [
    PROJECT_ROOT / "webui.py",
    *sorted((PROJECT_ROOT / "modules").rglob("*.py")),
    *sorted((PROJECT_ROOT / "tools").rglob("*.py")),
]
ERRORS = {"UserError": "error.", "ConfigError": "error.", "Note": "note."}


def fields(template: str) -> set[str]:
    """Names that `str.format` fills."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call in a file with the bare name of what is called."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            found.append((name, node))
    return found


def raised() -> dict[str, list[tuple[str, set[str]]]]:
    """i18n key -> (place, fields given) of every error and note in the sources."""
    found: dict[str, list[tuple[str, set[str]]]] = {}
    for path in SOURCES:
        for name, call in calls(path):
            if name in ERRORS and call.args and isinstance(call.args[0], ast.Constant):
                if name == "Note":
                    given = {
                        key.value
                        for value in call.args[2:]
                        if isinstance(value, ast.Dict)
                        for key in value.keys
                        if isinstance(key, ast.Constant)
                    }
                else:
                    given = {keyword.arg for keyword in call.keywords if keyword.arg}
                place = f"{path.relative_to(PROJECT_ROOT)}:{call.lineno}"
                found.setdefault(ERRORS[name] + call.args[0].value, []).append((place, given))
    return found


def said() -> dict[str, str]:
    """i18n key -> place of every literal key handed to `i18n(...)`, `say(...)` or a tab's name."""
    found = {}
    for path in [PROJECT_ROOT / "webui.py", *sorted((PROJECT_ROOT / "tools" / "webui").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ENGLISH:
                found[node.value] = path.name
        for name, call in calls(path):
            if name in {"i18n", "say"} and call.args:
                argument = call.args[0]
                branches = [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]
                for branch in branches:
                    if isinstance(branch, ast.Constant) and isinstance(branch.value, str):
                        found[branch.value] = f"{path.name}:{call.lineno}"
    return found


@pytest.mark.parametrize("language", sorted(path.stem for path in LOCALES.glob("*.json")))
def test_every_language_has_the_same_keys_and_fields(language: str) -> None:
    table = MESSAGES.tables[language]
    assert set(table) == set(ENGLISH)
    for key, text in table.items():
        assert text.strip(), key
        assert fields(text) == fields(ENGLISH[key]), f"{language} {key}"


def test_three_languages_are_there() -> None:
    assert {"en", "zh-CN", "ja"} <= set(MESSAGES.tables)


def test_every_error_can_be_told_in_every_language() -> None:
    missing = {key: places[0][0] for key, places in raised().items() if key not in ENGLISH}
    assert not missing
    for key, places in raised().items():
        for place, given in places:
            assert fields(ENGLISH[key]) <= given, f"{place}: {key} needs {fields(ENGLISH[key]) - given}"


def test_the_english_text_of_an_error_is_that_of_its_source() -> None:
    """Else a log and the page would tell one thing in two ways, and a told text could not be told again."""
    for path in SOURCES:
        for name, call in calls(path):
            if name in ERRORS and len(call.args) > 1 and isinstance(call.args[0], ast.Constant):
                text = call.args[1]
                if isinstance(text, ast.Constant):
                    place = f"{path.relative_to(PROJECT_ROOT)}:{call.lineno}"
                    assert ENGLISH[ERRORS[name] + call.args[0].value] == text.value, place


def test_every_key_is_used_and_every_used_key_exists() -> None:
    used = {**said(), **raised()}
    assert not {key: place for key, place in said().items() if key not in ENGLISH}
    assert not set(ENGLISH) - set(used)


def test_error_codes_and_notes_are_literals() -> None:
    for path in SOURCES:
        for name, call in calls(path):
            if name in ERRORS and call.args and path.name != "errors.py":
                assert isinstance(call.args[0], ast.Constant), f"{path}:{call.lineno}"


def test_chinese_and_japanese_are_translated() -> None:
    """A text equal to the English one is allowed only where there is nothing to translate."""
    for language in ("zh-CN", "ja"):
        same = {key for key, text in MESSAGES.tables[language].items() if text == ENGLISH[key]}
        assert same <= {"options.top_k", "options.top_p"}


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de-DE,de;q=0.9", "en"),
        ("de,ja;q=0.8,en;q=0.5", "ja"),
        ("zh-TW,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("en-GB,zh-CN;q=0.9", "en"),
        ("ja;q=0.1, zh-CN;q=0.9", "zh-CN"),
        ("nonsense;q=x,,;;", "en"),
    ],
)
def test_language_follows_the_header(header: str, language: str) -> None:
    assert MESSAGES.best_language(header) == language


def test_a_chosen_language_wins_over_the_browser() -> None:
    request = SimpleNamespace(headers={"accept-language": "en"})
    forced = Messages(language="ja")
    assert forced.for_request(request)("speech.stop") == forced.tables["ja"]["speech.stop"]
    assert forced.frontend().translations["en"]["speech.stop"] == forced.tables["ja"]["speech.stop"]


def test_an_unknown_or_odd_error_falls_back_to_its_own_sentence() -> None:
    say = Translator({"error.known": "{a} und {b}"}, {})
    assert say.error(UserError("unknown", "The {thing} is gone.", thing="file")) == "The file is gone."
    assert say.error(UserError("known", "{a} alone", a=1)) == "1 alone"


def test_texts_for_the_browser_hold_no_braces() -> None:
    """The browser's formatter would take braces for its own syntax."""
    for key in {key for key in said() if re.match(r"(tab|page|references|speech|options|history|inference)\.", key)}:
        if not fields(ENGLISH[key]):
            assert "{" not in ENGLISH[key], key
