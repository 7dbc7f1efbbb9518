"""Several processes that share out one model among them, for models whose training does not fit on one GPU.

PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`; Zhao et al. 2023, arXiv:2304.11277): of every weight, gradient,
optimizer state and average each process keeps a part, cut along the first dimension; a layer's weights are brought
together for as long as it computes. A step is that of data parallelism (`modules.training.distributed`), and so is the
checkpoint: whole tensors, written by the main process, that any number of processes can go on from.

The main process must have room for the whole weights, though not for their gradients and optimizer states: averaged
weights are validated and saved whole. Imported only where there are several processes.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from modules.errors import UserError
from modules.training.distributed import Accelerated
from modules.training.stage import Optimizer, Stage
from modules.training.team import Losses

WHOLE_AT_ONCE = 8
"""Matrices that are whole at the same time while an optimizer works on them."""


class Sharded(Accelerated):
    """A team of processes that each hold a part of the weights (see `modules.training.team.Team`).

    It is for stages of one module and one optimizer whose losses call the module, and not methods of it, and give
    every trained weight a gradient in every batch.

    Args:
        cpu: train on the CPU even where there is a GPU.
    """

    sharded = True

    def __init__(self, cpu: bool = False):
        super().__init__(cpu)
        self._mesh = init_device_mesh(self.device.type, (self.world,))
        self._twins: dict[str, nn.Module] = {}

    def place(self, stage: Stage) -> None:
        """Share out the weights, each layer by itself: a model that is on the CPU is never whole on a GPU.

        Raises:
            UserError: shard_unsupported, for a stage that this does not work for.
        """
        if len(stage.modules) != 1 or len(stage.optimizers) != 1:
            raise UserError(
                "shard_unsupported",
                "A training of {modules} cannot be shared out over processes by --shard; leave it out, and each "
                "process holds the whole model.",
                modules=", ".join(stage.modules),
            )
        for name, module in stage.modules.items():
            whole = dict(module.named_parameters())
            if self.rank == 0:
                self._twins[name] = _weightless_twin(module)
            self._share_out(module)
            places = {whole[n]: p for n, p in module.named_parameters()}
            for optimizer in stage.optimizers.values():
                for group in optimizer.param_groups:
                    group["params"] = [places[p] for p in group["params"]]

    def losses(self, stage: Stage, phase: str) -> Losses:
        """The stage's own; its module brings the weights together, and shares out the mean gradients."""
        return lambda batch: stage.losses(phase, batch)

    def accumulating(self, losses: Losses) -> AbstractContextManager[Any]:
        """Gradients are exchanged at every batch: kept back, they would be those of the whole model."""
        return nullcontext()

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm over the parts of all processes."""
        return nn.utils.get_total_norm(gradients).full_tensor()

    @contextmanager
    def whole(self, stage: Stage) -> Iterator[None]:
        """Inside, a plain copy stands in the main process in place of each module, in `stage.modules` and wherever
        an attribute of the stage is that module; in the others nothing is to be done with them.
        """
        placed = dict(stage.modules)
        for name, module in placed.items():
            weights = {}
            for key, parameter in module.named_parameters(remove_duplicate=False):
                tensor = parameter.detach().full_tensor()
                if self.rank == 0:
                    weights[key] = tensor
            if self.rank == 0:
                self._twins[name].load_state_dict(weights, strict=False, assign=True)  # buffers it has already
                self._twins[name].train(module.training)
                _exchange(stage, name, self._twins[name])
        try:
            yield
        finally:
            if self.rank == 0:
                for name, module in placed.items():
                    _exchange(stage, name, module)
                    twin = self._twins[name]
                    nothing = {key: p.detach().to("meta") for key, p in twin.named_parameters(remove_duplicate=False)}
                    twin.load_state_dict(nothing, strict=False, assign=True)

    def gathered(self, state: Any) -> Any:
        """A tree of dicts and lists; in the main process with whole tensors on the CPU, elsewhere without them."""
        if isinstance(state, dict):
            return {key: self.gathered(value) for key, value in state.items()}
        if isinstance(state, list | tuple):
            return type(state)(self.gathered(value) for value in state)
        if isinstance(state, DTensor):
            tensor = state.detach().full_tensor()
            return tensor.cpu() if self.rank == 0 else None
        return state

    def scattered(self, stage: Stage, state: dict[str, Any]) -> dict[str, Any]:
        """This process's part of all tensors of a training state that belong to weights."""
        weights = {
            f"{name}.{key}": parameter
            for name, module in stage.modules.items()
            for key, parameter in module.named_parameters(remove_duplicate=False)
        }
        modules = {
            name: {key: _part(tensor, weights.get(f"{name}.{key}")) for key, tensor in tensors.items()}
            for name, tensors in state["modules"].items()
        }
        optimizers = {name: _parts_of(stage.optimizers[name], saved) for name, saved in state["optimizers"].items()}
        averages = state["ema"]
        if averages is not None:
            averages = {key: _part(tensor, weights.get(key)) for key, tensor in averages.items()}
        return {**state, "modules": modules, "optimizers": optimizers, "ema": averages}

    def _share_out(self, module: nn.Module) -> None:
        for tensor in (*module.parameters(), *module.buffers()):  # all begin with what the main process has
            tensor.data.copy_(broadcast(tensor.data.to(self.device)))
        for layer in _layers(module):
            fully_shard(layer, mesh=self._mesh, reshard_after_forward=True)
        # What no layer holds is needed at the end of the way forward and at the beginning of the way back.
        fully_shard(module, mesh=self._mesh, reshard_after_forward=False)


def apply_whole(function: Callable[[Tensor], Tensor], parts: list[Tensor]) -> list[Tensor]:
    """Parts of the results of a function that needs whole matrices of one shape, [N, A, B] -> [N, A, B].

    Every process computes all of them, a few at a time. To be called by all processes.
    """
    results = []
    for start in range(0, len(parts), WHOLE_AT_ONCE):
        some = parts[start : start + WHOLE_AT_ONCE]
        whole = function(torch.stack([part.full_tensor() for part in some]))
        results += [_part(tensor, part) for tensor, part in zip(whole.unbind(), some, strict=True)]
    return results


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers that are worth being brought together by themselves: those that transformers names as units."""
    names = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    return [part for part in module.modules() if type(part).__name__ in names]


def _weightless_twin(module: nn.Module) -> nn.Module:
    """A copy without the weights; it shares the buffers."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    return copy.deepcopy(module, memo)


def _exchange(stage: Stage, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of that name."""
    before = stage.modules[name]
    stage.modules[name] = module
    for attribute, value in list(vars(stage).items()):
        if value is before:
            setattr(stage, attribute, module)


def _part(tensor: Tensor, like: Tensor | None) -> Tensor:
    """This process's part of a whole tensor, cut as `like` is; the tensor itself where that is not cut."""
    if not isinstance(like, DTensor):
        return tensor
    whole = tensor.to(like.device)
    # A copy of the part, or the whole would stay in memory behind it.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).clone()


def _parts_of(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """The parts of an optimizer's state, or of the states of those that step as one."""
    members = getattr(optimizer, "members", None)
    if members is not None:
        return {key: _parts_of(members[int(key)], value) for key, value in saved.items()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = {
        number: {
            key: _part(value, parameters[number])
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for key, value in state.items()
        }
        for number, state in saved["state"].items()
    }
    return {**saved, "state": states}
