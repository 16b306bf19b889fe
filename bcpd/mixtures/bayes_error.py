r"""Bayes errors of Gaussian mixtures in at most two dimensions: exact sums of normal probabilities, or quadrature.

Whatever shares one covariance lives, after whitening, in the span of its means: the directions across it have the same
law under every component and cancel in p*. So thirty-dimensional classes on a line are a one-dimensional problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import ndtr

from bcpd.estimate import Estimate

__all__ = ["GaussianJoint", "gaussian_bayes_error", "on_span"]

Array = NDArray[np.float64]

_REACH = 9.0  # standard deviations beyond which a normal law has mass 1e-19
_FLOOR = 1e-14  # no quadrature claims less than rounding


@dataclass(frozen=True)
class GaussianJoint:
    """A mixture over m Gaussian components shared by the classes: P(component i, class k) and N(mean_i, covariance_i).

    Attributes:
        joint: ``(m, K)``, summing to 1; a component may serve several classes (label noise).
        means: ``(m, r)`` with r = 1 or 2.
        covariances: ``(m, r, r)``.
    """

    joint: Array
    means: Array
    covariances: Array

    def with_joint(self, joint: Array) -> GaussianJoint:
        """The same components under another labelling."""
        return GaussianJoint(joint, self.means, self.covariances)


def on_span(joint: Array, whitened_means: Array) -> GaussianJoint | None:
    """Components of unit covariance as coordinates in the span of their means; None if that has more than 2 dimensions.

    A direction counts as absent below 1e-8 of the largest; by symmetry it enters the error squared.
    """
    centred = whitened_means - whitened_means.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    rank = int((sizes > 1e-8 * sizes[0]).sum()) if sizes[0] > 0 else 0
    if rank > 2:
        return None
    coordinates = (left * sizes)[:, : max(rank, 1)]
    dimension = coordinates.shape[1]
    return GaussianJoint(joint, coordinates, np.broadcast_to(np.eye(dimension), (len(joint), dimension, dimension)))


def gaussian_bayes_error(mixture: GaussianJoint) -> Estimate:
    """Bayes error by the best rule there is: one Gaussian a class on a line is exact, the rest is quadrature."""
    present = mixture.joint.sum(1) > 0
    joint, means, covariances = mixture.joint[present], mixture.means[present], mixture.covariances[present]
    joint = joint[:, joint.sum(0) > 0]
    plain = bool(((joint > 0).sum(1) == 1).all() and ((joint > 0).sum(0) == 1).all())
    if means.shape[1] == 1:
        scales = np.sqrt(covariances[:, 0, 0])
        if plain:
            return Estimate(_one_a_class(np.log(joint.sum(1)), means[:, 0], scales), 0.0, "exact")
        return _components_on_a_line(joint, means[:, 0], scales)
    if plain:
        return _one_a_class_in_the_plane(np.log(joint.sum(1)), means, covariances)
    return _components_in_the_plane(GaussianJoint(joint, means, covariances))


# ------------------------------------------------------------------------------------------------------------ on a line


def _losing_mass(breaks: Array, winners: NDArray[np.intp], joint: Array, means: Array, scales: Array) -> float:
    """Mass of every class outside the intervals it wins; sums tails, never ``1 - ...``, so tiny errors keep digits."""
    edges = np.concatenate([[-np.inf], breaks, [np.inf]])
    low, high = (edges[:-1, None] - means) / scales, (edges[1:, None] - means) / scales
    upper = low > 0
    mass = np.where(upper, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low)) @ joint
    mass[np.arange(len(winners)), winners] = 0.0
    return float(mass.sum())


def _one_a_class(log_weights: Array, means: Array, scales: Array) -> float:
    """Error of one Gaussian ``exp(log_weight) N(mean, scale^2)`` a class; the weights need not sum to 1."""
    if np.all(scales == scales[0]):
        # log joints are lines in t = x / scale, up to a common term
        positions = means / scales[0]
        breaks, winners = _upper_envelope(positions, log_weights - positions**2 / 2)
        breaks = breaks * scales[0]
    else:
        breaks, winners = _parabola_winners(log_weights, means, scales)
    return _losing_mass(breaks, winners, np.diag(np.exp(log_weights)), means, scales)


def _upper_envelope(slopes: Array, intercepts: Array) -> tuple[Array, NDArray[np.intp]]:
    """Breakpoints and winners, left to right, of the maximum of the lines ``slope * t + intercept``."""
    hull: list[int] = []
    starts: list[float] = []
    for line in np.lexsort((intercepts, slopes)):
        start = -np.inf
        while hull:
            top = hull[-1]
            gap = slopes[line] - slopes[top]
            # parallel lines arrive lowest first: the later one covers the earlier
            start = (intercepts[top] - intercepts[line]) / gap if gap > 0 else -np.inf
            if start > starts[-1]:
                break
            hull.pop()
            starts.pop()
        hull.append(int(line))
        starts.append(float(start) if len(hull) > 1 else -np.inf)
    return np.array(starts[1:]), np.array(hull, dtype=np.intp)


def _parabola_winners(log_weights: Array, means: Array, scales: Array) -> tuple[Array, NDArray[np.intp]]:
    """All pairwise roots of the log joints, and the class that wins between them."""

    def log_joint(t: Array) -> Array:
        scaled: Array = log_weights - np.log(scales) - ((t[:, None] - means) / scales) ** 2 / 2
        return scaled

    first, second = np.triu_indices(len(means), 1)
    # difference of log joints around the first mean, where no coefficient cancels
    shift = means[second] - means[first]
    square = (scales[second] ** -2.0 - scales[first] ** -2.0) / 2
    linear = -shift / scales[second] ** 2
    constant = (log_weights - np.log(scales))[first] - (log_weights - np.log(scales))[second]
    constant = constant + (shift / scales[second]) ** 2 / 2
    discriminant = linear**2 - 4 * square * constant
    with np.errstate(divide="ignore", invalid="ignore"):
        half = -(linear + np.copysign(np.sqrt(discriminant), linear)) / 2
        roots = np.concatenate([means[first] + half / square, means[first] + constant / half])
    breaks = np.sort(roots[np.isfinite(roots)])
    if len(breaks) == 0:
        return breaks, log_joint(means[:1]).argmax(1)
    middles = np.concatenate([[breaks[0] - 1], (breaks[:-1] + breaks[1:]) / 2, [breaks[-1] + 1]])
    return breaks, log_joint(middles).argmax(1)


def _components_on_a_line(joint: Array, means: Array, scales: Array) -> Estimate:
    """Decision boundaries found on a grid and refined by bisection; the error estimate is by halving the grid."""
    nodes = np.unique((means[:, None] + scales[:, None] * np.linspace(-_REACH, _REACH, 721)).ravel())

    def relative(t: Array) -> Array:
        log_density = -(((t[:, None] - means) / scales) ** 2) / 2 - np.log(scales)
        return np.asarray(np.exp(log_density - log_density.max(1, keepdims=True)) @ joint)

    def error_on(grid: Array) -> float:
        winner = relative(grid).argmax(1)
        change = np.flatnonzero(winner[1:] != winner[:-1])
        low, high, left, right = grid[change], grid[change + 1], winner[change], winner[change + 1]
        rows = np.arange(len(change))
        for _ in range(60):
            middle = (low + high) / 2
            scores = relative(middle)
            before = scores[rows, left] >= scores[rows, right]
            low, high = np.where(before, middle, low), np.where(before, high, middle)
        return _losing_mass((low + high) / 2, winner[np.concatenate([[0], change + 1])], joint, means, scales)

    value = error_on(nodes)
    return Estimate(value, max(abs(value - error_on(nodes[::2])), _FLOOR), "quadrature")


# --------------------------------------------------------------------------------------------------------- in the plane


def _one_a_class_in_the_plane(log_weights: Array, means: Array, covariances: Array) -> Estimate:
    """Adaptive quadrature over the first coordinate of the exact error along the second."""
    variance, cross = covariances[:, 0, 0], covariances[:, 0, 1]
    slope = cross / variance
    scales = np.sqrt(covariances[:, 1, 1] - slope * cross)
    if np.ptp(covariances, axis=0).max() == 0:
        scales = np.full_like(scales, scales[0])
    spread = np.sqrt(variance)

    def error_along(u: float) -> float:
        log_density = -(((u - means[:, 0]) / spread) ** 2) / 2 - np.log(spread * np.sqrt(2 * np.pi))
        return _one_a_class(log_weights + log_density, means[:, 1] + slope * (u - means[:, 0]), scales)

    stops = np.unique((means[:, 0, None] + spread[:, None] * np.array([-_REACH, -3.0, 3.0, _REACH])).ravel())
    result: Any = quad(
        error_along, stops[0], stops[-1], points=stops[1:-1], limit=len(stops) + 200, epsabs=1e-10, epsrel=1e-10,
        full_output=1,
    )  # fmt: skip
    return Estimate(float(result[0]), max(float(result[1]), _FLOOR), "quadrature")


def _components_in_the_plane(mixture: GaussianJoint, steps_per_deviation: int = 16) -> Estimate:
    r"""Trapezoid rule for :math:`\sum_i P(i) E_{z \sim N(0, I)}[1 - \max p^*(\mu_i + L_i z)]`, one grid a component.

    Every component is integrated on its own scale, so unequal ones cost nothing. The kinks of the maximum make it
    second order; the error estimate is the change from the grid of twice the step.
    """
    half = 8 * steps_per_deviation
    line = np.arange(-half, half + 1) / steps_per_deviation
    weight = np.exp(-(line**2) / 2) / (np.sqrt(2 * np.pi) * steps_per_deviation)
    z = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    factors = np.linalg.cholesky(mixture.covariances)
    inverses, log_scales = np.linalg.inv(factors), np.log(np.linalg.det(factors))
    fine = coarse = 0.0
    for share, mean, factor in zip(mixture.joint.sum(1), mixture.means, factors, strict=True):
        x = mean + z @ factor.T
        log_density = np.stack(
            [-(((x - m) @ inverse.T) ** 2).sum(1) / 2 - s for m, inverse, s in
             zip(mixture.means, inverses, log_scales, strict=True)],
            axis=1,
        )  # fmt: skip
        relative = np.exp(log_density - log_density.max(1, keepdims=True)) @ mixture.joint
        losing = (1 - relative.max(1) / relative.sum(1)).reshape(len(line), len(line))
        fine += share * float(weight @ losing @ weight)
        coarse += share * float(4 * weight[::2] @ losing[::2, ::2] @ weight[::2])
    return Estimate(fine, max(abs(fine - coarse), _FLOOR), "quadrature")
