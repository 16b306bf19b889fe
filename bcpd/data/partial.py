"""Less than a whole training set: labels for a share of the images, or a share of the images."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpd.data.images import Images
from bcpd.data.stratified import stratified_subset
from bcpd.tensors import ArrayLike, float64

__all__ = ["few_shot", "labelled_mask"]


def labelled_mask(y: ArrayLike, share: float, seed: int) -> Tensor:
    """Which examples keep their labels: a share of them, every class by its own share.

    For ``InMemory(labelled=...)``: the others are shown to the teacher and feed the teacher's terms only. Of one seed
    and classes of equal size, the examples of a smaller share are among those of a larger one.

    Args:
        y: ``(N,)`` integer labels.
        share: in (0, 1]; ``round(share * N)`` examples keep their labels, see :func:`stratified_subset`.
        seed: root seed of the draw.
    Returns:
        bool ``(N,)``, on the CPU.
    Raises:
        ValueError: a share out of range, or so small that a class keeps no label.
    """
    return _mask(y, share, seed, "labelled example")


def few_shot(images: Images, share: float, seed: int) -> Images:
    """A share of the images, every class by its own share, in the order that they had.

    Of one seed and classes of equal size, the images of a smaller share are among those of a larger one.

    Args:
        images: those of a whole set.
        share: in (0, 1]; ``round(share * N)`` images are left.
        seed: root seed of the draw.
    Raises:
        ValueError: a share out of range, or so small that a class keeps no image.
    """
    kept = _mask(images.y, share, seed, "image")
    return Images(
        x=images.x[kept],
        y=images.y[kept],
        num_classes=images.num_classes,
        class_names=images.class_names,
        coarse=None if images.coarse is None else images.coarse[kept],
    )


def _mask(y: ArrayLike, share: float, seed: int, what: str) -> Tensor:
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], received {share}")
    values = float64(y, "y").cpu()
    count = max(1, round(share * len(values)))
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[stratified_subset(values, count, seed)] = True
    left = len(torch.unique(values[chosen]))
    classes = len(torch.unique(values))
    if left < classes:
        raise ValueError(f"a share of {share:g} leaves {classes - left} of {classes} classes without any {what}")
    return chosen
