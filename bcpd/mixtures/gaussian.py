r"""Mixtures of Gaussians: classes with one or several components, covariances shared or their own."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from bcpd.estimate import Estimate
from bcpd.mixtures.bayes_error import ComponentJoint, equidistant_bayes_error, on_span
from bcpd.mixtures.elliptical import EllipticalMixture
from bcpd.mixtures.laws import NORMAL
from bcpd.mixtures.linear import Layout, LinearPosterior
from bcpd.seeds import generator as stream
from bcpd.tensors import ArrayLike

__all__ = ["GaussianMixture", "paper_toy"]


class GaussianMixture(EllipticalMixture):
    r"""Class k draws x from :math:`f_k = \sum_c w_{kc}\, N(\mu_{kc}, \Sigma_{kc})`.

    With one covariance for all components the log-odds are computed in their exactly linear form,
    :math:`\langle \Sigma^{-1}(\mu_{kc} - m),\, x - m\rangle - \tfrac12 |\mu_{kc} - m|^2_{\Sigma^{-1}}` around the mean
    m of the means, so neither a common shift of everything nor a distant x costs digits; own covariances use the
    quadratic forms with their log-determinants (McLachlan 1992, sections 3.2-3.3).

    Bayes errors without sampling: two classes of one covariance, :math:`\Phi(-\Delta/2)` at Mahalanobis distance
    :math:`\Delta` (unequal priors: thresholds at :math:`\log(\pi_0/\pi_1)/\Delta`), and whatever lies on a line are
    exact; whatever lies in a plane, and equally likely classes that are all equally far apart
    (:math:`1 - \int \varphi(z) \Phi(z + \Delta/\sqrt2)^{K-1} dz`), by quadrature.

    Args:
        means: ``(K, d)``, or ``(K, C, d)`` for C components a class.
        covariance: a variance (scalar), variances ``(d,)``, a matrix ``(d, d)``, one a class ``(K, d, d)``, or one a
            component ``(K, C, d, d)``. Not standard deviations. A matrix must have a condition number of at most 1e6
            once its diagonal is scaled to 1 (units do not count): up to there log-odds keep nine decimals.
        weights: ``(K, C)``, rows summing to 1; equal by default. Zero is allowed: classes may have fewer components.
        priors: ``(K,)``, positive, summing to 1; equal by default.
    Raises:
        ValueError: shapes that do not fit, entries that are not finite, a covariance that is not symmetric positive
            definite or ill-conditioned, weights or priors that are not probabilities.
    """

    kind = "gaussian"

    def __init__(
        self,
        means: ArrayLike,
        covariance: ArrayLike,
        weights: ArrayLike | None = None,
        priors: ArrayLike | None = None,
    ) -> None:
        self._set_places(means, covariance, "covariance", weights, priors)

    @property
    def covariance(self) -> Tensor:
        """As given: a variance, variances, or one or several matrices."""
        return self._matrix

    def _sample_components(self, component: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(component), *self.shape, dtype=torch.float64, generator=generator)
        return self.means.flatten(0, 1)[component] + self._coloured(component, noise)

    def _log_components(self, x: Tensor) -> Tensor:
        if not self.shared:
            return -self._squared_distances(x) / 2 - self._log_scales().to(x.device)
        scaled = self._whitened(x)
        means = self._whitened_means().to(x.device).flatten(0, 1)
        linear = scaled @ means.T - means.square().sum(-1) / 2
        return linear.reshape(len(x), *self.means.shape[:2])

    def _log_common(self, x: Tensor) -> Tensor:
        constant = -self.shape[0] / 2 * math.log(2 * math.pi)
        if not self.shared:
            return torch.full((len(x), 1), constant, dtype=torch.float64, device=x.device)
        norms = self._whitened(x).square().sum(-1, keepdim=True)
        return constant - norms / 2 - self._log_scales().to(x.device)

    def _linear_posterior(self, layout: Layout | None = None) -> LinearPosterior | None:
        if not self.shared:
            return None
        rounded = self._centre.to(torch.float32).to(torch.float64)
        centre = torch.where(rounded.isfinite(), rounded, self._centre)
        # a centre within a deviation of the origin costs no digits
        near = bool((centre.abs() <= self._deviations()).all())
        there = torch.zeros_like(centre) if near else centre
        terms = self._log_components(there[None])[0] + self.weights.log()
        # the posterior of a class and of its components at one point hold all that does not depend on x
        offsets = self._log_posterior_rows(there[None])[0][:, None] + terms.log_softmax(1)
        return LinearPosterior(self._slopes(), offsets, None if near else centre, layout)

    # ----------------------------------------------------------------------------------------------------- Bayes error

    def _component_joint(self) -> ComponentJoint | None:
        if self.shared:
            return on_span(self._joint_table().numpy(), self._whitened_means().flatten(0, 1).numpy())
        return self._joint_of(NORMAL) if self.shape[0] <= 2 else None

    def _analytic_bayes_error(self) -> Estimate | None:
        found = super()._analytic_bayes_error()
        if found is None and self.shared and self.means.shape[1] == 1 and _equal(self.priors):
            means = self._whitened_means()[:, 0]
            first, second = torch.triu_indices(len(means), len(means), 1)
            distances = (means[first] - means[second]).norm(dim=1)
            if _equal(distances):
                return equidistant_bayes_error(self.num_classes, float(distances.mean()))
        return found

    def misspecified(self, amount: float = 0.02) -> Self:
        """The same means under a covariance ``1 + amount`` times as large."""
        return self._with(self.means, self.covariance * (1 + amount))

    def _with(self, means: Tensor, matrix: Tensor) -> Self:
        return type(self)(means, matrix, self.weights, self.priors)

    def _arguments(self) -> dict[str, Any]:
        return self._places("covariance")


def _equal(values: Tensor) -> bool:
    """Up to rounding; a difference of 1e-9 enters a Bayes error at most to first order."""
    return bool((values.amax() - values.amin() <= 1e-9 * values.amax()).item())


def paper_toy(
    num_classes: int = 10, dimension: int = 30, separation: float = 1.0, variance: float = 6.0, seed: int = 0
) -> GaussianMixture:
    r"""The synthetic classes of Hamidi et al. (ECCV 2024), after Ren, Guo & Sutherland (ICLR 2022).

    Means with i.i.d. entries uniform on :math:`\{-1, 0, 1\} \cdot` ``separation``, :math:`\Sigma =` ``variance``
    times the identity (6 in the paper's code, where it is called NOISE), equal priors.
    """
    entries = torch.randint(-1, 2, (num_classes, dimension), generator=stream(seed, "paper_toy"))
    return GaussianMixture(separation * entries.to(torch.float64), variance)
