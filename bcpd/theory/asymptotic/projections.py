r"""The member of a class that a loss is after when the class misses p*, and mixtures in which it does.

:math:`q_B = \arg\min_F E\|q - p^*\|^2` and :math:`q_L = \arg\min_F E\,KL(p^* \| q)` are what the Brier score and the
cross-entropy reach with infinitely many samples. The risk of the cross-entropy is convex in the parameters of a linear
softmax, so that its minimum is the only one; that of the Brier score is not, and has several minima in simple mixtures.
Its lowest is certified as far as that goes: many starts, how many of them agree, and with two parameters a grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from bcpd.losses import Loss
from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.seeds import generator
from bcpd.theory.asymptotic.asymptotics import model_of, proper_loss
from bcpd.theory.asymptotic.estimators import Law, best_of_starts, fit, law_of
from bcpd.theory.asymptotic.models import LinearModel, Model
from bcpd.theory.linear import linear_design

__all__ = [
    "Case",
    "Projection",
    "bent_table",
    "both",
    "contaminated",
    "contaminated_plane",
    "designed_cases",
    "grid",
    "linear_case",
    "projection",
    "random_line",
]


@dataclass(frozen=True)
class Projection:
    """The member of a class that a loss is after, as far as it was found.

    Attributes:
        theta: its parameters ``(P,)``; mse, kl: its distances to p*.
        value: of the risk there.
        attained: whether it is a minimum; if not, the risk still falls where the parameters run away to.
        starts: how many there were; agreeing: those of them that ended there, within 1e-9 of the risk.
        others: the values of other minima found, increasing, each once.
        minima: the parameters of those, ``(m, P)``.
    """

    theta: Tensor
    mse: float
    kl: float
    value: float
    attained: bool
    starts: int
    agreeing: int
    others: tuple[float, ...]
    minima: Tensor


def projection(
    law: Law,
    model: Model,
    loss: Loss | str,
    seed: int,
    *,
    starts: int = 16,
    rank: int | None = None,
    also: Tensor | None = None,
) -> Projection:
    """The lowest of the minima of a population risk that are found from several starts.

    Args:
        starts: 0 and Gaussian ones with standard deviation 2, the same for every loss.
        rank: identifiable directions, all parameters by default.
        also: further starts ``(m, P)``, such as the optima of other losses.
    """
    loss = proper_loss(loss)
    found = best_of_starts(law, model, loss, seed, starts=starts, spread=2.0, rank=rank)
    theta, value, finite = found
    if also is not None:
        more = fit(model, law.population(model), loss, also, rank=rank)
        theta, value, finite = (torch.cat(pair) for pair in zip(found, more, strict=True))
    best = torch.where(value.isnan(), torch.inf, value).argmin()
    mse, kl = law.distances(model, theta[best][None])
    lowest = float(value[best])
    close = (value - lowest).abs() <= 1e-9 * (1 + abs(lowest))
    kept = [int(best)]
    for index in value.argsort().tolist():
        if finite[index] and float(value[index]) > float(value[kept[-1]]) + 1e-7:
            kept.append(index)
    return Projection(
        theta[best],
        float(mse),
        float(kl),
        lowest,
        bool(finite[best]),
        len(value),
        int(close.sum()),
        tuple(float(value[index]) for index in kept[1:]),
        theta[kept[1:]],
    )


def contaminated(weight: float = 0.1, at: float = 5.0) -> GaussianMixture:
    """Two classes on a line, at -1 and 1; a share ``weight`` of the first lies at ``at``, on the other's far side."""
    return GaussianMixture(
        [[[-1.0], [at]], [[1.0], [1.0]]], 1.0, weights=[[1 - weight, weight], [0.5, 0.5]], priors=[0.5, 0.5]
    )


def contaminated_plane() -> GaussianMixture:
    """The same idea in the plane, off the axis that tells the classes apart, and smooth enough for the quadrature."""
    means = [[[-1.0, 0.0], [3.0, 1.0]], [[1.0, 0.3], [1.0, 0.3]]]
    return GaussianMixture(means, [[2.0, 0.3], [0.3, 2.0]], weights=[[0.92, 0.08], [0.5, 0.5]], priors=[0.55, 0.45])


