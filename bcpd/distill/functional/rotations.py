"""The four rotations of an image and the joint label of class and rotation (Yang et al. 2021, HSAKD)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TURNS", "joint_labels", "rotated"]

TURNS = 4


def rotated(images: Tensor) -> Tensor:
    """Each image turned by 0, 90, 180 and 270 degrees, counter-clockwise.

    Args:
        images: ``(B, C, H, H)``.
    Returns:
        tensor ``(4 B, C, H, H)``: the four of an image stand together, the upright one first.
    Raises:
        ValueError: what is no batch of square images.
    """
    if images.ndim != 4 or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"rotations need square images (B, C, H, H), received shape {tuple(images.shape)}")
    turned = [torch.rot90(images, turn, (-2, -1)) for turn in range(TURNS)]
    return torch.stack(turned, 1).flatten(0, 1)


def joint_labels(y: Tensor, rotation: Tensor) -> Tensor:
    """The label ``4 y + r`` of class y and rotation r among the 4 K joint ones.

    Args:
        y: int64 ``(...)``, classes.
        rotation: int64 ``(...)``, in 0..3.
    """
    return TURNS * y + rotation
