"""Which engine runs a backbone: by the device, by the precision that was asked for, by the size of the model."""

import torch
from torch import nn

from modules.errors import UserError
from modules.gpt.packing import WeightType
from modules.gpt.step import Engine, StepEngine
from modules.precision import PRECISIONS, Precision
from modules.runtime import bf16_supported

SMALL_WEIGHTS = 16_000_000
"""Models of at most so many weights spend their steps on bookkeeping; one graph for all of it is twice as fast."""


def weight_type(precision: Precision, device: torch.device) -> WeightType:
    """The type that a precision means on a device; "auto": int8 on a CPU, bf16 on a GPU that computes in it, else
    float32.

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
            return "int8"
        return "bf16" if bf16_supported(device) else "float32"
    if precision in ("int8", "int4") and device.type != "cpu":
        raise UserError(
            "precision_unsupported",
            "The precision {precision} is for CPUs, and this runs on {device}; choose float32 or bf16.",
            precision=precision,
            device=device.type,
        )
    return precision


def build_engine(backbone: nn.Module, weights: WeightType) -> Engine:
    """The engine of a Qwen2 backbone on its device."""
    device = next(backbone.parameters()).device
    small = sum(parameter.numel() for parameter in backbone.parameters()) <= SMALL_WEIGHTS
    if device.type == "cpu" and small and weights in ("int8", "int4"):
        from modules.gpt.onnx_step import OnnxStepEngine, fits  # another runtime, where it is used

        if fits(backbone):
            return OnnxStepEngine(backbone, weights)
    return StepEngine(backbone, weights)
