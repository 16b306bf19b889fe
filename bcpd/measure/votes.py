r"""Distances to p*, and the Bayes error, where p* is known by votes only: m people (or samples) labelled every x.

The votes at x are n = (n_1, ..., n_K) ~ Multinomial(m, p*(x)) with shares :math:`\hat p = n / m`. Plugging
:math:`\hat p` in for p* is biased wherever p* enters other than linearly:

.. math:: \mathbb E\|\hat p\|^2 = \|p^*\|^2 + \tfrac{1 - \|p^*\|^2}m, \qquad
          \mathbb E\|q - \hat p\|^2 = \|q - p^*\|^2 + \tfrac{1 - \|p^*\|^2}m, \qquad
          \mathbb E\max_k \hat p_k \ge \max_k p^*_k .

The first two are repaired exactly from m >= 2 votes; the third has no unbiased estimate, but a bracket, and so has
the entropy of p*, and with it KL. What is linear in p* needs no repair: cross-entropy, accuracy, and the
**difference** of two predictors' squared distances, in which the noise of the votes cancels. All of it takes votes
that are **independent of q**: a teacher trained on the votes is closer to them than to p*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.estimate import Estimate
from bcpd.measure.moments import Moments
from bcpd.measure.points import log_rows
from bcpd.tensors import ArrayLike, float64, probability_rows

__all__ = [
    "BayesErrorBracket",
    "BayesErrorInterval",
    "Bracket",
    "bayes_error_from_votes",
    "bayes_error_interval",
    "compare_to_votes",
    "distance_to_votes",
    "entropy_from_votes",
    "kl_from_votes",
    "majority_of_the_others",
    "squared_distance_from_votes",
    "squared_norm_from_votes",
    "surprise_of_the_others",
    "truncated_entropy",
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


def distance_to_votes(q: ArrayLike, votes: ArrayLike, *, log_q: ArrayLike | None = None) -> dict[str, Estimate]:
    r"""How far rows of probabilities are from the p* that people voted by.

    Returns:
        ``mse``: :math:`\mathbb E\|q - p^*\|^2`; ``plug_in``: :math:`\mathbb E\|q - \hat p\|^2`, too large by
        ``vote_noise``: :math:`\mathbb E\,(1 - \|p^*\|^2)/m`; ``irreducible``: :math:`\mathbb E[1 - \|p^*\|^2]`;
        ``ce``: :math:`\mathbb E H(p^*, q)`, nats; ``accuracy``: :math:`\mathbb E\, p^*_{\hat k}` at the prediction
        (the first of ties), how often a voter agrees. All but ``plug_in`` are unbiased for votes independent of q:
        the last two are linear in p*. (A class that q excludes and nobody chose leaves ``ce`` finite, though a
        rarer voter would make it infinite.) Standard errors over the rows, ``Estimate.interval()`` for intervals.
        KL has no unbiased estimate: see :func:`kl_from_votes`.
    Args:
        q: probabilities ``(n, K)``; votes: counts ``(n, K)``, at least 2 a row; log_q: logarithms of q where they are
            known better.
    Raises:
        ValueError: as in :func:`squared_distance_from_votes`, or fewer than 2 rows.
    """
    rows, counts = probability_rows(q, "q"), float64(votes, "votes")
    _check_rows(rows, counts)
    share, total = _votes(counts)
    irreducible = 1 - squared_norm_from_votes(counts)
    columns = {
        "mse": squared_distance_from_votes(rows, counts),
        "plug_in": simplex.squared_distance(rows, share),
        "vote_noise": irreducible / total,
        "irreducible": irreducible,
        "ce": simplex.cross_entropy_from_log(share, log_rows(rows, log_q, "q")),
        "accuracy": _agreement(rows, share),
    }
    return _means(columns)


def compare_to_votes(
    q_a: ArrayLike,
    q_b: ArrayLike,
    votes: ArrayLike,
    *,
    log_q_a: ArrayLike | None = None,
    log_q_b: ArrayLike | None = None,
) -> dict[str, Estimate]:
    r"""Paired differences ``a - b`` of two predictors' distances to the p* that people voted by, all unbiased.

    .. math:: \|q_a - \hat p\|^2 - \|q_b - \hat p\|^2 = \|q_a\|^2 - \|q_b\|^2 - 2 \langle q_a - q_b, \hat p \rangle

    is linear in :math:`\hat p`: the noise of the votes, which is the same in both, cancels exactly, so that the mean is
    the difference of the distances to p* whatever the number of votes, even 1, even unknown. In the difference of
    cross-entropies the entropy of p* cancels likewise: it is that of :math:`KL(p^* \| q)`.

    Args:
        q_a, q_b: probabilities ``(n, K)``, independent of the votes; log_q_a, log_q_b: their logarithms where they
            are known better.
        votes: counts ``(n, K)``, or their shares.
    Returns:
        ``mse``, ``kl``, ``accuracy`` with standard errors over the rows; negative ``mse`` and ``kl``: a is closer. A
        ``kl`` infinite for ``a`` alone gives ``inf``, for ``b`` alone ``-inf``, for both ``nan``.
    Raises:
        ValueError: shapes that differ, fewer than 2 rows, rows that are not probabilities, votes that are negative or
            a row without any.
    """
    rows_a, rows_b, counts = probability_rows(q_a, "q_a"), probability_rows(q_b, "q_b"), float64(votes, "votes")
    _check_rows(rows_a, counts, "q_a")
    _check_rows(rows_b, counts, "q_b")
    total = counts.sum(-1, keepdim=True)
    if not bool(((counts >= 0) & counts.isfinite()).all()) or bool((total <= 0).any()):
        raise ValueError("votes must be counts >= 0 (or their shares), at least one a row, received other entries")
    share = counts / total
    columns = {
        "mse": simplex.squared_distance(rows_a, share) - simplex.squared_distance(rows_b, share),
        "kl": simplex.cross_entropy_from_log(share, log_rows(rows_a, log_q_a, "q_a"))
        - simplex.cross_entropy_from_log(share, log_rows(rows_b, log_q_b, "q_b")),
        "accuracy": _agreement(rows_a, share) - _agreement(rows_b, share),
    }
    return _means(columns)


def _check_rows(rows: Tensor, counts: Tensor, name: str = "q") -> None:
    if rows.ndim != 2 or rows.shape != counts.shape or len(rows) < 2:
        raise ValueError(
            f"{name} and votes must be rows of the same shape (n, K), n >= 2, received {tuple(rows.shape)} and "
            f"{tuple(counts.shape)}"
        )


def _agreement(rows: Tensor, share: Tensor) -> Tensor:
    """The share of the voters that chose the row's largest entry."""
    return share.gather(-1, rows.argmax(-1, keepdim=True)).squeeze(-1)


