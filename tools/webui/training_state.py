"""What lies on the disk of an experiment, and what machine this is. Knows no components; nothing is computed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.training.suggestions import Machine, Speech

CHECKPOINT = "checkpoint.safetensors"
NO_EXPERIMENTS = frozenset(("jobs", "chains", "edits"))
"""Folders of logs/ that serve another purpose."""
_SAME_MOMENT_SECONDS = 5.0


@dataclass(frozen=True)
class Features:
    """What formatting has made.

    Args:
        lines: of the dataset.
        text, audio, speech: how many of them have text ids, audio, speech tokens.
        held_out: lines that no training hears.
        heard: what trainings get to hear, of the lines that have everything.
        fingerprint: tells these lines from others; empty while none has everything.
        codes: how many have speech tokens that were made after the decoder's training; None where there are none.
        decoder_fingerprint: the same without those, as the decoder's training knows these lines.
    """

    lines: int
    text: int
    audio: int
    speech: int
    held_out: int
    heard: Speech
    fingerprint: str
    codes: int | None = None
    decoder_fingerprint: str = ""

    def fingerprint_for(self, stage: str) -> str:
        """As the training of a stage, "vits2" or "gpt", knows these lines."""
        return self.decoder_fingerprint if stage == "vits2" and self.decoder_fingerprint else self.fingerprint

    @property
    def has_codes(self) -> bool:
        """Whether a language model can learn from these lines."""
        return self.codes is None or self.codes > 0


@dataclass(frozen=True)
class Run:
    """How far the training in a run folder is, as its checkpoint tells."""

    folder: Path
    step: int
    epoch: int
    seconds: float
    data: str
    config: dict[str, Any]

    @property
    def trained(self) -> dict[str, Any]:
        """What it was set to and cannot change on its way, as far as its checkpoint tells."""
        found = self.config.get("train")
        return found if isinstance(found, dict) else {}


def read_features(folder: Path) -> Features | None:
    """What a folder of features holds; None where there are none yet.

    Raises:
        UserError: store_unreadable.
    """
    from modules.data.features import LineStore
    from modules.data.store import FeatureStore, entry_key

    if not folder.is_dir():
        return None
    store: LineStore | FeatureStore = LineStore(folder) if any(folder.glob("lines-*.arrow")) else FeatureStore(folder)
    lines = store.lines if isinstance(store, LineStore) else len(store)
    missing = store.missing if isinstance(store, LineStore) else {}
    if not lines:
        return None
    heard, held_out = Speech(0, 0.0), 0
    if len(store):
        splits = store.column("split")
        seconds = [length for split, length in zip(splits, store.column("seconds")) if split == "train"]
        heard, held_out = Speech(len(seconds), float(sum(seconds))), sum(split != "train" for split in splits)
    counts = [lines - missing.get(step, 0) for step in ("text", "audio", "speech")]
    if not len(store):
        return Features(lines, *counts, held_out, heard, "")
    fingerprint = entry_key(store.fingerprint())
    if not isinstance(store, LineStore) or "ssl" not in store.columns:
        return Features(lines, *counts, held_out, heard, fingerprint)
    codes = lines - missing.get("codes", 0) if "codes" in store.columns else 0
    return Features(
        lines, *counts, held_out, heard, fingerprint, codes, entry_key(store.fingerprint(codes=False))
    )  # fmt: skip


def features_mark(folder: Path) -> str:
    """Changes when the features in a folder do; cheap, to be asked often."""
    try:
        files = sorted((*folder.glob("*.arrow"), *folder.glob("*.txt"), *folder.glob("*/*/shard-*.arrow")))
        newest = max((path.stat().st_mtime_ns for path in files), default=0)
    except OSError:  # a folder that is being written
        return "-"
    return f"{len(files)}:{newest}" if files else ""


def read_run(folder: Path) -> Run | None:
    """How far the run in a folder is, from the head of its checkpoint alone; None where there is no checkpoint.

    A damaged one is told by the training itself.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    values: dict[str, Any] = {}
    try:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as file:
                values = _plain(json.loads((file.metadata() or {})["tree"]))
        except SafetensorError:
            pass
    except (OSError, KeyError, ValueError, TypeError):
        pass
    loader = values.get("loader") or {}
    return Run(
        folder,
        int(values.get("step") or 0),
        int(loader.get("epoch") or 0),
        float(values.get("seconds") or 0.0),
        str(values.get("data") or ""),
        dict(values.get("run_config") or {}),
    )


def newest_list(logs: Path) -> Path | None:
    """The dataset list that was finished last: of a dataset that was labelled or edited; None where there is none."""
    found = [*logs.glob("*/manifest.jsonl"), *logs.glob("*/*.list")]
    found = [path for path in found if path.parent.name not in NO_EXPERIMENTS and path.is_file()]
    if not found:
        return None
    times = {path: path.stat().st_mtime for path in found}
    newest = max(times.values())
    # One step writes both kinds of list at once, and the manifest says more.
    together = [path for path in found if newest - times[path] < _SAME_MOMENT_SECONDS]
    return max(together, key=lambda path: (path.suffix == ".jsonl", times[path]))


def experiments(logs: Path) -> list[str]:
    """Names of the experiments and datasets that are there, newest first."""
    found = [
        path
        for path in logs.glob("*")
        if path.name not in NO_EXPERIMENTS and any((path / name).exists() for name in ("features", "vits2", "gpt"))
    ]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def find_machine(device: str) -> Machine:
    """The device that trainings will use. Imports torch.

    Raises:
        UserError: device_missing.
    """
    import psutil
    import torch

    from modules.runtime import pick_device

    found = pick_device(device)
    if found.type == "cuda":
        count = torch.cuda.device_count() if found.index is None else 1
        return Machine("cuda", torch.cuda.get_device_properties(found).total_memory, count)
    return Machine(found.type, psutil.virtual_memory().total)


def fill(shown: dict[str, Any], before: dict[str, Any], suggested: dict[str, Any]) -> dict[str, Any]:
    """The suggestions that go into controls: into those that nobody changed.

    Args:
        shown: what the controls hold now; an empty one counts as not changed.
        before: what was suggested for them the last time.
        suggested: what is suggested now.
    """
    return {
        name: value
        for name, value in suggested.items()
        if value != shown.get(name) and (shown.get(name) in (None, "") or shown.get(name) == before.get(name))
    }


def _plain(tree: Any) -> Any:
    """What `modules.checkpoint` packed, without its tensors."""
    if not isinstance(tree, dict):
        return tree
    kind, content = next(iter(tree.items()))
    if kind == "dict":
        return {key: _plain(item) for key, item in content}
    if kind in ("list", "tuple"):
        return [_plain(item) for item in content] if _is_small(content) else []
    return None


def _is_small(content: Sequence[Any]) -> bool:
    """States of random generators are thousands of numbers that nobody here wants."""
    return len(content) < 100
