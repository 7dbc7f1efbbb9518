"""What an examination of this installation found, and how it is made: check by check, none of which can end it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

State = Literal["ok", "warning", "problem"]

_LONGEST_CAUSE = 300


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        name: of what was looked at, for people.
        state: "ok", "warning" (works, but not as well as it could, or not all of it) or "problem".
        told: what was found.
        remedy: what to do; empty where nothing needs to be done.
        seconds: how long the look took.
    """

    name: str
    state: State
    told: str
    remedy: str = ""
    seconds: float = 0.0


Check = Callable[[], Finding | Iterable[Finding]]


@dataclass(frozen=True)
class Look:
    """A check with the name of what it looks at, told where it fails itself, and the remedy for that."""

    name: str
    check: Check
    remedy: str = "Run go-webui.sh (Windows: go-webui.bat) once more, which installs what is missing."


def examine(looks: Sequence[Look], begin: Callable[[str], None] = lambda name: None) -> Iterator[Finding]:
    """Findings one by one. A check that fails is a problem of its own and stops nothing.

    Args:
        looks: in the order in which they are made.
        begin: told each name beforehand; if the whole process dies, that was the cause.
    """
    for look in looks:
        begin(look.name)
        started = time.monotonic()
        findings: list[Finding] = []
        try:
            found = look.check()
            findings.extend([found] if isinstance(found, Finding) else found)  # one by one: what came before stays
        except Exception as cause:  # of any kind: the doctor's own mistakes are findings too
            findings += [Finding(look.name, "problem", f"The check failed: {cause_of(cause)}", look.remedy)]
        seconds = (time.monotonic() - started) / max(1, len(findings))
        yield from (replace(finding, seconds=round(seconds, 3)) for finding in findings)


def cause_of(error: BaseException) -> str:
    """An error in one line of reasonable length, with its kind where its text alone says little."""
    text = " ".join(str(error).split())[:_LONGEST_CAUSE]
    kind = type(error).__name__
    return text if " " in text and kind == "UserError" else f"{kind}: {text}" if text else kind


def worst(findings: Iterable[Finding]) -> State:
    """The worst state among findings."""
    states = {finding.state for finding in findings}
    return "problem" if "problem" in states else "warning" if "warning" in states else "ok"
