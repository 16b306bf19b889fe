r"""Random resized crops: rectangles of random area and shape, each a pure function of (seed, epoch, index).

The augmentation of Szegedy et al. (2015, "Going deeper with convolutions", section 6) as residual networks are trained
on ImageNet with it. Of an image of W x H pixels,

.. math:: a \sim U(0.08, 1), \quad \log r \sim U(\log \tfrac34, \log \tfrac43), \quad
    w = \mathrm{round}\sqrt{a r W H}, \quad h = \mathrm{round}\sqrt{a W H / r}

are drawn until the w x h rectangle fits, ten times at most, and its place is uniform among all; if none fits, it is the
largest centred rectangle whose w / h lies in the range of r. What it shows is resized to the network's input and, with
probability 1/2, mirrored left to right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from bcpd.data.augment import view_numbers
from bcpd.seeds import derive

__all__ = ["NUM_UNIFORMS", "TRIES", "RandomResizedCrop", "Rectangle", "crop_uniforms"]

TRIES = 10
NUM_UNIFORMS = 2 * TRIES + 3
"""What one crop consumes: area and shape of every try, column, row, mirror."""

_LEVELS = 2**31 - 1


class Rectangle(NamedTuple):
    """Whole pixels of an image, counted from its upper left corner."""

    left: int
    top: int
    width: int
    height: int


def crop_uniforms(seed: int | Sequence[int], epoch: int, index: Tensor) -> Tensor:
    """Uniform numbers in (0, 1) for the crop of each image in an epoch: a counter-based hash of its coordinates.

    They depend on nothing else: not on the batch an image is in, its place there, or who decodes it. The last one says
    whether the image is mirrored: where it is below 1/2.

    Args:
        seed, epoch, index: as :func:`bcpd.data.view_numbers` has them; ``index`` on the CPU.
    Returns:
        float64 ``(*index.shape, NUM_UNIFORMS)``, multiples of 2^-31 (nearly), never 0 or 1.
    Raises:
        ValueError: as :func:`bcpd.data.view_numbers`.
    """
    roots, rows = (seed, index) if isinstance(seed, Sequence) else ([seed], index[None])
    if rows.ndim < 1 or len(rows) != len(roots):
        raise ValueError(
            f"{len(roots)} seeds need an index of shape ({len(roots)}, ...), received {tuple(index.shape)}"
        )
    keys = [derive(root, "crop", number) for root in roots for number in range(NUM_UNIFORMS)]
    numbers = view_numbers(keys, epoch, rows.repeat_interleave(NUM_UNIFORMS, 0), _LEVELS)
    uniforms = (numbers.double() + 0.5) / _LEVELS
    uniforms = uniforms.reshape(len(roots), NUM_UNIFORMS, *rows.shape[1:]).movedim(1, -1)
    return uniforms if isinstance(seed, Sequence) else uniforms[0]


@dataclass(frozen=True)
class RandomResizedCrop:
    """The ranges that a crop is drawn from.

    Attributes:
        scale: of its share a of the image's area, in (0, 1].
        ratio: of its width over its height r, positive.
    Raises:
        ValueError: another range, or one whose ends are the wrong way round.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be an increasing pair in (0, 1], received {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"ratio must be an increasing pair of positive numbers, received {self.ratio}")

    def rectangle(self, uniforms: Sequence[float], width: int, height: int) -> Rectangle:
        """The crop that ``uniforms`` (a row of :func:`crop_uniforms`) make of an image of ``width`` x ``height``."""
        smallest, largest = (share * width * height for share in self.scale)
        narrowest, widest = (math.log(ratio) for ratio in self.ratio)
        across, down = uniforms[2 * TRIES : 2 * TRIES + 2]
        for first in range(0, 2 * TRIES, 2):
            area = smallest + (largest - smallest) * uniforms[first]
            ratio = math.exp(narrowest + (widest - narrowest) * uniforms[first + 1])
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 1 <= w <= width and 1 <= h <= height:
                return Rectangle(int(across * (width - w + 1)), int(down * (height - h + 1)), w, h)
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        return Rectangle((width - w) // 2, (height - h) // 2, w, h)
