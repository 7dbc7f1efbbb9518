"""The weight files of what is judged: where from, of which step, and whether those of training belong to them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modules.checkpoint import Weights, file_hash, load_weights
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
        UserError: judge_whole_differs where they, or the speech tokenizer beside them, are not the judged ones in the
            form that training has.
    """
    from modules.inference.parts import S3_FILE, VITS2_FILE

    if not options.whole:
        return None
    judged = {VITS2_FILE: options.vits2 or options.models / VITS2_FILE, S3_FILE: options.models / S3_FILE}
    for name, theirs in judged.items():
        ours = options.whole / name
        if name == S3_FILE and not ours.is_file():
            continue  # copy-synthesis needs the decoder alone
        if not _same_training(load_weights(ours), load_weights(theirs)):
            raise UserError(
                "judge_whole_differs",
                "{file} and the judged {judged} are not of one training; give the folder that tools.ship --join "
                "wrote for the judged weights.",
                file=str(ours),
                judged=str(theirs),
            )
    return options.whole / VITS2_FILE


def _same_training(ours: Weights, theirs: Weights) -> bool:
    """Whether two files hold the same weights as far as both have them. Two trainings can end at the same step, so the
    tensors are compared too, as float16: that is how a model is shipped."""
    shared = ours.state.keys() & theirs.state.keys()
    return (
        ours.lineage == theirs.lineage
        and bool(shared)
        and all(torch.equal(ours.state[name].half(), theirs.state[name].half()) for name in shared)
    )


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
