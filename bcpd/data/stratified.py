"""A subset in which every class keeps its share."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpd.seeds import generator
from bcpd.tensors import ArrayLike, float64

__all__ = ["stratified_subset"]


def stratified_subset(y: ArrayLike, count: int, seed: int) -> Tensor:
    """Positions of ``count`` examples, drawn without replacement so that every class keeps its share of ``y``.

    Class k with :math:`N_k` of the N examples gets :math:`n N_k / N` of the n chosen, rounded by largest remainder
    (ties at random): classes of equal size get counts that differ by at most one. Shares are kept, not equalised,
    because another prior is another p*. A slice of a file would do neither: CIFAR files may be sorted by class.

    Args:
        y: ``(N,)`` integer labels, any integers.
        count: n in ``1 .. N``.
        seed: root seed of the draw.
    Returns:
        ``(count,)`` int64, distinct, in random order, on the CPU.
    Raises:
        ValueError: labels that are no vector of integers, or a count out of range.
    """
    values = float64(y, "y")
    if values.ndim != 1 or not bool((values == values.round()).all()):
        raise ValueError(f"y must be a vector of integers, received shape {tuple(values.shape)}")
    total = len(values)
    if not 1 <= count <= total:
        raise ValueError(f"count must lie in 1..{total}, received {count}")
    stream = generator(seed, "subset")
    shuffled = torch.randperm(total, generator=stream)
    _, classes, sizes = torch.unique(values.cpu()[shuffled], return_inverse=True, return_counts=True)
    quota = count * sizes // total
    remainder = count * sizes % total
    # ties between remainders are broken by the order of a random permutation that a stable sort preserves
    tie = torch.randperm(len(sizes), generator=stream)
    first = tie[remainder[tie].argsort(descending=True, stable=True)]
    quota[first[: count - int(quota.sum())]] += 1
    by_class = classes.argsort(stable=True)
    start = sizes.cumsum(0) - sizes
    rank = torch.empty_like(classes)
    rank[by_class] = torch.arange(total) - start[classes[by_class]]
    return shuffled[rank < quota[classes]]
