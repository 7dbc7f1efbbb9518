"""LoRA for the language model (Hu et al. 2021, arXiv:2106.09685), by peft: small matrices learn, the rest stays.

An adapter is written in peft's own format (adapter_config.json, adapter_model.safetensors), so that it can be used with
other tools; merged into the weights it becomes an ordinary model file, which is what speaks.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from modules.checkpoint import write_atomic
from modules.errors import UserError
from modules.gpt.model import SpeechGPT, build_gpt

RANKS = (16, 32, 64, 128)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_NAME = "default"


def add_lora(model: SpeechGPT, rank: int) -> SpeechGPT:
    """Put untrained adapters into the backbone of `model`, in place; all else is frozen. Says the same as before.

    Args:
        rank: of the learned matrices, one of `RANKS`.

    Raises:
        UserError: lora_rank.
    """
    if rank not in RANKS:
        raise UserError(
            "lora_rank",
            "LoRA rank {rank} is not offered; choose one of {valid}.",
            rank=rank,
            valid=", ".join(map(str, RANKS)),
        )
    from peft import LoraConfig, inject_adapter_in_model  # heavy, and needed for this kind of training only

    model.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS), lora_dropout=0.0, bias="none")
    inject_adapter_in_model(config, model.backbone, _NAME)
    return model


def has_lora(model: SpeechGPT) -> bool:
    """Whether adapters are in the backbone."""
    return next(_adapters(model), None) is not None


@torch.no_grad()
def merged(model: SpeechGPT) -> SpeechGPT:
    """A model of the plain shape that says what `model` says; `model` stays as it is."""
    plain = build_gpt(model.description())
    state = {}
    for name, tensor in model.state_dict().items():
        if ".lora_" not in name:
            state[name.replace(".base_layer.", ".")] = tensor.detach().clone()
    for name, layer in _adapters(model):
        weight = f"{name}.weight"
        state[weight] += layer.get_delta_weight(_NAME).to(state[weight])
    plain.load_state_dict(state)
    plain = plain.to(model.specials.device)
    return plain.train(model.training)


def save_adapter(folder: Path, model: SpeechGPT) -> list[Path]:
    """Write the adapters alone, as peft does. Each file appears whole or not at all."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    config = copy.copy(model.backbone.peft_config[_NAME])
    config.inference_mode = True
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    state = {
        f"base_model.model.{name}": tensor.detach().cpu().contiguous()
        for name, tensor in get_peft_model_state_dict(model.backbone, adapter_name=_NAME).items()
    }
    return [
        write_atomic(folder / ADAPTER_WEIGHTS, save(state, {"format": "pt"})),
        write_atomic(folder / ADAPTER_CONFIG, json.dumps(values, indent=2, default=str).encode()),
    ]


def load_adapter(model: SpeechGPT, folder: Path) -> SpeechGPT:
    """Put the adapters of a folder into `model`, in place.

    Raises:
        UserError: lora_missing when the folder holds none; lora_wrong when they are not of this model.
    """
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        rank = int(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["r"])
        state = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as cause:
        raise UserError(
            "lora_missing",
            "There is no LoRA adapter in {folder} ({cause}); choose the folder that its training wrote.",
            folder=str(folder),
            cause=str(cause),
        ) from cause
    add_lora(model, rank)
    state = {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}
    own = model.backbone.named_parameters()
    expected = {name.replace(f".{_NAME}.", "."): p.shape for name, p in own if ".lora_" in name}
    if expected != {name: tensor.shape for name, tensor in state.items()}:
        raise UserError(
            "lora_wrong",
            "The LoRA adapter in {folder} belongs to another model; choose the model that it was trained on.",
            folder=str(folder),
        )
    set_peft_model_state_dict(model.backbone, state, adapter_name=_NAME)
    return model


def _adapters(model: SpeechGPT) -> Iterator[tuple[str, nn.Module]]:
    """Names, as in the plain model, and layers that carry an adapter."""
    for name, module in model.backbone.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "get_delta_weight"):
            yield f"backbone.{name}", module
