r"""Distances to p*, and the Bayes error, where p* is known by votes only: m people (or samples) labelled every x.

The votes at x are n = (n_1, ..., n_K) ~ Multinomial(m, p*(x)) with shares :math:`\hat p = n / m`. Plugging
:math:`\hat p` in for p* is biased wherever p* enters other than linearly:

.. math:: \mathbb E\|\hat p\|^2 = \|p^*\|^2 + \tfrac{1 - \|p^*\|^2}m, \qquad
          \mathbb E\|q - \hat p\|^2 = \|q - p^*\|^2 + \tfrac{1 - \|p^*\|^2}m, \qquad
          \mathbb E\max_k \hat p_k \ge \max_k p^*_k .

The first two are repaired exactly from m >= 2 votes; the third has no unbiased estimate, but a bracket. All of it
takes votes that are **independent of q**: a teacher trained on the votes is closer to them than to p*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.estimate import Estimate
from bcpd.measure.moments import Moments
from bcpd.tensors import ArrayLike, float64, probability_rows

__all__ = [
    "BayesErrorBracket",
    "BayesErrorInterval",
    "bayes_error_from_votes",
    "bayes_error_interval",
    "distance_to_votes",
    "majority_of_the_others",
    "squared_distance_from_votes",
    "squared_norm_from_votes",
]


def _votes(votes: ArrayLike) -> tuple[Tensor, Tensor]:
    """Shares ``(..., K)`` and numbers of votes ``(...)``, at least 2 each, in float64."""
    counts = float64(votes, "votes")
    if counts.ndim == 0:
        raise ValueError("votes must have shape (..., K), received a scalar")
    if not bool(((counts >= 0) & (counts == counts.floor()) & counts.isfinite()).all()):
        raise ValueError("votes must be whole numbers >= 0 (counts, not shares), received other entries")
    total = counts.sum(-1)
    if bool((total < 2).any()):
        raise ValueError(f"every row needs at least 2 votes, received one with {int(total.min())}")
    return counts / total.unsqueeze(-1), total


def squared_norm_from_votes(votes: ArrayLike) -> Tensor:
    r"""Unbiased :math:`\widehat{\|p^*\|^2} = \frac{m\|\hat p\|^2 - 1}{m - 1} = \sum_k \frac{n_k (n_k - 1)}{m (m - 1)}`.

    The chance that two different voters agree. Derived here: ordered pairs of votes are equal with probability
    :math:`\|p^*\|^2`, and there are m (m - 1) of them. Hence :math:`1 - \widehat{\|p^*\|^2}` is an unbiased estimate
    of the part of the Brier risk that no predictor can lower.

    Args:
        votes: counts ``(..., K)``, m >= 2 a row; m may differ from row to row.
    Returns:
        float64 ``(...)`` in [0, 1].
    Raises:
        ValueError: entries that are no counts, or a row with fewer than 2 votes.
    """
    share, total = _votes(votes)
    return (total * share.square().sum(-1) - 1) / (total - 1)


def squared_distance_from_votes(q: ArrayLike, votes: ArrayLike) -> Tensor:
    r"""Unbiased :math:`\|q - p^*\|^2` from votes: :math:`\|q - \hat p\|^2 - \frac{1 - \|\hat p\|^2}{m - 1}`.

    Derived here, from :math:`\mathbb E\|\hat p - p^*\|^2 = (1 - \|p^*\|^2) / m` and the unbiased
    :func:`squared_norm_from_votes`. A single row's value may be negative.

    Args:
        q: probabilities ``(..., K)``, independent of the votes; votes: counts ``(..., K)``, m >= 2 a row.
    Returns:
        float64 ``(...)``, summed over classes.
    Raises:
        ValueError: shapes that do not match, q not probabilities, entries that are no counts.
    """
    rows = probability_rows(q, "q")
    share, total = _votes(votes)
    return simplex.squared_distance(rows, share) - (1 - share.square().sum(-1)) / (total - 1)


def distance_to_votes(q: ArrayLike, votes: ArrayLike) -> dict[str, Estimate]:
    r"""How far rows of probabilities are from the p* that people voted by.

    Returns:
        ``mse``: :math:`\mathbb E\|q - p^*\|^2`, unbiased for votes independent of q; ``plug_in``:
        :math:`\mathbb E\|q - \hat p\|^2`, too large by ``vote_noise``; ``vote_noise``:
        :math:`\mathbb E\,(1 - \|p^*\|^2)/m`, unbiased; ``irreducible``: :math:`\mathbb E[1 - \|p^*\|^2]`, unbiased.
        Standard errors over the rows, ``Estimate.interval()`` for intervals.
    Args:
        q: probabilities ``(n, K)``; votes: counts ``(n, K)``, at least 2 a row.
    Raises:
        ValueError: as in :func:`squared_distance_from_votes`, or fewer than 2 rows.
    """
    rows, counts = probability_rows(q, "q"), float64(votes, "votes")
    if rows.ndim != 2 or rows.shape != counts.shape or len(rows) < 2:
        raise ValueError(
            f"q and votes must be rows of the same shape (n, K), n >= 2, received {tuple(rows.shape)} and "
            f"{tuple(counts.shape)}"
        )
    share, total = _votes(counts)
    irreducible = 1 - squared_norm_from_votes(counts)
    columns = {
        "mse": squared_distance_from_votes(rows, counts),
        "plug_in": simplex.squared_distance(rows, share),
        "vote_noise": irreducible / total,
        "irreducible": irreducible,
    }
    return _means(columns)


@dataclass(frozen=True)
class BayesErrorInterval:
    """An interval for the Bayes error: ``[low, high]`` holds it with probability at least ``confidence``, for any n."""

    estimate: Estimate
    low: float
    high: float
    confidence: float


def bayes_error_interval(bayes: ArrayLike, confidence: float = 0.95) -> BayesErrorInterval:
    r"""The Bayes error from **exact** rows p*(x_i) at independent x_i, with Hoeffding's interval.

    .. math:: \hat L^* = 1 - \tfrac1n \sum_i \max_k p^*_k(x_i), \qquad
              |\hat L^* - L^*| \le \bigl(1 - \tfrac1K\bigr) \sqrt{\tfrac{\log(2/\delta)}{2 n}}
              \;\text{ with probability } 1 - \delta

    since :math:`1 - \max p^*` ranges over [0, 1 - 1/K]; for K = 2 the half width is
    :math:`\sqrt{\log(2/\delta) / (8n)}` (Ishida et al. 2023). The estimate is unbiased. With vote shares in place of
    p* it is biased down: see :func:`bayes_error_from_votes`.

    Args:
        bayes: p* ``(n, K)``; confidence: :math:`1 - \delta` in (0, 1).
    Returns:
        The interval, cut to [0, 1 - 1/K].
    Raises:
        ValueError: rows that are not probabilities, fewer than 2 of them, or a confidence outside (0, 1).
    """
    rows = probability_rows(bayes, "bayes")
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"bayes must have shape (n, K) with n >= 2, received {tuple(rows.shape)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), received {confidence}")
    estimate = _means({"bayes_error": 1 - rows.amax(-1)})["bayes_error"]
    largest = 1 - 1 / rows.shape[1]
    half = largest * math.sqrt(math.log(2 / (1 - confidence)) / (2 * len(rows)))
    return BayesErrorInterval(
        estimate, max(estimate.value - half, 0.0), min(estimate.value + half, largest), confidence
    )


@dataclass(frozen=True)
class BayesErrorBracket:
    r"""Two estimates with :math:`\mathbb E[\text{lower}] \le L^* \le \mathbb E[\text{upper}]`."""

    lower: Estimate
    upper: Estimate

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """From the lower end of ``lower``'s normal interval to the upper end of ``upper``'s, one-sided each."""
        return self.lower.interval(confidence)[0], self.upper.interval(confidence)[1]


def majority_of_the_others(votes: ArrayLike) -> Tensor:
    r"""How often a vote differs from the majority of the other m - 1, averaged over the m votes (ties share).

    Its expectation is the error of the majority of m - 1 votes, :math:`\mathbb E[1 - p^*_{\hat k(n')}]` with
    n' ~ Multinomial(m - 1, p*): the vote left out is a fresh label for a rule that has not seen it. So it is at least
    :math:`1 - \max_k p^*_k`, and tends to it as m grows (derived here).

    Args:
        votes: counts ``(..., K)``, m >= 2 a row.
    Returns:
        float64 ``(...)`` in [0, 1].
    Raises:
        ValueError: entries that are no counts, or a row with fewer than 2 votes.
    """
    share, total = _votes(votes)
    counts = (share * total.unsqueeze(-1)).round()
    top = counts.amax(-1, keepdim=True)
    # the others agree with a vote only if it was for the one winner: alone still, or with those one vote behind
    alone = (counts == top).sum(-1) == 1
    rivals = (counts == top - 1).sum(-1)
    return 1 - torch.where(alone, share.amax(-1) / (1 + rivals), 0.0)


def bayes_error_from_votes(votes: ArrayLike) -> BayesErrorBracket:
    r"""A bracket of the Bayes error from m >= 2 votes a row.

    ``lower`` is the plug-in :math:`1 - \max_k \hat p_k`, biased **down** since the maximum is convex (Jensen);
    ``upper`` is :func:`majority_of_the_others`, biased up. No unbiased estimate exists for any m: an expectation over
    m votes is a polynomial in p*, and :math:`\max p^*` is none.

    Args:
        votes: counts ``(n, K)``, at least 2 a row.
    Raises:
        ValueError: fewer than 2 rows, entries that are no counts.
    """
    share, _ = _votes(votes)
    if share.ndim != 2 or len(share) < 2:
        raise ValueError(f"votes must have shape (n, K) with n >= 2, received {tuple(share.shape)}")
    means = _means({"lower": 1 - share.amax(-1), "upper": majority_of_the_others(votes)})
    return BayesErrorBracket(means["lower"], means["upper"])


def _means(columns: dict[str, Tensor]) -> dict[str, Estimate]:
    moments = Moments(len(columns))
    moments.add(torch.stack(list(columns.values()), -1))
    return dict(zip(columns, moments.estimates("monte_carlo"), strict=True))
