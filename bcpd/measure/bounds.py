r"""How much 0-1 risk a teacher's distance to p* can cost: bounds on the excess risk with sharp constants.

With :math:`\hat k = \arg\max_k q_k(x)` and :math:`\delta(x) = \max_k p^*_k - p^*_{\hat k}`, the excess risk is
:math:`L(q) - L^* = \mathbb E\,\delta` exactly. At every x two classes decide it: i, the mode of p*, and
:math:`j = \hat k`, for which :math:`q_j \ge q_i`; hence (derived here; for K = 2 Devroye, Gyorfi & Lugosi 1996, ch. 2)

.. math:: \delta = p^*_i - p^*_j \le (p^*_i - q_i) + (q_j - p^*_j) \le \|q - p^*\|_1,\quad
          2 \|q - p^*\|_\infty,\quad \sqrt 2\, \|q - p^*\|_2 .

None of the constants can be lowered: :func:`tipped` attains all three at once, whatever p*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.estimate import Estimate, EstimateMethod
from bcpd.measure.moments import Moments
from bcpd.measure.points import (
    KnownPosterior,
    Points,
    checked_log_rows,
    log_rows,
    points_of_mixture,
    points_of_rows,
)
from bcpd.measure.predictors import Predict, as_predictor
from bcpd.tensors import ArrayLike, float64, probability_rows

__all__ = [
    "BOUNDS",
    "ExcessRiskBounds",
    "RiskBound",
    "excess_risk_bounds",
    "excess_risk_bounds_of_probabilities",
    "excess_risk_of_kl",
    "kl_of_excess_risk",
    "risk_bounds",
    "tipped",
    "worst_excess",
]

BOUNDS: Mapping[str, str] = {
    "l1": "E |q - p*|_1",
    "sup": "2 E |q - p*|_inf",
    "l2": "sqrt(2) E |q - p*|_2",
    "mse": "sqrt(2 MSE)",
    "pinsker": "sqrt(2 E KL(p*|q))",
    "kl": "psi^-1(E KL(p*|q))",
}
"""The bounds by name, in words. For K = 2 the first three are one: :math:`2\\,\\mathbb E|\\hat\\eta - \\eta|`."""


def worst_excess(p: ArrayLike, q: ArrayLike) -> Tensor:
    r""":math:`\max_k p_k - \min_{k \in \arg\max q} p_k`: the excess risk at a point, ties broken against the predictor.

    A bound that holds for it holds for every way to break ties; without ties it is ``excess_risk`` of
    :func:`bcpd.measure.pointwise.pointwise`.

    Args:
        p: probabilities ``(..., K)``; q: scores ``(..., K)`` of any scale (probabilities, logarithms, logits).
    Returns:
        float64, the broadcast leading shape, in [0, 1].
    Raises:
        ValueError: last axes that differ, or p not probabilities.
    """
    truth, scores = probability_rows(p, "p"), float64(q, "q")
    if scores.ndim == 0 or scores.shape[-1] != truth.shape[-1]:
        raise ValueError(f"q must have {truth.shape[-1]} columns as p has, received shape {tuple(scores.shape)}")
    chosen = scores == scores.amax(-1, keepdim=True)
    return truth.amax(-1) - torch.where(chosen, truth, math.inf).amin(-1)


def tipped(p: ArrayLike, tip: float = 1e-6) -> Tensor:
    r"""The cheapest teacher that errs at p: its two largest entries averaged, and tipped towards the second.

    With the gap :math:`\Delta = p_{(1)} - p_{(2)}`, both become :math:`(p_{(1)} + p_{(2)})/2 \mp \tau\Delta`. As
    :math:`\tau \to 0` the excess risk :math:`\Delta` equals :math:`\|q - p\|_1`, :math:`2\|q - p\|_\infty` and
    :math:`\sqrt2\,\|q - p\|_2` (derived here): the constants 1, 2 and :math:`\sqrt2` cannot be lowered.

    Args:
        p: probabilities ``(..., K)``, K >= 2.
        tip: :math:`\tau` in [0, 1/2]; 0 leaves a tie, 1/2 exchanges the two entries.
    Returns:
        float64 probabilities ``(..., K)``.
    Raises:
        ValueError: rows that are not probabilities, a single class, or a tip outside [0, 1/2].
    """
    rows = probability_rows(p, "p")
    if rows.shape[-1] < 2:
        raise ValueError("p must have at least 2 classes, received 1")
    if not 0 <= tip <= 0.5:
        raise ValueError(f"tip must lie in [0, 1/2], received {tip}")
    top, place = rows.topk(2, -1)
    middle, gap = top.mean(-1, keepdim=True), top[..., :1] - top[..., 1:]
    return rows.scatter(-1, place, torch.cat([middle - tip * gap, middle + tip * gap], -1))


def kl_of_excess_risk(excess: ArrayLike) -> Tensor:
    r"""The least :math:`KL(p\|q)` in nats of a row q whose prediction has the excess risk :math:`\Delta` at p.

    .. math:: \psi(\Delta) = \tfrac{1 + \Delta}2 \log(1 + \Delta) + \tfrac{1 - \Delta}2 \log(1 - \Delta)
              \;\ge\; \tfrac12 \Delta^2

    Derived here: let s be the mass of the two classes that decide. Given :math:`q_j \ge q_i`, KL is least at
    :math:`q_i = q_j = s/2` with the other entries equal, where it is :math:`s\,\psi(\Delta/s)`, the perspective of a
    convex function that vanishes at 0, hence least at s = 1: two classes, :math:`p = (1 \pm \Delta)/2`, q uniform.

    Args:
        excess: :math:`\Delta` in [0, 1], any shape.
    Returns:
        float64, in [0, log 2].
    Raises:
        ValueError: an entry outside [0, 1].
    """
    gap = float64(excess, "excess")
    if not bool(((gap >= 0) & (gap <= 1)).all()):
        raise ValueError(f"excess must lie in [0, 1], received values in [{float(gap.min())}, {float(gap.max())}]")
    # the two products cancel to second order for small gaps; this form does not
    small = gap * gap.atanh() + torch.log1p(-gap.square()) / 2
    large = (torch.special.xlog1py(1 + gap, gap) + torch.special.xlog1py(1 - gap, -gap)) / 2
    return torch.where(gap < 0.5, small, large)


def excess_risk_of_kl(divergence: ArrayLike) -> Tensor:
    r""":math:`\psi^{-1}(D)`, the largest excess risk at an expected :math:`KL(p^*\|q) = D`; 1 from D = log 2 on.

    :math:`\psi` (:func:`kl_of_excess_risk`) is convex, so by Jensen's inequality
    :math:`\psi(L(q) - L^*) \le \mathbb E\,\psi(\delta) \le \mathbb E\,KL(p^*\|q)`. This is the logarithmic score's
    calibration function (Bartlett, Jordan & McAuliffe 2006 for margins); it lies below Pinsker's
    :math:`\sqrt{2D}`, which it tends to as D -> 0, and is attained for every D <= log 2, where Pinsker's is not.

    Args:
        divergence: D >= 0 in nats, ``inf`` allowed, any shape.
    Returns:
        float64, in [0, 1], to about 1e-15.
    Raises:
        ValueError: a negative entry or nan.
    """
    nats = float64(divergence, "divergence")
    if not bool((nats >= 0).all()):
        raise ValueError(f"divergence must be >= 0, received a minimum of {float(nats.min())}")
    inside = nats.clamp(max=math.log(2))
    gap = (2 * inside).sqrt().clamp(max=1 - 2**-53)
    for _ in range(60):  # Newton from the right of the root of a convex increasing function: falls until it stops
        slope = gap.atanh()
        step = torch.where(slope > 0, (kl_of_excess_risk(gap) - inside) / slope, 0.0)
        if not bool((step > 0).any()):
            break
        gap = (gap - step.clamp(min=0)).clamp(min=0)
    return torch.where(nats >= math.log(2), 1.0, gap)


@dataclass(frozen=True)
class RiskBound:
    """A bound on the excess risk, and the share of it that is used: excess risk / bound, in [0, 1].

    The share is ``nan`` where the bound is 0 (q is p*).
    """

    bound: Estimate
    share: Estimate


@dataclass(frozen=True)
class ExcessRiskBounds:
    """The excess risk of a predictor, between 0 and every one of its ``bounds`` (named in :data:`BOUNDS`)."""

    excess_risk: Estimate
    bounds: Mapping[str, RiskBound]

    @property
    def tightest(self) -> str:
        """The name of the smallest bound."""
        return min(self.bounds, key=lambda name: self.bounds[name].bound.value)

    @property
    def within(self) -> bool:
        """Whether the excess risk is within every bound, up to rounding. It is: the bounds hold at every point."""
        return all(self.excess_risk.value <= each.bound.value + 1e-12 for each in self.bounds.values())

    def __str__(self) -> str:
        lines = [f"excess risk {self.excess_risk}"]
        for name, each in self.bounds.items():
            lines.append(f"  <= {each.bound}  {BOUNDS[name]}, of which it uses {100 * each.share.value:.1f} %")
        return "\n".join(lines)


def excess_risk_bounds(predict: Predict, mixture: KnownPosterior, n: int, seed: int) -> ExcessRiskBounds:
    r"""Is a teacher's excess risk within the bounds that its distance to p* gives, and how much of each does it use?

    The expectations of :func:`risk_bounds` over the mixture: exact where X is finite (``n`` and ``seed`` are then
    ignored), else over ``n`` sampled points. The shares' standard errors take into account that excess and bound come
    from the same points (delta method). Sampled or exact, the excess risk is within every bound: they hold pointwise.

    Args:
        predict: whatever :func:`bcpd.measure.as_predictor` takes.
        mixture, n, seed: as in :func:`bcpd.measure.distance`.
    Raises:
        ValueError: as in :func:`bcpd.measure.distance`.
    """
    return _summary(*points_of_mixture(mixture, [as_predictor(predict, mixture.num_classes)], n, seed))


def excess_risk_bounds_of_probabilities(
    q: ArrayLike, log_bayes: ArrayLike, *, weights: ArrayLike | None = None, log_q: ArrayLike | None = None
) -> ExcessRiskBounds:
    """:func:`excess_risk_bounds` at given points; arguments as in :func:`bcpd.measure.distance_of_probabilities`."""
    rows = log_rows(q, log_q, "q")
    return _summary(*points_of_rows(checked_log_rows(log_bayes, "log_bayes"), [rows], weights, seed=0))


def risk_bounds(log_bayes: Tensor, log_q: Tensor) -> Tensor:
    r"""At every point the excess risk, and the quantities whose means make its bounds.

    Columns: :math:`\delta` (ties against the predictor), :math:`\|q - p^*\|_1`, :math:`2\|q - p^*\|_\infty`,
    :math:`\sqrt2\,\|q - p^*\|_2`, :math:`\|q - p^*\|_2^2`, :math:`KL(p^*\|q)`.

    Args:
        log_bayes, log_q: float64 ``(n, K)``.
    Returns:
        float64 ``(n, 6)``.
    """
    bayes, q = log_bayes.exp(), log_q.exp()
    squared = simplex.squared_distance(bayes, q)
    return torch.stack(
        [
            worst_excess(bayes, log_q),
            simplex.l1_distance(bayes, q),
            2 * simplex.sup_distance(bayes, q),
            (2 * squared).sqrt(),
            squared,
            simplex.kl_from_log(log_bayes, log_q).clamp(min=0),
        ],
        dim=-1,
    )


def _itself(mean: float) -> tuple[float, float]:
    return mean, 1.0


def _root_of_twice(mean: float) -> tuple[float, float]:
    bound = math.sqrt(2 * mean)
    return bound, 1 / bound if bound > 0 else 0.0


def _inverse_psi(mean: float) -> tuple[float, float]:
    bound = float(excess_risk_of_kl(mean))
    return bound, 1 / math.atanh(bound) if 0 < bound < 1 else 0.0


_MADE_OF: Mapping[str, tuple[int, Callable[[float], tuple[float, float]]]] = {
    "l1": (1, _itself),
    "sup": (2, _itself),
    "l2": (3, _itself),
    "mse": (4, _root_of_twice),
    "pinsker": (5, _root_of_twice),
    "kl": (5, _inverse_psi),
}
"""For every bound the column of :func:`risk_bounds`, and the function of its mean (with its derivative)."""


def _summary(exact: bool, points: Iterator[Points]) -> ExcessRiskBounds:
    method: EstimateMethod = "exact" if exact else "monte_carlo"
    moments = Moments(11)
    for log_bayes, (log_q,), weights in points:
        columns = risk_bounds(log_bayes, log_q)
        # the sums with the excess carry the covariances
        moments.add(torch.cat([columns, columns[:, :1] + columns[:, 1:]], 1), weights)
    estimates = moments.estimates(method)
    excess = estimates[0]
    bounds = {}
    for name, (column, function) in _MADE_OF.items():
        mean, both = estimates[column], estimates[column + 5]
        bound, slope = function(mean.value)
        if math.isfinite(mean.value):
            covariance = (both.stderr**2 - excess.stderr**2 - mean.stderr**2) / 2
        else:
            # an infinite divergence is infinite whatever else is drawn: the bound, if finite, is a constant
            mean, covariance = Estimate(mean.value, 0.0, method), 0.0
        share = excess.value / bound if bound > 0 else math.nan
        variance = excess.stderr**2 - 2 * share * slope * covariance + (share * slope * mean.stderr) ** 2
        spread = math.sqrt(max(variance, 0.0)) / bound if bound > 0 else math.nan
        error = slope * mean.stderr if math.isfinite(bound) else math.nan
        bounds[name] = RiskBound(Estimate(bound, error, method), Estimate(share, spread, method))
    return ExcessRiskBounds(excess, bounds)
