"""Results on disk: a ledger of items that survives an interruption, JSON and tables of what was measured."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.checkpoint import write_atomic

Progress = Callable[[str, int, int], None]
"""Called as (what, done, total)."""


def silent(what: str, done: int, total: int) -> None:
    """Progress for nobody."""


class Ledger:
    """Finished items by key, one JSON line each; a line torn by a kill is ignored."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._items: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    item = json.loads(line)
                except ValueError:
                    continue
                self._items[item.pop("key")] = item

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: str) -> dict[str, Any] | None:
        """What was noted under `key`, or None."""
        return self._items.get(key)

    def put(self, key: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Note an item at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._items[key] = dict(values)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **values}, ensure_ascii=False) + "\n")
        return self._items[key]


@dataclass(frozen=True)
class Table:
    """A titled table; numbers are rounded when it is written. `note` stands below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """GitHub markdown."""
        lines = [f"### {self.title}", "", _row(self.header), _row(["---"] * len(self.header))]
        lines += [_row([cell(value).replace("|", "\\|") for value in row]) for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"


@dataclass(frozen=True)
class Finding:
    """What one part measured: numbers for machines, tables for people."""

    part: str
    values: dict[str, Any]
    tables: tuple[Table, ...]


def write_finding(folder: Path, finding: Finding) -> list[Path]:
    """`<part>.json` and `<part>.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps(plain(finding.values), ensure_ascii=False, indent=1, sort_keys=True)
    text = f"## {finding.part}\n\n" + "\n".join(table.markdown() for table in finding.tables)
    return [
        write_atomic(folder / f"{finding.part}.json", document.encode("utf-8")),
        write_atomic(folder / f"{finding.part}.md", text.encode("utf-8")),
    ]


def write_report(folder: Path, parts: Iterable[str], heading: str) -> Path:
    """`report.md`: the tables of all parts that are there."""
    texts = [path.read_text(encoding="utf-8") for part in parts if (path := folder / f"{part}.md").is_file()]
    return write_atomic(folder / "report.md", "\n".join([heading, *texts]).encode("utf-8"))


def percent(share: float | None) -> str:
    """A share as a percentage."""
    return "-" if share is None or not math.isfinite(share) else f"{100 * share:.1f} %"


def cell(value: Any) -> str:
    """A value as it stands in a table."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def plain(value: Any) -> Any:
    """JSON values of mappings, sequences and numbers of any kind; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
