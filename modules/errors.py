"""Errors that a person can act on.

A `UserError` names what is wrong and the remedy. Its `code` is the key under which the page finds a
translation (`error.<code>` in `i18n/`), its `fields` fill the template. The library itself speaks
English only; it never imports `i18n`.
"""


class UserError(Exception):
    """A mistake in the input, told in one sentence that names the file or field and the remedy.

    Args:
        code: stable snake_case key; `i18n/*.json` holds `error.<code>` with the same fields.
        template: the English sentence, a `str.format` template over `fields`.
        fields: values for the template (file names, limits, field names).
    """

    def __init__(self, code: str, template: str, **fields: object):
        self.code = code
        self.fields = fields
        super().__init__(template.format(**fields))


def retold(code: str, text: str, fields: dict[str, object]) -> UserError:
    """A `UserError` that another process told: its code, its finished sentence and its fields."""
    return UserError(code, text.replace("{", "{{").replace("}", "}}"), **fields)


class ConfigError(UserError):
    """A config with an unknown key, a wrong type or a value out of bounds."""


class Stopped(Exception):
    """Work ended because the user asked for it; not a failure."""
