"""Carrying a trained output layer over to another set of labels, so that a recogniser can learn further languages."""

from collections.abc import Sequence

import torch
from torch import Tensor


def carry_labels(
    old: Tensor, new: Tensor, old_labels: Sequence[str], new_labels: Sequence[str], first: int = 1
) -> Tensor:
    """Rows of `new` with those of labels that `old` knows taken from there.

    Args:
        old, new: [G * C, ...] weights or biases of G groups of classes; the classes are `first` unnamed ones, then a
            label each.

    Returns:
        [G * C, ...] like `new`; labels that are new keep its values.
    """
    classes, earlier = first + len(new_labels), first + len(old_labels)
    if new.shape[0] % classes or old.shape[0] * classes != new.shape[0] * earlier:
        raise ValueError(f"{tuple(old.shape)} and {tuple(new.shape)} are not groups of {earlier} and {classes} classes")
    place = {label: number for number, label in enumerate(old_labels, first)}
    kept = [(n, place[label]) for n, label in enumerate(new_labels, first) if label in place]
    kept += [(n, n) for n in range(first)]
    to, from_ = (torch.tensor(side) for side in zip(*kept, strict=True))
    carried = new.clone().view(-1, classes, *new.shape[1:])
    carried[:, to] = old.view(-1, earlier, *old.shape[1:])[:, from_].to(carried.dtype)
    return carried.view_as(new)
