"""Codes of a codebook that nothing uses any more get a new place, in one process and in several alike.

The quantiser's library does this too, but over several processes it draws the new places with replacement: where more
codes are dead than vectors are at hand, most of them fall on one another, only one of each heap is ever used, and the
rest is dead again at the next step. Small batches keep a quarter of a codebook that way. Here no two codes are put on
one vector; codes that find none wait for the next batch.

Shapes: B batch, T frames, G groups, Q quantizers a group; N vectors of all processes, D width, C codes.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

TRIAL = math.e
"""A code begins with so many times the use under which codes are dead: unused it lasts 1 / (1 - decay) steps, which is
the memory of the averages."""


@torch.no_grad()
def revive(
    quantizer: nn.Module, hidden: Tensor, ids: Tensor, real: Tensor, dead_below: float, *, together: bool
) -> None:
    """Put the dead codes of every codebook on vectors of the batch that was just coded.

    Args:
        quantizer: the library's `GroupedResidualVQ`, its own replacement of dead codes switched off.
        hidden, ids: what it coded [B, T, G * D], and the codes [G, B, T, Q]; real: [B, T] bool, False where masked.
        dead_below: mean uses a batch under which a code is dead; 0 = none is.
        together: whether several processes train.
    """
    if not dead_below:
        return
    rows, used = hidden[real], ids.permute(1, 2, 0, 3)[real].flatten(1)
    if together:
        rows, used = of_all_processes(rows), of_all_processes(used)
    groups = quantizer.groups
    for part, rest, chosen in zip(quantizer.rvqs, rows.chunk(groups, -1), used.chunk(groups, -1), strict=True):
        for number, layer in enumerate(part.layers):
            coded = layer.codebook[chosen[:, number]]
            revive_(layer._codebook, rest, dead_below, together=together)
            rest = rest - coded  # what the next quantizer of the group is for


@torch.no_grad()
def revive_(codebook: nn.Module, vectors: Tensor, dead_below: float, *, together: bool) -> None:
    """Put dead codes on vectors that were just coded, the longest unused first.

    Args:
        codebook: the library's, with its averages `cluster_size` [1, C], `embed_avg` and `embed` [1, C, D]; they are
            the same in every process, and stay so.
        vectors: [N, D], the same in every process.
        dead_below: mean uses a batch under which a code is dead.
        together: whether several processes train.
    """
    use = codebook.cluster_size[0]
    dead = use.argsort()[: int((use < dead_below).sum())]
    order = torch.randperm(len(vectors), device=vectors.device)
    if together:
        dist.broadcast(order, src=0)
    count = min(len(dead), len(order))
    places, chosen = dead[:count], vectors[order[:count]].to(codebook.embed.dtype)
    codebook.embed[0, places] = chosen
    codebook.embed_avg[0, places] = chosen * (TRIAL * dead_below)
    use[places] = TRIAL * dead_below


def of_all_processes(rows: Tensor) -> Tensor:
    """Rows [n, D] of every process, one after another; n may differ between them."""
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    longest = max(int(count) for count in counts)
    padded = rows.new_zeros(longest, rows.shape[1])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([own[: int(count)] for own, count in zip(gathered, counts, strict=True)])
