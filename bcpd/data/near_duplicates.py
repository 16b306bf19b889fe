r"""Test images that (nearly) repeat a training image: their labels are not fresh to a teacher.

Barz & Denzler (2020) count about 3.3 % of CIFAR-10's and 10 % of CIFAR-100's test images as duplicates of training
images, by learned features and by eye. Pixels alone find far fewer: 68 and 133 of 10,000 within a distance of 0.3. By
eye 63 and about 104 of those pairs are one picture (the others sea, sky and the like), and all of the 14 and 36 within
0.2; beyond 0.3 half of CIFAR-100's are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NearDuplicates", "near_duplicates"]

_QUERIES = 256  # images searched at once: their distances to 50,000 others are 50 MiB of float32
_PAIRS = 2048  # pairs compared exactly at once: 2 x 50 MiB of float64 at 3072 pixels
_IMAGES = 2048  # images described at once
_FIRST = 8  # candidates of an image that are compared before the rest is ruled out


class NearDuplicates(NamedTuple):
    """For each of the n test images the nearest training image within the threshold.

    Attributes:
        nearest: ``(n,)`` int64, its position; the first of equally near ones; -1 where none is near.
        distance: ``(n,)`` float64; ``inf`` where none is near.
        mirrored: ``(n,)`` bool, whether it is nearest when mirrored left to right.
    """

    nearest: Tensor
    distance: Tensor
    mirrored: Tensor

    @property
    def found(self) -> Tensor:
        """``(n,)`` bool: the images to leave out; see ``exclude`` of :func:`bcpd.measure.difference_to_bcpd`."""
        return self.nearest >= 0


def near_duplicates(
    test: Tensor, train: Tensor, threshold: float, *, progress: Callable[[int, int], None] | None = None
) -> NearDuplicates:
    r"""The nearest training image of each test image, by pixels, where it is within ``threshold``.

    Images are compared up to brightness, contrast and a mirror: with all :math:`D = CHW` pixels of each brought to
    mean 0 and norm 1,

    .. math:: d(x, x') = \|\tilde x - \tilde x'\| = \sqrt{2 (1 - r(x, x'))} \in [0, 2],

    r the correlation of their pixels, computed from whole numbers. Shifted, cropped or recoloured copies are not
    found. Not every near image is a copy: pictures of an object before a plain sky correlate too.

    The search is exact: averaging blocks of 4 x 4 pixels is an orthogonal projection P, so

    .. math:: \|P\tilde x - P\tilde x'\|^2 + \bigl(\|(I - P)\tilde x\| - \|(I - P)\tilde x'\|\bigr)^2 \le d(x, x')^2,

    a distance in :math:`D/16 + 1` coordinates. It is computed for all pairs, and the full one only where it does not
    exceed the smaller of the threshold and the nearest image found so far.

    Args:
        test: ``(n, C, H, W)`` uint8.
        train: ``(N, C, H, W)`` uint8.
        threshold: the largest distance that counts; 0.3 is a correlation of 0.955. Look at pairs beside it before
            relying on it. 2 finds the nearest image of each, and takes longer.
        progress: called with the number of test images done and n, every 256 images.
    Returns:
        nearest, distance, mirrored: :class:`NearDuplicates`, on the device of ``train``.
    Raises:
        ValueError: other shapes or types, no images, or a threshold outside [0, 2].
    """
    _check(test, train)
    if not 0 <= threshold <= 2:
        raise ValueError(f"threshold must lie in [0, 2], received {threshold}")
    known = _Described(train)
    results = []
    for block in torch.split(test, _QUERIES):
        images = block.to(train.device)
        plain, mirrored = (known.nearest(view, threshold) for view in (images, images.flip(-1)))
        closer = mirrored[0] < plain[0]
        squared, index = (torch.where(closer, second, first) for first, second in zip(plain, mirrored, strict=True))
        results.append((torch.where(index < len(train), index, -1), squared.sqrt(), closer))
        if progress is not None:
            progress(sum(len(index) for index, _, _ in results), len(test))
    return NearDuplicates(*(torch.cat(parts) for parts in zip(*results, strict=True)))


class _Described:
    """Training images with the coordinates by which most pairs are ruled out."""

    def __init__(self, images: Tensor) -> None:
        self.pixels = images.flatten(1)
        self.coarse = _coarse(images)
        self.squares = self.coarse.square().sum(1)
        # twice the worst rounding of a squared distance of unit vectors from float32 products
        self.slack = 4 * torch.finfo(torch.float32).eps * self.coarse.shape[1]

    def nearest(self, images: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Squared distance and position of the nearest image; inf and N where none is within the threshold."""
        pixels, coarse = images.flatten(1), _coarse(images)
        bound = torch.addmm(self.squares - self.slack, coarse, self.coarse.mT, alpha=-2)
        bound += coarse.square().sum(1)[:, None]
        none = len(self.pixels)
        best = torch.full((len(images),), math.inf, dtype=torch.float64, device=images.device)
        index = torch.full((len(images),), none, device=images.device)

        def compare(rows: Tensor, columns: Tensor) -> None:
            """Keep the nearest of the pairs and of those before, the first of equals."""
            nonlocal best, index
            for row, column in zip(torch.split(rows, _PAIRS), torch.split(columns, _PAIRS), strict=True):
                squared = _squared_distance(pixels[row], self.pixels[column])
                squared = torch.where(squared <= threshold**2, squared, math.inf)
                nearest = best.scatter_reduce(0, row, squared, "amin")
                index = torch.where(best == nearest, index, none)
                attained = (squared == nearest[row]) & squared.isfinite()
                index = index.scatter_reduce(0, row[attained], column[attained], "amin")
                best = nearest

        first = bound.topk(min(_FIRST, none), dim=1, largest=False)
        near = (first.values <= threshold**2).nonzero().unbind(1)
        compare(near[0], first.indices[near])
        bound.scatter_(1, first.indices, math.inf)
        compare(*(bound <= best.clamp(max=threshold**2)[:, None]).nonzero().unbind(1))
        return best, index


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """2 (1 - r) of rows of pixels ``(pairs, D)`` uint8: all sums are whole numbers below 2^53."""
    left, right = a.double(), b.double()
    size = a.shape[1]
    totals = left.sum(1), right.sum(1)
    spreads = [size * rows.square().sum(1) - total.square() for rows, total in zip((left, right), totals, strict=True)]
    covariance = size * (left * right).sum(1) - totals[0] * totals[1]
    # an image of one colour is the zero vector: two of them are equal, and it is at distance 1 from all others
    constant = (spreads[0] == 0) | (spreads[1] == 0)
    correlation = covariance / torch.where(constant, 1.0, (spreads[0] * spreads[1]).sqrt())
    sizes = (spreads[0] > 0).double() + (spreads[1] > 0).double()
    return (sizes - 2 * correlation).clamp(min=0)


def _coarse(images: Tensor) -> Tensor:
    """Coordinates ``(N, D / b^2 + 1)`` float32: block means of the normalised images, and the norm of what is left."""
    height, width = images.shape[-2:]
    side = next(size for size in (4, 2, 1) if height % size == 0 and width % size == 0)
    parts = []
    for block in torch.split(images, _IMAGES):
        pixels = block.double()
        centred = pixels - pixels.mean((1, 2, 3), keepdim=True)
        norm = centred.flatten(1).norm(dim=1).clamp(min=1e-300)
        grid = centred.reshape(len(block), -1, height // side, side, width // side, side)
        blocks = grid.mean((3, 5)).flatten(1) * side
        left = (norm.square() - blocks.square().sum(1)).clamp(min=0).sqrt()
        parts.append((torch.cat([blocks, left[:, None]], 1) / norm[:, None]).float())
    return torch.cat(parts)


def _check(test: Tensor, train: Tensor) -> None:
    for images, name in ((test, "test"), (train, "train")):
        if images.dtype != torch.uint8 or images.ndim != 4 or 0 in images.shape:
            raise ValueError(
                f"{name} must be a tensor of images (N, C, H, W) uint8, N >= 1, received {type(images).__name__} of "
                f"{images.dtype} {tuple(images.shape)}"
            )
    if test.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"test and train must be images of one shape, received {tuple(test.shape)} and {tuple(train.shape)}"
        )
