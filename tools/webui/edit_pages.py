"""Pages of the editor as a browser shows them, kept to judge what comes back from there. Knows no components."""

from dataclasses import dataclass, field

from modules.editing.browsing import Shown
from modules.errors import UserError


@dataclass(frozen=True)
class Typed:
    """What a row of the page holds now."""

    text: str
    speaker: str
    language: str
    selected: bool


@dataclass
class Slot:
    """A row as the page last showed or saved it."""

    id: int
    typed: Typed


@dataclass
class KeptPage:
    """What a token stands for.

    Args:
        slots: its rows.
        revision: the state of the dataset that the page's reader knows; this tab's own edits move it along.
        refused: what was typed and not saved the last time, by the place of the row.
    """

    slots: list[Slot]
    revision: int
    refused: dict[int, Typed] = field(default_factory=dict)


@dataclass(frozen=True)
class Reshown:
    """Rows of a page that somebody else changed while they were typed on.

    Args:
        token: of the page with these rows as they are now.
        rows: what they hold now, by their place on the page from 0.
    """

    token: str
    rows: dict[int, Typed]


def typed_of(shown: Shown) -> Typed:
    """What the controls of a row hold when it is shown."""
    utterance = shown.row.utterance
    return Typed(utterance.text, utterance.speaker, utterance.language, shown.selected)


def stale() -> UserError:
    """Another tab was faster."""
    return UserError(
        "edit_stale",
        "The dataset was edited in another tab meanwhile, so this edit was not made; "
        "look at the list again and repeat it.",
    )
