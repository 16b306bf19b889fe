r"""Mixtures of Laplace products: independent coordinates with exponential tails, and piecewise linear log-odds."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from bcpd.mixtures.bayes_error import ComponentJoint
from bcpd.mixtures.components import ComponentMixture, finite_values
from bcpd.mixtures.laws import LAPLACE
from bcpd.tensors import ArrayLike

__all__ = ["LaplaceMixture"]


class LaplaceMixture(ComponentMixture):
    r"""Class k draws x from :math:`f_k = \sum_c w_{kc} \prod_j \frac{1}{2 b_{kcj}} e^{-|x_j - \mu_{kcj}| / b_{kcj}}`.

    With scales shared by all components the log-odds are bounded, and computed from
    :math:`|u - v| - |u| = |v| - 2\,\mathrm{clamp}(u\,\mathrm{sign}\,v, 0, |v|)` around the mean of the means, which
    loses no digits however far x is.

    Bayes errors without sampling: where only one coordinate tells components apart (exact for one component a class,
    as the sum of tails between the crossings of piecewise linear functions; two equally likely classes at a distance
    :math:`\delta` of one scale b: :math:`\tfrac12 e^{-\delta / 2b}`).

    Args:
        means: ``(K, d)``, or ``(K, C, d)`` for C components a class.
        scales: b, a scalar, ``(d,)``, one row a class ``(K, d)``, or one a component ``(K, C, d)``. A coordinate has
            the variance :math:`2 b^2`.
        weights: ``(K, C)``; equal by default. priors: ``(K,)``, positive; equal by default.
    Raises:
        ValueError: shapes that do not fit, entries that are not finite, scales that are not positive, weights or
            priors that are not probabilities.
    """

    kind = "laplace"

    def __init__(
        self,
        means: ArrayLike,
        scales: ArrayLike,
        weights: ArrayLike | None = None,
        priors: ArrayLike | None = None,
    ) -> None:
        given = finite_values(means, "means")
        if given.ndim not in (2, 3) or 0 in given.shape:
            raise ValueError(f"means must have shape (K, d) or (K, C, d), received {tuple(given.shape)}")
        self.means = given[:, None] if given.ndim == 2 else given
        classes, components, dimension = self.means.shape
        self._set_classes(classes, components, (dimension,), weights, priors)
        self.scales = finite_values(scales, "scales")
        accepted = [(), (dimension,), (classes, dimension), (classes, components, dimension)]
        if tuple(self.scales.shape) not in accepted:
            raise ValueError(
                f"scales must have shape (), (d,), (K, d) or (K, C, d) with K={classes}, C={components}, "
                f"d={dimension}, that is one of {accepted}, received {tuple(self.scales.shape)}"
            )
        if bool((self.scales <= 0).any()):
            raise ValueError(f"scales must be positive, received a minimum of {float(self.scales.min()):.6g}")
        own = self.scales[:, None] if self.scales.ndim == 2 else self.scales
        self._spreads = own.expand(classes, components, dimension)
        self._centre = self.means.mean((0, 1))

    @property
    def shared(self) -> bool:
        """Whether all components have the same scales."""
        return self.scales.ndim <= 1

    def _sample_components(self, component: Tensor, generator: torch.Generator) -> Tensor:
        size = (len(component), *self.shape)
        first, second = (torch.empty(size, dtype=torch.float64).exponential_(generator=generator) for _ in range(2))
        spreads, means = self._spreads.flatten(0, 1), self.means.flatten(0, 1)
        return means[component] + spreads[component] * (first - second)

    def _log_components(self, x: Tensor) -> Tensor:
        means, spreads = self.means.to(x.device), self._spreads.to(x.device)
        centre = self._centre.to(x.device)
        around = (x - centre) / spreads[0, 0] if self.shared else x
        output = torch.empty((len(x), *means.shape[:2]), dtype=torch.float64, device=x.device)
        for k in range(means.shape[0]):
            for c in range(means.shape[1]):
                if self.shared:
                    shift = (means[k, c] - centre) / spreads[0, 0]
                    reach = shift.abs()
                    inside = (around * shift.sign()).clamp(min=0).minimum(reach)
                    output[:, k, c] = 2 * inside.sum(-1) - reach.sum()
                else:
                    distances = (x - means[k, c]).abs() / spreads[k, c]
                    output[:, k, c] = -distances.sum(-1) - spreads[k, c].log().sum()
        return output

    def _log_common(self, x: Tensor) -> Tensor:
        constant = torch.full((len(x), 1), -self.shape[0] * math.log(2), dtype=torch.float64, device=x.device)
        if not self.shared:
            return constant
        spread = self._spreads[0, 0].to(x.device)
        distances = (x - self._centre.to(x.device)).abs() / spread
        return constant - distances.sum(-1, keepdim=True) - spread.log().sum()

    def _component_joint(self) -> ComponentJoint | None:
        means, spreads = self.means.flatten(0, 1), self._spreads.flatten(0, 1)
        telling = (means != means[0]).any(0) | (spreads != spreads[0]).any(0)
        # the other coordinates have the same law under every component and cancel
        chosen = telling.nonzero()[:, 0].tolist() or [0]
        if len(chosen) > 1:
            return None
        places, squares = means[:, chosen].numpy(), spreads[:, chosen, None].square().numpy()
        return ComponentJoint(self._joint_table().numpy(), places, squares, LAPLACE)

    @property
    def _shrinking_garbles(self) -> bool:
        return self.shared

    def _separated(self, separation: float) -> Self:
        centre = self._centre_of(self.means)
        return self._with(centre + separation * (self.means - centre), self.scales)

    def misspecified(self, amount: float = 0.02) -> Self:
        """The same means under scales ``1 + amount`` times as large."""
        return self._with(self.means, self.scales * (1 + amount))

    def _with(self, means: Tensor, scales: Tensor) -> Self:
        return type(self)(means, scales, self.weights, self.priors)

    def _arguments(self) -> dict[str, Any]:
        single = self.means.shape[1] == 1
        return {
            "means": (self.means[:, 0] if single else self.means).tolist(),
            "scales": self.scales.tolist(),
            "weights": None if single else self.weights.tolist(),
            "priors": self.priors.tolist(),
        }
