"""Starting from the published Qwen2-0.5B instead of from nothing.

The folder holds config.json and model.safetensors (or its parts and model.safetensors.index.json) as published. The
backbone takes over every tensor, in float32 whatever they are stored in; the text table takes over the embeddings of
the tokens, where the text goes through Qwen2's own tokenizer (`text.tokenizer` "qwen2", with a table of ids); the
output layer over text is left aside. What speech needs is new, at the scale of what the backbone is used to.

Shape letters: N tokens, H hidden.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from modules.errors import UserError
from modules.gpt.model import SpeechGPT
from modules.gpt.sequence import TEXT

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PREFIX, TABLE, IGNORED_TENSORS = "model.", "embed_tokens.weight", ("lm_head.weight",)


@torch.no_grad()
def start_backbone(model: SpeechGPT, folder: Path) -> None:
    """Fill the backbone of a fresh `model`, and its text table where that is Qwen2's, out of a published folder.

    Raises:
        UserError: gpt_start_missing, gpt_start_differs (sizes, rotary base or norms are not those of the model),
            gpt_start_unreadable.
    """
    folder = Path(folder)
    try:
        files = _weight_files(folder)
        _check_fit(model, folder / CONFIG_FILE, json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
        scale = _fill(model, files)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as cause:
        raise UserError(
            "gpt_start_unreadable",
            "{folder} does not hold the published {name}, or a file of it is damaged ({cause}). Delete the folder and "
            "run `python -m tools.download {name}`.",
            folder=str(folder),
            name=model.config.backbone,
            cause=str(cause).splitlines()[0] if str(cause) else type(cause).__name__,
        ) from cause
    _scale_entries(model, scale)


def _weight_files(folder: Path) -> list[Path]:
    """Where the tensors lie. Raises UserError gpt_start_missing when a file is not there."""
    files = [folder / WEIGHTS_FILE]
    if not files[0].is_file() and (folder / INDEX_FILE).is_file():
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        files = [folder / name for name in sorted(set(index["weight_map"].values()))]
    missing = [path.name for path in (folder / CONFIG_FILE, *files) if not path.is_file()]
    if missing:
        name = folder.name
        raise UserError(
            "gpt_start_missing",
            "The language model {name} to start from is not there: {folder} lacks {missing}. Get it with `python -m "
            "tools.download {name}` or in the tab Models.",
            name=name,
            folder=str(folder),
            missing=", ".join(missing),
        )
    return files


def _check_fit(model: SpeechGPT, file: Path, described: dict[str, Any]) -> None:
    """Refuse a model that the backbone would not compute alike."""
    ours = model.config
    rotary = described.get("rope_parameters") or described.get("rope_scaling") or {}
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    facts = [
        ("model_type", "qwen2", described.get("model_type", "qwen2")),
        ("gpt.hidden", ours.hidden, described["hidden_size"]),
        ("gpt.layers", ours.layers, described["num_hidden_layers"]),
        ("gpt.heads", ours.heads, described["num_attention_heads"]),
        ("gpt.kv_heads", ours.kv_heads, described.get("num_key_value_heads", described["num_attention_heads"])),
        ("gpt.intermediate", ours.intermediate, described["intermediate_size"]),
        ("gpt.rope_theta", ours.rope_theta, float(rotary.get("rope_theta", described.get("rope_theta", 10000.0)))),
        ("rope_type", "default", kind),
        ("rms_norm_eps", model.backbone.config.rms_norm_eps, float(described.get("rms_norm_eps", 1e-6))),
        ("hidden_act", "silu", described.get("hidden_act", "silu")),
        ("use_sliding_window", False, bool(described.get("use_sliding_window", False))),
        ("head_dim", ours.hidden // ours.heads, described.get("head_dim") or ours.hidden // ours.heads),
    ]
    for key, mine, theirs in facts:
        if mine != theirs:
            raise _differs(file, key, mine, theirs)
    if _reads_tokens(model) and model.text_vocab > described["vocab_size"]:
        raise _differs(file, "text.vocab_size", model.text_vocab, described["vocab_size"])


def _fill(model: SpeechGPT, files: list[Path]) -> float:
    """Copy the tensors; returns the root mean square of a token's embedding."""
    wanted, scale = dict(model.backbone.named_parameters()), 0.0
    lacking = {*wanted, TABLE}
    for name, tensor in _tensors(files):
        if name == TABLE:
            scale = float(tensor.float().square().mean().sqrt())
            if _reads_tokens(model):
                model.text.table.copy_(tensor[: model.text_vocab])
        elif name not in wanted:
            raise KeyError(f"a tensor {name} that has no place here")
        elif wanted[name].shape != tensor.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} and not {tuple(wanted[name].shape)}")
        else:
            wanted[name].copy_(tensor)
        lacking.discard(name)
    if lacking:
        raise KeyError(f"no tensor {min(lacking)}")
    return scale


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name inside the backbone, one in memory at a time."""
    for path in files:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in sorted(file.keys()):
                if name not in IGNORED_TENSORS and not name.endswith("rotary_emb.inv_freq"):
                    yield name.removeprefix(PREFIX), file.get_tensor(name)


def _scale_entries(model: SpeechGPT, scale: float) -> None:
    """Bring what enters beside the text to the text's scale, and the first logits to where they are in a fresh model.

    A token enters as Qwen2 knows it: the vector of the kind "text" starts at zero.
    """
    model.specials.mul_(scale / _size(model.specials))
    model.specials[TEXT] = 0.0
    if model.vector_dim is None:
        whole = sum(table.matrix().square().mean() for table in model.speech) ** 0.5
        for parameter in model.speech.parameters():
            parameter.mul_(scale / whole)
    else:
        last, first = model.from_vector[-1], model.from_vector[0]
        entering = model.from_vector(torch.randn(256, first.in_features, device=first.weight.device))
        for parameter in last.parameters():
            parameter.mul_(scale / _size(entering))
    gain = _size(model.backbone.norm.weight)  # a fresh one is 1
    for module in (*([] if model.share_tables else [model.output]), *_first_layers(model.heads)):
        for parameter in module.parameters():
            parameter.mul_(1 / gain)
    model.output_end.mul_(1 / gain)


def _first_layers(heads: nn.ModuleList) -> list[nn.Module]:
    return [head[0] for head in heads]


def _reads_tokens(model: SpeechGPT) -> bool:
    return model.text_config.tokenizer == "qwen2" and model.text.source != "features"


def _size(values: Tensor) -> float:
    return max(float(values.square().mean().sqrt()), 1e-8)


def _differs(file: Path, key: str, ours: object, theirs: object) -> UserError:
    return UserError(
        "gpt_start_differs",
        "{file} does not fit the preset: {key} is {ours} here and {theirs} there. Choose another model or correct the "
        "preset.",
        file=str(file),
        key=key,
        ours=ours,
        theirs=theirs,
    )