@dataclass(frozen=True)
class Bracket:
    """Two estimates with a quantity between their expectations: E[lower] is at most, E[upper] at least as large."""

    lower: Estimate
    upper: Estimate

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """From the lower end of ``lower``'s normal interval to the upper end of ``upper``'s, one-sided each."""
        return self.lower.interval(confidence)[0], self.upper.interval(confidence)[1]


def truncated_entropy(votes: ArrayLike) -> Tensor:
    r"""The entropy of p* without its rarest part: :math:`\sum_k \frac{n_k}m\,[\psi(m) - \psi(n_k)]`, nats.

    .. math:: H(p) = \sum_{v \ge 1} \frac1v \sum_k p_k (1 - p_k)^v, \qquad
              \mathbb E\Bigl[\tfrac{n_k}m \sum_{j=n_k}^{m-1} \tfrac1j\Bigr]
              = \sum_{v=1}^{m-1} \tfrac1v\, p_k (1 - p_k)^v :

    its expectation is the series up to v = m - 1, so it is biased **down**, by less than the plug-in
    :math:`H(\hat p)`, and by nothing much unless a class is rarer than 1 in m (Zhang 2012, Neural Computation 24(5);
    the digamma form: Grassberger 1988). No unbiased estimate exists: the expectation over m votes is a polynomial in
    p*, and the entropy is none.

    Args:
        votes: counts ``(..., K)``, m >= 2 a row.
    Returns:
        float64 ``(...)``, at least 0.
    Raises:
        ValueError: entries that are no counts, or a row with fewer than 2 votes.
    """
    share, total = _votes(votes)
    counts = (share * total.unsqueeze(-1)).round()
    gap = torch.digamma(total).unsqueeze(-1) - torch.digamma(counts.clamp(min=1))
    return torch.where(counts > 0, share * gap, 0.0).sum(-1)


def surprise_of_the_others(votes: ArrayLike) -> Tensor:
    r"""How surprising a vote is to the other m - 1, averaged over the m votes, nats.

    .. math:: -\sum_k \frac{n_k}m \log \frac{n_k - 1 + 1/K}m :

    the log score, on the vote left out, of the others' shares with one vote more that is split evenly over the classes.
    That rule has not seen the vote, so the expectation is :math:`H(p^*) + \mathbb E\,KL(p^* \| \hat p_{m-1})`, at
    least :math:`H(p^*)` (derived here; the analogue of :func:`majority_of_the_others`).

    Args:
        votes: counts ``(..., K)``, m >= 2 a row.
    Returns:
        float64 ``(...)``, at least 0.
    Raises:
        ValueError: entries that are no counts, or a row with fewer than 2 votes.
    """
    share, total = _votes(votes)
    counts = (share * total.unsqueeze(-1)).round()
    others = (counts - 1 + 1 / counts.shape[-1]) / total.unsqueeze(-1)
    return -torch.where(counts > 0, share * others.clamp(min=0).log(), 0.0).sum(-1)


