r"""Theorem 1 and its consequences, each as one function of a version (right or wrong) and a world.

A function returns an :class:`Outcome`: the claim holds where ``value <= bound``. On finite X and by quadrature the
value is an absolute or relative error; in Monte Carlo worlds it is the largest number of standard errors from zero, and
the bound is 5 (two-sided false-alarm rate 5.7e-7 a number).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.func import functional_call

from bcpd.nets import Net, build
from bcpd.seeds import derive, generator
from bcpd.theory.claim import STANDARD_ERRORS, GradientOf, Outcome, sampled_mean
from bcpd.theory.linear import linear_design, logits, minimise, polish, table_design
from bcpd.theory.scores.versions import Version
from bcpd.theory.worlds import World

__all__ = [
    "TOLERANCE",
    "gradient_identity",
    "logits_of_networks",
    "minimiser_equality",
    "minimiser_is_bayes",
    "own_metric",
    "random_network",
    "risk_identity",
    "under_weights",
]

TOLERANCE = {"exact": 1e-12, "quadrature": 1e-8}
DIRECTIONS = 4
GAINS = (0.5, 0.8, 1.1, 1.4)  # of the random networks' weights: from nearly constant to steep


def random_network(world: World, seed: int, gain: float = 1.0) -> Net:
    """A float64 network (16 tanh units) with random weights: smooth, and far from p*."""
    net = build(
        "mlp",
        num_classes=world.num_classes,
        input_shape=(world.x.shape[1],),
        hidden=(16,),
        activation="tanh",
        seed=seed,
    ).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(gain)
    return net


def risk_identity(version: Version, world: World, seed: int) -> Outcome:
    r"""Theorem 1, first half: :math:`E\,\ell(y, q) = E\,H_\ell(p^*) + E\,d_\ell(p^*, q)` for random networks q.

    For CE, H is Shannon's entropy and d is :math:`KL(p^* \| q)`; for the Brier score they are
    :math:`1 - \|p^*\|^2` and :math:`\|p^* - q\|^2` (the cross term vanishes as :math:`E[e_y | x] = p^*`). The value is
    the worst of four networks: one number could agree by accident. By Monte Carlo it is the worst of two networks, and
    of two weights, since the identity holds given x (:func:`under_weights`).
    """
    if version.realised:
        world = world.realised(seed)

    @torch.no_grad()
    def sides(at: World) -> tuple[Tensor, Tensor]:
        """Per-pair losses, and what they are claimed to amount to: ``(n, networks)``."""
        logits = logits_of_networks(at, seed)
        risks = [version.label_loss(z, at.y) for z in logits]
        claimed = [version.constant(at.bayes) + version.divergence(at.bayes, version.readout(z)) for z in logits]
        return torch.stack(risks, 1), torch.stack(claimed, 1)

    risk, claimed = sides(world)
    if world.kind == "monte_carlo":
        return sampled_mean(under_weights(risk - claimed, world, seed))
    left = world.mean(risk)
    error = (left - world.mean(claimed)).abs()
    if world.finer is not None:
        fine_risk, fine_claimed = sides(world.finer)
        fine = world.finer.mean(fine_risk)
        error = torch.maximum(error, (fine - left).abs())
        error = torch.maximum(error, (fine - world.finer.mean(fine_claimed)).abs())
    return Outcome(float((error / (1 + left.abs())).max()), TOLERANCE[world.kind])


@lru_cache(maxsize=6)
@torch.no_grad()
def logits_of_networks(world: World, seed: int) -> list[Tensor]:
    """Logits of the random networks; two of them by Monte Carlo, where every number counts as a comparison."""
    numbers = (1, 3) if world.kind == "monte_carlo" else range(len(GAINS))
    return [random_network(world, derive(seed, "network", k), GAINS[k])(world.x).logits for k in numbers]


def under_weights(residuals: Tensor, world: World, seed: int) -> Tensor:
    r"""Residuals ``(n, networks)`` of mean zero given x, as they are and times a function of x: twice the columns.

    The function is :math:`\langle p^*, z \rangle - \frac1K \sum_k z_k`, how far the network agrees with p*: smoothing
    and its like are wrong in proportion to it, and may cancel without it.
    """
    agreement = [(world.bayes * z).sum(-1) - z.mean(-1) for z in logits_of_networks(world, seed)]
    return torch.cat([residuals, residuals * torch.stack(agreement, 1)], 1)


def gradient_identity(version: Version, world: World, seed: int, gradient_of: GradientOf | None) -> Outcome:
    r"""Theorem 1 along the path: :math:`\nabla_\theta E\,\ell(y, q_\theta) = \nabla_\theta E\,d(p^*, q_\theta)`.

    On finite X the left side is what the trainer itself steps along (``gradient_of``, on the listed pairs), so that a
    wrong reduction or scale in the trainer's code would show; in the other worlds it is the trainer's loss under
    autograd (by Monte Carlo, for each pair: the derivatives in the last layer's biases and along its rows of weights,
    and 4 random directional derivatives in the first). The right side is autograd on the divergence.
    """
    net = random_network(world, seed)
    if version.realised:
        world = world.realised(seed)
    names = [name for name, _ in net.named_parameters()]
    parameters = tuple(parameter.detach() for parameter in net.parameters())

    def residual(values: Sequence[Tensor], at: World, left: float, right: float) -> Tensor:
        z = functional_call(net, dict(zip(names, values, strict=True)), (at.x,)).logits
        total = right * (version.divergence(at.bayes, version.readout(z)) + version.constant(at.bayes))
        return left * version.label_loss(z, at.y) + total

    if world.kind == "monte_carlo":
        views = net(world.x)
        difference = version.label_loss(views.logits, world.y) - version.divergence(
            world.bayes, version.readout(views.logits)
        )
        by_logit, by_hidden = torch.autograd.grad(difference.sum(), (views.logits, views.preacts[0]))
        inputs = linear_design(world.x)
        draw = generator(seed, "directions")
        directions = torch.randn(DIRECTIONS, by_hidden.shape[1], inputs.shape[1], generator=draw, dtype=torch.float64)
        # a pair's gradient in a layer is the outer product of the layer's input and its output's gradient
        columns = [
            _along(views.logits.detach(), by_logit),
            *(((by_hidden @ direction) * inputs).sum(1, keepdim=True) for direction in directions),
        ]
        return sampled_mean(torch.cat(columns, 1))

    def gradient(at: World, left: float, right: float) -> list[Tensor]:
        leaves = [parameter.clone().requires_grad_() for parameter in parameters]
        return list(torch.autograd.grad(at.mean(residual(leaves, at, left, right)), leaves))

    claimed = gradient(world, 0.0, 1.0)
    equal_weights = bool(torch.isclose(world.weights, world.weights[0], rtol=1e-12).all())
    if world.kind == "exact" and gradient_of is not None and equal_weights:
        followed = list(gradient_of(copy.deepcopy(net), world.x, world.y, version.as_loss()))
    else:
        followed = gradient(world, 1.0, 0.0)
    error = _sup(followed, claimed)
    if world.finer is not None:
        fine = gradient(world.finer, 1.0, 0.0)
        error = max(error, _sup(fine, gradient(world.finer, 0.0, 1.0)), _sup(fine, followed))
    return Outcome(error, 1e-10 if world.kind == "exact" else TOLERANCE["quadrature"])


def minimiser_equality(version: Version, world: World, seed: int) -> Outcome:
    r"""Theorem 1's statement, in a restricted class that does not contain p* (linear softmax).

    :math:`\arg\min_{q \in F} E\,\ell(y, q) = \arg\min_{q \in F} E\,d(p^*, q)`, labels summed out. The value is the
    largest difference of a probability between the two minimisers. Monte Carlo: the minimiser of the divergence over
    the sampled x is computed without looking at labels, so there the label risk's gradient has mean zero. By
    quadrature the minimisers are those of the finer nodes.
    """
    design = linear_design(world.x)
    closest = logits(
        design, _closest(version.divergence, version.constant, version.readout, world, seed, linear_design)
    )
    if world.kind == "monte_carlo":
        return _label_gradient(version, world, closest)
    reached = _readout_of_label_minimiser(version, world, seed, linear_design)
    return Outcome(float((reached - version.readout(closest)).abs().max()), 1e-6)


def minimiser_is_bayes(version: Version, world: World, seed: int) -> Outcome:
    r"""In a class that contains p*, the minimiser of the label risk **is** p*.

    Finite X: one free row of logits for each x. By quadrature: linear softmax on classes that share a covariance. The
    value is the largest difference of a probability from p*. Monte Carlo: at :math:`q = p^*` the label risk's gradient
    in the linear parameters has mean zero.
    """
    if world.kind == "monte_carlo":
        return _label_gradient(version, world, world.log_bayes)
    family = table_design if world.kind == "exact" else linear_design
    reached = _readout_of_label_minimiser(version, world, seed, family)
    return Outcome(float((reached - world.bayes).abs().max()), 1e-6)


def own_metric(
    version: Version, other: Version, metric: Callable[[Tensor, Tensor], Tensor], world: World, seed: int, sign: float
) -> Outcome:
    r"""When the class misses p*, each loss wins its own metric: :math:`E\,d(p^*, q_\ell) < E\,d(p^*, q_{\ell'})`.

    With :math:`q_\ell = \arg\min_F E\,\ell(y, q)` for the two losses and d the divergence of the first; :math:`\le` is
    what being the minimiser means, the strict gap is what misspecification adds. The value is the signed gap (``sign``
    -1 reverses the claim), which must lie below minus 1e-6; Monte Carlo: the gap plus 5 standard errors, on points
    other than those the minimisers were computed on; by quadrature the larger gap of the two node sets, plus their
    difference.

    Args:
        version: the loss whose metric it is; other: the loss it is compared with.
        metric: ``d(p, q)``.
    """
    half, fresh = _halves(world) if world.kind == "monte_carlo" else (world, world)

    def gaps(fitted: World, at: World) -> Tensor:
        apart = []
        for candidate in (version, other):
            theta = _expected_minimiser(candidate.label_loss, fitted, seed)
            apart.append(metric(at.bayes, candidate.readout(logits(linear_design(at.x), theta))))
        return sign * (apart[0] - apart[1])

    gap = gaps(half, fresh)
    if world.kind == "monte_carlo":
        stderr = float(gap.std()) / math.sqrt(len(gap))
        mean = float(gap.mean())
        return Outcome(mean + STANDARD_ERRORS * stderr, -1e-6, comparisons=1, stderr=stderr, difference=mean)
    found = float(world.mean(gap))
    if world.finer is not None:
        fine = float(world.finer.mean(gaps(world.finer, world.finer)))
        found = max(found, fine) + abs(fine - found)
    return Outcome(found, -1e-6)


Design = Callable[[Tensor], Tensor]


# wrong versions share most of their parts with the right one, and so their minimisers
@lru_cache(maxsize=64)
def _closest(
    divergence: Callable[[Tensor, Tensor], Tensor],
    constant: Callable[[Tensor], Tensor],
    readout: Callable[[Tensor], Tensor],
    world: World,
    seed: int,
    family: Design,
) -> Tensor:
    """Parameters of the minimiser of the divergence from p*, with the constant that a version adds to it."""

    def risk_in(at: World) -> Callable[[Tensor], Tensor]:
        return lambda z: divergence(at.bayes, readout(z)) + constant(at.bayes)

    return _minimiser(risk_in, world, seed, family)


@lru_cache(maxsize=128)
def _label_minimiser(label_loss: Callable[[Tensor, Tensor], Tensor], world: World, seed: int, family: Design) -> Tensor:
    """Parameters of the minimiser of what training on labels minimises: the loss of every listed pair."""

    def risk_in(at: World) -> Callable[[Tensor], Tensor]:
        return lambda z: label_loss(z, at.y)

    return _minimiser(risk_in, world, seed, family)


def _minimiser(
    risk_in: Callable[[World], Callable[[Tensor], Tensor]], world: World, seed: int, family: Design
) -> Tensor:
    """The minimiser in a world; by quadrature it is taken on to that of the finer nodes.

    Near a singularity of the loss (the spherical score's is ||q|| = 0, beside the real axis) nodes have a small error
    that a flat minimum enlarges.
    """
    theta = minimise(risk_in(world), world.weights, family(world.x), world.num_classes, seed, _starts(world))
    finer = world.finer
    return theta if finer is None else polish(risk_in(finer), finer.weights, family(finer.x), theta)


@lru_cache(maxsize=64)
def _expected_minimiser(label_loss: Callable[[Tensor, Tensor], Tensor], world: World, seed: int) -> Tensor:
    """The linear minimiser with the labels of every x summed out against p*, also where the world is a sample."""

    def risk(z: Tensor) -> Tensor:
        losses = [label_loss(z, torch.full_like(world.y, k)) for k in range(world.num_classes)]
        return (world.bayes * torch.stack(losses, -1)).sum(-1)

    return minimise(risk, world.weights, linear_design(world.x), world.num_classes, seed, _starts(world))


def _readout_of_label_minimiser(version: Version, world: World, seed: int, family: Design) -> Tensor:
    """Probabilities at ``world.x`` of the minimiser of the label risk (of the realised labels, if so told)."""
    seen = world.realised(seed) if version.realised else world
    return version.readout(logits(family(world.x), _label_minimiser(version.label_loss, seen, seed, family)))


def _label_gradient(version: Version, world: World, z: Tensor) -> Outcome:
    """Largest number of standard errors of the label risk's gradient at logits ``z``, along intercepts and ``z``."""
    z = z.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(version.label_loss(z, world.y).sum(), z)
    return sampled_mean(_along(z.detach(), slope))


def _along(z: Tensor, slope: Tensor) -> Tensor:
    """The slopes in the logits times 1 and times each logit, the last class's taken as 0: ``(n, K (K - 1))``.

    Directions in which the parameters of a linear last layer may move: its biases, and along its rows of weights. A
    wrong loss makes rows too long, too short or too much alike, which is seen there, in few numbers.
    """
    tests = torch.cat([torch.ones_like(z[:, :1]), z[:, :-1] - z[:, -1:]], 1)
    return (tests[:, :, None] * slope[:, None, :-1]).flatten(1)


def _sup(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Largest difference of two gradients, relative to 1 + the largest entry."""
    size = 1 + max(float(entry.abs().max()) for entry in right)
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True)) / size


def _starts(world: World) -> int:
    return 1 if world.kind == "monte_carlo" else 3


@lru_cache(maxsize=4)
def _halves(world: World) -> tuple[World, World]:
    """Two samples of one: to find minimisers on, and to compare them on."""
    middle = len(world.y) // 2
    first, second = (
        World(
            world.name,
            world.kind,
            world.x[rows],
            world.y[rows],
            world.weights[rows] / world.weights[rows].sum(),
            world.log_bayes[rows],
        )
        for rows in (slice(0, middle), slice(middle, None))
    )
    return first, second
