"""Optimisers used by several stages."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from modules.training.muon import Muon


class JointOptimizer:
    """Several optimisers that step as one, with the interface the loop needs.

    Args:
        members: the optimisers; their parameter groups are listed in order.
    """

    def __init__(self, members: Iterable[torch.optim.Optimizer]):
        self.members = [m for m in members if any(group["params"] for group in m.param_groups)]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All parameter groups, in the order of the members."""
        return [group for member in self.members for group in member.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of every member."""
        for member in self.members:
            member.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """One update by every member."""
        for member in self.members:
            member.step()

    def state_dict(self) -> dict[str, Any]:
        """States of the members, by position."""
        return {str(i): member.state_dict() for i, member in enumerate(self.members)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for i, member in enumerate(self.members):
            member.load_state_dict(state[str(i)])


def muon_and_adamw(module: nn.Module, learning_rate: float, weight_decay: float = 0.01) -> JointOptimizer:
    """Muon on hidden matrices, AdamW on everything else, at one learning rate.

    A hidden matrix is a 2-D weight whose name speaks of neither a table nor an output layer.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if _is_hidden_matrix(name, p)]
    others = [p for name, p in named if not _is_hidden_matrix(name, p)]
    return JointOptimizer(
        [
            Muon(matrices, lr=learning_rate, weight_decay=weight_decay),
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay),
        ]
    )


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and not any(word in name for word in ("embed", "table", ".out.", "head", "quantizer"))
