"""From one value per example to one per batch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["masked_mean"]


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the last axis, over the entries where ``mask`` holds; 0 where it holds nowhere.

    So a labelled example weighs the more in a step, the fewer of them share its batch.

    Args:
        values: per-example losses ``(B,)`` or ``(R, B)``.
        mask: bool of the same shape, or ``None`` for all.
    Returns:
        tensor ``()`` or ``(R,)``.
    """
    if mask is None:
        return values.mean(-1)
    kept = torch.where(mask, values, 0.0)
    return kept.sum(-1) / mask.sum(-1).clamp(min=1)
