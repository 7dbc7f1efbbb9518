"""The five parts of a system, read from a model folder and checked to fit each other.

A model folder holds preset.json, tokenizer.json, s3.safetensors, gpt.safetensors and vits2.safetensors; the
last two may be replaced by one's own weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from modules.checkpoint import file_hash
from modules.config import Preset, load
from modules.errors import UserError
from modules.gpt.decode import Decoder
from modules.gpt.model import load_gpt
from modules.speech.s3 import SemanticTokenizer
from modules.speech.train import load_tokenizer
from modules.text.tokenizer import TextTokenizer
from modules.vits2.model import VITS2, load_vits2

T = TypeVar("T")

PRESET_FILE = "preset.json"
TOKENIZER_FILE = "tokenizer.json"
S3_FILE = "s3.safetensors"
GPT_FILE = "gpt.safetensors"
VITS2_FILE = "vits2.safetensors"


@dataclass(frozen=True)
class Parts:
    """Everything that speaks, on one device and in eval mode; `files` says where each came from."""

    preset: Preset
    text: TextTokenizer
    speech: SemanticTokenizer
    gpt: Decoder
    vits2: VITS2
    device: torch.device
    files: dict[str, Path]

    def hashes(self) -> dict[str, str]:
        """sha256 of every file, by part."""
        return {name: file_hash(path) for name, path in self.files.items()}


def load_parts(folder: Path, device: torch.device, gpt: Path | None = None, vits2: Path | None = None) -> Parts:
    """Read a model folder.

    Args:
        gpt, vits2: weights to take instead of the folder's.

    Raises:
        UserError: base_not_published, model_incomplete, weights_unreadable, weights_wrong_stage,
            gpt_weights_wrong, weights_do_not_fit, features_missing.
    """
    folder = Path(folder)
    files = {
        "text": folder / TOKENIZER_FILE,
        "s3": folder / S3_FILE,
        "gpt": Path(gpt) if gpt else folder / GPT_FILE,
        "vits2": Path(vits2) if vits2 else folder / VITS2_FILE,
    }
    _check_present(folder, files)
    preset = load(Preset, folder / PRESET_FILE)
    text = TextTokenizer.load(files["text"])
    speech = _read(load_tokenizer, files["s3"])
    language_model = _read(load_gpt, files["gpt"])
    decoder = _read(load_vits2, files["vits2"])
    if language_model.text_config.features != "embedding":
        raise UserError(
            "features_missing",
            "{file} needs external text features, which this installation has no encoder for; use weights that were "
            "trained with features = embedding.",
            file=str(files["gpt"]),
        )
    for name, part in (("gpt", language_model), ("vits2", decoder)):
        _check_fit(files[name], "speech codes", part.codebook_sizes, speech.codebook_sizes)
        _check_fit(files[name], "text units", part.text_vocab, text.size)
    _check_fit(files["vits2"], "tokens per second", decoder.token_rate, speech.frame_rate)
    _check_fit(files["vits2"], "samples per second", decoder.audio.sample_rate, preset.audio.sample_rate)
    language_model, decoder, speech = language_model.to(device), decoder.to(device), speech.to(device)
    return Parts(preset, text, speech, Decoder(language_model.eval()), decoder.eval(), device, files)


def _check_present(folder: Path, files: dict[str, Path]) -> None:
    missing = [path for path in (folder / PRESET_FILE, *files.values()) if not path.is_file()]
    if not missing:
        return
    if folder.name == "base":
        raise UserError(
            "base_not_published",
            "There are no pretrained weights of the preset base in {folder}: none have been published. Train them "
            "with tools.train_tokenizer, tools.train_gpt and tools.train_vits2, or use the preset nano.",
            folder=str(folder),
        )
    raise UserError(
        "model_incomplete",
        "The model folder {folder} lacks {missing}; restore the file or choose another folder.",
        folder=str(folder),
        missing=", ".join(path.name if path.parent == folder else str(path) for path in missing),
    )


def _read(reader: Callable[[Path], T], path: Path) -> T:
    """Read a part; a file whose tensors do not match its own config is damaged."""
    try:
        return reader(path)
    except (RuntimeError, KeyError, TypeError, ValueError) as cause:
        raise UserError(
            "weights_unreadable",
            "{file} is not a weight file of this program or is damaged ({cause}); choose another.",
            file=str(path),
            cause=str(cause).splitlines()[0] if str(cause) else type(cause).__name__,
        ) from cause


def _check_fit(file: Path, what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise UserError(
            "weights_do_not_fit",
            "{file} was trained for {ours} {what}, but the model folder has {theirs}; choose weights of the same "
            "model.",
            file=str(file),
            what=what,
            ours=ours,
            theirs=theirs,
        )
