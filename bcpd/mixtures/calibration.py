r"""Is p* the conditional probability of the labels that the sampler draws? The check that ties the two together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bcpd.seeds import generator
from bcpd.tensors import ArrayLike, float64, labels, probability_rows

__all__ = ["calibration_z"]

_FLOOR = -20.0  # log p* is clipped here: test functions must be bounded
_DIRECTIONS = 8
_BLOCK = 16_384


def calibration_z(x: ArrayLike, y: ArrayLike, log_posterior: ArrayLike) -> Tensor:
    r"""Scores of :math:`E[\langle h(x), e_y - p^*(x) \rangle] = 0`, which holds for every h if p* is right.

    With :math:`r_i = e_{y_i} - p^*(x_i)` and :math:`S_h = \sum_i \langle h(x_i), r_i \rangle`, each score is

    .. math:: z_h = S_h / \sqrt{V_h + b_h |S_h| / 3}, \qquad
              V_h = \sum_i \mathrm{Var}_{k \sim p^*(x_i)}[h_k(x_i)], \quad b_h \ge \max_i \mathrm{range}_k h_k(x_i) .

    V is the variance of S given x if p* is right, so :math:`S/\sqrt V` would be the usual z-score; the second term,
    negligible in large samples, makes it Bernstein's: :math:`P(|z_h| \ge t) \le 2 e^{-t^2/2}` for every n, also where
    a class is so rare that no central limit holds. The test functions h, in this order:

    - :math:`\log p^*` clipped at -20, less the constants per class that it is correlated with: the direction of a wrong
      scale (a covariance off by a factor moves p* along it);
    - :math:`g(x) e_k` for every g and every class k, g being: 1; :math:`\log p^*_j` clipped at -20, for every class j;
      tanh of the standardised coordinates of x, and of their squares minus 1 (eight fixed random directions where x
      has more than eight coordinates).

    With M scores, the chance that a right p* shows a :math:`|z| > t` anywhere is at most :math:`2 M e^{-t^2/2}`
    (Bonferroni), in large samples about :math:`2 M (1 - \Phi(t))`: 5.7e-7 M for t = 5. A covariance 2 % off needs
    some n = 1,000,000 points to be seen at t = 8 where the Bayes error is a third.

    Args:
        x: ``(n, *shape)``, drawn with the labels.
        y: labels, ``(n,)`` int64; or the true P(y | x), rows ``(n, K)``, for the scores that such labels would show in
            the mean: how far a wrong p* will be from its bound, known before any label is drawn.
        log_posterior: log p* at x, ``(n, K)``.
    Returns:
        float64 ``(M,)``; judge by ``.abs().max()``. All ``inf`` where a label came that p* excludes.
    Raises:
        ValueError: shapes that do not match, labels outside 0 .. K-1, rows that are not probabilities.
    """
    log_p, points = float64(log_posterior, "log_posterior"), float64(x, "x")
    if log_p.ndim != 2 or points.ndim < 2 or len(points) != len(log_p):
        raise ValueError(
            f"x must have shape (n, ...) and log_posterior (n, K), "
            f"received {tuple(points.shape)} and {tuple(log_p.shape)}"
        )
    n, classes = log_p.shape
    outcomes = float64(y, "y")
    expected = outcomes.ndim == 2
    outcomes = probability_rows(outcomes, "y", 1e-6) if expected else labels(y, classes, "y")
    if tuple(outcomes.shape) != ((n, classes) if expected else (n,)):
        raise ValueError(f"y must have shape ({n},) or ({n}, {classes}), received {tuple(outcomes.shape)}")

    flat = points.reshape(n, -1)
    if flat.shape[1] > _DIRECTIONS:
        draw = generator(0, "calibration")
        flat = flat @ torch.randn(flat.shape[1], _DIRECTIONS, dtype=torch.float64, generator=draw).to(flat.device)
    spread, centre = torch.std_mean(flat, 0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)

    scale, classwise = _ScaleTest(classes, log_p.device), _ClasswiseTests()
    for rows in range(0, n, _BLOCK):
        block = slice(rows, rows + _BLOCK)
        log_block = log_p[block]
        p, clipped = log_block.exp(), log_block.clamp(min=_FLOOR)
        happened = outcomes[block] if expected else functional.one_hot(outcomes[block], classes)
        residual = happened - p
        standard = (flat[block] - centre) / spread
        bounded = [standard.tanh(), (standard.square() - 1).tanh()]
        scale.add(clipped, p, residual)
        classwise.add(torch.cat([torch.ones_like(p[:, :1]), clipped, *bounded], 1), p, residual)
    scores = torch.cat([scale.score().reshape(1), classwise.scores().flatten()])
    ruled_out = log_p[outcomes > 0] if expected else log_p.gather(1, outcomes[:, None])
    excluded = bool((ruled_out == -torch.inf).any())
    return torch.full_like(scores, torch.inf) if excluded else scores


class _ClasswiseTests:
    """Sums for h = g(x) e_k: totals and variances ``(G, K)``, bounds ``(G, 1)``."""

    def __init__(self) -> None:
        self.totals: Tensor | float = 0.0
        self.variances: Tensor | float = 0.0
        self.bounds = torch.zeros(())

    def add(self, functions: Tensor, p: Tensor, residual: Tensor) -> None:
        self.totals = self.totals + functions.T @ residual
        self.variances = self.variances + functions.square().T @ (p * (1 - p))
        self.bounds = torch.maximum(self.bounds.to(p), functions.abs().amax(0)[:, None])

    def scores(self) -> Tensor:
        return _bernstein(torch.as_tensor(self.totals), torch.as_tensor(self.variances), self.bounds)


class _ScaleTest:
    """Sums for h = log p* - c, where c ``(K,)`` is known only once all points are: what wrong priors would explain."""

    def __init__(self, classes: int, device: torch.device) -> None:
        zeros = torch.zeros(classes, dtype=torch.float64, device=device)
        self.total, self.variance, self.range = zeros.sum(), zeros.sum(), zeros.sum()
        self.residual, self.cross, self.covariance = zeros, zeros, torch.diag(zeros)

    def add(self, log_p: Tensor, p: Tensor, residual: Tensor) -> None:
        centred = log_p - (p * log_p).sum(1, keepdim=True)
        self.total = self.total + (log_p * residual).sum()
        self.variance = self.variance + (p * centred.square()).sum()
        self.range = torch.maximum(self.range, (log_p.amax(1) - log_p.amin(1)).max())
        self.residual = self.residual + residual.sum(0)
        self.cross = self.cross + (p * centred).sum(0)
        self.covariance = self.covariance + torch.diag(p.sum(0)) - p.T @ p

    def score(self) -> Tensor:
        inverse: Tensor = torch.linalg.pinv(self.covariance, hermitian=True)
        constants = inverse @ self.cross
        variance = self.variance - 2 * constants @ self.cross + constants @ self.covariance @ constants
        bound = self.range + constants.max() - constants.min()
        return _bernstein(self.total - constants @ self.residual, variance, bound)


def _bernstein(total: Tensor, variance: Tensor, bound: Tensor) -> Tensor:
    scaled = variance.clamp(min=0) + bound * total.abs() / 3
    return torch.where(scaled > 0, total / scaled.sqrt(), 0.0)
