r"""Laws on the line, each with the rule that says exactly where one class overtakes another.

A class with one component :math:`w\, s^{-1} \varphi((t - m) / s)` of a standard density :math:`\varphi` wins on a union
of intervals. For normal and Student components the boundaries are roots of quadratics, for Laplace components roots of
lines between the means, so that their Bayes errors are finite sums of values of a distribution function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

__all__ = ["LAPLACE", "NORMAL", "Array", "Law", "losing_mass", "student"]

Array = NDArray[np.float64]
Winners = tuple[Array, NDArray[np.intp]]
"""Breakpoints in order, and the class that wins left of, between and right of them."""


@dataclass(frozen=True)
class Law:
    """A law on the line, symmetric about 0.

    Attributes:
        log_density: up to a constant.
        cdf: P(z <= t); by symmetry also the upper tail, ``cdf(-t)``, which keeps its digits.
        grid: ``n -> n + 1`` places, 0 among them for even n, beyond which lies a mass of 1e-17 or less.
        winners: of one component a class: ``(log weights, means, scales)``, weights that need not sum to 1.
    """

    log_density: Callable[[Array], Array]
    cdf: Callable[[Array], Array]
    grid: Callable[[int], Array]
    winners: Callable[[Array, Array, Array], Winners]


def losing_mass(law: Law, breaks: Array, winners: NDArray[np.intp], joint: Array, means: Array, scales: Array) -> float:
    """Mass of every class outside the intervals it wins; sums tails, never ``1 - ...``, so tiny errors keep digits."""
    edges = np.concatenate([[-np.inf], breaks, [np.inf]])
    low, high = (edges[:-1, None] - means) / scales, (edges[1:, None] - means) / scales
    upper = low > 0
    mass = np.where(upper, law.cdf(-low) - law.cdf(-high), law.cdf(high) - law.cdf(low)) @ joint
    mass[np.arange(len(winners)), winners] = 0.0
    return float(mass.sum())


# --------------------------------------------------------------------------------------------------------------- normal


def _normal_log_density(z: Array) -> Array:
    return -(z**2) / 2


def _normal_winners(log_weights: Array, means: Array, scales: Array) -> Winners:
    if np.all(scales == scales[0]):
        # log joints are lines in t = x / scale, up to a common term
        positions = means / scales[0]
        breaks, winners = _upper_envelope(positions, log_weights - positions**2 / 2)
        return breaks * scales[0], winners
    level = np.log(scales) - log_weights
    return _lowest_parabola(level, scales**-2.0 / 2, means, scales)


def _upper_envelope(slopes: Array, intercepts: Array) -> Winners:
    """The maximum of the lines ``slope * t + intercept``."""
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


def _lowest_parabola(levels: Array, curvatures: Array, means: Array, scales: Array) -> Winners:
    """The minimum of ``level + curvature * (t - mean)^2``, from all pairwise roots."""
    first, second = np.triu_indices(len(means), 1)
    # the difference of two parabolas around the first mean, where no coefficient cancels
    shift = means[second] - means[first]
    square = curvatures[second] - curvatures[first]
    linear = -2 * curvatures[second] * shift
    constant = levels[second] - levels[first] + curvatures[second] * shift**2
    discriminant = linear**2 - 4 * square * constant
    with np.errstate(divide="ignore", invalid="ignore"):
        half = -(linear + np.copysign(np.sqrt(discriminant), linear)) / 2
        roots = np.concatenate([means[first] + half / square, means[first] + constant / half])

    def height(t: Array) -> Array:
        return np.asarray(levels + curvatures * (t[:, None] - means) ** 2)

    return _between(np.sort(roots[np.isfinite(roots)]), lambda t: -height(t), float(scales.max()))


def _between(breaks: Array, score: Callable[[Array], Array], step: float) -> Winners:
    """Who has the best score in each of the intervals that sorted breakpoints make."""
    if len(breaks) == 0:
        return breaks, score(np.zeros(1)).argmax(1)
    middles = np.concatenate([[breaks[0] - step], (breaks[:-1] + breaks[1:]) / 2, [breaks[-1] + step]])
    return breaks, score(middles).argmax(1)


NORMAL = Law(_normal_log_density, ndtr, lambda n: np.linspace(-9.0, 9.0, n + 1), _normal_winners)


# -------------------------------------------------------------------------------------------------------------- Student


def student(degrees: float) -> Law:
    r"""Student's t: :math:`\varphi(z) \propto (1 + z^2 / \nu)^{-(\nu + 1) / 2}`."""
    power = (degrees + 1) / 2

    def log_density(z: Array) -> Array:
        return np.asarray(-power * np.log1p(z**2 / degrees))

    def cdf(z: Array) -> Array:
        return np.asarray(stdtr(degrees, z))

    def grid(n: int) -> Array:
        # tails so heavy that their end is out of reach are cut at 1e30
        reach = min(-float(stdtrit(degrees, 1e-17)), 1e30)
        return np.asarray(np.sinh(np.linspace(-np.arcsinh(reach), np.arcsinh(reach), n + 1)))

    def winners(log_weights: Array, means: Array, scales: Array) -> Winners:
        # a log joint to the power -1 / power is a parabola
        advantage = log_weights - np.log(scales)
        level = np.exp((advantage.max() - advantage) / power)
        return _lowest_parabola(level, level / (degrees * scales**2), means, scales)

    return Law(log_density, cdf, grid, winners)


# -------------------------------------------------------------------------------------------------------------- Laplace


def _laplace_cdf(z: Array) -> Array:
    tail = np.exp(-np.abs(z)) / 2
    return np.where(z > 0, 1 - tail, tail)


def _laplace_winners(log_weights: Array, means: Array, scales: Array) -> Winners:
    heights = log_weights - np.log(scales)

    def score(t: Array) -> Array:
        return np.asarray(heights - np.abs(t[:, None] - means) / scales)

    knots = np.unique(means)
    edges = np.concatenate([[-np.inf], knots, [np.inf]])
    middles = np.concatenate([[knots[0] - 1], (knots[:-1] + knots[1:]) / 2, [knots[-1] + 1]])
    # between two knots all scores are lines
    slopes = -np.sign(middles[:, None] - means) / scales
    intercepts = heights - slopes * means
    first, second = np.triu_indices(len(means), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = (intercepts[:, first] - intercepts[:, second]) / (slopes[:, second] - slopes[:, first])
    inside = (roots > edges[:-1, None]) & (roots < edges[1:, None])
    return _between(np.unique(np.concatenate([knots, roots[inside]])), score, float(scales.max()))


LAPLACE = Law(lambda z: -np.abs(z), _laplace_cdf, lambda n: np.linspace(-40.0, 40.0, n + 1), _laplace_winners)
