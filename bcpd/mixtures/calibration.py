r"""Is p* the conditional probability of the labels that the sampler draws? The check that ties the two together."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpd.seeds import generator
from bcpd.tensors import ArrayLike, float64, labels

__all__ = ["calibration_z"]

_FLOOR = -20.0  # log p* is clipped here: test functions must be bounded
_DIRECTIONS = 8


def calibration_z(x: ArrayLike, y: ArrayLike, log_posterior: ArrayLike) -> Tensor:
    r"""Scores of :math:`E[\langle h(x), e_y - p^*(x) \rangle] = 0`, which holds for every h if p* is right.

    With :math:`r_i = e_{y_i} - p^*(x_i)` and :math:`S_h = \sum_i \langle h(x_i), r_i \rangle`, each score is

    .. math:: z_h = S_h / \sqrt{V_h + b_h |S_h| / 3}, \qquad
              V_h = \sum_i \mathrm{Var}_{k \sim p^*(x_i)}[h_k(x_i)], \quad b_h = \max_i \mathrm{range}_k h_k(x_i) .

    V is the variance of S given x if p* is right, so :math:`S/\sqrt V` would be the usual z-score; the second term,
    negligible in large samples, makes it Bernstein's: :math:`P(|z_h| \ge t) \le 2 e^{-t^2/2}` for every n, also where
    a class is so rare that no central limit holds. The test functions h:

    - :math:`\log p^*` clipped at -20, less the constants per class that it is correlated with: the direction of a wrong
      scale (a covariance off by a factor moves p* along it);
    - :math:`g(x) e_k` for every class k and every g in: 1; :math:`\log p^*_j` clipped at -20, for every class j;
      tanh of the standardised coordinates of x, and of their squares minus 1 (eight fixed random directions where x
      has more than eight coordinates).

    With M scores, the chance that a right p* shows a :math:`|z| > t` anywhere is at most :math:`2 M e^{-t^2/2}`
    (Bonferroni), in large samples about :math:`2 M (1 - \Phi(t))`: 5.7e-7 M for t = 5.

    Args:
        x: ``(n, *shape)``, drawn with the labels.
        y: ``(n,)`` int64.
        log_posterior: log p* at x, ``(n, K)``.
    Returns:
        float64 ``(M,)``. Judge by ``.abs().max()``. ``inf`` where a label came that p* excludes.
    Raises:
        ValueError: shapes that do not match.
    """
    log_p = float64(log_posterior, "log_posterior")
    points, n = float64(x, "x"), len(log_p)
    if log_p.ndim != 2 or len(points) != n:
        raise ValueError(
            f"x must have shape (n, ...) and log_posterior (n, K), "
            f"received {tuple(points.shape)} and {tuple(log_p.shape)}"
        )
    y = labels(y, log_p.shape[1], "y")
    if tuple(y.shape) != (n,):
        raise ValueError(f"y must have shape ({n},), received {tuple(y.shape)}")
    p, clipped = log_p.exp(), log_p.clamp(min=_FLOOR)
    residual = -p
    residual[torch.arange(n), y] += 1

    direction = clipped - _class_constants(p, clipped)
    mean = (p * direction).sum(1, keepdim=True)
    spread = direction.amax(1) - direction.amin(1)
    scale = _bernstein((direction * residual).sum(), (p * (direction - mean).square()).sum(), spread.max())

    scalars = torch.cat([torch.ones_like(p[:, :1]), clipped, _bounded_coordinates(points.reshape(n, -1))], 1)
    totals, variances = scalars.T @ residual, scalars.square().T @ (p * (1 - p))
    classwise = _bernstein(totals, variances, scalars.abs().amax(0)[:, None])
    impossible = bool((p.gather(1, y[:, None]) == 0).any())
    scores = torch.cat([scale.reshape(1), classwise.flatten()])
    return torch.full_like(scores, torch.inf) if impossible else scores


def _class_constants(p: Tensor, values: Tensor) -> Tensor:
    """Least-squares constants ``(K,)`` under the conditional covariance: what an error in the priors would explain."""
    covariance = torch.diag(p.sum(0)) - p.T @ p
    cross = (p * (values - (p * values).sum(1, keepdim=True))).sum(0)
    inverse: Tensor = torch.linalg.pinv(covariance, hermitian=True)
    return inverse @ cross


def _bernstein(total: Tensor, variance: Tensor, bound: Tensor) -> Tensor:
    scaled = variance.clamp(min=0) + bound * total.abs() / 3
    # rounding leaves totals of 1e-17 where p* is 0 or 1; they mean 0
    return torch.where(scaled > 0, total / scaled.sqrt(), 0.0)


def _bounded_coordinates(flat: Tensor) -> Tensor:
    if flat.shape[1] > _DIRECTIONS:
        draw = generator(0, "calibration")
        directions = torch.randn(flat.shape[1], _DIRECTIONS, dtype=torch.float64, generator=draw)
        flat = flat @ directions.to(flat.device)
    spread, centre = torch.std_mean(flat, 0)
    standard = (flat - centre) / torch.where(spread > 0, spread, 1.0)
    return torch.cat([standard.tanh(), (standard.square() - 1).tanh()], 1)
