"""From training's weights to a model folder: what speaks, small, and apart from it what training needs to go on."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from modules.checkpoint import load_stage, load_weights, save_weights, write_atomic
from modules.config import Preset, to_dict
from modules.errors import UserError
from modules.inference.parts import GPT_FILE, PRESET_FILE, S3_FILE, TOKENIZER_FILE, VITS2_FILE
from modules.speech.train import RECOGNISER_PREFIX
from modules.text.tokenizer import TextTokenizer
from modules.vits2.model import POSTERIOR_PREFIX

DISCRIMINATORS_FILE = "vits2_discriminators.safetensors"


@dataclass(frozen=True)
class Trained:
    """Where the weights of the finished stages lie; `discriminators` may be missing."""

    text: Path
    s3: Path
    gpt: Path
    vits2: Path
    discriminators: Path | None = None


def ship(trained: Trained, preset: Preset, folder: Path, training_folder: Path | None = None) -> int:
    """Write a model folder in float16, and beside it what a later training starts from.

    Args:
        folder: gets preset.json, tokenizer.json and the three weight files without the recognition head and the
            posterior encoder.
        training_folder: gets the parts that were left out, and the discriminators; see `join_training`.

    Returns:
        Bytes of the model folder's files.

    Raises:
        UserError: weights_missing, weights_unreadable, tokenizer_unreadable, weights_wrong_stage.
    """
    text = TextTokenizer.load(trained.text)
    folder.mkdir(parents=True, exist_ok=True)
    shipped = dataclasses.replace(preset, text=dataclasses.replace(preset.text, vocab_size=text.size))
    values = json.dumps(to_dict(shipped), indent=2) + "\n"
    written = [write_atomic(folder / PRESET_FILE, values.encode())]
    text.save(folder / TOKENIZER_FILE)
    written.append(folder / TOKENIZER_FILE)
    parts: tuple[tuple[Path, str, str, str], ...] = (
        (trained.s3, S3_FILE, "tokenizer", RECOGNISER_PREFIX),
        (trained.gpt, GPT_FILE, "gpt", ""),
        (trained.vits2, VITS2_FILE, "vits2", POSTERIOR_PREFIX),
    )
    for source, name, key, left_out in parts:
        written.append(_copy(source, folder / name, key, _without(left_out)))
        if training_folder is not None and left_out:
            _copy(source, training_folder / name, key, _only(left_out))
    if training_folder is not None and trained.discriminators is not None:
        _copy(trained.discriminators, training_folder / DISCRIMINATORS_FILE, "train", _without(""))
    return sum(path.stat().st_size for path in written)


def join_training(folder: Path, training_folder: Path, output: Path) -> list[Path]:
    """Whole weights to start a training from: a model folder's parts joined with those that `ship` set aside.

    Raises:
        UserError: weights_missing, weights_unreadable; parts_do_not_join when the two are not of one training.
    """
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for name in (S3_FILE, VITS2_FILE):
        main, extra = load_weights(folder / name), load_weights(training_folder / name)
        if main.lineage != extra.lineage or set(main.state) & set(extra.state):
            raise UserError(
                "parts_do_not_join",
                "{main} and {extra} are not two parts of one training; take both from the same version.",
                main=str(folder / name),
                extra=str(training_folder / name),
            )
        written.append(output / name)
        save_weights(written[-1], main.state | extra.state, extra.config, extra.lineage, torch.float16)
    return written


def _only(prefix: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefix)


def _without(prefix: str) -> Callable[[str], bool]:
    return lambda name: not prefix or not name.startswith(prefix)


def _copy(source: Path, target: Path, key: str, keep: Callable[[str], bool]) -> Path:
    weights = load_stage(source, key, stage=key)
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor for name, tensor in weights.state.items() if keep(name)}
    config = weights.config
    if "labels" in config and not any(name.startswith(RECOGNISER_PREFIX) for name in state):
        config = {**config, "labels": []}  # the labels belong to the head that was left out
    save_weights(target, state, config, weights.lineage, torch.float16)
    return target
