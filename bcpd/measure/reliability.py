"""The expected calibration error of the predicted class, in bounded memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bcpd import seeds
from bcpd.estimate import Estimate

__all__ = ["BINS", "ConfidenceBins"]

BINS = 15
_RESAMPLES = 1000


class ConfidenceBins:
    r"""Tallies for the binned calibration error of the top label (Guo et al. 2017, eq. 3) against p*.

    With the confidence :math:`\max_k q_k = q_{\hat k}` and 15 bins :math:`(b/15, (b+1)/15]` of it,

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \Bigl| \frac1{n_b} \sum_{i \in b} g_i \Bigr|
                           = \frac1n \sum_b \Bigl| \sum_{i \in b} g_i \Bigr|, \qquad
              g_i = p^*_{\hat k}(x_i) - q_{\hat k}(x_i).

    The usual estimate has a sampled label's 0 or 1 in place of :math:`p^*_{\hat k}`; knowing p* removes that noise.
    What remains is the plug-in estimate: by Jensen's inequality it is **biased upward** for finite n (the absolute
    value of a noisy bin sum), by at most :math:`\sum_b \mathrm{sd}(g \mid b) \sqrt{n_b} / n`, most of all for a
    calibrated predictor; and binning itself can only lower it, below :math:`\mathbb E|\mathbb E[g \mid q_{\hat k}]|`.
    """

    def __init__(self) -> None:
        self._weight, self._mean, self._scatter = (torch.zeros(BINS, dtype=torch.float64) for _ in range(3))

    def add(self, log_bayes: Tensor, log_q: Tensor, weights: Tensor | None = None) -> None:
        """Count a block of points, ``(b, K)`` float64 each, with ``weights`` ``(b,)`` or equal ones."""
        top_log, top = log_q.max(-1, keepdim=True)
        confidence = top_log.exp().squeeze(-1)
        gap = log_bayes.gather(-1, top).exp().squeeze(-1) - confidence
        index = ((confidence * BINS).ceil().long() - 1).clamp(0, BINS - 1)
        share = torch.ones_like(gap) if weights is None else weights

        weight = torch.bincount(index, share, BINS)
        mean = torch.bincount(index, share * gap, BINS) / weight.where(weight > 0, 1.0)
        scatter = torch.bincount(index, share * (gap - mean[index]).square(), BINS)
        # the merge of Moments, a bin at a time
        total = (self._weight + weight).where(self._weight + weight > 0, 1.0)
        shift = mean - self._mean
        self._mean = self._mean + shift * weight / total
        self._scatter = self._scatter + scatter + shift.square() * self._weight * weight / total
        self._weight = self._weight + weight

    def exact(self) -> Estimate:
        """The binned calibration error where the weighted points exhaust X."""
        return Estimate(self._value(), 0.0, "exact")

    def bootstrap(self, seed: int) -> Estimate:
        r"""The plug-in value, and its standard error by a bootstrap that needs the tallies only.

        A bootstrap sample of n points has bin counts :math:`N \sim \mathrm{Multinomial}(n, (n_b / n)_b)`, drawn as
        such; given the counts, the sum of bin b is a sum of :math:`N_b` draws from the bin's observed gaps. That sum
        is drawn from the normal law of the same mean :math:`N_b \bar g_b` and variance :math:`N_b s_b^2`, where
        :math:`s_b^2` is the mean squared deviation within the bin. The standard deviation of the error over 1000
        such samples is returned; its own relative error is about 2 percent.
        """
        rng = np.random.default_rng(seeds.derive(seed, "measure-ece"))
        count = self._weight.numpy()
        n = round(count.sum())
        drawn = rng.multinomial(n, count / n, size=_RESAMPLES)
        spread = (self._scatter / self._weight.where(self._weight > 0, 1.0)).sqrt().numpy()
        sums = drawn * self._mean.numpy() + np.sqrt(drawn) * spread * rng.standard_normal(drawn.shape)
        errors = np.abs(sums).sum(axis=1) / n
        return Estimate(self._value(), float(errors.std(ddof=1)), "bootstrap")

    def _value(self) -> float:
        return float((self._weight * self._mean).abs().sum() / self._weight.sum())
