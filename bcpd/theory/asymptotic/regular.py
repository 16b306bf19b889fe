"""Places where an M-estimator is regular and its class contains p*, so that its limit is known: grid, line, network."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from bcpd.losses import LOSSES
from bcpd.mixtures import FiniteMixture, GaussianMixture, Mixture
from bcpd.nets.mlp import MLP
from bcpd.seeds import generator
from bcpd.theory.asymptotic.asymptotics import Asymptotics, asymptotics
from bcpd.theory.asymptotic.estimators import Law, Simulation, law_of, simulate
from bcpd.theory.asymptotic.models import Design, LinearModel, Model, NetModel
from bcpd.theory.claim import Settings
from bcpd.theory.linear import exact_parameters, linear_design, quadratic_design, table_design
from bcpd.theory.worlds import quadrature_world

__all__ = [
    "Place",
    "containing_design",
    "linear_place",
    "places",
    "prediction",
    "settled_size",
    "simulated",
    "two_gaussians",
    "two_gaussians_on_nodes",
]

SIZES = (1000, 4000)


@dataclass(frozen=True, eq=False)
class Place:
    """A law of (x, y), a regular class that contains its p*, and the parameters of p*.

    Attributes:
        rank: the identifiable dimension by counting; parameters: those of the class with a logit for every class.
        telling: whether the cross-entropy and the Brier score differ so much here that wrong versions show.
        sizes: the two N to simulate, four times apart; none where the limit is too far to simulate.
    """

    law: Law
    model: Model
    theta: Tensor
    rank: int
    parameters: int
    telling: bool = True
    sizes: tuple[int, ...] = SIZES


def two_gaussians(separation: float) -> GaussianMixture:
    """Two classes on a line, unit variances, means ``separation`` >= 0 apart: p* is a logistic function of x."""
    return GaussianMixture([[-separation / 2], [separation / 2]], 1.0)


def two_gaussians_on_nodes(separation: float, nodes: int = 24) -> FiniteMixture:
    """The same with x on Gauss-Hermite nodes only: the same limits, and data sets that are small tables of counts."""
    world = quadrature_world(two_gaussians(separation), nodes, "nodes", finer=False)
    x, index = torch.unique(world.x, dim=0, return_inverse=True)
    weights = torch.zeros(len(x), dtype=torch.float64).index_add(0, index, world.weights)
    return FiniteMixture(weights / weights.sum(), two_gaussians(separation).posterior(x), x)


def containing_design(law: Law) -> Design | None:
    """A design whose class contains p*: ``[x, 1]``, quadratic, or a table on finite X; ``None`` if none does."""
    for design in (linear_design, quadratic_design, *([table_design] if law.kind == "exact" else [])):
        if law.x.ndim == 2 and exact_parameters(design(law.x), law.log_bayes) is not None:
            return design
    return None


def places(settings: Settings) -> tuple[Place, ...]:
    """A grid with three classes, two Gaussians, a small network; or the user's mixture, where a design contains p*."""
    if settings.mixture is not None:
        return _place_of_user(*settings.mixture, settings.seed)
    return _default_places(settings.seed, settings.full)


@lru_cache(maxsize=2)
def _place_of_user(name: str, mixture: Mixture, seed: int) -> tuple[Place, ...]:
    law = law_of(mixture, name, seed)
    design = None if law.kind == "monte_carlo" else containing_design(law)
    if design is None:
        return ()
    place = linear_place(law, design)
    ce, mse = prediction(place, "ce"), prediction(place, "mse")
    near = 1000 * math.ceil(settled_size(place) / 1000)
    sizes = (near, 4 * near) if near <= (10**6 if law.kind == "exact" else 4000) else ()
    return (replace(place, telling=mse.n_mse > 1.3 * ce.n_mse, sizes=sizes),)


def settled_size(place: Place) -> float:
    r"""The N from which N KL of the cross-entropy is within a few per cent of its limit.

    The next term of the expansion is of the order of the logits' variance, averaged with the weights that make up the
    limit: :math:`\sum_i w_i\, \mathrm{tr}(S_i C_i)\, \mathrm{tr}(C_i) / (N\,\mathrm{rank})` with :math:`C_i` the
    limiting covariance of the logits at x_i and :math:`S_i = \mathrm{diag}\,q - qq^\top` (derived here, as a rule of
    thumb). N is where this is 0.05.
    """
    jacobian, q = place.model.jacobian(place.theta, place.model.features(place.law.x)), place.law.bayes
    centred = jacobian - torch.einsum("nk,nkp->np", q, jacobian)[:, None]
    spread = torch.einsum("nkp,pq,nkq->nk", centred, prediction(place, "ce").covariance, centred)
    share = place.law.weights * (q * spread).sum(1)
    return float(share @ spread.sum(1)) / (0.05 * place.rank)


