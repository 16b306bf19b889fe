r"""Improper losses of softmax probabilities: what they converge to instead of p*, and the way back.

Every formula holds for the unrestricted class and the population risk: :math:`\arg\min_q \sum_k p_k \ell(k, q)` for
each x by itself. In a restricted class, or on a finite sample, neither the minimiser nor its correction is exact.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import wrightomega
from torch import Tensor

from bcpd import simplex
from bcpd.losses.loss import Loss, expected, softmax, wide
from bcpd.tensors import log_softmax

__all__ = ["MAE", "confidence_penalty", "focal", "generalised_ce", "label_smoothing", "tempered_ce"]


def label_smoothing(epsilon: float = 0.1) -> Loss:
    r"""Cross-entropy against :math:`(1 - \epsilon) t + \epsilon / K` (Szegedy et al. 2016); **improper**.

    Population minimiser :math:`(1 - \epsilon) p + \epsilon / K`, so its MSE to p is
    :math:`\epsilon^2 \|p - 1/K\|^2`; correction :math:`p = (q - \epsilon / K) / (1 - \epsilon)`.

    Symmetric label noise is the same thing in population: if a label is kept with probability
    :math:`1 - \epsilon` and otherwise drawn uniformly from all K classes, the noisy labels have the probabilities
    :math:`(1 - \epsilon) p + \epsilon / K`, which any strictly proper loss then finds. Noise and smoothing differ in
    the variance of the gradients only, and the correction is the same.

    Args:
        epsilon: share of the uniform row, in [0, 1).
    Raises:
        ValueError: epsilon outside [0, 1).
    """
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon must lie in [0, 1), received {epsilon}")

    def smooth(p: Tensor) -> Tensor:
        return (1 - epsilon) * p + epsilon / p.shape[-1]

    def correction(q: Tensor) -> Tensor:
        return simplex.project((q - epsilon / q.shape[-1]) / (1 - epsilon))

    def function(logits: Tensor, target: Tensor) -> Tensor:
        log_q = log_softmax(wide(logits))
        uniform = epsilon * log_q.mean(-1) if epsilon else 0.0
        return (1 - epsilon) * expected(-log_q, target) - uniform

    return Loss("label_smoothing", function, smooth, parameters={"epsilon": epsilon}, correction=correction)


def focal(gamma: float = 2.0) -> Loss:
    r"""Focal loss :math:`-(1 - q_y)^\gamma \log q_y` (Lin et al. 2017); **improper** for gamma > 0.

    Stationarity of :math:`\sum_k p_k \ell(k, u)` on the simplex gives :math:`p_k \propto h(u_k)` with
    :math:`h(u) = u / \varphi(u)`, :math:`\varphi(u) = (1-u)^\gamma - \gamma (1-u)^{\gamma - 1} u \log u`
    (Charoenphakdee et al. 2021, Theorem 11): the correction. The minimiser solves it for u, by bisection to float64
    accuracy.

    Args:
        gamma: focusing exponent, >= 0 (0 is the cross-entropy).
    Raises:
        ValueError: a negative gamma.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma must be >= 0, received {gamma}")

    def function(logits: Tensor, target: Tensor) -> Tensor:
        log_q = log_softmax(wide(logits))
        # q = 1 costs 0 with derivative 0, but a power below 1 would differentiate to inf * 0 there
        certain = log_q == 0
        rest = -torch.where(certain, -1.0, log_q).expm1()
        return expected(torch.where(certain, 0.0, -(rest**gamma) * log_q), target)

    def minimiser(p: Tensor) -> Tensor:
        return _focal_minimiser(p, gamma)

    def correction(q: Tensor) -> Tensor:
        largest = q.amax(-1, keepdim=True)
        # relative to the largest entry, whose h may be infinite
        weights = q / largest * (_focal_slope(largest, gamma) / _focal_slope(q, gamma))
        weights = torch.where(q == largest, 1.0, weights)
        return weights / weights.sum(-1, keepdim=True)

    return Loss("focal", function, minimiser, parameters={"gamma": gamma}, correction=correction)


