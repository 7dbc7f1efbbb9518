"""Optimisers used by several stages."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


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


def muon_and_adamw(
    modules: Iterable[nn.Module],
    learning_rate: float,
    *,
    muon_scale: float = 10.0,
    weight_decay: float = 0.01,
    is_matrix: Any = None,
) -> JointOptimizer:
    """Muon (Jordan et al. 2024) on hidden matrices, AdamW on tables, heads, norms and biases.

    Args:
        learning_rate: AdamW's; Muon's is `muon_scale` times as large, because its updates have unit scale.
        is_matrix: `(name, parameter) -> bool` choosing Muon's parameters; by default 2-D weights that are
            neither embeddings nor output layers (by name: "embed", "table", "out", "head").
    """
    choose = is_matrix or _hidden_matrix
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                (matrices if choose(name, parameter) else others).append(parameter)
    members: list[torch.optim.Optimizer] = []
    if matrices:
        members.append(torch.optim.Muon(matrices, lr=learning_rate * muon_scale, weight_decay=weight_decay))
    if others:
        members.append(torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay))
    return JointOptimizer(members)


def _hidden_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and not any(word in name for word in ("embed", "table", "out.", "head"))
