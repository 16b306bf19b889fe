"""Distillation losses as pure functions of tensors, one value per example; the caller reduces."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpd.tensors import log_softmax

__all__ = ["kd", "masked_mean"]


def kd(z_s: Tensor, z_t: Tensor, temperature: float = 4.0) -> Tensor:
    r"""Knowledge distillation, :math:`T^2\, KL(\mathrm{softmax}(z_t / T) \,\|\, \mathrm{softmax}(z_s / T))`.

    The factor :math:`T^2` keeps the size of the gradient comparable across temperatures (Hinton, Vinyals & Dean 2015).
    A teacher known by its probabilities enters with ``z_t = log t``; entries of ``-inf`` (probability 0) contribute 0.

    Args:
        z_s: student logits ``(..., K)``.
        z_t: teacher logits ``(..., K)``; no gradient is taken through them.
        temperature: T > 0.
    Returns:
        tensor ``(...)`` in nats, at least float32.
    Raises:
        ValueError: shapes that differ, or a temperature that is not positive.
    """
    if z_s.shape != z_t.shape:
        raise ValueError(
            f"student and teacher logits must have one shape, received {tuple(z_s.shape)} and {tuple(z_t.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, received {temperature}")
    wide = torch.promote_types(torch.promote_types(z_s.dtype, z_t.dtype), torch.float32)
    log_s = log_softmax(z_s.to(wide) / temperature)
    log_t = log_softmax(z_t.detach().to(wide) / temperature)
    t = log_t.exp()
    gap = torch.where(t == 0, 0.0, log_t) - torch.where(t == 0, 0.0, log_s)
    return temperature**2 * (t * gap).sum(-1)


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
