r"""Bayes errors of component mixtures on a line or a plane: exact sums of tail probabilities, or quadrature.

Whatever shares one covariance lives, after whitening, in the span of its means: the directions across it have the same
law under every component and cancel in p*. So thirty-dimensional classes on a line are a one-dimensional problem.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.special import log_ndtr

from bcpd.estimate import Estimate
from bcpd.mixtures.laws import NORMAL, Array, Law, losing_mass

__all__ = ["ComponentJoint", "equidistant_bayes_error", "joint_bayes_error", "on_span"]

_REACH = 9.0  # standard deviations beyond which a normal law has mass 1e-19
_FLOOR = 1e-14  # no quadrature claims less than rounding


@dataclass(frozen=True)
class ComponentJoint:
    """A mixture over m components shared by the classes: P(component i, class k), and a place and scale of each.

    Attributes:
        joint: ``(m, K)``, summing to 1; a component may serve several classes (label noise).
        means: ``(m, r)`` with r = 1 or 2.
        covariances: ``(m, r, r)``; squared scales where the law is not normal.
        law: of the components; in the plane the normal one.
    """

    joint: Array
    means: Array
    covariances: Array
    law: Law = NORMAL

    def with_joint(self, joint: Array) -> ComponentJoint:
        """The same components under another labelling."""
        return ComponentJoint(joint, self.means, self.covariances, self.law)


def on_span(joint: Array, whitened_means: Array) -> ComponentJoint | None:
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
    return ComponentJoint(joint, coordinates, np.broadcast_to(np.eye(dimension), (len(joint), dimension, dimension)))


def joint_bayes_error(mixture: ComponentJoint) -> Estimate:
    """Bayes error by the best rule there is: one component a class on a line is exact, the rest is quadrature."""
    present = mixture.joint.sum(1) > 0
    joint, means, covariances = mixture.joint[present], mixture.means[present], mixture.covariances[present]
    joint = joint[:, joint.sum(0) > 0]
    plain = bool(((joint > 0).sum(1) == 1).all() and ((joint > 0).sum(0) == 1).all())
    if means.shape[1] == 1:
        scales = np.sqrt(covariances[:, 0, 0])
        if plain:
            return Estimate(_one_a_class(mixture.law, np.log(joint.sum(1)), means[:, 0], scales), 0.0, "exact")
        return _components_on_a_line(mixture.law, joint, means[:, 0], scales)
    if plain:
        return _one_a_class_in_the_plane(np.log(joint.sum(1)), means, covariances)
    return _components_in_the_plane(joint, means, covariances)


def equidistant_bayes_error(classes: int, distance: float) -> Estimate:
    r"""Equally likely unit Gaussians, every two ``distance`` apart: the corners of a regular simplex.

    .. math:: L^* = \int \varphi(z) \big(1 - \Phi(a + z)^{K-1}\big)\, dz, \qquad a = \mathrm{distance} / \sqrt 2,

    as for means :math:`a e_k`: class k wins where its own coordinate is the largest.
    """

    def loses(z: float) -> float:
        tail: float = -np.expm1((classes - 1) * log_ndtr(distance / np.sqrt(2) + z))
        return float(np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)) * tail

    value, error = quad(loses, -_REACH, _REACH, epsabs=1e-13, epsrel=1e-12, limit=200)
    return Estimate(value, max(error, _FLOOR), "quadrature")


# ------------------------------------------------------------------------------------------------------------ on a line


def _one_a_class(law: Law, log_weights: Array, means: Array, scales: Array) -> float:
    """Error of one component ``exp(log_weight)`` a class; the weights need not sum to 1."""
    breaks, winners = law.winners(log_weights, means, scales)
    return losing_mass(law, breaks, winners, np.diag(np.exp(log_weights)), means, scales)


def _components_on_a_line(law: Law, joint: Array, means: Array, scales: Array) -> Estimate:
    """The error estimate is the change from half as many nodes."""
    value, coarse = (_numerical_boundaries(law, joint, means, scales, nodes) for nodes in (720, 360))
    return Estimate(value, max(abs(value - coarse), _FLOOR), "quadrature")


def _numerical_boundaries(law: Law, joint: Array, means: Array, scales: Array, nodes: int) -> float:
    """Error on a line with decision boundaries bracketed by ``nodes`` a component, then refined.

    At a boundary the two classes are equal, so its own error enters squared: six Illinois steps reach rounding.
    """
    log_scales = np.log(scales)

    def relative(t: Array) -> Array:
        log_density = law.log_density((t[:, None] - means) / scales) - log_scales
        return np.asarray(np.exp(log_density - log_density.max(1, keepdims=True)) @ joint)

    grid = np.unique(means[:, None] + scales[:, None] * law.grid(nodes))
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
    return losing_mass(law, boundaries, winner[np.concatenate([[0], change + 1])], joint, means, scales)


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
        return _one_a_class(NORMAL, log_weights + log_density, centres, slices.scales)

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
        return float(np.exp(shift)) * _numerical_boundaries(NORMAL, weights, centres, slices.scales, nodes)

    value, error = slices.integral(lambda u: error_along(u, 64), 1e-7)
    probes = np.unique(np.linspace(slices.stops[:-1], slices.stops[1:], 5))
    change = np.array([abs(error_along(u, 64) - error_along(u, 32)) for u in probes])
    return Estimate(value, error + float(np.trapezoid(change, probes)) + _FLOOR, "quadrature")
