"""The speech tokenizer of a model folder as an ear: with the recognition head, which speaking does without.

`tools.ship` puts the head into the folder beside it whose name ends in "-training".
"""

from pathlib import Path

from modules.checkpoint import Weights, load_stage
from modules.config import SpeechTokenizerConfig, from_dict
from modules.errors import UserError
from modules.speech.building import S3_FILE
from modules.speech.s3 import SemanticTokenizer
from modules.speech.train import RECOGNISER_PREFIX, load_tokenizer


def load_hearing(models: Path, head: Path | None = None) -> SemanticTokenizer:
    """The tokenizer of a model folder in eval mode, with its recognition head where that can be had.

    Args:
        models: the folder.
        head: file that holds the head; None: the tokenizer's own, or the one of the folder "-training" beside, where
            one that belongs to another tokenizer does not count.

    Raises:
        UserError: head_of_another_tokenizer where `head` is, and those of `load_stage`.
    """
    main = _load(models / S3_FILE)
    if head is not None:
        extra = _load(head)
        if not _belong(main, extra):
            raise UserError(
                "head_of_another_tokenizer",
                "{head} does not hold the recognition head of {file}; take both from the same version.",
                head=str(head),
                file=str(models / S3_FILE),
            )
        return _joined(main, extra)
    place = models.absolute()  # a name is needed, also of "."
    beside = place.with_name(place.name + "-training") / S3_FILE
    if not main.config.get("labels") and beside.is_file() and _belong(main, extra := _load(beside)):
        return _joined(main, extra)
    return _joined(main, main)


def load_reader(path: Path, head: Path | None = None) -> SemanticTokenizer:
    """A tokenizer that certainly has its recognition head: of a model folder (see `load_hearing`), or of a file that
    its training or `tools.ship --join` wrote.

    Raises:
        UserError: tokenizer_without_head, and those of `load_hearing`.
    """
    tokenizer = load_hearing(path, head) if path.is_dir() else load_tokenizer(path, with_recogniser=None)
    if tokenizer.recogniser is None:
        raise UserError(
            "tokenizer_without_head",
            "{file} is a speech tokenizer without its recognition head; give the file that its training wrote, or one "
            "of tools.ship --join.",
            file=str(path),
        )
    return tokenizer


def _load(path: Path) -> Weights:
    return load_stage(path, "tokenizer", stage="speech tokenizer")


def _belong(main: Weights, extra: Weights) -> bool:
    return bool(extra.config.get("labels")) and extra.lineage == main.lineage


def _joined(main: Weights, extra: Weights) -> SemanticTokenizer:
    labels = tuple(extra.config.get("labels") or ())
    heads = {name: tensor for name, tensor in extra.state.items() if name.startswith(RECOGNISER_PREFIX)}
    state = {name: tensor for name, tensor in main.state.items() if not name.startswith(RECOGNISER_PREFIX)}
    model = SemanticTokenizer(from_dict(SpeechTokenizerConfig, main.config["tokenizer"]), labels)
    model.load_state_dict(state | (heads if labels else {}))
    return model.eval()
