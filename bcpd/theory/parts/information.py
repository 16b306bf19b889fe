r"""Conditional mutual information of a predictor's outputs, three ways, and why maximising it moves a teacher off p*.

A label :math:`\hat Y \sim q(X)` is drawn given x alone, so :math:`Y - X - \hat Y` is a Markov chain. Ye et al. 2024
train teachers to maximise the likelihood plus :math:`\lambda\, I(X; \hat Y | Y)`, that is to minimise
:math:`CE - \lambda\,CMI` with :math:`\lambda > 0`; their code adds ``param`` times CMI with a **negative** param. All
functions take a finite X: weights ``(n,)``, p* ``(n, K)``, q ``(n, K)``; nats.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from bcpd import simplex
from bcpd.mixtures.base import distributions
from bcpd.tensors import ArrayLike, probability_rows

__all__ = [
    "centroids",
    "cmi",
    "cmi_by_definition",
    "cmi_by_entropies",
    "cmi_temperature_bound",
    "joint",
    "mcmi_minimiser",
    "mutual_information",
]


def _checked(weights: ArrayLike, bayes: ArrayLike, q: ArrayLike) -> tuple[Tensor, Tensor, Tensor]:
    mass, truth, rows = distributions(weights, "weights"), probability_rows(bayes, "bayes"), probability_rows(q, "q")
    if mass.ndim != 1 or truth.ndim != 2 or rows.ndim != 2 or not len(mass) == len(truth) == len(rows):
        raise ValueError(
            f"weights must have shape (n,), bayes and q (n, K), received {tuple(mass.shape)}, {tuple(truth.shape)} and "
            f"{tuple(rows.shape)}"
        )
    return mass, truth, rows


def joint(weights: ArrayLike, bayes: ArrayLike, q: ArrayLike) -> Tensor:
    r""":math:`P(x, y, \hat y) = w_x\, p^*_y(x)\, q_{\hat y}(x)`, shape ``(n, K, K)``.

    Raises:
        ValueError: shapes that do not fit, weights or rows that are not probabilities.
    """
    mass, truth, rows = _checked(weights, bayes, q)
    return (mass[:, None] * truth)[:, :, None] * rows[:, None, :]


def centroids(weights: ArrayLike, bayes: ArrayLike, q: ArrayLike) -> Tensor:
    r""":math:`Q_y = \mathbb E[q(X) \mid Y = y]`, rows ``(K, K)``; a class without mass has the row of zeros.

    In training: the class averages of the softmax outputs.
    """
    mass, truth, rows = _checked(weights, bayes, q)
    share = mass[:, None] * truth
    total = share.sum(0)
    return (share.T @ rows) / torch.where(total > 0, total, 1.0)[:, None]


def cmi(weights: ArrayLike, bayes: ArrayLike, q: ArrayLike) -> float:
    r""":math:`I(X; \hat Y | Y) = \sum_y P(y)\, \mathbb E[KL(q(X) \| Q_y) \mid y]`, by the :func:`centroids`.

    Returns:
        nats, in [0, log K].
    Raises:
        ValueError: as in :func:`joint`.
    """
    return float(_cmi(*_checked(weights, bayes, q)))


def _cmi(mass: Tensor, truth: Tensor, rows: Tensor) -> Tensor:
    """Differentiable in the rows."""
    # a centroid's entry may underflow to 0 where a row's does not; terms so small do not count
    divergence = simplex.kl(rows[:, None, :], centroids(mass, truth, rows).clamp(min=1e-300))
    share = mass[:, None] * truth
    return (share * torch.where(share > 0, divergence, 0.0)).sum()


def cmi_by_definition(weights: ArrayLike, bayes: ArrayLike, q: ArrayLike) -> float:
    r""":math:`\sum P(x, y, \hat y) \log \frac{P(x, \hat y | y)}{P(x | y)\,P(\hat y | y)}`, from the joint law alone."""
    table = joint(weights, bayes, q)
    present = table > 0
    # sum of logarithms: a product of two tiny probabilities would underflow
    signed = ((table, 1), (table.sum(2, keepdim=True), -1), (table.sum(0, keepdim=True), -1))
    logs = [sign * torch.where(present, part, 1.0).log() for part, sign in signed]
    logs.append(torch.where(present, table.sum((0, 2), keepdim=True), 1.0).log())
    return float((table * sum(logs)).sum())


def cmi_by_entropies(weights: ArrayLike, bayes: ArrayLike, q: ArrayLike) -> float:
    r""":math:`H(\hat Y | Y) - H(\hat Y | X)`, as :math:`H(\hat Y | X, Y) = H(\hat Y | X)`."""
    mass, truth, rows = _checked(weights, bayes, q)
    return float((mass @ truth) @ simplex.entropy(centroids(mass, truth, rows)) - mass @ simplex.entropy(rows))


def mutual_information(weights: ArrayLike, bayes: ArrayLike, q: ArrayLike) -> float:
    r""":math:`I(X; \hat Y) = H(\hat Y) - H(\hat Y | X)`: what is left of CMI if one forgets to condition on Y."""
    mass, _, rows = _checked(weights, bayes, q)
    return float(simplex.entropy(mass @ rows) - mass @ simplex.entropy(rows))


def cmi_temperature_bound(weights: ArrayLike, bayes: ArrayLike, logits: Tensor, temperature: float) -> float:
    r"""A bound on the CMI of :math:`\mathrm{softmax}(z / T)`, which vanishes as :math:`1/T^2`.

    .. math:: I(X; \hat Y | Y) \le \frac1{8 T^2}\, \mathbb E\bigl[\mathrm{range}_k(z(X) - \bar z_Y)^2\bigr],
              \qquad \bar z_y = \mathbb E[z(X) | y]

    Derived here: the centroid is the row closest to all q(x) given y in mean KL, so
    :math:`\mathrm{softmax}(\bar z_y / T)` is no closer; and :math:`KL(\mathrm{softmax}(u) \| \mathrm{softmax}(v))` is
    half the variance of v - u under a row between them (Taylor's theorem for the log-partition function), at most an
    eighth of its squared range. Attained by two classes as T grows.

    Args:
        logits: z, finite, ``(n, K)``; temperature: T > 0.
    Raises:
        ValueError: as in :func:`joint`, or a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, received {temperature}")
    mass, truth, _ = _checked(weights, bayes, logits.softmax(-1))
    share = mass[:, None] * truth
    total = share.sum(0)
    middle = (share.T @ logits) / torch.where(total > 0, total, 1.0)[:, None]
    gap = logits[:, None, :] - middle
    return float((share * (gap.amax(-1) - gap.amin(-1)).square()).sum()) / (8 * temperature**2)


def mcmi_minimiser(weights: ArrayLike, bayes: ArrayLike, strength: float, start: ArrayLike | None = None) -> Tensor:
    r"""A minimiser of :math:`\mathbb E\,H(p^*, q) - \lambda\, I(X; \hat Y | Y)` over **all** q on a finite X.

    By quasi-Newton steps on free logits. CMI is convex in q, so for :math:`\lambda > 0` the objective is not, and other
    local minima may lie lower; that p* is left for something lower is all that the claims need. At p* the derivative in
    :math:`q_k(x)` is :math:`-w_x (1 + \lambda \sum_y p^*_y(x) \log(p^*_k(x) / Q_{y,k}))` (derived here): p* is
    stationary only where the sum does not depend on k.

    Args:
        strength: :math:`\lambda`; positive raises CMI, negative lowers it, 0 is the cross-entropy.
        start: rows to start from, p* by default.
    Returns:
        q ``(n, K)``, float64.
    Raises:
        ValueError: as in :func:`joint`, or an entry of 0 in p* or ``start`` (rows on the boundary have no logits).
    """
    mass, truth, first = _checked(weights, bayes, bayes if start is None else start)
    if bool((truth <= 0).any()) or bool((first <= 0).any()):
        raise ValueError("bayes and start must be positive for their logits to be finite, received an entry of 0")

    def value_and_gradient(flat: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, object]:
        z = torch.tensor(flat).reshape(truth.shape).requires_grad_()
        cross_entropy = mass @ simplex.cross_entropy_from_log(truth, z.log_softmax(-1))
        objective = cross_entropy - strength * _entropy_gap(mass, truth, z)
        (slope,) = torch.autograd.grad(objective, z)
        return float(objective.detach()), slope.flatten().numpy()

    options = {"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-8, "maxcor": 50}
    found = minimize(value_and_gradient, first.log().flatten().numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.tensor(found.x).reshape(truth.shape).softmax(-1)


def _entropy_gap(mass: Tensor, truth: Tensor, z: Tensor) -> Tensor:
    """CMI from logits by entropies, without checks: the inner loop of the minimiser."""
    log_q = z.log_softmax(-1)
    q, share = log_q.exp(), mass[:, None] * truth
    given_y = torch.special.entr((share / share.sum(0)).T @ q).sum(-1)
    gap: Tensor = share.sum(0) @ given_y + mass @ (q * log_q).sum(-1)
    return gap