def _focal_slope(u: Tensor, gamma: float) -> Tensor:
    r""":math:`\varphi(u) = -u\, \ell'(u)`; 0 at u = 1, where a power below 1 would make it inf times 0."""
    rest = 1 - u
    certain = (rest == 0) & (gamma > 0)
    safe = torch.where(certain, 0.5, rest)
    slope: Tensor = safe**gamma + gamma * safe ** (gamma - 1) * torch.special.entr(u) if gamma else torch.ones_like(u)
    return torch.where(certain, 0.0, slope)


def _focal_minimiser(p: Tensor, gamma: float) -> Tensor:
    """Solve ``p_k = lam * h(u_k)``, ``sum u = 1``: h and its inverse increase, so two nested sections do it.

    ``1 / lam`` is bracketed by the largest entry: with ``c = h(u_max)``, ``u_max`` runs over [1/K, 1], and every other
    entry follows from ``h(u_k) = c p_k / p_max``. The outer search halves, the inner one takes 64ths: 60 bits each.
    """
    if gamma == 0:
        return p.clone()

    def h(u: Tensor) -> Tensor:
        return u / _focal_slope(u, gamma)

    ratio = p / p.amax(-1, keepdim=True)
    low, high = torch.full_like(p[..., :1], 1 / p.shape[-1]), torch.ones_like(p[..., :1])
    inner = torch.arange(1, 64, dtype=p.dtype, device=p.device) / 64
    entries = ratio
    for _ in range(60):
        top = (low + high) / 2
        goal = h(top) * ratio
        below, width = torch.zeros_like(p), top.expand_as(p)
        for _ in range(10):
            points = below.unsqueeze(-1) + width.unsqueeze(-1) * inner
            short = (h(points) < goal.unsqueeze(-1)).sum(-1)
            below, width = below + width * (short / 64), width / 64
        entries = torch.where(ratio == 0, 0.0, torch.where(ratio == 1, top, below + width / 2))
        over = entries.sum(-1, keepdim=True) > 1
        low, high = torch.where(over, low, top), torch.where(over, top, high)
    return entries / entries.sum(-1, keepdim=True)


def _mae(logits: Tensor, target: Tensor) -> Tensor:
    return expected(2 * (1 - softmax(wide(logits))), target)


def _mode(p: Tensor) -> Tensor:
    """All mass on the largest entries, shared equally where they tie (any share minimises the risk)."""
    top = (p == p.amax(-1, keepdim=True)).to(p.dtype)
    return top / top.sum(-1, keepdim=True)


MAE = Loss("mae", _mae, _mode)
r"""Mean absolute error :math:`\|e_y - q\|_1 = 2 (1 - q_y)` (Ghosh et al. 2017); **improper**: linear in q, so that its
minimiser is the mode of p, and approached only as logits grow without bound. It has no correction: all p with one mode
share the minimiser."""


def generalised_ce(exponent: float = 0.7) -> Loss:
    r"""Generalised cross-entropy :math:`(1 - q_y^a) / a` (Zhang & Sabuncu 2018); **improper** for 0 < a < 1.

    The risk is convex in q and stationary where :math:`p_k q_k^{a - 1}` is the same for all k: minimiser
    :math:`q_k \propto p_k^{1 / (1 - a)}`, sharper than p; correction :math:`p_k \propto q_k^{1 - a}`. a -> 0 is the
    cross-entropy, a = 1 half the mean absolute error (``mae``), which has no correction.

    Args:
        exponent: a, in (0, 1).
    Raises:
        ValueError: an exponent outside (0, 1).
    """
    if not 0 < exponent < 1:
        raise ValueError(f"exponent must lie in (0, 1), received {exponent}")

    def function(logits: Tensor, target: Tensor) -> Tensor:
        log_q = log_softmax(wide(logits))
        return expected(-(exponent * log_q).expm1() / exponent, target)

    return Loss(
        "generalised_ce",
        function,
        lambda p: _escort(p, 1 / (1 - exponent)),
        parameters={"exponent": exponent},
        correction=lambda q: _escort(q, 1 - exponent),
    )


