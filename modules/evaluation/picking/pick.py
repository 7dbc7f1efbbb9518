"""Pick: which weights of an experiment to use, after all of them were heard on lines that no training met.

First the decoders speak the lines' own tokens, then the language models speak the lines' texts through the best
decoder. The built-in weights stand first in each stage: a training that is not really better than them, or than a
shorter one, is not chosen. How, says `choice.py`.
"""

import json
import math
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from modules.checkpoint import load_weights, write_atomic
from modules.data.features import open_store
from modules.errors import UserError
from modules.evaluation.picking.choice import Row, choose
from modules.evaluation.picking.ears import Ears
from modules.evaluation.picking.lines import Lines, choose_lines
from modules.evaluation.picking.panel import Panel
from modules.experiment import Experiment
from modules.inference.parts import GPT_FILE, S3_FILE, VITS2_FILE, Parts, load_parts
from modules.paths import PRETRAINED_MODELS
from modules.runtime import pick_device
from modules.speech.grouped import load_quantizer, quantizer_hash

STAGES = ("vits2", "gpt")
PICK_FILE, PICK_FOLDER = "pick.json", "pick"
LINES = 12

OnProgress = Callable[[int, int, str, list[str]], None]
"""Gets outputs done, outputs in all, what is heard, new wavs."""


@dataclass(frozen=True)
class PickOptions:
    """How to pick: model folder of the built-in weights, most lines, seed, device."""

    models: Path
    lines: int = LINES
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Picked:
    """What was found: rows of both stages, built-in weights first, and the file of the best of each ("" built-in);
    `created` in Unix seconds."""

    lines: Lines
    heard_by: str
    rows: list[Row]
    best: dict[str, str]
    created: int

    def as_json(self) -> dict[str, Any]:
        """The content of `pick.json`."""
        return {
            "lines": len(self.lines.lines),
            "held_out": self.lines.held_out,
            "heard_by": self.heard_by,
            "created": self.created,
            "rows": [_row_json(row) for row in self.rows],
            "best": self.best,
        }


def pick(
    experiment: Experiment,
    options: PickOptions,
    on_progress: OnProgress = lambda done, total, what, files: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Picked:
    """Hear all weights of an experiment; writes `pick.json` and a folder of wavs, and removes those of an earlier time.

    When it is stopped or fails, the earlier result stays as it was.

    Raises:
        UserError: pick_no_weights, pick_no_lines, store_missing, store_unreadable; what `load_parts` raises for the
            built-in weights.
        Stopped: should_stop said so.
    """
    files = {stage: weight_files(experiment, stage) for stage in STAGES}
    files["vits2"] = _speaking_the_same(files["vits2"], files["gpt"])
    if not any(files.values()):
        raise UserError(
            "pick_no_weights",
            "The experiment {name} has no finished weights in {vits2} or {gpt}; train it first.",
            name=experiment.name,
            vits2=str(experiment.vits2_weights),
            gpt=str(experiment.gpt_weights),
        )
    store = open_store(experiment.features)
    lines = choose_lines(store, options.lines, options.seed)
    root = experiment.folder / PICK_FOLDER
    # A folder of its own: until the end the earlier pick.json names wavs that are there.
    folder = root / str(1 + max((int(p.name) for p in root.glob("*") if p.name.isdigit()), default=0))
    folder.mkdir(parents=True)
    try:
        panel = Panel(store, lines, Ears(_ears_folder(options.models)), folder, options.seed)
        picked = _hear_all(panel, files, options, on_progress, should_stop)
        content = json.dumps(picked.as_json(), ensure_ascii=False, indent=1) + "\n"
        write_atomic(experiment.folder / PICK_FILE, content.encode("utf-8", "backslashreplace"))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for old in root.iterdir():
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)  # a wav that is being played stays where it must
    return picked


def weight_files(experiment: Experiment, stage: str) -> list[Path]:
    """Finished weights of a stage, the shortest training first."""
    folder, pattern = {
        "vits2": (experiment.vits2_weights, r"_e(\d+)_s(\d+)\.safetensors"),
        "gpt": (experiment.gpt_weights, r"-e(\d+)\.safetensors"),
    }[stage]
    if not folder.is_dir():
        return []
    name = re.compile(re.escape(experiment.name) + pattern)
    found = [(match, path) for path in folder.iterdir() if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted(found, key=lambda pair: [int(number) for number in pair[0].groups()])]


def _speaking_the_same(decoders: list[Path], language_models: list[Path]) -> list[Path]:
    """Of decoders with a quantiser of their own, those whose codes the language models have learned. A file that cannot
    be read stays, to be told in a row of its own."""
    learned = {_learned_quantizer(path) for path in language_models} - {None}
    return [path for path in decoders if _own_quantizer(path) in {*learned, None}] if learned else decoders


def _learned_quantizer(language_model: Path) -> str | None:
    """The quantiser whose codes it learned; None where it learned others, or cannot be read."""
    try:
        return load_weights(language_model).config.get("statistics", {}).get("quantizer")
    except UserError:
        return None


