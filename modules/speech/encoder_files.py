"""Self-supervised encoders out of folders of the published format, and at full size with random weights.

A folder holds config.json, preprocessor_config.json and model.safetensors. Pickles are never read: `tools.download`
converts them. Tensor names of older checkpoints (weight norm as weight_g and weight_v, a prefix for a head that is not
used) are translated here, so that the models know one set of names.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from modules.config import GroupedConfig
from modules.errors import UserError
from modules.speech.self_supervised import RATE_HZ, SelfSupervised

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"
FILES = (CONFIG_FILE, PREPROCESSOR_FILE, WEIGHTS_FILE)
PREFIXES = ("hubert.", "wav2vec2_bert.")
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
PUBLISHED_SIZES = {
    "mhubert-147": {"model_type": "hubert", "feat_extract_norm": "group"},
    "cn-hubert-large": LARGE
    | {"model_type": "hubert", "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "w2v-bert-2.0": LARGE | {"model_type": "wav2vec2-bert"},
}
"""What config.json of each published encoder says that differs from the defaults of its class (HuBERT's are those of
the base size: 768 wide, 12 layers, 12 heads, 3072)."""


def load_encoder(config: GroupedConfig, folder: Path) -> SelfSupervised:
    """A published encoder up to the layer that is read, on the CPU.

    Raises:
        UserError: speech_encoder_missing (names the files and where to get them), speech_encoder_pickle,
            speech_encoder_unreadable, speech_encoder_differs (the sizes are not those of the config).
    """
    folder = Path(folder)
    _check_present(config.encoder, folder)
    try:
        described = _read_json(folder / CONFIG_FILE)
        prepared = _read_json(folder / PREPROCESSOR_FILE)
        layers = int(described.get("num_hidden_layers", 12))
        _check_fit(config, folder, described)
        model = _on_meta(described, config.layer)
        state = _read_state(folder / WEIGHTS_FILE, model)
        model.load_state_dict(state, assign=True)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as cause:
        raise UserError(
            "speech_encoder_unreadable",
            "{folder} does not hold the published {name}, or a file of it is damaged ({cause}). Delete the folder and "
            "run `python -m tools.download {name}`.",
            folder=str(folder),
            name=config.encoder,
            cause=str(cause).splitlines()[0] if str(cause) else type(cause).__name__,
        ) from cause
    if config.layer < layers:
        _drop_last_norm(model)
    weights = folder / WEIGHTS_FILE
    if described.get("model_type") == "hubert":
        return SelfSupervised(model, config.layer, normalise=bool(prepared.get("do_normalize", True)), weights=weights)
    return SelfSupervised(model, config.layer, fbank=_fbank(prepared), weights=weights)


def random_encoder(config: GroupedConfig) -> SelfSupervised:
    """An encoder of the published size with random weights, up to the layer that is read, on the CPU."""
    described = PUBLISHED_SIZES[config.encoder]
    model = _build(described, config.layer)
    if config.layer < model_layers(described):
        _drop_last_norm(model)
    return SelfSupervised(model, config.layer, fbank=None if described["model_type"] == "hubert" else _fbank({}))


def model_layers(described: dict) -> int:
    """Transformer layers of the whole model that a config.json describes."""
    return _config(described).num_hidden_layers


def _check_present(name: str, folder: Path) -> None:
    missing = [file for file in FILES if not (folder / file).is_file()]
    if not missing:
        return
    pickles = sorted(folder.glob("*.bin"))
    if missing == [WEIGHTS_FILE] and pickles:
        raise UserError(
            "speech_encoder_pickle",
            "{file} is a pickle, which could run any program and is not read here. `python -m tools.download {name}` "
            "checks it and converts it to {wanted}.",
            file=str(pickles[0]),
            name=name,
            wanted=WEIGHTS_FILE,
        )
    raise UserError(
        "speech_encoder_missing",
        "The speech encoder {name} is not there: {folder} lacks {missing}. Get it with `python -m tools.download "
        "{name}` or in the tab Models.",
        name=name,
        folder=str(folder),
        missing=", ".join(missing),
    )


def _check_fit(config: GroupedConfig, folder: Path, described: dict) -> None:
    """Refuse an encoder of other sizes than the config has."""
    whole = _config(described)
    dim, layers = whole.hidden_size, whole.num_hidden_layers
    facts = (
        ("tokenizer.grouped.feature_dim", config.feature_dim, dim, config.feature_dim == dim),
        ("tokenizer.grouped.layer", config.layer, f"{layers} layers", config.layer <= layers),
        ("tokenizer.grouped.feature_rate", config.feature_rate, RATE_HZ, config.feature_rate == RATE_HZ),
    )
    for key, ours, theirs, fits in facts:
        if not fits:
            raise UserError(
                "speech_encoder_differs",
                "{file} does not fit the preset: {key} is {ours}, the encoder has {theirs}. Choose another encoder or "
                "correct the preset.",
                file=str(folder / CONFIG_FILE),
                key=key,
                ours=ours,
                theirs=theirs,
            )


def _config(described: dict):
    """The `transformers` config of a config.json."""
    # transformers costs a third of a second to import, more with its models.
    from transformers import HubertConfig, Wav2Vec2BertConfig

    kinds = {"hubert": HubertConfig, "wav2vec2-bert": Wav2Vec2BertConfig}
    kind = kinds[described["model_type"]]
    return kind.from_dict({name: value for name, value in described.items() if name != "model_type"})


def _build(described: dict, layers: int) -> nn.Module:
    """A model with that many layers and nothing that only training or a head needs."""
    from transformers import HubertModel, Wav2Vec2BertModel

    config = _config(described)
    config.num_hidden_layers = layers
    # Without these there is no vector for masked frames, and no layers behind the encoder.
    config.mask_time_prob = config.mask_feature_prob = 0.0
    config.add_adapter = config.use_intermediate_ffn_before_adapter = False
    return (HubertModel if described["model_type"] == "hubert" else Wav2Vec2BertModel)(config)


def _on_meta(described: dict, layers: int) -> nn.Module:
    """The same without memory or random numbers, to be filled by a state dict."""
    with torch.device("meta"):
        model = _build(described, layers)
    if {name for name, _ in model.named_buffers()} <= set(model.state_dict()):
        return model
    # A buffer that no file holds must be computed.
    return _build(described, layers)


def _read_state(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The tensors that the model has, in float32, under its names."""
    wanted = set(model.state_dict())
    with safe_open(path, framework="pt", device="cpu") as file:
        names = list(file.keys())
        sources = {_current_name(name): name for name in names}
        lacking = sorted(wanted - set(sources))
        if lacking:
            raise KeyError(f"no tensor {lacking[0]}")
        # Cloned: a mapped tensor would change or crash when a later download replaces the file.
        return {name: file.get_tensor(sources[name]).to(torch.float32, copy=True) for name in sorted(wanted)}


def _current_name(name: str) -> str:
    """A tensor's name in an older or a larger checkpoint -> its name in the model."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    name = name.replace(".conv.weight_g", ".conv.parametrizations.weight.original0")
    return name.replace(".conv.weight_v", ".conv.parametrizations.weight.original1")


def _drop_last_norm(model: nn.Module) -> None:
    """HuBERT's pre-norm variant normalises once more after its last layer; a hidden state below has no such norm."""
    if getattr(model.config, "do_stable_layer_norm", False):
        model.encoder.layer_norm = nn.Identity()


def _fbank(prepared: dict):
    """What w2v-bert reads of a wav."""
    from transformers import SeamlessM4TFeatureExtractor

    wanted = ("feature_size", "num_mel_bins", "padding_value", "stride")
    return SeamlessM4TFeatureExtractor(**{name: prepared[name] for name in wanted if name in prepared})


def _read_json(path: Path) -> dict:
    read = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(read, dict):
        raise ValueError(f"{path.name} is not an object")
    return read
