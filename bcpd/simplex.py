r"""Every probability formula, once: entropies, divergences and distances between rows of probabilities.

All functions take rows on the last axis, broadcast over the leading ones, work in float64 and return one value per
row; the caller reduces. Natural logarithms (nats). ``0 log 0 = 0``. Nothing is clamped: an infinite divergence is
returned as ``inf``. The truth comes first: ``kl(p, q)`` is :math:`KL(p \| q)`, ``cross_entropy(p, q)`` is
:math:`H(p, q)`.

Where rows are known by their logarithms (far tails, saturated networks), the ``*_from_log`` forms lose nothing to
underflow.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bcpd.tensors import ArrayLike, float64

__all__ = [
    "chi_square",
    "cross_entropy",
    "cross_entropy_from_log",
    "entropy",
    "kl",
    "kl_from_log",
    "l1_distance",
    "project",
    "squared_distance",
    "squared_hellinger",
    "sup_distance",
    "total_variation",
]


def _pair(p: ArrayLike, q: ArrayLike, non_negative: bool = True) -> tuple[Tensor, Tensor]:
    """Both arguments in float64, with matching last axes; their leading axes must broadcast."""
    left, right = float64(p, "p"), float64(q, "q")
    if left.ndim == 0 or right.ndim == 0 or left.shape[-1] != right.shape[-1] or left.shape[-1] == 0:
        raise ValueError(
            f"p and q must have the same number K >= 1 of classes on the last axis, "
            f"received shapes {tuple(left.shape)} and {tuple(right.shape)}"
        )
    try:
        np.broadcast_shapes(tuple(left.shape), tuple(right.shape))  # torch's own would import its compiler
    except ValueError:
        raise ValueError(
            f"the leading axes of p and q must broadcast, received shapes {tuple(left.shape)} and {tuple(right.shape)}"
        ) from None
    if non_negative:
        _check_sign(left, "p")
        _check_sign(right, "q")
    return left, right


def _check_sign(rows: Tensor, name: str) -> None:
    if bool((rows.detach() < 0).any()):
        raise ValueError(f"{name} must be non-negative, received a minimum of {float(rows.detach().min()):.6g}")


def _x_log_y(x: Tensor, y: Tensor) -> Tensor:
    """``x log y`` with ``0 log 0 = 0`` and a zero gradient there (``xlogy`` alone differentiates to 0 / 0)."""
    product: Tensor = torch.special.xlogy(x, torch.where((x == 0) & (y == 0), 1.0, y))
    return product


def squared_distance(p: ArrayLike, q: ArrayLike) -> Tensor:
    r"""Squared Euclidean distance :math:`\sum_k (p_k - q_k)^2`, **summed over classes**.

    The project's MSE to p* is the mean of this over x; divide by K for the ``/K`` convention. Range ``[0, 2]`` on the
    simplex. It is the Bregman divergence of the Brier score (Gneiting & Raftery 2007), symmetric in its arguments.

    Args:
        p, q: rows of shape ``(..., K)``; any real numbers.
    Returns:
        float64 tensor of the broadcast leading shape.
    Raises:
        ValueError: the last axes differ or the leading axes do not broadcast.
    """
    left, right = _pair(p, q, non_negative=False)
    return (left - right).square().sum(-1)


def l1_distance(p: ArrayLike, q: ArrayLike) -> Tensor:
    r""":math:`\sum_k |p_k - q_k|`, range ``[0, 2]`` on the simplex; twice :func:`total_variation`."""
    left, right = _pair(p, q, non_negative=False)
    return (left - right).abs().sum(-1)


def sup_distance(p: ArrayLike, q: ArrayLike) -> Tensor:
    r""":math:`\max_k |p_k - q_k|`, range ``[0, 1]`` on the simplex."""
    left, right = _pair(p, q, non_negative=False)
    return (left - right).abs().amax(-1)


def total_variation(p: ArrayLike, q: ArrayLike) -> Tensor:
    r"""Total variation distance :math:`\tfrac12 \sum_k |p_k - q_k| = \max_A |p(A) - q(A)|`, range ``[0, 1]``."""
    return l1_distance(p, q) / 2


def entropy(p: ArrayLike) -> Tensor:
    r"""Shannon entropy :math:`H(p) = -\sum_k p_k \log p_k` in nats, range ``[0, log K]``.

    Raises:
        ValueError: a negative entry.
    """
    rows = float64(p, "p")
    if rows.ndim == 0:
        raise ValueError("p must have shape (..., K), received a scalar")
    _check_sign(rows, "p")
    total: Tensor = torch.special.entr(rows).sum(-1)
    return total


def cross_entropy(p: ArrayLike, q: ArrayLike) -> Tensor:
    r"""Cross-entropy :math:`H(p, q) = -\sum_k p_k \log q_k` in nats; truth ``p`` first, range ``[H(p), inf]``.

    ``inf`` where some ``q_k = 0`` while ``p_k > 0``. Swap the arguments for the project's ``reverse_ce``.

    Args:
        p, q: rows of shape ``(..., K)``, non-negative.
    Returns:
        float64 tensor of the broadcast leading shape.
    Raises:
        ValueError: a negative entry, or shapes that do not match.
    """
    left, right = _pair(p, q)
    return -_x_log_y(left, right).sum(-1)


def cross_entropy_from_log(p: ArrayLike, log_q: ArrayLike) -> Tensor:
    r""":math:`-\sum_k p_k \log q_k` from ``log q``; ``p_k = 0`` contributes 0 even where ``log_q`` is ``-inf``."""
    left, log_right = _pair(p, log_q, non_negative=False)
    _check_sign(left, "p")
    return -torch.where(left == 0, 0.0, left * torch.where(left == 0, 0.0, log_right)).sum(-1)


def kl(p: ArrayLike, q: ArrayLike) -> Tensor:
    r"""Kullback-Leibler divergence :math:`KL(p \| q) = \sum_k p_k \log (p_k / q_k)` in nats, range ``[0, inf]``.

    The Bregman divergence of the logarithmic score; truth first. Absolute accuracy about 1e-15 (differences of
    nearly equal rows cancel), so tiny values may come out as ``-1e-17``.

    Args:
        p, q: rows of shape ``(..., K)``, non-negative.
    Returns:
        float64 tensor of the broadcast leading shape.
    Raises:
        ValueError: a negative entry, or shapes that do not match.
    """
    left, right = _pair(p, q)
    # the ratio of logarithms, not the logarithm of the ratio: p / q overflows for subnormal q
    total: Tensor = -(torch.special.entr(left) + _x_log_y(left, right)).sum(-1)
    return total


def kl_from_log(log_p: ArrayLike, log_q: ArrayLike) -> Tensor:
    r""":math:`KL(p \| q)` from both logarithms; entries with ``log_p = -inf`` contribute 0."""
    log_left, log_right = _pair(log_p, log_q, non_negative=False)
    left = log_left.exp()
    absent = left == 0
    gap = torch.where(absent, 0.0, log_left) - torch.where(absent, 0.0, log_right)
    return (left * gap).sum(-1)


def chi_square(p: ArrayLike, q: ArrayLike) -> Tensor:
    r"""Pearson's :math:`\chi^2(p \| q) = \sum_k (p_k - q_k)^2 / q_k`, range ``[0, inf]``; ``0 / 0 = 0``."""
    left, right = _pair(p, q)
    equal = left == right
    # the root first: the square of a tiny gap underflows, and its infinite ratio to q = 0 would be lost
    ratio = (left - right) / torch.where(equal, 1.0, right).sqrt()
    return ratio.square().sum(-1)