def _own_quantizer(decoder: Path) -> str | None:
    """Its quantiser as one word; None where it cannot be read."""
    try:
        return quantizer_hash(load_quantizer(decoder))
    except (UserError, RuntimeError, KeyError, TypeError, ValueError):
        return None


def _hear_all(
    panel: Panel,
    files: dict[str, list[Path]],
    options: PickOptions,
    on_progress: OnProgress,
    should_stop: Callable[[], bool],
) -> Picked:
    device = pick_device(options.device)
    each = len(panel.lines.plan)
    candidates = {stage: [*_built_in(options.models, stage), *files[stage]] for stage in STAGES}
    total = each * sum(map(len, candidates.values()))
    rows: list[Row] = []
    like: Parts | None = None
    best: dict[str, Path | None] = {}
    for stage in STAGES:
        of_stage: list[Row] = []
        for path in candidates[stage]:
            of_stage.append(Row(stage, path.name if path else ""))
            done = each * (len(rows) + len(of_stage) - 1)

            def tell(row: Row, done: int = done) -> None:
                made = [row.samples[-1]["file"]] if row.outputs and len(row.samples) == len(row.outputs) else []
                on_progress(done + len(row.outputs), total, f"{row.stage}: {row.file or 'built-in'}", made)

            decoder = best.get("vits2")
            like = _hear(of_stage[-1], path, decoder, panel, options.models, device, like, tell, should_stop)
            on_progress(done + each, total, of_stage[-1].error, [])
        best[stage] = candidates[stage][choose(of_stage)] if of_stage else None
        rows += of_stage
    names = {stage: path.name if path else "" for stage, path in best.items()}
    return Picked(panel.lines, panel.ears.heard_by, rows, names, int(time.time()))


def _hear(
    row: Row,
    path: Path | None,
    decoder: Path | None,
    panel: Panel,
    models: Path,
    device: torch.device,
    like: Parts | None,
    tell: Callable[[Row], None],
    should_stop: Callable[[], bool],
) -> Parts | None:
    """Fill a row; what is wrong with one's own weights is noted in it, the others are heard all the same.

    Args:
        like: what an earlier row was spoken with.

    Returns:
        What this row was spoken with, without its language model, which is large; else `like`.
    """
    vits2, gpt = (path, None) if row.stage == "vits2" else (decoder, path)
    try:
        if path is not None:
            row.epoch, row.step = _place_of(path)
            row.bytes, row.mtime_ns = _mark_of(path)  # before it is read: a change on the way then shows
            row.step = row.step or load_weights(path).lineage.step
        parts = load_parts(models, device, gpt, vits2, with_gpt=row.stage == "gpt", like=like)
        _check_finite(parts, row.stage, path or parts.files[row.stage])
    except UserError as error:
        if path is None:
            raise
        row.error = str(error)
        return like
    panel.hear(row, parts, tell, should_stop)
    return replace(parts, gpt=None)


def _built_in(models: Path, stage: str) -> list[None]:
    """What stands for the preset's own weights, where it has any."""
    file = models / {"gpt": GPT_FILE, "vits2": VITS2_FILE}[stage]
    return [None] if file.is_file() else []


def _ears_folder(models: Path) -> Path:
    """The model that hears: the preset itself, or nano where it has nothing of its own to hear with."""
    whole = all((models / name).is_file() for name in (S3_FILE, VITS2_FILE))
    return models if whole else PRETRAINED_MODELS / "nano"


def _place_of(path: Path) -> tuple[int, int]:
    """Epoch and step by the file's name, step 0 where it tells none."""
    epoch, step = re.search(r"[_-]e(\d+)(?:_s(\d+))?$", path.stem).groups()
    return int(epoch), int(step or 0)


def _mark_of(path: Path) -> tuple[int, int]:
    """Size and time of change, ns; zeros for a file that is gone."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _check_finite(parts: Parts, stage: str, path: Path) -> None:
    model = parts.vits2 if stage == "vits2" else parts.gpt.model
    if all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
        return
    raise UserError(
        "weights_unreadable",
        "{file} is not a weight file of this program or is damaged ({cause}); choose another.",
        file=str(path),
        cause="values that are no numbers",
    )


def _row_json(row: Row) -> dict[str, Any]:
    values: dict[str, Any] = {"stage": row.stage, "file": row.file, "epoch": row.epoch, "step": row.step}
    values |= {"bytes": row.bytes, "mtime_ns": row.mtime_ns}
    measured = {
        "phone_error": row.mean("phone_error"),
        "similarity": row.mean("similarity"),
        "failure_rate": row.failure_rate,
        "mel" if row.stage == "vits2" else "token_loss": row.mean("distance"),
        "score": row.score,
        "spread": row.spread,
    }
    values |= {name: round(value, 4) if math.isfinite(value) else None for name, value in measured.items()}
    values |= {"outputs": len(row.outputs), "failures": _counts([o.failure for o in row.outputs if o.failure])}
    return values | {"error": row.error, "samples": row.samples}


def _counts(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}
