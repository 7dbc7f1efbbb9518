"""Typed configuration: one frozen dataclass per part, strict JSON in and out.

Every field carries a help text and, where it is a number, its bounds. Reading refuses unknown keys and
names the valid ones; nothing here touches a model.
"""

import dataclasses
import decimal
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from modules.errors import ConfigError
from modules.paths import PRESETS

T = TypeVar("T")


def field(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with a help text and inclusive bounds."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True)
class AudioConfig:
    """The decoder's side of the audio: rate, frames and mel bands."""

    sample_rate: int = field(32000, "output sample rate, Hz", 8000, 96000)
    hop_length: int = field(640, "samples between decoder frames", 80, 2048)
    n_fft: int = field(2048, "STFT size for mels and losses", 256, 8192)
    n_mels: int = field(100, "mel bands of style and posterior input", 20, 256)
    loudness_lufs: float = field(-23.0, "loudness every clip is normalised to, LUFS", -60, 0)
    true_peak_db: float = field(-1.0, "ceiling of the true peak after normalising, dBTP", -20, 0)

    @property
    def frame_rate(self) -> float:
        """Decoder frames per second."""
        return self.sample_rate / self.hop_length


@dataclass(frozen=True)
class TextConfig:
    """How text becomes ids and, optionally, features."""

    tokenizer: Literal["bpe", "xlm-r", "qwen2"] = field(
        "bpe", "our own byte-level BPE, the one of BGE-M3, or the one of Qwen2"
    )
    vocab_size: int = field(2048, "number of ids, special tokens included", 16, 300000)
    max_token_length: int = field(0, "longest merge of our own BPE in bytes; 0 = no limit", 0, 64)
    features: Literal["embedding", "features", "both"] = field(
        "embedding", "learned embedding of ids, BGE-M3 features alone, or both added"
    )
    feature_dim: int = field(1024, "width of external text features (BGE-M3: 1024)", 8, 8192)


@dataclass(frozen=True)
class GroupedConfig:
    """Tokens of form "grouped": self-supervised features -> token rate -> grouped residual VQ, learned with the
    decoder."""

    encoder: Literal["mhubert-147", "cn-hubert-large", "w2v-bert-2.0"] = field(
        "mhubert-147", "the self-supervised encoder"
    )
    layer: int = field(9, "its hidden state that is read; 0 = before the first transformer layer", 0, 64)
    feature_dim: int = field(768, "width of the self-supervised features (HuBERT base: 768)", 4, 8192)
    feature_rate: int = field(50, "features per second; a multiple of the token rate", 25, 200)
    vector_dim: int = field(768, "width of a token's vector; a multiple of the groups", 4, 8192)
    groups: int = field(2, "parts of the vector that have codebooks of their own", 1, 4)
    quantizers: int = field(1, "codebooks of each group, one after the other", 1, 2)
    method: Literal["vq", "fsq"] = field("vq", "learned codebooks, or finite scalar quantisation")
    codebook_size: int = field(1024, "codes of each codebook when the method is vq", 2, 65536)
    levels: tuple[int, ...] = field(
        (4, 4, 4, 4, 4), "levels when the method is fsq; their product is the codebook size"
    )
    decay: float = field(0.99, "share of its old place that a code keeps at each step", 0.5, 0.99999)
    dead_below: float = field(0.03, "mean uses a batch under which a code is placed anew; 0 = never", 0, 100)


@dataclass(frozen=True)
class SpeechTokenizerConfig:
    """Speech tokens in one of two forms.

    "s3": supervised semantic tokens, log-mel -> encoder -> 25 Hz -> FSQ or VQ -> recognition head; all fields but
    `grouped` belong to it. Of a published encoder only `frame_rate`, `quantizer`, `levels` or `codebook_size`, and
    `prosody_levels` are ours to say, and must be what it has. "grouped": see `GroupedConfig`; of the fields here it
    reads `frame_rate` and `prosody_levels`.
    """

    form: Literal["s3", "grouped"] = field("s3", "supervised tokens, or self-supervised features and a grouped VQ")
    encoder: Literal["own", "s3-v1-50hz", "s3-v1-25hz", "s3-v2-25hz", "s3-v3-25hz"] = field(
        "own", "of form s3: our own, trained by tools.train_tokenizer, or a published one"
    )
    sample_rate: int = field(16000, "input rate, Hz", 8000, 48000)
    n_mels: int = field(80, "log-mel bands", 20, 256)
    hidden: int = field(192, "transformer width", 16, 4096)
    heads: int = field(4, "attention heads", 1, 64)
    encoder_layers: int = field(3, "transformer layers before the quantiser", 1, 64)
    decoder_layers: int = field(2, "transformer layers between quantiser and recognition head", 0, 64)
    frame_rate: int = field(25, "tokens per second; 25 or 50", 25, 50)
    quantizer: Literal["fsq", "vq"] = field("fsq", "finite scalar or learned vector quantiser")
    levels: tuple[int, ...] = field((8, 8, 8, 8), "FSQ levels; their product is the codebook size")
    codebook_size: int = field(4096, "codebook size when the quantiser is vq", 2, 65536)
    prosody_levels: int = field(64, "codes of the relative-f0 stream, 0 = unvoiced; 0 switches it off", 0, 1024)
    dropout: float = field(0.1, "dropout in training", 0, 0.9)
    grouped: GroupedConfig = field(GroupedConfig(), "sizes of the form grouped")


@dataclass(frozen=True)
class GPTConfig:
    """Qwen2 over text and speech embeddings."""

    backbone: Literal["fresh", "qwen2-0.5b"] = field("fresh", "what the backbone's training starts from")

    hidden: int = field(256, "model width", 16, 8192)
    layers: int = field(6, "transformer layers", 1, 128)
    heads: int = field(4, "attention heads", 1, 128)
    kv_heads: int = field(2, "key-value heads", 1, 128)
    intermediate: int = field(1024, "feed-forward width", 16, 32768)
    max_positions: int = field(4096, "longest sequence", 64, 131072)
    rope_theta: float = field(10000.0, "rotary base", 100, 1e8)
    positions: Literal["sequence", "aligned"] = field(
        "sequence", "RoPE positions in order, or text units where their sound is expected"
    )
    group_size: Literal[1, 2, 4] = field(1, "frames of one step (VALL-E 2); several need fewer steps")
    codebooks: Literal["chain", "parallel", "delay"] = field(
        "chain", "codes of a frame: each after the one before in one step, all at once, or each a step later"
    )
    reading: Literal["attention", "pointer"] = field(
        "attention", "how the text is followed: as attention learns to, or by a pointer that says which unit is spoken"
    )
    phones: int = field(0, "classes of a stream of phone labels that is said before the content; 0 = none", 0, 1024)
    dropout: float = field(0.1, "dropout on embeddings and residuals in training", 0, 0.9)


@dataclass(frozen=True)
class VITS2Config:
    """The 32 kHz decoder."""

    hidden: int = field(192, "width of encoders and latent", 16, 2048)
    heads: int = field(2, "attention heads", 1, 32)
    filter: int = field(768, "feed-forward width of the encoders", 16, 8192)
    encoder_layers: int = field(4, "transformer layers over speech tokens", 1, 32)
    text_layers: int = field(2, "transformer layers over text", 0, 32)
    posterior_layers: int = field(8, "WaveNet layers of the posterior encoder", 1, 64)
    flow_couplings: int = field(4, "coupling layers of the flow", 1, 16)
    flow_layers: int = field(2, "WaveNet layers in each coupling", 1, 16)
    style_dim: int = field(256, "width of the style vector", 8, 2048)
    latent: int = field(96, "channels of z", 8, 1024)
    head: Literal["istft", "hifigan"] = field("istft", "source-filter iSTFT head or HiFi-GAN head")
    head_hidden: int = field(384, "width of the iSTFT head's ConvNeXt blocks", 16, 2048)
    head_layers: int = field(8, "ConvNeXt blocks of the iSTFT head", 1, 32)
    istft_n_fft: int = field(1280, "FFT size of the iSTFT head", 64, 4096)
    istft_hop: int = field(320, "hop of the iSTFT head; must divide the decoder's hop", 16, 1024)
    upsample_channels: int = field(512, "first width of the HiFi-GAN head", 16, 2048)
    upsample_rates: tuple[int, ...] = field((10, 8, 2, 2, 2), "HiFi-GAN strides; their product is the hop")
    dropout: float = field(0.1, "dropout in training", 0, 0.9)


@dataclass(frozen=True)
class Preset:
    """One whole system: a config per part."""

    name: str = field("nano", "name of the preset")
    audio: AudioConfig = field(AudioConfig(), "decoder audio")
    text: TextConfig = field(TextConfig(), "text")
    tokenizer: SpeechTokenizerConfig = field(SpeechTokenizerConfig(), "speech tokens")
    gpt: GPTConfig = field(GPTConfig(), "language model")
    vits2: VITS2Config = field(VITS2Config(), "decoder")


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build `cls` from JSON values.

    Raises:
        ConfigError: an unknown key (the message lists the valid ones), a wrong type or a value out of bounds.
    """
    known = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            "config_unknown_key",
            "{where}: unknown key {keys}; valid keys are {valid}.",
            where=where or cls.__name__,
            keys=", ".join(unknown),
            valid=", ".join(known),
        )
    parsed = {}
    for name, value in values.items():
        path = f"{where}.{name}" if where else name
        parsed[name] = _parse(hints[name], value, path)
        _check_bounds(known[name], parsed[name], path)
    return cls(**parsed)


def plain_number(value: float) -> str:
    """A number as people write it: 0.000001 instead of 1e-06, 1000 instead of 1000.0."""
    text = str(value) if isinstance(value, int) else f"{decimal.Decimal(repr(float(value))):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def load(cls: type[T], path: Path) -> T:
    """Read a config from a JSON file. Raises ConfigError naming the file when it is not valid."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise ConfigError(
            "config_unreadable", "{file} is not a readable JSON config: {cause}", file=str(path), cause=cause
        ) from cause
    return from_dict(cls, values)