def squared_hellinger(p: ArrayLike, q: ArrayLike) -> Tensor:
    r"""Squared Hellinger distance :math:`\tfrac12 \sum_k (\sqrt{p_k} - \sqrt{q_k})^2`, range ``[0, 1]``."""
    left, right = _pair(p, q)
    return (left.sqrt() - right.sqrt()).square().sum(-1) / 2


def project(z: ArrayLike) -> Tensor:
    r"""Euclidean projection onto the simplex, :math:`\arg\min_{q \in \Delta} \|q - z\|_2`.

    :math:`q_k = (z_k - \tau)_+` with the threshold :math:`\tau` found by sorting (Held, Wolfe & Crowder 1974;
    Duchi et al. 2008). The read-out of networks trained by the square loss on logits.

    Args:
        z: finite real rows of shape ``(..., K)``.
    Returns:
        float64 probabilities of the same shape, with exact zeros.
    Raises:
        ValueError: an entry that is not finite.
    """
    rows = float64(z, "z")
    if rows.ndim == 0:
        raise ValueError("z must have shape (..., K), received a scalar")
    if not bool(rows.detach().isfinite().all()):
        raise ValueError("z must be finite to be projected onto the simplex, received nan or inf")
    # shifting z shifts the threshold only; entries 1 below the largest are 0, and cutting them there keeps sums exact
    rows = (rows - rows.detach().amax(-1, keepdim=True)).clamp(min=-1)
    ordered = rows.sort(-1, descending=True).values
    count = torch.arange(1, rows.shape[-1] + 1, dtype=torch.float64, device=rows.device)
    threshold = (ordered.cumsum(-1) - 1) / count
    support = (ordered > threshold).sum(-1, keepdim=True).clamp(min=1)
    return (rows - threshold.gather(-1, support - 1)).clamp(min=0)