@lru_cache(maxsize=2)
def _default_places(seed: int, full: bool) -> tuple[Place, ...]:
    draw = generator(seed, "efficiency", "places")
    found = (_grid(draw), linear_place(law_of(two_gaussians_on_nodes(3.0), "two Gaussians on nodes")), _network(draw))
    if not full:
        return found
    line = GaussianMixture([[-1.3], [1.3]], 1.0, priors=[0.4, 0.6])
    return *found, linear_place(law_of(line, "quadrature 1-D"), telling=False)


def linear_place(law: Law, design: Design = linear_design, *, telling: bool = True) -> Place:
    """A law with a class linear in its parameters.

    Raises:
        ValueError: the design misses p*.
    """
    rows = design(law.x)
    theta = exact_parameters(rows, law.log_bayes)
    if theta is None:
        raise ValueError(f"the design must contain p* of {law.name}")
    columns, classes = int(torch.linalg.matrix_rank(rows)), law.num_classes
    model = LinearModel(rows.shape[1], classes, design)
    return Place(law, model, theta.reshape(-1), columns * (classes - 1), columns * classes, telling)


def _grid(draw: torch.Generator) -> Place:
    """Twelve points in the plane, three classes, p* from the linear softmax; steep, so that efficiency is lost."""
    x = torch.cartesian_prod(torch.linspace(-1.5, 1.5, 4), torch.linspace(-1.5, 1.5, 3)).double()
    theta = torch.tensor([[1.75, -0.9], [-1.0, 1.35], [0.3, -0.2]], dtype=torch.float64)
    theta = theta + 0.3 * (torch.rand(3, 2, generator=draw, dtype=torch.float64) - 0.5)
    weights = (0.3 * torch.randn(12, generator=draw, dtype=torch.float64)).softmax(0)
    free = linear_design(x) @ theta
    rows = torch.cat([free, torch.zeros_like(free[:, :1])], 1).softmax(1)
    return linear_place(law_of(FiniteMixture(weights, rows, x), "finite X"))


def _network(draw: torch.Generator) -> Place:
    """Sixteen points on a line, three classes, p* from a network with one tanh unit, well identified."""
    net = MLP(num_classes=3, input_shape=(1,), hidden=(1,), activation="tanh").double()
    values = ([[0.9]], [0.0], [[0.55, 1.6, -1.05]], [-0.4, -0.4, -0.1])
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), values, strict=True):
            noise = torch.rand(parameter.shape, generator=draw, dtype=torch.float64) - 0.5
            parameter.copy_(torch.tensor(value, dtype=torch.float64) + 0.1 * noise)
    model, x = NetModel(net), torch.linspace(-3, 3, 16, dtype=torch.float64)[:, None]
    rows = model.logits(model.theta[None], x)[0].softmax(1)
    law = law_of(FiniteMixture(torch.full((16,), 1 / 16), rows, x), "tanh net")
    # a shift of all logits, constant or along the hidden unit, changes nothing: two of the eight parameters
    return Place(law, model, model.theta, model.size - 2, model.size, telling=False)


@lru_cache(maxsize=16)
def prediction(place: Place, loss: str) -> Asymptotics:
    """The limits of a loss of ``LOSSES`` there, kept."""
    return asymptotics(place.law, place.model, loss, theta=place.theta)


@lru_cache(maxsize=8)
def simulated(place: Place, seed: int, full: bool) -> tuple[Simulation, Simulation]:
    """``ce`` and ``mse`` fitted to the same data sets, of both sizes; kept, for the claims share them."""
    replicas = (6000 if full else 5000) if place.law.kind == "exact" else 500
    if isinstance(place.model, NetModel):
        replicas //= 4
    both = [(LOSSES[name], place.theta) for name in ("ce", "mse")]
    small, large = (simulate(place.law, place.model, both, n, replicas, seed, rank=place.rank) for n in place.sizes)
    return small, large
