r"""Mixtures of Gaussians: classes with one or several components, covariances shared or their own."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from bcpd.mixtures.base import Mixture, distributions
from bcpd.mixtures.bayes_error import GaussianJoint, on_span
from bcpd.seeds import generator as stream
from bcpd.tensors import ArrayLike, float64

__all__ = ["GaussianMixture", "paper_toy"]


class GaussianMixture(Mixture):
    r"""Class k draws x from :math:`f_k = \sum_c w_{kc}\, N(\mu_{kc}, \Sigma_{kc})`.

    With one covariance for all components the log-odds are computed in their exactly linear form,
    :math:`\langle \Sigma^{-1}(\mu_{kc} - m),\, x - m\rangle - \tfrac12 |\mu_{kc} - m|^2_{\Sigma^{-1}}` around the mean
    m of the means, so neither a common shift of everything nor a distant x costs digits; own covariances use the
    quadratic forms with their log-determinants (McLachlan 1992, sections 3.2-3.3).

    Args:
        means: ``(K, d)``, or ``(K, C, d)`` for C components a class.
        covariance: a variance (scalar), variances ``(d,)``, a matrix ``(d, d)``, one a class ``(K, d, d)``, or one a
            component ``(K, C, d, d)``. Not standard deviations.
        weights: ``(K, C)``, rows summing to 1; equal by default. Zero is allowed: classes may have fewer components.
        priors: ``(K,)``, positive, summing to 1; equal by default.
    Raises:
        ValueError: shapes that do not fit, entries that are not finite, a covariance that is not symmetric positive
            definite, weights or priors that are not probabilities.
    """

    kind = "gaussian"

    def __init__(
        self,
        means: ArrayLike,
        covariance: ArrayLike,
        weights: ArrayLike | None = None,
        priors: ArrayLike | None = None,
    ) -> None:
        given = _finite(means, "means")
        if given.ndim not in (2, 3) or 0 in given.shape:
            raise ValueError(f"means must have shape (K, d) or (K, C, d), received {tuple(given.shape)}")
        self.means = given[:, None] if given.ndim == 2 else given
        classes, components, dimension = self.means.shape
        self.num_classes, self.shape = classes, (dimension,)
        self.priors = distributions(torch.full((classes,), 1 / classes) if priors is None else priors, "priors")
        if tuple(self.priors.shape) != (classes,) or bool((self.priors <= 0).any()):
            raise ValueError(f"priors must be {classes} positive numbers, received {self.priors.tolist()}")
        even = torch.full((classes, components), 1 / components, dtype=torch.float64)
        self.weights = distributions(even if weights is None else weights, "weights")
        if tuple(self.weights.shape) != (classes, components):
            raise ValueError(f"weights must have shape ({classes}, {components}), received {tuple(self.weights.shape)}")
        self.covariance = _finite(covariance, "covariance")
        self._factor = _factor(self.covariance, classes, components, dimension)
        self._centre = self.means.mean((0, 1))

    @property
    def shared(self) -> bool:
        """Whether all components have the same covariance."""
        return self._factor.ndim <= 2

    # -------------------------------------------------------------------------------------------------------- sampling

    def sample_given(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """One x ~ f_y a label: ``(n,)`` -> ``(n, d)``; the component first, then the noise."""
        uniform = torch.rand(len(y), 1, dtype=torch.float64, generator=generator)
        edges = self.weights.cumsum(1)
        # the largest edge below the total: components of weight zero at the end are never chosen
        component = (uniform * edges[y, -1:] >= edges[y, :-1]).sum(1)
        noise = torch.randn(len(y), *self.shape, dtype=torch.float64, generator=generator)
        means = self.means[y, component]
        if self.shared:
            return means + _colour(noise, self._factor)
        group = y * self.means.shape[1] + component
        for index in torch.unique(group).tolist():
            rows = group == index
            noise[rows] = _colour(noise[rows], self._factor.flatten(0, 1)[index])
        return means + noise

    # ------------------------------------------------------------------------------------------------------- densities

    def _log_components(self, x: Tensor) -> Tensor:
        """log N(x; component) ``(n, K, C)``, for a shared covariance up to a term in x alone."""
        factor = self._factor.to(x.device)
        if self.shared:
            scaled = _whiten(x - self._centre.to(x.device), factor)
            means = self._whitened_means().to(x.device).flatten(0, 1)
            linear = scaled @ means.T - means.square().sum(-1) / 2
            return linear.reshape(len(x), *self.means.shape[:2])
        output = torch.empty((len(x), *self.means.shape[:2]), dtype=torch.float64, device=x.device)
        for k, row in enumerate(self.means.to(x.device)):
            for c, mean in enumerate(row):
                own = factor[k, c]
                output[:, k, c] = -_whiten(x - mean, own).square().sum(-1) / 2 - own.diagonal().log().sum()
        return output

    def _log_classes(self, x: Tensor) -> Tensor:
        terms = self._log_components(x) + self.weights.log().to(x.device)
        return terms[..., 0] if terms.shape[-1] == 1 else terms.logsumexp(-1)

    def _log_posterior_rows(self, x: Tensor) -> Tensor:
        return (self._log_classes(x) + self.priors.log().to(x.device)).log_softmax(-1)

    def log_density(self, x: ArrayLike) -> Tensor:
        r""":math:`\log f_k(x)` of every class, normalised over x: ``(..., d)`` -> float64 ``(..., K)``.

        Raises:
            ValueError: another trailing shape.
        """
        points = float64(x, "x")
        dimension = self.shape[0]
        if points.ndim == 0 or points.shape[-1] != dimension:
            raise ValueError(f"x must have shape (..., {dimension}), received {tuple(points.shape)}")
        rows = points.reshape(-1, dimension)
        constant = torch.full((len(rows), 1), -dimension / 2 * math.log(2 * math.pi), dtype=torch.float64)
        constant = constant.to(rows.device)
        if self.shared:
            factor = self._factor.to(rows.device)
            scaled = _whiten(rows - self._centre.to(rows.device), factor)
            constant = constant - scaled.square().sum(-1, keepdim=True) / 2 - _log_scale(factor, dimension)
        return (self._log_classes(rows) + constant).reshape(*points.shape[:-1], self.num_classes)

    def _floats_per_row(self) -> int:
        return max(self.means.shape[0] * self.means.shape[1], self.shape[0])

    def _whitened_means(self) -> Tensor:
        return _whiten((self.means - self._centre).flatten(0, 1), self._factor).reshape(self.means.shape)

    # ----------------------------------------------------------------------------------------------------- Bayes error

    def _gaussian_joint(self) -> GaussianJoint | None:
        classes, components, dimension = self.means.shape
        mass = (self.priors[:, None] * self.weights).reshape(-1, 1)
        joint = (mass * torch.eye(classes, dtype=torch.float64).repeat_interleave(components, 0)).numpy()
        if self.shared:
            return on_span(joint, self._whitened_means().flatten(0, 1).numpy())
        if dimension > 2:
            return None
        factors = self._factor.flatten(0, 1)
        return GaussianJoint(joint, self.means.flatten(0, 1).numpy(), (factors @ factors.mT).numpy())

    @property
    def _shrinking_garbles(self) -> bool:
        return self.shared

    def _separated(self, separation: float) -> Self:
        centre = (self.priors[:, None, None] * self.weights[..., None] * self.means).sum((0, 1))
        return self._with(centre + separation * (self.means - centre), self.covariance)

    def misspecified(self, amount: float = 0.02) -> GaussianMixture:
        """The same means under a covariance ``1 + amount`` times as large."""
        return self._with(self.means, self.covariance * (1 + amount))

    def _with(self, means: Tensor, covariance: Tensor) -> Self:
        return type(self)(means, covariance, self.weights, self.priors)

    # ----------------------------------------------------------------------------------------------------- description

    def _arguments(self) -> dict[str, Any]:
        single = self.means.shape[1] == 1
        return {
            "means": (self.means[:, 0] if single else self.means).tolist(),
            "covariance": self.covariance.tolist(),
            "weights": None if single else self.weights.tolist(),
            "priors": self.priors.tolist(),
        }


def paper_toy(
    num_classes: int = 10, dimension: int = 30, separation: float = 1.0, variance: float = 6.0, seed: int = 0
) -> GaussianMixture:
    r"""The synthetic classes of Hamidi et al. (ECCV 2024), after Ren, Guo & Sutherland (ICLR 2022).

    Means with i.i.d. entries uniform on :math:`\{-1, 0, 1\} \cdot` ``separation``, :math:`\Sigma =` ``variance``
    times the identity (6 in the paper's code, where it is called NOISE), equal priors.
    """
    entries = torch.randint(-1, 2, (num_classes, dimension), generator=stream(seed, "paper_toy"))
    return GaussianMixture(separation * entries.to(torch.float64), variance)


# ---------------------------------------------------------------------------------------------------------- covariances


def _finite(value: ArrayLike, name: str) -> Tensor:
    tensor = float64(value, name).detach().cpu().clone()
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite, received nan or inf")
    return tensor


def _factor(covariance: Tensor, classes: int, components: int, dimension: int) -> Tensor:
    """Square roots: standard deviations ``()`` or ``(d,)``, or Cholesky factors ``(d, d)`` or ``(K, C, d, d)``."""
    d = dimension
    accepted = [(), (d,), (d, d), (classes, d, d), (classes, components, d, d)]
    if tuple(covariance.shape) not in accepted:
        raise ValueError(
            f"covariance must have shape () (a variance), (d,), (d, d), (K, d, d) or (K, C, d, d) with K={classes}, "
            f"C={components}, d={d}, that is one of {accepted}, received {tuple(covariance.shape)}"
        )
    if covariance.ndim <= 1:
        if bool((covariance <= 0).any()):
            raise ValueError(f"variances must be positive, received a minimum of {float(covariance.min()):.6g}")
        return covariance.sqrt()
    if bool(((covariance - covariance.mT).abs() > 1e-8 * covariance.abs().amax((-2, -1), keepdim=True)).any()):
        raise ValueError("covariance must be symmetric, received a matrix that differs from its transpose")
    symmetric = (covariance + covariance.mT) / 2
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(symmetric)
    if bool((info != 0).any()):
        smallest = float(torch.linalg.eigvalsh(symmetric).min())
        raise ValueError(f"covariance must be positive definite, received a smallest eigenvalue of {smallest:.6g}")
    if covariance.ndim == 3:
        return factor[:, None].expand(classes, components, d, d)
    return factor


def _whiten(rows: Tensor, factor: Tensor) -> Tensor:
    """``L^-1 x`` of each row, for any form of :func:`_factor` of one component."""
    if factor.ndim < 2:
        return rows / factor
    solved: Tensor = torch.linalg.solve_triangular(factor, rows.mT, upper=False)
    return solved.mT


def _colour(noise: Tensor, factor: Tensor) -> Tensor:
    """``L z`` of each row: the inverse of :func:`_whiten`."""
    return noise * factor if factor.ndim < 2 else noise @ factor.mT


def _log_scale(factor: Tensor, dimension: int) -> Tensor:
    """Half the log-determinant of the covariance."""
    if factor.ndim == 0:
        return dimension * factor.log()
    return (factor if factor.ndim == 1 else factor.diagonal()).log().sum()
