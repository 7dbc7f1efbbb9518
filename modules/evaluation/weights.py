"""The weight files of what is judged: where from, of which step, and whether those of training belong to them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.checkpoint import file_hash, load_weights
from modules.data.store import entry_key
from modules.errors import UserError
from modules.paths import PRETRAINED_MODELS

if TYPE_CHECKING:
    from modules.evaluation.judging import Judge, JudgeOptions


def weight_files(options: "JudgeOptions") -> dict[str, dict[str, Any]]:
    """Of each weight file that is judged: its name, stage, step and sha256."""
    files = {}
    paths = {path.stem: path for path in sorted(options.models.glob("*.safetensors"))}
    paths |= {name: path for name, path in (("gpt", options.gpt), ("vits2", options.vits2)) if path}
    for name, path in paths.items():
        lineage = load_weights(path).lineage
        files[name] = {"file": path.name, "stage": lineage.stage, "step": lineage.step, "sha256": file_hash(path)}
    return files


def posterior_file(options: "JudgeOptions") -> Path | None:
    """Decoder weights with a posterior encoder, None where none are given.

    Raises:
        UserError: judge_whole_differs where they are not the judged ones in the form that training has.
    """
    from modules.inference.parts import VITS2_FILE

    if not options.whole:
        return None
    path = options.whole / VITS2_FILE
    judged = options.vits2 or options.models / VITS2_FILE
    ours, theirs = (load_weights(file).lineage for file in (path, judged))
    if (ours.preset, ours.step, ours.epoch) != (theirs.preset, theirs.step, theirs.epoch):
        raise UserError(
            "judge_whole_differs",
            "{file} is of step {step} and the judged decoder of step {judged}; give the folder that tools.ship "
            "--join wrote for the judged weights.",
            file=str(path),
            step=ours.step,
            judged=theirs.step,
        )
    return path


def folder_name(options: "JudgeOptions") -> str:
    """The name of a preset; of other weights the folder's with a hash of all paths, since folders share names."""
    paths = [options.models, *(path for path in (options.gpt, options.vits2) if path)]
    if len(paths) == 1 and options.models.resolve().parent == PRETRAINED_MODELS.resolve():
        return options.models.name
    return f"{options.models.resolve().name}-{entry_key(*(str(path.resolve()) for path in paths))[:8]}"


def heading(judge: "Judge") -> str:
    """First lines of the report: what was judged."""
    lines = ["# Evaluation", "", f"Seed {judge.options.seed}. Nobody listened: every figure is a machine's.", ""]
    for found in judge.weight_files.values():
        lines.append(f"- {found['file']}: {found['stage']}, step {found['step']}, sha256 {found['sha256'][:12]}")
    return "\n".join(lines) + "\n"
