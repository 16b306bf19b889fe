"""A labelled set of images as its files hold it, and the constants that normalise the known sets."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["NORMALISATION", "Images", "Normalisation"]


@dataclass(frozen=True)
class Images:
    """Images and labels as read from files, before any scaling.

    Attributes:
        x: ``(N, C, H, W)`` uint8, 0 black.
        y: ``(N,)`` int64 labels in ``0 .. num_classes - 1``.
        num_classes: K of the set, also where a subset misses some classes.
        class_names: K names, or None where the set comes without.
        coarse: ``(N,)`` int64 superclasses, or None.
    """

    x: Tensor
    y: Tensor
    num_classes: int
    class_names: tuple[str, ...] | None = None
    coarse: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Normalisation:
    r""":math:`(x_c - m_c) / s_c` for pixels ``x`` in [0, 1], one mean and standard deviation a channel.

    Raises:
        ValueError: lengths that differ, a mean that is not finite or a standard deviation that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean and std must have one entry a channel, received {self.mean} and {self.std}")
        if not all(math.isfinite(m) for m in self.mean) or not all(0 < s < math.inf for s in self.std):
            raise ValueError(f"mean must be finite and std positive, received {self.mean} and {self.std}")


NORMALISATION = {
    # Per-channel moments of the training pixels. CIFAR-100: the values in RepDistiller and mdistiller (Tian et al.
    # 2020; Zhao et al. 2022). CIFAR-10: the moments over all training pixels, rounded, as commonly used.
    "cifar100": Normalisation((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "cifar10": Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    # The training split of bcpd.data.digits.
    "digits": Normalisation((0.2878,), (0.3541,)),
}
