r"""The squared distance to p* in two parts: calibration error, which recalibration removes, and grouping loss.

.. math:: \mathbb E\|q - p^*\|^2 = \underbrace{\mathbb E\|q - c\|^2}_{\text{calibration}}
          + \underbrace{\mathbb E\|p^* - c\|^2}_{\text{grouping}}, \qquad c = \mathbb E[p^* \mid q]

(Murphy 1973; Broecker 2009; Kull & Flach 2015; the cross term vanishes given q). A softmax temperature is injective in
q, so it moves the calibration part only; a constant predictor at the class priors has no calibration error at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.ensemble import ExtraTreesRegressor
from torch import Tensor

from bcpd import seeds, simplex
from bcpd.estimate import Estimate
from bcpd.measure.moments import Moments

__all__ = ["MINIMUM_POINTS", "CrossFit", "exact_parts", "mean_posterior"]

MINIMUM_POINTS = 100
_FIT_POINTS = 20_000
# log q enters the regressions no lower than this: beyond, classes differ in their logarithms only
_LOWEST_LOG = -30.0
_TREES = 50
_SMALLEST_LEAF = 20
_SPLIT_CANDIDATES = 10

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def mean_posterior(log_bayes: Tensor, log_q: Tensor, weights: Tensor) -> Tensor:
    r""":math:`c = \mathbb E[p^* \mid q]` at every point of a finite X, ``(n, K)``.

    Points whose rows of log q are equal in float64 share one c.

    Args:
        log_bayes: float64 ``(n, K)``; weights: positive, ``(n,)``.
        log_q: float64 ``(n, m)``, what c may depend on: log q, or less of it (its largest entry, say).
    """
    share = (weights / weights.sum()).unsqueeze(1)
    levels, group = torch.unique(log_q + 0.0, dim=0, return_inverse=True)  # + 0.0: -0 and 0 are one level
    mass = torch.zeros(len(levels), 1, dtype=torch.float64).index_add(0, group, share)
    centre = (
        torch.zeros(len(levels), log_bayes.shape[1], dtype=torch.float64).index_add(0, group, share * log_bayes.exp())
        / mass
    )
    return centre[group]


def exact_parts(log_bayes: Tensor, log_q: Tensor, weights: Tensor) -> tuple[Estimate, Estimate]:
    """Calibration and grouping on a finite X, about :func:`mean_posterior`.

    Args:
        log_bayes, log_q: float64 ``(n, K)``; weights: positive, ``(n,)``.
    """
    share, centre = weights / weights.sum(), mean_posterior(log_bayes, log_q, weights)
    calibration = float(share @ simplex.squared_distance(centre, log_q.exp()))
    grouping = float(share @ simplex.squared_distance(log_bayes.exp(), centre))
    return Estimate(calibration, 0.0, "exact"), Estimate(grouping, 0.0, "exact")


class CrossFit:
    r"""Bounds on both parts for a continuous q, from a stream of points in bounded memory.

    The conditional mean c is unknown, but any function g of q that is fitted on other points gives, with the residual
    :math:`r = p^* - q` and :math:`h = \mathbb E[r \mid q] = c - q`,

    .. math:: \mathbb E[2\,r \cdot g - \|g\|^2] = \mathbb E[2\,h \cdot g - \|g\|^2]
              = \mathbb E\|h\|^2 - \mathbb E\|h - g\|^2 \le \mathbb E\|h\|^2 ,

    a lower bound of the calibration error with equality exactly at g = h; and
    :math:`\mathbb E\|r - g\|^2` = mse minus that is an upper bound of the grouping loss. Both sample means are
    unbiased for their bounds and add up to the sample's mse. The calibration estimate may be slightly negative where
    there is nothing to find; it is not clamped.

    The first points (up to 20,000) are kept and cut in two halves; each half is judged by the g fitted on the other,
    and all later points by the mean of the two. The standard errors are those of the bounds that belong to the fitted
    g, taking points as independent: they neglect that the points of a half share their g, which matters for grouping
    where ``||r - g||^2`` hardly varies (a quarter too small in the tests' worst case), and that another sample would
    give another g, whose bound differs by the order of its slack.

    g is the best of ``softmax(t log q + b) - q``, fitted by cross-entropy to p* (temperature and class biases: what a
    monotone recalibration can repair), plus an extra-trees regression of what that leaves on log q, shrunk by the
    factor that its out-of-bag predictions call for (about 0 where it has only fitted noise).
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._kept_points = 0
        self._fits: tuple[_Recalibration, ...] = ()
        self._moments = Moments(2)

    def add(self, log_bayes: Tensor, log_q: Tensor) -> None:
        """Keep or judge a block of points, ``(b, K)`` float64 each."""
        if not self._fits:
            room = _FIT_POINTS - self._kept_points
            self._kept.append((log_bayes[:room].to("cpu"), log_q[:room].to("cpu")))
            self._kept_points += len(self._kept[-1][0])
            if self._kept_points < _FIT_POINTS:
                return
            self._fit()
            log_bayes, log_q = log_bayes[room:], log_q[room:]
        if len(log_bayes):
            bayes, log_rows = log_bayes.to("cpu").exp().numpy(), log_q.to("cpu").numpy()
            g = sum((fit(log_rows) for fit in self._fits), np.zeros_like(bayes)) / len(self._fits)
            self._judge(bayes, log_rows, g)

    def parts(self) -> tuple[Estimate, Estimate]:
        """Calibration (a lower bound) and grouping (an upper bound), each with its standard error.

        Raises:
            ValueError: fewer than 100 points were added.
        """
        if not self._fits:
            if self._kept_points < MINIMUM_POINTS:
                raise ValueError(
                    f"calibration and grouping need at least {MINIMUM_POINTS} points to fit c = E[p*|q], received "
                    f"{self._kept_points}; decompose=False leaves them out"
                )
            self._fit()
        calibration, grouping = self._moments.estimates("monte_carlo")
        return calibration, grouping

    def _fit(self) -> None:
        bayes = torch.cat([block[0] for block in self._kept]).exp().numpy()
        log_q = torch.cat([block[1] for block in self._kept]).numpy()
        self._kept.clear()
        middle = len(bayes) // 2
        halves = (slice(None, middle), slice(middle, None))
        self._fits = tuple(
            _recalibration(bayes[half], log_q[half], seeds.derive(self._seed, "measure-calibration", i))
            for i, half in enumerate(halves)
        )
        for fit, half in zip(self._fits, reversed(halves), strict=True):
            self._judge(bayes[half], log_q[half], fit(log_q[half]))

    def _judge(self, bayes: Array, log_q: Array, g: Array) -> None:
        residual = bayes - np.exp(log_q)
        left = ((residual - g) ** 2).sum(-1)
        self._moments.add(torch.from_numpy(np.stack([(residual**2).sum(-1) - left, left], axis=-1)))


@dataclass(frozen=True)
class _Recalibration:
    """A fitted g: from log q ``(n, K)`` to an estimate of ``E[p* - q | q]``, ``(n, K)``."""

    temperature: float
    bias: Array
    trees: ExtraTreesRegressor
    shrinkage: float

    def __call__(self, log_q: Array) -> Array:
        features = np.maximum(log_q, _LOWEST_LOG)
        smooth: Array = softmax(self.temperature * features + self.bias, axis=-1) - np.exp(log_q)
        if self.shrinkage == 0:
            return smooth
        rest: Array = self.trees.predict(features).reshape(smooth.shape)
        return smooth + self.shrinkage * rest


def _recalibration(bayes: Array, log_q: Array, seed: int) -> _Recalibration:
    features = np.maximum(log_q, _LOWEST_LOG)
    temperature, bias = _temperature_and_bias(bayes, features)
    rest = bayes - softmax(temperature * features + bias, axis=-1)
    trees = ExtraTreesRegressor(
        _TREES,
        min_samples_leaf=_SMALLEST_LEAF,
        max_features=min(_SPLIT_CANDIDATES, features.shape[-1]),
        bootstrap=True,
        oob_score=True,
        random_state=seed % 2**32,
    ).fit(features, rest)
    unseen = trees.oob_prediction_.reshape(rest.shape)
    energy = float((unseen**2).sum())
    shrinkage = min(max(float((rest * unseen).sum()) / energy, 0.0), 1.0) if energy > 0 else 0.0
    return _Recalibration(temperature, bias, trees, shrinkage)


def _temperature_and_bias(bayes: Array, features: Array) -> tuple[float, Array]:
    """The minimiser of the convex ``mean CE(p*, softmax(t f + b))``, started from no change."""

    def loss(parameters: Array) -> tuple[float, Array]:
        log_rows = log_softmax(parameters[0] * features + parameters[1:], axis=-1)
        gap = np.exp(log_rows) - bayes
        slope = np.concatenate([[(gap * features).sum(-1).mean()], gap.mean(0)])
        return float(-(bayes * log_rows).sum(-1).mean()), slope

    start = np.concatenate([[1.0], np.zeros(features.shape[-1])])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    return float(found[0]), found[1:]
