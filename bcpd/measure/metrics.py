"""How far a predictor is from p*, and how two predictors compare on the same points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from bcpd.estimate import Estimate
from bcpd.measure.decomposition import CrossFit, exact_parts
from bcpd.measure.moments import Moments
from bcpd.measure.points import (
    KnownPosterior,
    Points,
    checked_log_rows,
    log_rows,
    points_of_mixture,
    points_of_rows,
)
from bcpd.measure.pointwise import POINTWISE, pointwise
from bcpd.measure.predictors import Predict, as_predictor
from bcpd.measure.reliability import ConfidenceBins
from bcpd.tensors import ArrayLike

__all__ = ["compare", "compare_probabilities", "distance", "distance_of_probabilities"]


def distance(
    predict: Predict, mixture: KnownPosterior, n: int, seed: int, *, decompose: bool = True
) -> dict[str, Estimate]:
    r"""The distances of a predictor q to the mixture's exact posterior p*, by name.

    ``mse`` :math:`\mathbb E\|q - p^*\|^2` (summed over classes), ``ce`` :math:`\mathbb E H(p^*, q)`, ``kl``
    :math:`\mathbb E KL(p^*\|q)`, ``reverse_ce`` :math:`\mathbb E H(q, p^*)`, all in nats, ``total_variation``,
    ``accuracy`` :math:`\mathbb E\, p^*_{\hat k}`, ``excess_risk`` :math:`\mathbb E[\max_k p^*_k - p^*_{\hat k}]`: see
    :func:`bcpd.measure.pointwise`. ``ece``: the binned calibration error of the top label, biased upward, see
    :class:`~bcpd.measure.reliability.ConfidenceBins`. ``calibration`` + ``grouping``: the two parts of mse; sampled,
    **a lower and an upper bound**, see :class:`~bcpd.measure.decomposition.CrossFit`.

    On a mixture with finite support every expectation is exact and ``n``, ``seed`` are ignored. Otherwise the points
    are streamed, in memory that does not grow with n. Only the decomposition costs more than a pass: it fits
    regressions, about a second at K = 10 and a quarter of a minute at K = 100.

    An infinite expectation is ``Estimate(inf, nan, ...)``: a predictor that says 0 where p* does not has infinite ce
    and kl, however rarely it does.

    Args:
        predict: whatever :func:`as_predictor` takes: a callable, a torch module, a classifier.
        mixture: its ``stream``, ``log_posterior``, ``support``, ``num_classes`` and ``shape`` are used.
        n: points drawn, at least 2; at least 100 with ``decompose``.
        seed: root seed of the points and of the bootstrap.
        decompose: leave out ``calibration`` and ``grouping`` where false.
    Raises:
        ValueError: the predictor's output is not ``(n, K)`` probabilities; ``n`` or ``seed`` are unusable.
    """
    predictor = as_predictor(predict, mixture.num_classes)
    exact, points = points_of_mixture(mixture, [predictor], n, seed)
    return _summary(exact, points, seed, decompose)


def distance_of_probabilities(
    q: ArrayLike,
    log_bayes: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    seed: int = 0,
    log_q: ArrayLike | None = None,
    decompose: bool = True,
) -> dict[str, Estimate]:
    """:func:`distance` at given points, e.g. the rows of a file.

    Args:
        q: probabilities ``(n, K)``.
        log_bayes: log p* ``(n, K)`` at the same points.
        weights: probabilities ``(n,)`` of points that exhaust X, which makes every value exact; without them the
            points are a sample.
        seed: root seed of the bootstrap and of the decomposition's regressions.
        log_q: log q where it is known better than by q, which it must agree with to 1e-4.
        decompose: leave out ``calibration`` and ``grouping`` where false.
    Raises:
        ValueError: shapes that differ, rows that are not probabilities (named), fewer than 2 rows (100 with
            ``decompose``) that are a sample.
    """
    exact, points = points_of_rows(checked_log_rows(log_bayes, "log_bayes"), [log_rows(q, log_q, "q")], weights, seed)
    return _summary(exact, points, seed, decompose)


def compare(predict_a: Predict, predict_b: Predict, mixture: KnownPosterior, n: int, seed: int) -> dict[str, Estimate]:
    """Paired differences ``a - b`` of the pointwise distances, both predictors on the same points.

    The standard error is that of the mean of the differences: much smaller than that of two separate samples. A value
    infinite for ``a`` alone gives ``inf``, for ``b`` alone ``-inf``, and for both ``nan``.

    Args:
        predict_a, predict_b: see :func:`as_predictor`.
        mixture, n, seed: as in :func:`distance`; on a finite support the differences are exact.
    Returns:
        mse, ce, kl, reverse_ce, total_variation, accuracy, excess_risk.
    Raises:
        ValueError: as in :func:`distance`.
    """
    predictors = [as_predictor(predict, mixture.num_classes) for predict in (predict_a, predict_b)]
    return _difference(*points_of_mixture(mixture, predictors, n, seed))


def compare_probabilities(
    q_a: ArrayLike,
    q_b: ArrayLike,
    log_bayes: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    log_q_a: ArrayLike | None = None,
    log_q_b: ArrayLike | None = None,
) -> dict[str, Estimate]:
    """:func:`compare` at given points; arguments as in :func:`distance_of_probabilities`."""
    rows = [log_rows(q_a, log_q_a, "q_a"), log_rows(q_b, log_q_b, "q_b")]
    return _difference(*points_of_rows(checked_log_rows(log_bayes, "log_bayes"), rows, weights, seed=0))


def _summary(exact: bool, points: Iterator[Points], seed: int, decompose: bool) -> dict[str, Estimate]:
    moments, bins, fit = Moments(len(POINTWISE)), ConfidenceBins(), CrossFit(seed)
    everything: list[Points] = []
    for block in points:
        log_bayes, (log_q,), weights = block
        moments.add(pointwise(log_bayes, log_q), weights)
        bins.add(log_bayes, log_q, weights)
        if decompose and exact:
            everything.append(block)
        elif decompose:
            fit.add(log_bayes, log_q)
    result = dict(zip(POINTWISE, moments.estimates("exact" if exact else "monte_carlo"), strict=True))
    result["ece"] = bins.exact() if exact else bins.bootstrap(seed)
    if decompose:
        result["calibration"], result["grouping"] = _exact_parts(everything) if exact else fit.parts()
    return result


def _exact_parts(blocks: Iterable[Points]) -> tuple[Estimate, Estimate]:
    log_bayes = torch.cat([block.log_bayes for block in blocks])
    log_q = torch.cat([block.log_q[0] for block in blocks])
    return exact_parts(log_bayes, log_q, torch.cat([block.weights for block in blocks if block.weights is not None]))


def _difference(exact: bool, points: Iterator[Points]) -> dict[str, Estimate]:
    moments = Moments(len(POINTWISE))
    for log_bayes, (log_q_a, log_q_b), weights in points:
        moments.add(pointwise(log_bayes, log_q_a) - pointwise(log_bayes, log_q_b), weights)
    return dict(zip(POINTWISE, moments.estimates("exact" if exact else "monte_carlo"), strict=True))
