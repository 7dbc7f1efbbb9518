"""Which engine runs a backbone: by the device, by the precision that was asked for, by the size of the model."""

import torch
from torch import nn

from modules.errors import UserError
from modules.gpt.packing import WeightType
from modules.gpt.step import Engine, StepEngine
from modules.precision import PRECISIONS, Precision
from modules.runtime import bf16_supported, full_threads

SMALL_WEIGHTS = 16_000_000
"""A step of a model of at most so many weights costs what its operations cost: threads that share it wait for each
other longer than they work, and fewer bits gain little."""


def weight_type(precision: Precision, device: torch.device, backbone: nn.Module) -> WeightType:
    """The type that a precision means for a backbone on a device; "auto": on a CPU int8, for large ones int4; on a GPU
    that computes in it bf16, else float32.

    Small models are as quick in int8, which says the same in a batch as alone; a large one is as quick as its weights
    are read.

    Raises:
        UserError: precision_unsupported, where integers are asked for on a GPU; precision_unknown.
    """
    if precision not in PRECISIONS:
        raise UserError(
            "precision_unknown",
            "There is no precision {precision}; choose one of {valid}.",
            precision=precision,
            valid=", ".join(PRECISIONS),
        )
    if precision == "auto":
        if device.type == "cpu":
            return "int8" if is_small(backbone) else "int4"
        return "bf16" if bf16_supported(device) else "float32"
    if precision in ("int8", "int4") and device.type != "cpu":
        raise UserError(
            "precision_unsupported",
            "The precision {precision} is for CPUs, and this runs on {device}; choose float32 or bf16.",
            precision=precision,
            device=device.type,
        )
    return precision


def is_small(backbone: nn.Module) -> bool:
    """Whether a model has few weights."""
    return sum(parameter.numel() for parameter in backbone.parameters()) <= SMALL_WEIGHTS


def build_engine(backbone: nn.Module, weights: WeightType) -> Engine:
    """The engine of a Qwen2 backbone on its device."""
    device = next(backbone.parameters()).device
    if device.type == "cpu" and weights in ("int8", "int4"):
        from modules.gpt.onnx_step import OnnxStepEngine, fits  # another runtime, where it is used

        if fits(backbone):
            return OnnxStepEngine(backbone, weights, 1 if is_small(backbone) else full_threads(), full_threads())
    return StepEngine(backbone, weights)
