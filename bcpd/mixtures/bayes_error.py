r"""Bayes errors of Gaussian mixtures in at most two dimensions: exact sums of normal probabilities, or quadrature.

Whatever shares one covariance lives, after whitening, in the span of its means: the directions across it have the same
law under every component and cancel in p*. So thirty-dimensional classes on a line are a one-dimensional problem.
"""

from __future__ import annotations

from collections.abc import Callable
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
    return _components_in_the_plane(joint, means, covariances)


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
    """The error estimate is the change from half as many nodes."""
    value, coarse = (_numerical_boundaries(joint, means, scales, nodes) for nodes in (720, 360))
    return Estimate(value, max(abs(value - coarse), _FLOOR), "quadrature")


def _numerical_boundaries(joint: Array, means: Array, scales: Array, nodes: int) -> float:
    """Error on a line with decision boundaries bracketed by ``nodes`` a component, then refined.

    At a boundary the two classes are equal, so its own error enters squared: six Illinois steps reach rounding.
    """
    log_scales = np.log(scales)

    def relative(t: Array) -> Array:
        log_density = -(((t[:, None] - means) / scales) ** 2) / 2 - log_scales
        return np.asarray(np.exp(log_density - log_density.max(1, keepdims=True)) @ joint)

    grid = np.unique(means[:, None] + scales[:, None] * np.linspace(-_REACH, _REACH, nodes + 1))
    scores = relative(grid)
    winner = scores.argmax(1)
    change = np.flatnonzero(winner[1:] != winner[:-1])
    rows, left, right = np.arange(len(change)), winner[change], winner[change + 1]

    def lead(scores: Array) -> Array:
        """From 1 to -1: how far the class on the left is ahead of the one on the right."""
        ahead, behind = scores[rows, left], scores[rows, right]
        return np.asarray((ahead - behind) / np.maximum(ahead + behind, 1e-300))

    low, high = grid[change], grid[change + 1]
    lead_low, lead_high = lead(scores[change]), lead(scores[change + 1])
    for _ in range(6):
        middle = low + (high - low) * lead_low / np.maximum(lead_low - lead_high, 1e-300)
        here = lead(relative(middle))
        after = here >= 0
        low, high = np.where(after, middle, low), np.where(after, high, middle)
        # the end that stays counts half, or false position would never let go of it
        lead_low, lead_high = np.where(after, here, lead_low / 2), np.where(after, lead_high / 2, here)
    boundaries = low + (high - low) * lead_low / np.maximum(lead_low - lead_high, 1e-300)
    return _losing_mass(boundaries, winner[np.concatenate([[0], change + 1])], joint, means, scales)


# --------------------------------------------------------------------------------------------------------- in the plane


class _Slices:
    """Gaussians in the plane as, for each first coordinate u, weighted Gaussians along the second."""

    def __init__(self, means: Array, covariances: Array) -> None:
        self._means, variance, cross = means, covariances[:, 0, 0], covariances[:, 0, 1]
        self._slope, self._spread = cross / variance, np.sqrt(variance)
        if np.ptp(covariances, axis=0).max() == 0:
            covariances, cross = covariances[:1], cross[:1]
        self.scales = np.broadcast_to(np.sqrt(covariances[:, 1, 1] - cross**2 / covariances[:, 0, 0]), len(means))

        reach = np.array([-_REACH, -3.0, 3.0, _REACH])
        stops = np.unique(self._means[:, 0, None] + self._spread[:, None] * reach)
        apart = np.floor(stops / (2 * self._spread.min()))
        # where the integrand may start or end, once every two deviations of the narrowest component
        self.stops = np.append(stops[np.flatnonzero(np.diff(apart, prepend=-np.inf))], stops[-1] + self._spread.min())

    def at(self, u: float) -> tuple[Array, Array]:
        """log densities of u, and means along the second coordinate, of every component."""
        gap = u - self._means[:, 0]
        log_density = -((gap / self._spread) ** 2) / 2 - np.log(self._spread * np.sqrt(2 * np.pi))
        return log_density, self._means[:, 1] + self._slope * gap

    def integral(self, function: Callable[[float], float], tolerance: float) -> tuple[float, float]:
        """Adaptive quadrature over u of a function of the slice, with its error estimate."""
        stops = self.stops
        # full_output returns convergence troubles in place of warning; the error estimate has them in it
        result: Any = quad(
            function, stops[0], stops[-1], points=stops[1:-1], limit=len(stops) + 200, epsabs=tolerance,
            epsrel=tolerance, full_output=1,
        )  # fmt: skip
        return float(result[0]), float(result[1])


def _one_a_class_in_the_plane(log_weights: Array, means: Array, covariances: Array) -> Estimate:
    """The exact error of every slice, integrated."""
    slices = _Slices(means, covariances)

    def error_along(u: float) -> float:
        log_density, centres = slices.at(u)
        return _one_a_class(log_weights + log_density, centres, slices.scales)

    value, error = slices.integral(error_along, 1e-9)
    return Estimate(value, max(error, _FLOOR), "quadrature")


def _components_in_the_plane(joint: Array, means: Array, covariances: Array) -> Estimate:
    """The numerical error of every slice, integrated.

    The error estimate adds the mean change from half as many nodes in a slice, by a trapezoid rule.
    """
    slices = _Slices(means, covariances)

    def error_along(u: float, nodes: int) -> float:
        log_density, centres = slices.at(u)
        # relative weights keep their digits where all densities of u are tiny
        shift = log_density.max()
        weights = joint * np.exp(log_density - shift)[:, None]
        return float(np.exp(shift)) * _numerical_boundaries(weights, centres, slices.scales, nodes)

    value, error = slices.integral(lambda u: error_along(u, 64), 1e-7)
    probes = np.unique(np.linspace(slices.stops[:-1], slices.stops[1:], 5))
    change = np.array([abs(error_along(u, 64) - error_along(u, 32)) for u in probes])
    return Estimate(value, error + float(np.trapezoid(change, probes)) + _FLOOR, "quadrature")
