"""All checks of a level, in the worlds they are made for, with every negative control that applies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.seeds import derive, generator
from bcpd.theory import claims
from bcpd.theory.check import Check, Role
from bcpd.theory.claims import GradientOf, Result
from bcpd.theory.data_checks import data_checks
from bcpd.theory.versions import CONTROLS, MATRIX, Version, version
from bcpd.theory.worlds import Kind, World, finite_world, quadrature_world, rational_world, sample_world

__all__ = ["LEVELS", "STATEMENTS", "contaminated_line", "count_checks", "run_checks"]

LEVELS = ("quick", "full")
REPETITIONS = {"quick": 1, "full": 3}
LOSSES_CHECKED = ("ce", "mse")

STATEMENTS = {
    "risk-identity": "E l(y, q) = E H(p*) + E d(p*, q) for a network q",
    "gradient-identity": "the gradient that the trainer follows is the gradient of E d(p*, q)",
    "minimiser-equality": "argmin E l(y, q) = argmin E d(p*, q) in a class that misses p*",
    "minimiser-is-bayes": "argmin E l(y, q) is p* in a class that contains p*",
    "own-metric": "when the class misses p*, this loss's minimiser is strictly closer to p* in this loss's own metric",
}


@dataclass(frozen=True)
class _Worlds:
    """The worlds of one repetition. ``missing``: linear softmax misses p*; ``containing``: it contains p*."""

    any: list[World]
    missing: list[World]
    containing: list[World]


def run_checks(level: str, seed: int, gradient_of: GradientOf) -> Iterator[Check]:
    """Run the suite, yielding every check as it is done.

    Args:
        level: ``quick``, or ``full`` (more repetitions, nodes and points).
        seed: of every random network, world and sample.
        gradient_of: the gradient that the trainer follows, :func:`bcpd.train.followed_gradient`.
    Raises:
        ValueError: an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {LEVELS}, received {level!r}")
    for repetition in range(REPETITIONS[level]):
        root = derive(seed, "verify", repetition)
        worlds = _worlds(level, root)
        for claim, loss in product(MATRIX, LOSSES_CHECKED):
            yield from _try_claim(claim, loss, worlds, root, gradient_of, repetition)
    for check in data_checks(level, seed):
        yield check()


def count_checks(level: str) -> int:
    """How many checks :func:`run_checks` yields."""
    kinds: tuple[Kind, ...] = ("exact", "quadrature", "quadrature", "monte_carlo")
    theory = sum(1 + len(_controls(*each)) for each in product(MATRIX, LOSSES_CHECKED, kinds))
    return REPETITIONS[level] * theory + len(data_checks(level, 0))


def _controls(claim: str, loss: str, kind: Kind) -> list[tuple[str, str]]:
    """The controls of the matrix that are tried in a world of this kind, with their effect."""
    column = LOSSES_CHECKED.index(loss)
    return [
        (control, effects[column])
        for control, effects in MATRIX[claim].items()
        if effects[column] != "-"
        and not (control == "realised_labels" and kind != "exact")
        and not (kind == "monte_carlo" and control in _NO_SUCH_CONTROL.get(claim, ()))
    ]


def _try_claim(
    claim: str, loss: str, worlds: _Worlds, seed: int, gradient_of: GradientOf, repetition: int
) -> Iterator[Check]:
    places = {
        "minimiser-equality": worlds.missing,
        "own-metric": worlds.missing,
        "minimiser-is-bayes": worlds.containing,
    }
    suffix = f"#{repetition + 1}" if repetition else ""
    for world, containing in zip(places.get(claim, worlds.any), worlds.containing, strict=True):
        identifier = f"{claim}/{loss}/{world.name}{suffix}"
        value, bound = _evaluate(claim, loss, None, world, containing, seed, gradient_of)
        yield Check.of(identifier, STATEMENTS[claim], world.name, loss, "claim", value, bound)
        for control, effect in _controls(claim, loss, world.kind):
            value, bound = _evaluate(claim, loss, control, world, containing, seed, gradient_of)
            role: Role = "control" if effect == "fails" else "claim"
            link = "but" if role == "control" else "also where"
            statement = f"{STATEMENTS[claim]}, {link} {CONTROLS[control]}"
            yield Check.of(f"{identifier}/{control}", statement, world.name, loss, role, value, bound)


