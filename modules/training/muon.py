"""Muon in the precision that the device is fast in.

`torch.optim.Muon` orthogonalises in bfloat16, which a CPU without bf16 arithmetic does about twenty times slower
than float32. Here it is bfloat16 on CUDA and float32 elsewhere, and matrices of one shape go through together.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Quintic Newton-Schulz coefficients and the update rule: Jordan et al., "Muon: an optimizer for hidden layers in
# neural networks" (2024). Scaling of the update: Liu et al., "Muon is scalable for LLM training" (2025).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """Push the singular values of each matrix [N, A, B] towards 1 (to about 0.7..1.2)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(torch.bfloat16) if matrices.is_cuda else matrices.float()
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    if x.shape[2] >= 2 * x.shape[1] and x.dtype == torch.float32:
        x = _polynomial_of_gram(x @ x.mT) @ x
    else:
        for _ in range(STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def _polynomial_of_gram(gram: Tensor) -> Tensor:
    """The product of all steps' polynomials of x x^T: the same result as stepping x itself, but a wide x is read
    twice instead of ten times. Rounding spoils only directions 1e-4 times weaker than the strongest, which stay
    weak; bfloat16 is too coarse for it."""
    a, b, c = COEFFICIENTS
    total = None
    for step in range(STEPS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        total = factor if total is None else factor @ total
        if step < STEPS - 1:
            gram = factor @ gram @ factor
    return total


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for 2-D hidden matrices.

    The update of an A x B matrix is scaled by 0.2 sqrt(max(A, B)), which gives it the size of an AdamW update:
    one learning rate and weight decay serve both.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(tuple(p.shape), []).append(p)
            for (rows, columns), parameters in shapes.items():
                updates = [self._momentum(p, group["momentum"]) for p in parameters]
                scale = -group["lr"] * 0.2 * max(rows, columns) ** 0.5
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, _orthogonalized(updates), alpha=scale)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)  # Nesterov


def _orthogonalized(updates: list[Tensor]) -> list[Tensor]:
    """The updates of one shape, orthogonalised."""
    if not hasattr(updates[0], "full_tensor"):
        return list(orthogonalize(torch.stack(updates)).unbind())
    from modules.training.sharded import apply_whole  # there are other processes, which hold the rest of the matrices

    return apply_whole(orthogonalize, updates)
