"""Losses on logits: one value per example, any leading axes; the caller reduces."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bcpd.distill.functional.precision import full_precision
from bcpd.tensors import log_softmax

__all__ = ["dkd", "kd"]


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
    return temperature**2 * _kl(log_t, log_s)


@full_precision
def dkd(z_s: Tensor, z_t: Tensor, y: Tensor, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0) -> Tensor:
    r"""Decoupled knowledge distillation, :math:`T^2 (\alpha\, KL(b^t \| b^s) + \beta\, KL(\hat p^t \| \hat p^s))`.

    With :math:`p = \mathrm{softmax}(z/T)` and the label y: :math:`b = (p_y, 1 - p_y)` is the target class against the
    rest, :math:`\hat p` the softmax of the other K - 1 logits (Zhao et al. 2022, section 3). KD has
    :math:`\alpha = 1` and :math:`\beta = 1 - p^t_y` in their place. With K = 2 the second term is exactly 0 and what
    remains is :math:`\alpha` times KD.

    Everything is computed from differences of logits, so a saturated student costs a finite value. A teacher known by
    its probabilities enters with ``z_t = log t``; one that is certain of the target says nothing about the other
    classes, and the second term is 0.

    Args:
        z_s: student logits ``(..., K)``, K >= 2.
        z_t: teacher logits ``(..., K)``; no gradient is taken through them.
        y: int64 labels ``(...)``.
        temperature: T > 0.
        alpha, beta: >= 0.
    Returns:
        tensor ``(...)`` in nats, at least float32; 0 where the softmaxes agree.
    Raises:
        ValueError: shapes that do not belong together, or a temperature or weight out of range.
    """
    if z_s.shape != z_t.shape or y.shape != z_s.shape[:-1]:
        raise ValueError(
            f"student and teacher logits must have one shape (..., K) and labels (...), "
            f"received {tuple(z_s.shape)}, {tuple(z_t.shape)} and {tuple(y.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, received {temperature}")
    if not (alpha >= 0 and beta >= 0):
        raise ValueError(f"alpha and beta must be >= 0, received {alpha} and {beta}")
    (binary_s, others_s), (binary_t, others_t) = (_split(z / temperature, y) for z in (z_s, z_t.detach()))
    return temperature**2 * (alpha * _kl(binary_t, binary_s) + beta * _kl(others_t, others_s))


def _kl(log_t: Tensor, log_s: Tensor) -> Tensor:
    """KL(t || s) over the last axis, with 0 log 0 = 0."""
    t = log_t.exp()
    gap = torch.where(t == 0, 0.0, log_t) - torch.where(t == 0, 0.0, log_s)
    return (t * gap).sum(-1)


def _split(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``(..., 2)`` of the target and of the rest, and ``(..., K)`` among the rest (-inf at y)."""
    z = z - z.detach().amax(-1, keepdim=True)
    others = z.scatter(-1, y.unsqueeze(-1), -torch.inf)
    rest = others.logsumexp(-1)
    odds = z.gather(-1, y.unsqueeze(-1)).squeeze(-1) - rest
    among = torch.where((rest == -torch.inf).unsqueeze(-1), -torch.inf, log_softmax(others))
    return torch.stack([logsigmoid(odds), logsigmoid(-odds)], -1), among
