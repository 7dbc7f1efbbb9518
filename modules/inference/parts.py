"""The parts of a system, read from a model folder and checked to fit each other.

A model folder holds preset.json, gpt.safetensors and vits2.safetensors, and what else is the preset's own:
tokenizer.json for our own BPE, s3.safetensors for our own speech tokens. Published encoders (BGE-M3, HuBERT, S3) lie in
folders of their own beside it. Language model and decoder may be replaced by one's own weights.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch

from modules.checkpoint import file_hash
from modules.config import Preset, TextConfig, differing_keys, load, load_preset
from modules.errors import ConfigError, UserError
from modules.gpt.decode import Decoder
from modules.gpt.model import SpeechGPT, load_gpt
from modules.hub.needs import needed_models
from modules.paths import PRETRAINED_MODELS
from modules.precision import Precision
from modules.runtime import bf16_supported
from modules.speech.building import S3_FILE, load_speech
from modules.speech.contract import SpeechTokens
from modules.speech.grouped import load_quantizer, quantizer_hash
from modules.speech.grouped_tokenizer import GroupedTokenizer
from modules.text.building import load_text
from modules.text.encoder import Precision as TextPrecision
from modules.text.front import TextFrontEnd
from modules.vits2.model import VITS2, load_vits2

T = TypeVar("T")

PRESET_FILE = "preset.json"
TOKENIZER_FILE = "tokenizer.json"
GPT_FILE = "gpt.safetensors"
VITS2_FILE = "vits2.safetensors"


@dataclass(frozen=True)
class Parts:
    """Everything that speaks, on one device and in eval mode; `files` says where each of our own came from. `gpt` is
    None where only the decoder was asked for. `encoded_by` tells what text and speech encoder were read from, and how;
    empty where they were not read from files."""

    preset: Preset
    text: TextFrontEnd
    speech: SpeechTokens
    gpt: Decoder | None
    vits2: VITS2
    device: torch.device
    files: dict[str, Path]
    encoded_by: tuple = ()

    def hashes(self) -> dict[str, str]:
        """sha256 of every file of our own, by part."""
        return {name: file_hash(path) for name, path in self.files.items()}


def preset_of(folder: Path) -> Preset:
    """The preset of a model folder: its own preset.json, or the shipped config of the folder's name.

    Raises:
        UserError: model_incomplete when there is neither.
    """
    path = folder / PRESET_FILE
    if path.is_file():
        return load(Preset, path)
    if any(folder.glob("*.safetensors")):  # sizes of weights are told by the config that they came with
        raise _incomplete(folder, [path])
    try:
        return load_preset(folder.name)
    except ConfigError as cause:
        raise _incomplete(folder, [path]) from cause


def load_parts(
    folder: Path,
    device: torch.device,
    gpt: Path | None = None,
    vits2: Path | None = None,
    *,
    encoders: Path | None = None,
    text_precision: TextPrecision = "float32",
    with_gpt: bool = True,
    preset: Preset | None = None,
    like: Parts | None = None,
    precision: Precision = "float32",
) -> Parts:
    """Read a model folder.

    Args:
        gpt, vits2: weights to take instead of the folder's.
        encoders: holds the folders of the published encoders; None: the folder that `folder` lies in, or where one of
            them is not there, the one of the program.
        text_precision: of the text encoder on a CPU, where there is one.
        with_gpt: False leaves the language model out.
        preset: instead of the folder's own.
        like: what was read before. Where it came from the same places it lends what reads text and the speech encoder,
            which may be gigabytes.
        precision: of the language model's weights while it speaks, see `modules.gpt.engines`; for the decoder's see
            `decoder_precision`.

    Raises:
        UserError: preset_not_trained, model_incomplete, weights_unreadable, weights_wrong_stage, gpt_weights_wrong,
            weights_do_not_fit, features_missing, quantizer_differs, precision_unknown, precision_unsupported; what the
            loaders of the encoders raise.
    """
    folder = Path(folder)
    preset = preset or preset_of(folder)
    encoders = encoders or _encoders_for(folder, preset)
    files = _files(folder, preset)
    files |= {name: Path(own) for name, own in (("gpt", gpt), ("vits2", vits2)) if own}
    if not with_gpt:
        del files["gpt"]
    _check_present(folder, files)
    language_model = _read(load_gpt, files["gpt"]) if with_gpt else None
    decoder = _read(
        functools.partial(load_vits2, speaking=True, precision=decoder_precision(precision, device)), files["vits2"]
    )
    _check_text(files["vits2"], decoder.text_config, preset.text)
    if language_model is not None:
        _check_text(files["gpt"], language_model.text_config, preset.text)
    encoded_by = (preset.text, preset.tokenizer, folder, encoders, device, text_precision)
    known = like if like is not None and like.encoded_by == encoded_by else None
    text = known.text if known else load_text(preset.text, folder, encoders, device, text_precision)
    speech = _read(
        lambda path: (
            _speech_like(known, path)
            if known
            else load_speech(preset.tokenizer, folder, encoders, device, decoder=path)
        ),
        files["vits2"],
        files.get("s3"),
    )
    models = {"vits2": decoder} | ({} if language_model is None else {"gpt": language_model})
    for name, part in models.items():
        _check_fit(files[name], "speech codes", part.codebook_sizes, speech.codebook_sizes)
        _check_fit(files[name], "text units", part.text_vocab, text.size)
    _check_fit(files["vits2"], "tokens per second", decoder.token_rate, speech.frame_rate)
    _check_fit(files["vits2"], "samples per second", decoder.audio.sample_rate, preset.audio.sample_rate)
    if language_model is not None:
        _check_quantizer(files, language_model, decoder)
    parts = assemble(preset, text, speech, language_model, decoder, device, files, precision)
    return replace(parts, encoded_by=encoded_by)


def assemble(
    preset: Preset,
    text: TextFrontEnd,
    speech: SpeechTokens,
    language_model: SpeechGPT | None,
    decoder: VITS2,
    device: torch.device,
    files: dict[str, Path],
    precision: Precision = "float32",
) -> Parts:
    """Put parts that fit together on a device, ready to speak."""
    speech, speaking = speech.to(device), None
    if language_model is not None:
        language_model = language_model.to(device).eval()
        if language_model.vector_dim is not None:
            language_model.set_vectors(speech.vectors)
        speaking = Decoder(language_model, precision)
    return Parts(preset, text, speech, speaking, decoder.to(device).eval(), device, files)


def decoder_precision(precision: Precision, device: torch.device) -> Literal["float32", "bf16"]:
    """What a precision means for the decoder: its sound bears bf16, where a processor computes in that; no integers."""
    quicker = precision != "float32" and device.type == "cpu" and bf16_supported(device)
    return "bf16" if quicker else "float32"


def _encoders_for(folder: Path, preset: Preset) -> Path:
    """Where the published encoders of a preset lie: beside its folder, or in the program's folder of models."""
    needed = needed_models(preset)
    beside, own = (all((place / name).is_dir() for name in needed) for place in (folder.parent, PRETRAINED_MODELS))
    return PRETRAINED_MODELS if own and not beside else folder.parent


