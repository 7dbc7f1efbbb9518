"""The speech tokens that a config names, out of model folders.

A preset's folder holds what is its own (s3.safetensors, and the grouped quantiser inside vits2.safetensors); published
encoders lie in folders of their own, named as in the catalogue, in one folder of models.
"""

from pathlib import Path

import torch

from modules.config import SpeechTokenizerConfig
from modules.errors import UserError
from modules.speech.contract import SpeechTokens
from modules.speech.encoder_files import load_encoder, random_encoder
from modules.speech.grouped import GroupedQuantizer, load_quantizer
from modules.speech.grouped_tokenizer import GroupedTokenizer
from modules.speech.published_s3 import PublishedS3
from modules.speech.s3 import SemanticTokenizer
from modules.speech.self_supervised import SelfSupervised
from modules.speech.train import load_tokenizer

S3_FILE = "s3.safetensors"
DECODER_FILE = "vits2.safetensors"


def load_speech(
    config: SpeechTokenizerConfig,
    folder: Path,
    models: Path,
    device: torch.device,
    decoder: Path | None = None,
) -> SpeechTokens:
    """Speech tokens, ready to encode.

    Args:
        folder: the preset's folder.
        models: holds a folder for each published encoder.
        decoder: VITS2 weights whose quantiser is taken (form "grouped"); None: those of `folder`.

    Raises:
        UserError: weights_missing, weights_unreadable, weights_wrong_stage, quantizer_missing, speech_encoder_missing,
            speech_encoder_pickle, speech_encoder_unreadable, speech_encoder_differs.
    """
    device = torch.device(device)
    if config.form == "grouped":
        quantizer = load_quantizer(Path(decoder or Path(folder) / DECODER_FILE))
        return GroupedTokenizer(load_features(config, models, device), quantizer.to(device))
    if config.encoder == "own":
        return load_tokenizer(Path(folder) / S3_FILE).to(device)
    tokenizer = PublishedS3(config, Path(models) / config.encoder, device)
    tokenizer.check()
    return tokenizer


def load_features(config: SpeechTokenizerConfig, models: Path, device: torch.device) -> SelfSupervised:
    """The self-supervised encoder of form "grouped" alone.

    Raises:
        UserError: speech_encoder_missing, speech_encoder_pickle, speech_encoder_unreadable, speech_encoder_differs.
    """
    return load_encoder(config.grouped, Path(models) / config.grouped.encoder).to(device)


def random_speech(
    config: SpeechTokenizerConfig, quantizer: GroupedQuantizer | None, device: torch.device
) -> SpeechTokens:
    """Speech tokens of full size with random weights: for measuring a machine before anything is downloaded.

    Args:
        quantizer: of form "grouped"; one that was never trained gets random codebooks.

    Raises:
        UserError: speech_not_random for a published S3, whose graph is in its file.
    """
    device = torch.device(device)
    if config.form == "grouped":
        quantizer = GroupedQuantizer(config).freeze().eval() if quantizer is None else quantizer
        if not quantizer.ready:
            quantizer.randomise_()
        return GroupedTokenizer(random_encoder(config.grouped).to(device), quantizer.to(device))
    if config.encoder == "own":
        return SemanticTokenizer(config).requires_grad_(False).eval().to(device)
    raise UserError(
        "speech_not_random",
        "The speech tokens {name} cannot be tried with random weights: their network is in the published file. Get it "
        "with `python -m tools.download {name}`.",
        name=config.encoder,
    )