def tempered_ce(temperature: float = 2.0) -> Loss:
    r"""Cross-entropy of :math:`\mathrm{softmax}(z / T)`, but probabilities are read out at temperature 1; **improper**.

    Training makes :math:`\mathrm{softmax}(z / T) = p`, so that the read-out :math:`\mathrm{softmax}(z)` is
    :math:`\propto p^T`; correction :math:`\propto q^{1 / T}`, which is reading out at T after all. (Trained at 1 and
    read out at T, the row is :math:`\propto p^{1 / T}`.)

    Args:
        temperature: T > 0 of the training (1 is the cross-entropy).
    Raises:
        ValueError: a temperature that is not positive and finite.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be > 0 and finite, received {temperature}")

    def function(logits: Tensor, target: Tensor) -> Tensor:
        return expected(-log_softmax(wide(logits) / temperature), target)

    return Loss(
        "tempered_ce",
        function,
        lambda p: _escort(p, temperature),
        parameters={"temperature": temperature},
        correction=lambda q: _escort(q, 1 / temperature),
    )


def _escort(p: Tensor, exponent: float) -> Tensor:
    """Rows proportional to ``p ** exponent``; relative to the largest entry, so that nothing underflows to 0 / 0."""
    weights = (p / p.amax(-1, keepdim=True)) ** exponent
    return weights / weights.sum(-1, keepdim=True)


def confidence_penalty(beta: float = 0.3) -> Loss:
    r"""Cross-entropy minus :math:`\beta H(q)` (Pereyra et al. 2017); **improper** for beta > 0.

    The risk :math:`\sum_k -p_k \log q_k + \beta q_k \log q_k` is strictly convex in q, and stationary where
    :math:`p_k / q_k = c + \beta \log q_k`. Times :math:`q_k` and summed, :math:`c = 1 + \beta H(q)` (derived here), so
    that the correction is closed: :math:`p_k = q_k (1 + \beta H(q) + \beta \log q_k)`. For the minimiser, each entry
    is :math:`q_k = p_k / (\beta w_k)` with :math:`w_k + \log w_k = \log(p_k / \beta) + c / \beta` (Lambert's W), and c
    the root of :math:`\sum_k q_k(c) = 1`, which decreases in c. No entry is 0, even where :math:`p_k` is.

    Args:
        beta: weight of the entropy, >= 0 (0 is the cross-entropy).
    Raises:
        ValueError: a beta that is negative or not finite.
    """
    if not (beta >= 0 and math.isfinite(beta)):
        raise ValueError(f"beta must be >= 0 and finite, received {beta}")

    def function(logits: Tensor, target: Tensor) -> Tensor:
        log_q = log_softmax(wide(logits))
        # 0 log 0 = 0, also in the gradient
        entropy = -(log_q.exp() * torch.where(log_q == -torch.inf, 0.0, log_q)).sum(-1)
        return expected(-log_q, target) - beta * entropy

    def minimiser(p: Tensor) -> Tensor:
        return _penalised(p, beta) if beta else p.clone()

    def correction(q: Tensor) -> Tensor:
        c = 1 + beta * simplex.entropy(q).unsqueeze(-1)
        return simplex.project(c * q + beta * torch.special.xlogy(q, q))

    return Loss("confidence_penalty", function, minimiser, parameters={"beta": beta}, correction=correction)


def _penalised(p: Tensor, beta: float) -> Tensor:
    """Bisection on c in [1, 1 + beta log K], which :math:`c = 1 + \\beta H(q)` cannot leave."""
    low = torch.ones_like(p[..., :1])
    high = 1 + beta * math.log(p.shape[-1]) * low
    log_ratio = (p / beta).log()

    def entries(c: Tensor) -> Tensor:
        w = torch.as_tensor(np.asarray(wrightomega((log_ratio + c / beta).cpu().numpy())), device=p.device)
        # the first form is exact for entries of p that vanish, the second where c / beta is large
        return torch.where(w < 1, (w - c / beta).exp(), p / (beta * w.clamp(min=1)))

    for _ in range(60):
        middle = (low + high) / 2
        over = entries(middle).sum(-1, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    rows = entries((low + high) / 2)
    return rows / rows.sum(-1, keepdim=True)
