"""Several processes, started by torchrun, that train one model: PyTorch's data parallelism through accelerate.

Each process takes its share of the batches (`modules.data.batching.Loader`), gradients are averaged while they are
computed, and every process makes the same step. Imported only where there are several processes.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from modules.training.stage import Stage
from modules.training.team import Losses

T = TypeVar("T")
# The others wait while the main process validates, saves, and makes samples.
PATIENCE = timedelta(hours=2)


class Accelerated:
    """A team of processes (see `modules.training.team.Team`). They are told of each other by torchrun.

    Make it before the model: quantisers ask when they are built whether there are other processes.

    Args:
        cpu: train on the CPU even where there is a GPU.
    """

    sharded = False

    def __init__(self, cpu: bool = False):
        # Buffers are kept equal by those who change them; sent around at every call, they would be overwritten
        # between the two phases of a step, under the gradients of the first.
        handler = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
        self._accelerator = Accelerator(cpu=cpu, kwargs_handlers=[handler, InitProcessGroupKwargs(timeout=PATIENCE)])
        self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes
        self.device: torch.device = self._accelerator.device

    def place(self, stage: Stage) -> None:
        """To the device of this process."""
        for module in stage.modules.values():
            module.to(self.device)

    def losses(self, stage: Stage, phase: str) -> Losses:
        """The losses of a phase behind DDP, which starts with the main process's weights everywhere."""
        return self._accelerator.prepare_model(_PhaseLosses(stage, phase))

    def accumulating(self, losses: Losses) -> AbstractContextManager[Any]:
        """No exchange of gradients inside."""
        return self._accelerator.no_sync(losses)

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm, the same in every process."""
        return nn.utils.get_total_norm(gradients)

    def whole(self, stage: Stage) -> AbstractContextManager[Any]:
        """They are, in every process."""
        return nullcontext()

    def gathered(self, state: Any) -> Any:
        """The state, whole in every process."""
        return state

    def scattered(self, stage: Stage, state: dict[str, Any]) -> dict[str, Any]:
        """The state."""
        return state

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return self._accelerator.reduce(value, reduction="mean")

    def from_main(self, value: T) -> T:
        """What the main process holds, in every process."""
        return broadcast_object_list([value])[0]

    def from_all(self, value: T) -> list[T]:
        """What each process holds, in order."""
        return gather_object([value])

    def close(self) -> None:
        """Leave the process group, all together, and only when nothing holds on to it: what is freed after it, when
        the interpreter ends, aborts the process."""
        self._accelerator.wait_for_everyone()
        self._accelerator.free_memory()
        self._accelerator.end_training()


class _PhaseLosses(nn.Module):
    """The modules that a phase's optimizer moves, and the call whose gradients they get."""

    def __init__(self, stage: Stage, phase: str):
        super().__init__()
        moved = {id(p) for group in stage.optimizers[phase].param_groups for p in group["params"]}
        parts = {n: m for n, m in stage.modules.items() if any(id(p) in moved for p in m.parameters())}
        self.parts = nn.ModuleDict(parts)
        self._stage, self._phase = stage, phase

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self._stage.losses(self._phase, batch)
