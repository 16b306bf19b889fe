"""A finite X: any table of conditional probabilities, where every expectation is an exact sum."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from bcpd.mixtures.base import Mixture, categorical, distributions
from bcpd.mixtures.points import PointTable
from bcpd.tensors import ArrayLike, float64

__all__ = ["FiniteMixture"]


class FiniteMixture(Mixture):
    r"""n points with weights :math:`w_i` and rows :math:`p^*(x_i)`; :math:`\pi_k = \sum_i w_i p^*_k(x_i)`.

    Args:
        weights: ``(n,)``, probabilities of the points; zero is allowed.
        posterior: ``(n, K)``, rows of probabilities; exact zeros are allowed.
        points: ``(n, *shape)``, all different; by default the index of the point as a column, ``(n, 1)``.
    Raises:
        ValueError: shapes that do not fit, rows that are not probabilities, points that repeat or are not finite.
    """

    kind = "finite"

    def __init__(self, weights: ArrayLike, posterior: ArrayLike, points: ArrayLike | None = None) -> None:
        self.weights = distributions(weights, "weights")
        self.rows = distributions(posterior, "posterior")
        count = len(self.weights) if self.weights.ndim else 0
        if self.weights.ndim != 1 or self.rows.ndim != 2 or len(self.rows) != count:
            raise ValueError(
                f"weights must have shape (n,) and posterior (n, K), "
                f"received {tuple(self.weights.shape)} and {tuple(self.rows.shape)}"
            )
        indices = torch.arange(count, dtype=torch.float64)[:, None]
        self.points = (indices if points is None else float64(points, "points")).detach().cpu().clone()
        if self.points.ndim < 2 or len(self.points) != count or not bool(self.points.isfinite().all()):
            raise ValueError(f"points must be finite, of shape ({count}, ...), received {tuple(self.points.shape)}")
        self.num_classes, self.shape = self.rows.shape[1], tuple(self.points.shape[1:])
        self.priors = self.weights @ self.rows
        self._table = PointTable(self.points)

    def support(self) -> tuple[Tensor, Tensor]:
        """``(points (n, *shape), weights (n,))``."""
        return self.points, self.weights

    def sample_given(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Points drawn with P(i | y) proportional to ``weights[i] * posterior[i, y]``."""
        index = torch.empty_like(y)
        for k in torch.unique(y).tolist():
            chosen = y == k
            index[chosen] = categorical(self.weights * self.rows[:, k], int(chosen.sum()), generator)
        return self.points[index]

    def _log_posterior_rows(self, x: Tensor) -> Tensor:
        return self.rows.log().to(x.device)[self._table.find(x)]

    def _separated(self, separation: float) -> Self:
        # the power s keeps zeros zero, also for s = 0, and its limit is uniform on the classes that are possible
        logs = torch.where(self.rows > 0, separation * self.rows.log(), -math.inf)
        return type(self)(self.weights, logs.softmax(-1), self.points)

    def misspecified(self, amount: float = 0.02) -> FiniteMixture:
        """Each row gives a share ``amount`` of its probabilities to the next class."""
        return FiniteMixture(self.weights, (1 - amount) * self.rows + amount * self.rows.roll(1, 1), self.points)

    def _arguments(self) -> dict[str, Any]:
        return {
            "weights": self.weights.tolist(),
            "posterior": self.rows.tolist(),
            "points": self.points.tolist(),
        }