def entropy_from_votes(votes: ArrayLike) -> Bracket:
    """A bracket of E H(p*), nats: :func:`truncated_entropy` from below, :func:`surprise_of_the_others` from above.

    Args:
        votes: counts ``(n, K)``, at least 2 a row.
    Raises:
        ValueError: fewer than 2 rows, entries that are no counts.
    """
    counts = _several_rows(votes)
    means = _means({"lower": truncated_entropy(counts), "upper": surprise_of_the_others(counts)})
    return Bracket(means["lower"], means["upper"])


def kl_from_votes(q: ArrayLike, votes: ArrayLike, *, log_q: ArrayLike | None = None) -> Bracket:
    r"""A bracket of :math:`\mathbb E\,KL(p^* \| q) = \mathbb E H(p^*, q) - \mathbb E H(p^*)`, nats.

    The first term is unbiased, the second bracketed (:func:`entropy_from_votes`); both are taken from the same rows,
    so that the standard errors are those of the difference.

    Args:
        q: probabilities ``(n, K)``, independent of the votes; votes: counts ``(n, K)``, at least 2 a row; log_q:
            logarithms of q where they are known better.
    Raises:
        ValueError: as in :func:`distance_to_votes`.
    """
    rows, counts = probability_rows(q, "q"), float64(votes, "votes")
    _check_rows(rows, counts)
    risk = simplex.cross_entropy_from_log(_votes(counts)[0], log_rows(rows, log_q, "q"))
    means = _means({"lower": risk - surprise_of_the_others(counts), "upper": risk - truncated_entropy(counts)})
    return Bracket(means["lower"], means["upper"])


def _several_rows(votes: ArrayLike) -> Tensor:
    counts = float64(votes, "votes")
    _votes(counts)
    if counts.ndim != 2 or len(counts) < 2:
        raise ValueError(f"votes must have shape (n, K) with n >= 2, received {tuple(counts.shape)}")
    return counts


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
    deviation = _hoeffding(confidence, len(rows))
    estimate = _means({"bayes_error": 1 - rows.amax(-1)})["bayes_error"]
    largest = 1 - 1 / rows.shape[1]
    half = largest * deviation
    return BayesErrorInterval(
        estimate, max(estimate.value - half, 0.0), min(estimate.value + half, largest), confidence
    )


@dataclass(frozen=True)
class BayesErrorBracket(Bracket):
    """:class:`Bracket` of the Bayes error of K = ``num_classes``, from ``rows`` points drawn independently."""

    rows: int
    num_classes: int

    def hoeffding(self, confidence: float = 0.95) -> tuple[float, float]:
        r"""An interval that holds the Bayes error with probability at least ``confidence``, for any n and m.

        From ``lower`` :math:`- (1 - \frac1K)\, h` to ``upper`` :math:`+ h`,
        :math:`h = \sqrt{\log(2/\delta) / (2n)}`: Hoeffding's bound on each side at :math:`\delta/2`, the values
        ranging over :math:`[0, 1 - 1/K]` and [0, 1]. Cut to :math:`[0, 1 - 1/K]`.

        Raises:
            ValueError: a confidence outside (0, 1).
        """
        half = _hoeffding(confidence, self.rows)
        largest = 1 - 1 / self.num_classes
        return max(self.lower.value - largest * half, 0.0), min(self.upper.value + half, largest)


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
    counts = _several_rows(votes)
    means = _means({"lower": 1 - _votes(counts)[0].amax(-1), "upper": majority_of_the_others(counts)})
    return BayesErrorBracket(means["lower"], means["upper"], *counts.shape)


def _hoeffding(confidence: float, count: int) -> float:
    r""":math:`\sqrt{\log(2/\delta) / (2n)}`: a mean of n values in [0, 1] is rarely further from its expectation."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), received {confidence}")
    return math.sqrt(math.log(2 / (1 - confidence)) / (2 * count))


def _means(columns: dict[str, Tensor]) -> dict[str, Estimate]:
    moments = Moments(len(columns))
    moments.add(torch.stack(list(columns.values()), -1))
    return dict(zip(columns, moments.estimates("monte_carlo"), strict=True))
