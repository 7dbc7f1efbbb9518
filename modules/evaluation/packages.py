"""Packages that only judging needs, imported when they are used."""

import importlib
from types import ModuleType

from modules.errors import UserError


def need(module: str) -> ModuleType:
    """Import a package of the judge.

    Raises:
        UserError: judge_package_missing with the remedy.
    """
    try:
        return importlib.import_module(module)
    except ImportError as cause:
        raise UserError(
            "judge_package_missing",
            "Judging needs {package} ({cause}); install it with: pip install -r requirements-judge.txt",
            package=module,
            cause=cause,
        ) from cause