def _speech_like(known: Parts, decoder: Path) -> SpeechTokens:
    """The same speech encoder; with the quantiser of a decoder, where tokens are learned with that."""
    if not isinstance(known.speech, GroupedTokenizer):
        return known.speech
    return GroupedTokenizer(known.speech.encoder, load_quantizer(decoder).to(known.device))


def _files(folder: Path, preset: Preset) -> dict[str, Path]:
    """Where the parts of our own lie."""
    files = {"gpt": folder / GPT_FILE, "vits2": folder / VITS2_FILE}
    if preset.text.tokenizer == "bpe":
        files["text"] = folder / TOKENIZER_FILE
    if preset.tokenizer.form == "s3" and preset.tokenizer.encoder == "own":
        files["s3"] = folder / S3_FILE
    return files


def _check_present(folder: Path, files: dict[str, Path]) -> None:
    missing = [path for path in files.values() if not path.is_file()]
    own_place = {folder / GPT_FILE, folder / VITS2_FILE}
    if missing and own_place >= set(missing) and not (folder / PRESET_FILE).is_file():
        raise UserError(
            "preset_not_trained",
            "There are no trained weights of the preset {preset} in {folder}; nobody has published any. Train them "
            "(tab Train, or tools.extract, tools.train_vits2 and tools.train_gpt with --preset {preset}) and choose "
            "both, or use the preset nano.",
            preset=folder.name,
            folder=str(folder),
        )
    if missing:
        raise _incomplete(folder, missing)


def _incomplete(folder: Path, missing: list[Path]) -> UserError:
    return UserError(
        "model_incomplete",
        "The model folder {folder} lacks {missing}; restore the file or choose another folder.",
        folder=str(folder),
        missing=", ".join(path.name if path.parent == folder else str(path) for path in missing),
    )


def _read(reader: Callable[[Path], T], path: Path, told: Path | None = None) -> T:
    """Read a part; a file whose tensors do not match its own config is damaged. `told`: the file to name instead."""
    try:
        return reader(path)
    except (RuntimeError, KeyError, TypeError, ValueError) as cause:
        raise UserError(
            "weights_unreadable",
            "{file} is not a weight file of this program or is damaged ({cause}); choose another.",
            file=str(told or path),
            cause=str(cause).splitlines()[0] if str(cause) else type(cause).__name__,
        ) from cause


def _check_text(file: Path, ours: TextConfig, theirs: TextConfig) -> None:
    """What reads text must read what the preset's text side gives."""
    keys = {"tokenizer", "features"} | (
        {"feature_dim"} if "embedding" not in (ours.features, theirs.features) else set()
    )
    if differing := keys & set(differing_keys(ours, theirs)):
        name = sorted(differing)[-1]
        raise UserError(
            "text_differs",
            "{file} was trained with text.{name} = {ours}, but its model folder has {theirs}; choose weights of the "
            "same preset.",
            file=str(file),
            name=name,
            ours=getattr(ours, name),
            theirs=getattr(theirs, name),
        )


def _check_quantizer(files: dict[str, Path], language_model: SpeechGPT, decoder: VITS2) -> None:
    """Codes mean what the decoder's quantiser says: a language model speaks through that decoder alone."""
    learned = language_model.statistics.get("quantizer")
    if decoder.quantizer is None or learned is None or learned == quantizer_hash(decoder.quantizer):
        return
    raise UserError(
        "quantizer_differs",
        "{gpt} learned the speech codes of another decoder than {vits2}; choose the decoder that it was trained with, "
        "or one that was trained from it.",
        gpt=str(files["gpt"]),
        vits2=str(files["vits2"]),
    )


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
