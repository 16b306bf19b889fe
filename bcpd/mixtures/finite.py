"""A finite X: any table of conditional probabilities, where every expectation is an exact sum."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from bcpd.mixtures.base import Mixture, categorical, distributions
from bcpd.seeds import generator as stream
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
        flat = self.points.flatten(1)
        if len(torch.unique(flat, dim=0)) < count:
            raise ValueError("points must all be different, received a point twice")
        self._keys, self._order = torch.sort(_row_keys(flat))

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
        return self.rows.log().to(x.device)[self._find(x.flatten(1))]

    def _find(self, x: Tensor) -> Tensor:
        """Position of every row of x among the points, by a hash of its bits, then compared bit for bit."""
        keys, order, points = (t.to(x.device) for t in (self._keys, self._order, self.points.flatten(1)))
        place = torch.searchsorted(keys, _row_keys(x)).clamp_(max=len(keys) - 1)
        index = order[place]
        unknown = (points[index] != x).any(1)
        if bool(unknown.any()):
            first = x[unknown][0].tolist()
            shown = f"{first[:6]}{' ...' if len(first) > 6 else ''}"
            raise ValueError(f"x must be among the {len(points)} points of this mixture, received {shown}")
        return index

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


def _row_keys(rows: Tensor) -> Tensor:
    """A 64-bit hash a row ``(n, d)``: the mixed bits of its numbers times fixed odd multipliers, modulo 2**64."""
    bits = (rows.contiguous() + 0.0).view(torch.int64)  # + 0.0 turns -0.0 into 0.0
    # small whole numbers differ in their leading bits alone: carry those down before the products push them out
    mixed = (bits ^ (bits >> 32)) * 0x5851F42D4C957F2D
    mixed = mixed ^ (mixed >> 29)
    multipliers = torch.randint(-(2**63), 2**63 - 1, (rows.shape[1],), generator=stream(0, "row keys")) | 1
    return (mixed * multipliers.to(rows.device)).sum(1)