def random_line(seed: int, num_classes: int = 2) -> GaussianMixture:
    """Classes on a line with three components each: random places, variances from 1 to 2, weights and priors."""
    draw = generator(seed, "random line", num_classes)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    shape = (num_classes, 3)
    return GaussianMixture(
        6 * uniform(*shape, 1) - 3,
        1 + uniform(*shape, 1, 1),
        weights=(2 * uniform(*shape)).softmax(-1),
        priors=(2 * uniform(num_classes)).softmax(-1),
    )


def bent_table(seed: int) -> FiniteMixture:
    """Nine points in the plane, three classes; p* is a steep linear softmax bent by x1 x2, so that the class misses it.

    Steep, for where p* is nearly uniform both losses weigh all x alike and have nearly the same optimum; bent by little
    enough that the Brier score has its optimum at finite parameters.
    """
    draw = generator(seed, "bent table")
    x = torch.cartesian_prod(*(torch.linspace(-1.0, 1.0, 3, dtype=torch.float64),) * 2)
    slopes = torch.tensor([[1.0, -0.5, 0.0], [-0.5, 1.0, 0.0], [0.5, 0.0, 0.0]], dtype=torch.float64)
    theta = slopes + 0.8 * (torch.rand(3, 3, generator=draw, dtype=torch.float64) - 0.5)
    bend = torch.tensor([1.5, -1.5, 0.0], dtype=torch.float64) * x.prod(1, keepdim=True)
    rows = (linear_design(x) @ theta + bend).softmax(1)
    return FiniteMixture(torch.full((9,), 1 / 9), rows, x)


def grid(law: Law, model: LinearModel, loss: Loss | str, first: Tensor, second: Tensor) -> Tensor:
    """The population risk of a class with two parameters on a grid: ``(len(second), len(first))``.

    Raises:
        ValueError: another number of parameters.
    """
    if model.size != 2:
        raise ValueError(f"a grid needs a class with 2 parameters, received {model.size}")
    function, features = proper_loss(loss).function, model.features(law.x)
    theta = torch.stack(torch.meshgrid(first, second, indexing="xy"), -1).reshape(-1, 2)
    rows = [
        law.mean(function(z, law.bayes.expand(len(z), -1, -1)))
        for z in (model.logits(part, features) for part in torch.split(theta, 1024))
    ]
    return torch.cat(rows).reshape(len(second), len(first))


@dataclass(frozen=True, eq=False)
class Case:
    """A law and a class; ``fine``: twice the nodes of the law; ``rank``: identifiable directions, all by default."""

    law: Law
    model: Model
    fine: Law | None = None
    rank: int | None = None


def linear_case(law: Law, fine: Law | None = None) -> Case:
    """A law with the linear softmax."""
    return Case(law, model_of(linear_design, law), fine)


@lru_cache(maxsize=2)
def designed_cases(seed: int) -> tuple[Case, ...]:
    """Finite X, a line and a plane on which the linear softmax misses p*."""
    line, plane = contaminated(), contaminated_plane()
    return (
        linear_case(law_of(bent_table(seed), "finite X")),
        linear_case(law_of(line, "quadrature 1-D", nodes=160), law_of(line, nodes=320)),
        linear_case(law_of(plane, "quadrature 2-D", nodes=88), law_of(plane, nodes=176)),
    )


@lru_cache(maxsize=16)
def both(case: Case, seed: int) -> dict[str, Projection]:
    """The cross-entropy's projection, and the Brier score's, which also starts from there."""
    starts = 16 if case.rank is None else 6
    find = partial(projection, case.law, case.model, seed=seed, starts=starts, rank=case.rank)
    ce = find("ce")
    mse = find("mse", also=ce.theta[None])
    if case.rank is not None:  # of a network neither risk is convex
        ce = find("ce", also=mse.theta[None])
    return {"ce": ce, "mse": mse}
