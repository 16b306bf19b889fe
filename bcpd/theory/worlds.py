"""Worlds to try statements on: weighted points (x, y) whose p*(x) is known, so that every expectation is a sum."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bcpd.mixtures import FiniteMixture, GaussianMixture, Mixture
from bcpd.seeds import generator

__all__ = [
    "World",
    "finite_world",
    "quadrature_world",
    "rational_world",
    "sample_world",
    "world_of",
]

Kind = Literal["exact", "quadrature", "monte_carlo"]


@dataclass(frozen=True)
class World:
    r"""Pairs with weights: :math:`E f(x, y) \approx \sum_j w_j f(x_j, y_j)`.

    Attributes:
        name: for the report.
        kind: ``exact`` (finite X: the sum is the expectation), ``quadrature`` (nodes of every class-conditional
            density) or ``monte_carlo`` (equal weights, an error bar).
        x: ``(n, d)``; y: ``(n,)``; weights: ``(n,)`` summing to 1; log_bayes: ``(n, K)`` log p* at x. All float64.
        finer: for quadrature, the same world with twice the nodes an axis.
    """

    name: str
    kind: Kind
    x: Tensor
    y: Tensor
    weights: Tensor
    log_bayes: Tensor
    finer: World | None = None

    @property
    def num_classes(self) -> int:
        return self.log_bayes.shape[-1]

    @property
    def bayes(self) -> Tensor:
        return self.log_bayes.exp()

    def mean(self, values: Tensor) -> Tensor:
        """The expectation of per-pair values ``(n, ...)``."""
        total: Tensor = torch.tensordot(self.weights, values, dims=1)
        return total

    def realised(self, seed: int) -> World:
        """Exact worlds only: every x keeps one drawn label, as a training sample would. A wrong version."""
        points, inverse = torch.unique(self.x, dim=0, return_inverse=True)
        mass = torch.zeros(len(points), dtype=torch.float64).index_add(0, inverse, self.weights)
        first = torch.zeros(len(points), dtype=torch.int64).index_put((inverse,), torch.arange(len(inverse)))
        log_bayes = self.log_bayes[first]
        y = torch.multinomial(log_bayes.exp(), 1, generator=generator(seed, "realised")).squeeze(-1)
        return World(self.name, self.kind, points, y, mass, log_bayes)


def finite_world(mixture: FiniteMixture, name: str = "finite X") -> World:
    """Every pair (x, k) of a finite mixture with its probability: expectations are exact sums."""
    points, weights = mixture.support()
    bayes = mixture.posterior(points)
    n, num_classes = bayes.shape
    return World(
        name,
        "exact",
        points.repeat_interleave(num_classes, 0),
        torch.arange(num_classes).repeat(n),
        (weights[:, None] * bayes).reshape(-1),
        mixture.log_posterior(points).repeat_interleave(num_classes, 0),
    )


def rational_world(seed: int, points: int = 6, num_classes: int = 3, dimension: int = 2, copies: int = 12) -> World:
    """A finite world with equal weights whose p* has denominator ``copies``: the pairs can be listed as examples.

    The ``points * copies`` pairs all have the same weight, so that a trainer that averages over a batch averages over
    the distribution itself, labels summed out.
    """
    draw = generator(seed, "rational world")
    x = torch.randn(points, dimension, generator=draw, dtype=torch.float64)
    preference = torch.randn(points, num_classes, generator=draw, dtype=torch.float64).softmax(-1)
    extra = torch.multinomial(preference, copies - num_classes, replacement=True, generator=draw)
    counts = 1 + torch.nn.functional.one_hot(extra, num_classes).sum(1)
    y = torch.arange(num_classes).repeat(points).repeat_interleave(counts.reshape(-1))
    bayes = counts.double() / copies
    n = points * copies
    return World(
        "finite X",
        "exact",
        x.repeat_interleave(copies, 0),
        y,
        torch.full((n,), 1 / n, dtype=torch.float64),
        bayes.log().repeat_interleave(copies, 0),
    )


def quadrature_world(mixture: GaussianMixture, nodes: int, name: str, *, finer: bool = True) -> World:
    r"""Gauss-Hermite nodes of every component of a Gaussian mixture in 1 or 2 dimensions.

    :math:`E f(x, y) = \sum_k \pi_k \sum_c w_{kc} \int f(\mu_{kc} + L_{kc} z, k)\, \varphi(z)\, dz`. The labels come
    from the class-conditional densities, not from p*: an identity that ties labels to p* is a test of both.

    Args:
        nodes: per axis (probabilists' Hermite).
        finer: attach the rule with twice the nodes, whose change estimates the error.
    Raises:
        ValueError: more than 2 dimensions.
    """
    (dimension,) = mixture.shape
    if dimension > 2:
        raise ValueError(f"quadrature worlds have 1 or 2 dimensions, received {dimension}")
    z1, w1 = np.polynomial.hermite_e.hermegauss(nodes)
    w1 = w1 / w1.sum()
    z = torch.tensor(np.array(list(product(z1, repeat=dimension))))
    w = torch.tensor(np.prod(np.array(list(product(w1, repeat=dimension))), axis=1))
    means, factors, weights = _components(mixture)
    xs, ys, ws = [], [], []
    for k in range(mixture.num_classes):
        for mean, factor, weight in zip(means[k], factors[k], weights[k], strict=True):
            xs.append(mean + z @ factor.T)
            ys.append(torch.full((len(z),), k))
            ws.append(mixture.priors[k] * weight * w)
    x = torch.cat(xs)
    return World(
        name,
        "quadrature",
        x,
        torch.cat(ys),
        torch.cat(ws),
        mixture.log_posterior(x),
        quadrature_world(mixture, 2 * nodes, name, finer=False) if finer else None,
    )


def _components(mixture: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
    """Means ``(K, C, d)``, Cholesky factors ``(K, C, d, d)`` and weights ``(K, C)``, read from the mixture's spec."""
    arguments = mixture.spec()
    means = torch.tensor(arguments["means"], dtype=torch.float64)
    if means.ndim == 2:
        means = means[:, None]
    num_classes, components, dimension = means.shape
    covariance = torch.tensor(arguments["covariance"], dtype=torch.float64)
    identity = torch.eye(dimension, dtype=torch.float64)
    if covariance.ndim == 0:
        covariance = covariance * identity
    elif covariance.ndim == 1:
        covariance = torch.diag(covariance)
    elif covariance.ndim == 3:
        covariance = covariance[:, None]
    factor = torch.linalg.cholesky(covariance).expand(num_classes, components, dimension, dimension)
    weights = arguments.get("weights")
    if weights is None:
        return means, factor, torch.full((num_classes, components), 1 / components, dtype=torch.float64)
    return means, factor, torch.tensor(weights, dtype=torch.float64).reshape(num_classes, components)


def sample_world(mixture: Mixture, n: int, seed: int, name: str) -> World:
    """``n`` sampled pairs with equal weights."""
    x, y = mixture.sample(n, seed)
    return World(name, "monte_carlo", x, y, torch.full((n,), 1 / n, dtype=torch.float64), mixture.log_posterior(x))


def world_of(mixture: Mixture, name: str, seed: int, *, nodes: int = 128, n: int = 60_000) -> World:
    """The best world for a mixture: exact on finite X, quadrature for Gaussians on a line or plane, else a sample.

    Args:
        name: for the report; seed: of a sample.
        nodes: an axis, on a line (half as many on a plane); n: sampled pairs.
    """
    support = mixture.support()
    if support is not None:
        points, weights = support
        return finite_world(FiniteMixture(weights, mixture.posterior(points), points), name)
    if isinstance(mixture, GaussianMixture) and mixture.shape[0] <= 2:
        return quadrature_world(mixture, nodes // mixture.shape[0], name)
    return sample_world(mixture, n, seed, name)