# at q = p* itself, or at a minimiser found without labels, these leave the Monte Carlo statistic as it is
_NO_SUCH_CONTROL = {
    "minimiser-is-bayes": frozenset({"dropped_constant", "over_K", "swapped_arguments"}),
    "minimiser-equality": frozenset({"dropped_constant", "over_K"}),
}


def _evaluate(
    claim: str, loss: str, control: str | None, world: World, containing: World, seed: int, gradient_of: GradientOf
) -> Result:
    tried = version(loss, control)
    if claim == "risk-identity":
        return claims.risk_identity(tried, world, seed)
    if claim == "gradient-identity":
        return claims.gradient_identity(tried, world, seed, gradient_of)
    if claim == "minimiser-equality":
        return claims.minimiser_equality(tried, world, seed)
    if claim == "minimiser-is-bayes":
        return claims.minimiser_is_bayes(tried, world, seed)
    rival: Version = version("mse" if loss == "ce" else "ce")
    divergence = version(loss).divergence
    place = containing if control == "well_specified" else world
    if control == "swapped_arguments":
        divergence = tried.divergence
    return claims.own_metric(tried, rival, divergence, place, seed, sign=-1.0 if control == "reversed" else 1.0)


def contaminated_line() -> GaussianMixture:
    """Two classes on a line, one with a small outlying component on the far side of the other.

    Linear softmax misses p*: the outliers pull a logarithmic loss more than a square one (theory of misspecified
    projections).
    """
    return GaussianMixture(
        means=[[[-1.0], [5.0]], [[1.0], [1.0]]], covariance=1.0, weights=[[0.9, 0.1], [0.5, 0.5]], priors=[0.5, 0.5]
    )


def _worlds(level: str, seed: int) -> _Worlds:
    nodes, n = (128, 60_000) if level == "quick" else (160, 100_000)
    plane_nodes = 64 if level == "quick" else 80
    draw = generator(seed, "worlds")

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    line = GaussianMixture(means=[[-1.2], [0.3], [1.5]], covariance=1.0, priors=[0.5, 0.2, 0.3])
    # smooth enough for the quadrature, whatever the seed
    plane = GaussianMixture(
        means=[[-0.8, 0.1], [0.7, 0.5], [0.2, -0.9]], covariance=[[1.0, 0.3], [0.3, 1.5]], priors=[0.3, 0.3, 0.4]
    )
    curved_plane = GaussianMixture(
        means=[[[-1.5, -0.5], [1.5, 0.5]], [[0.5, 1.0], [0.5, -1.0]]], covariance=0.8, priors=[0.4, 0.6]
    )
    space = GaussianMixture(means=1.5 * normal(3, 30) / 30**0.5, covariance=1.0, priors=[0.5, 0.3, 0.2])
    # the second component of class 0 lies beyond class 1: no linear rule has this p*
    direction = torch.zeros(1, 1, 30, dtype=torch.float64)
    direction[..., 0] = 1.0
    curved_space = GaussianMixture(
        means=torch.tensor([[[-2.0], [4.0]], [[1.5], [1.5]]]).double() * direction,
        covariance=1.0,
        weights=[[0.9, 0.1], [0.5, 0.5]],
        priors=[0.65, 0.35],
    )
    rational = rational_world(seed)
    table = FiniteMixture(normal(7).softmax(-1), (1.5 * normal(7, 3)).softmax(-1), points=normal(7, 2))
    logits = table.support()[0] @ normal(2, 3) + normal(3)
    inside = FiniteMixture(table.support()[1], logits.softmax(-1), points=table.support()[0])
    return _Worlds(
        any=[
            rational,
            quadrature_world(line, nodes, "quadrature 1-D"),
            quadrature_world(plane, plane_nodes, "quadrature 2-D"),
            sample_world(space, n, seed, "Monte Carlo 30-D"),
        ],
        missing=[
            finite_world(table),
            quadrature_world(contaminated_line(), nodes, "quadrature 1-D"),
            quadrature_world(curved_plane, plane_nodes // 2, "quadrature 2-D"),
            sample_world(curved_space, n, seed, "Monte Carlo 30-D"),
        ],
        containing=[
            finite_world(inside),
            quadrature_world(line, nodes, "quadrature 1-D"),
            quadrature_world(plane, plane_nodes // 2, "quadrature 2-D"),
            sample_world(space, n, seed, "Monte Carlo 30-D"),
        ],
    )