def load_preset(name: str) -> Preset:
    """The preset of that name from `modules/presets/`, or of a file when the name ends in `.json`."""
    if name.endswith(".json"):
        return load(Preset, Path(name))
    path = PRESETS / f"{name}.json"
    if not path.is_file():
        valid = ", ".join(sorted(p.stem for p in PRESETS.glob("*.json")))
        raise ConfigError("preset_unknown", "There is no preset {name}; choose one of {valid}.", name=name, valid=valid)
    return load(Preset, path)


def differing_keys(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Dotted names of the fields in which two configs (or their dicts) differ."""
    a = to_dict(ours) if dataclasses.is_dataclass(ours) else ours
    b = to_dict(theirs) if dataclasses.is_dataclass(theirs) else theirs
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            key
            for name in sorted(set(a) | set(b))
            for key in differing_keys(a.get(name), b.get(name), f"{where}.{name}" if where else name)
        ]
    return [] if a == b else [where]


def _parse(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value, path)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_parse(args[0], item, path) for item in value)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _parse(next(a for a in args if a is not type(None)), value, path)
    if origin is Literal:
        if value in args:
            return value
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    expected = " or ".join(map(str, args)) if origin is Literal else getattr(hint, "__name__", str(hint))
    raise ConfigError(
        "config_wrong_type", "{key} must be {expected}, not {value!r}.", key=path, expected=expected, value=value
    )


def _check_bounds(spec: dataclasses.Field, value: Any, path: str) -> None:
    low, high = spec.metadata.get("low"), spec.metadata.get("high")
    if isinstance(value, int | float) and ((low is not None and value < low) or (high is not None and value > high)):
        raise ConfigError(
            "config_out_of_bounds",
            "{key} is {value}; it must lie between {low} and {high}.",
            key=path,
            value=plain_number(value),
            low=low if low is None else plain_number(low),
            high=high if high is None else plain_number(high),
        )
