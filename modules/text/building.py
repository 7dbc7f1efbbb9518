"""The text side of a preset, out of the files that it names.

Our own byte-level BPE lies in the preset's folder; BGE-M3 and Qwen2's tokenizer lie in folders of their own beside it,
with the files and names that were published, so that presets share them.
"""

import hashlib
import json
from pathlib import Path

import torch

from modules.checkpoint import file_hash
from modules.config import TextConfig
from modules.errors import UserError
from modules.text.encoder import BgeM3, Precision
from modules.text.front import TextFrontEnd
from modules.text.subwords import SubwordTokenizer
from modules.text.tokenizer import TextTokenizer

BGE_M3 = "bge-m3"
ENTRIES = {"xlm-r": BGE_M3, "qwen2": "qwen2-0.5b"}
TOKENIZER_FILE = "tokenizer.json"


def load_text(
    config: TextConfig,
    folder: Path,
    models: Path,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    tokenizer_file: Path | None = None,
) -> TextFrontEnd:
    """The tokenizer of a preset and, unless it has a learned embedding alone, its encoder.

    Args:
        folder: the preset's, with our own tokenizer.json.
        models: holds the folders that presets share.
        precision: of the encoder, see `BgeM3`.
        tokenizer_file: our own tokenizer, if it is not in `folder`.

    Raises:
        UserError: text_encoder_missing, tokenizer_unreadable, tokenizer_wrong_kind, text_vocab_differs,
            text_features_need_xlmr, and those of `BgeM3.load`.
    """
    _check_source(config)
    path = tokenizer_path(config, folder, models, tokenizer_file)
    if config.tokenizer == "bpe":
        own = TextTokenizer.load(path)
        return TextFrontEnd(own, own.size, None, lambda: file_hash(path))
    _require(path, ENTRIES[config.tokenizer])
    subwords = SubwordTokenizer.load(path, config.tokenizer)
    _check_size(subwords, path, config.vocab_size)
    encoder = None
    if config.features != "embedding":
        encoder = BgeM3.load(models / BGE_M3, device, precision)
        _check_width(config, encoder, models / BGE_M3)
    return TextFrontEnd(
        subwords,
        config.vocab_size,
        encoder,
        lambda: text_identity(config, folder, models, precision, tokenizer_file),
    )


def random_text(
    config: TextConfig,
    tokenizer: TextTokenizer,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
) -> TextFrontEnd:
    """As of `load_text`, with an encoder of full size and random weights and the ids of another tokenizer: it says
    nothing, but takes the time and the memory that the real one takes."""
    encoder = None if config.features == "embedding" else BgeM3.random(device, precision)
    size = tokenizer.size if config.tokenizer == "bpe" else config.vocab_size
    return TextFrontEnd(tokenizer, size, encoder, lambda: "random")


def text_identity(
    config: TextConfig,
    folder: Path,
    models: Path,
    precision: Precision = "float32",
    tokenizer_file: Path | None = None,
) -> str:
    """`identity` of what `load_text` gives, without loading it; "" where a file is missing."""
    path = tokenizer_path(config, folder, models, tokenizer_file)
    with_encoder = config.features != "embedding"
    files = [path, *(BgeM3.files(models / BGE_M3) if with_encoder else ())]
    if not all(file.is_file() for file in files):
        return ""
    hashes = [file_hash(file) for file in files]
    if not with_encoder:
        return hashes[0]
    # Neither the number of threads nor the device is told: they change the states by rounding alone.
    return hashlib.sha256(json.dumps([*hashes, precision]).encode()).hexdigest()


def tokenizer_path(config: TextConfig, folder: Path, models: Path, tokenizer_file: Path | None = None) -> Path:
    """Where the tokenizer of a preset lies."""
    if config.tokenizer == "bpe":
        return Path(tokenizer_file or Path(folder) / TOKENIZER_FILE)
    return Path(models) / ENTRIES[config.tokenizer] / TOKENIZER_FILE


def _check_source(config: TextConfig) -> None:
    if config.features != "embedding" and config.tokenizer != "xlm-r":
        raise UserError(
            "text_features_need_xlmr",
            "text.features = {features} needs text.tokenizer = xlm-r, because the features come one for each unit of "
            "that tokenizer; the preset has {tokenizer}.",
            features=config.features,
            tokenizer=config.tokenizer,
        )


def _require(path: Path, entry: str) -> None:
    if not path.is_file():
        raise UserError(
            "text_encoder_missing",
            "{entry} is not there: {file} is missing. Download it with: python -m tools.download {entry}",
            entry=entry,
            file=str(path),
        )


def _check_size(subwords: SubwordTokenizer, path: Path, vocab_size: int) -> None:
    """Qwen2's tables have more rows than its tokenizer has ids; XLM-R's have as many."""
    fits = subwords.size == vocab_size if subwords.kind == "xlm-r" else subwords.size <= vocab_size
    if not fits:
        raise UserError(
            "text_vocab_differs",
            "{file} has {found} ids, but the preset says text.vocab_size = {expected}; use the tokenizer of this "
            "preset.",
            file=str(path),
            found=subwords.size,
            expected=vocab_size,
        )


def _check_width(config: TextConfig, encoder: BgeM3, folder: Path) -> None:
    if encoder.dim != config.feature_dim:
        raise UserError(
            "text_encoder_differs",
            "{folder} gives features {found} wide, but the preset says text.feature_dim = {expected}; use the encoder "
            "of this preset.",
            folder=str(folder),
            found=encoder.dim,
            expected=config.feature_dim,
        )
