"""A number with its error bar and the way it was obtained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from scipy.special import ndtri

__all__ = ["Estimate", "EstimateMethod"]

EstimateMethod = Literal["exact", "quadrature", "monte_carlo", "bootstrap"]


@dataclass(frozen=True)
class Estimate:
    """A value, its error bar, and the method that gave both.

    Attributes:
        value: the number; ``inf`` and ``nan`` are legal and mean what they say.
        stderr: the standard error for ``monte_carlo`` and ``bootstrap``; an absolute error estimate for
            ``quadrature``; 0 for ``exact`` (up to float64 rounding). ``nan`` where the value is not finite.
        method: one of ``exact``, ``quadrature``, ``monte_carlo``, ``bootstrap``.
    """

    value: float
    stderr: float
    method: EstimateMethod

    def __post_init__(self) -> None:
        if self.stderr < 0:
            raise ValueError(f"stderr must be >= 0 or nan, received {self.stderr}")
        if self.method not in get_args(EstimateMethod):
            raise ValueError(f"method must be one of {', '.join(get_args(EstimateMethod))}, received {self.method!r}")

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Normal interval ``value -+ z * stderr`` at the given two-sided confidence in (0, 1)."""
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie in (0, 1), received {confidence}")
        half = float(ndtri(0.5 + confidence / 2)) * self.stderr
        return self.value - half, self.value + half

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return f"{self.value} ({self.method})"
        if self.method == "exact":
            return f"{self.value:.6g} (exact)"
        return f"{self.value:.6g} +- {self.stderr:.2g} ({self.method})"
