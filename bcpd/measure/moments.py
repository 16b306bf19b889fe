"""Means and standard errors of a stream of rows, merged block by block in bounded memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bcpd.estimate import Estimate, EstimateMethod

__all__ = ["Moments"]


class Moments:
    r"""Running mean and variance of ``columns`` quantities.

    Blocks are reduced to their own weight, mean and centred sum of squares, and merged by

    .. math:: \bar v \leftarrow \bar v + \frac{W_b}{W}\,\delta, \qquad
              M \leftarrow M + M_b + \delta^2 \frac{(W - W_b)\,W_b}{W}, \qquad \delta = \bar v_b - \bar v,

    which does not lose digits over many blocks (Chan, Golub & LeVeque 1979). Infinite and undefined entries are
    remembered, so a mean over one infinite value is infinite.
    """

    def __init__(self, columns: int) -> None:
        self.count = 0
        self._weight = 0.0
        self._mean = torch.zeros(columns, dtype=torch.float64)
        self._scatter = torch.zeros(columns, dtype=torch.float64)
        self._plus, self._minus, self._undefined = (torch.zeros(columns, dtype=torch.bool) for _ in range(3))

    def add(self, values: Tensor, weights: Tensor | None = None) -> None:
        """Merge a block of rows ``(n, columns)`` float64, with positive ``weights`` ``(n,)`` or equal ones."""
        if len(values) == 0:
            return
        values = values.to("cpu")
        self._plus |= (values == math.inf).any(0)
        self._minus |= (values == -math.inf).any(0)
        self._undefined |= values.isnan().any(0)
        values = torch.where(values.isfinite(), values, 0.0)
        if weights is None:
            weight, mean = float(len(values)), values.mean(0)
            scatter = (values - mean).square().sum(0)
        else:
            share = weights.to("cpu")
            weight = float(share.sum())
            mean = share @ values / weight
            scatter = share @ (values - mean).square()
        self.count += len(values)
        total = self._weight + weight
        shift = mean - self._mean
        self._mean += shift * (weight / total)
        self._scatter += scatter + shift.square() * (self._weight * weight / total)
        self._weight = total

    def estimates(self, method: EstimateMethod) -> list[Estimate]:
        """One :class:`Estimate` a column; for ``exact`` the standard error is 0, else that of a mean of i.i.d. rows.

        A column that met ``inf`` has the mean ``inf``, one that met both infinities or ``nan`` has ``nan``; their
        standard errors are ``nan``.
        """
        value = torch.where(self._plus, math.inf, torch.where(self._minus, -math.inf, self._mean))
        value = torch.where(self._undefined | (self._plus & self._minus), math.nan, value)
        if method == "exact":
            stderr = torch.zeros_like(value)
        elif self.count < 2:
            stderr = torch.full_like(value, math.nan)
        else:
            stderr = (self._scatter / (self.count - 1) / self.count).sqrt()
        stderr = torch.where(value.isfinite(), stderr, math.nan)
        return [Estimate(float(v), float(s), method) for v, s in zip(value, stderr, strict=True)]
