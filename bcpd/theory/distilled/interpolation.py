r"""Constant-step SGD on a convex student: with p* as its target it interpolates, with labels it hovers at a distance.

The student is the linear softmax, :math:`q = \mathrm{softmax}(\theta^\top a(x))` with :math:`\theta` of p features
times K classes (rows summing to 0), and p* is of that form: :math:`\theta^*` exists. Every step draws one x and a
target t and moves along :math:`-\eta\, a(x)\,(q - t)^\top`. Derived here:

* **p* as target.** Every example's risk is convex, smooth with constant :math:`L = \max\|a\|^2 / 2`, and minimal at
  :math:`\theta^*`. By co-coercivity :math:`\|\theta_{t+1} - \theta^*\| \leq \|\theta_t - \theta^*\|` on every path for
  :math:`\eta \leq 2/L`, and the mean square contracts by :math:`\rho = 1 - \eta\,(2 - \eta L)\,\mu` a step, with
  :math:`\mu` the smallest eigenvalue of the Hessian H near :math:`\theta^*`.
* **Unbiased targets** of covariance :math:`v\,(\mathrm{diag}\,p^* - p^* p^{*\top})` (labels: v = 1; mixtures:
  :math:`u^2`; Dirichlet: :math:`1/(\alpha + 1)`): the gradient's covariance at :math:`\theta^*` is :math:`vH`, so the
  stationary covariance C, which solves :math:`HC + CH = \eta v H + O(\eta^2)`, is :math:`\tfrac12 \eta v` times the
  identity, and :math:`\mathbb E\|\theta - \theta^*\|^2 = \tfrac12 \eta\, v\, p (K - 1)` to first order: linear in the
  step and in the targets' MSE to p*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bcpd.losses import LOSSES
from bcpd.seeds import derive, generator
from bcpd.theory.claim import STANDARD_ERRORS, Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.distilled.noisy_targets import matching_concentration, mixture_targets
from bcpd.theory.finite_tables import random_rows, rounded
from bcpd.theory.linear import minimise

__all__ = ["CLAIMS", "LinearWorld", "Stationary", "linear_world", "sgd", "stationary_error"]

CONVERGED = 1e-8
BLOCK = 64


@dataclass(frozen=True)
class LinearWorld:
    """Points of equal weight, their features, p*, and the parameters of the linear softmax closest to it.

    Attributes:
        features: ``(n, p)``; bayes: ``(n, K)``; optimum: ``(p, K)``, the minimiser of the cross-entropy.
    """

    features: Tensor
    bayes: Tensor
    optimum: Tensor

    @property
    def smoothness(self) -> float:
        r"""L of every example: :math:`\max\|a\|^2` times 1/2, the largest eigenvalue of a softmax's Jacobian."""
        return float(self.features.square().sum(1).max()) / 2

    @property
    def curvature(self) -> float:
        """The smallest eigenvalue of the Hessian at the optimum, among directions that change q."""
        q = (self.features @ self.optimum).softmax(-1)
        slopes = torch.diag_embed(q) - q[:, :, None] * q[:, None, :]
        size = self.optimum.numel()
        hessian = torch.einsum("ni,nj,nkl->ikjl", self.features, self.features, slopes).reshape(size, size)
        # a constant added to a feature's row changes nothing: p zero eigenvalues
        return float(torch.linalg.eigvalsh(hessian / len(q))[len(self.optimum)])


def linear_world(seed: int, *, realisable: bool = True, num_classes: int = 3) -> LinearWorld:
    """Five points on a circle with a constant feature (uncorrelated, of unit variance), in a random rotation.

    Args:
        realisable: whether p* is itself a linear softmax.
    """
    draw = generator(seed, "linear world")
    turn = 2 * math.pi * (torch.arange(5) + torch.rand(1, generator=draw, dtype=torch.float64)) / 5
    features = torch.stack([math.sqrt(2) * turn.cos(), math.sqrt(2) * turn.sin(), torch.ones_like(turn)], 1)
    if realisable:
        optimum = torch.rand(3, num_classes, generator=draw, dtype=torch.float64) - 0.5
        bayes = (features @ optimum).softmax(-1)
    else:
        favoured = torch.nn.functional.one_hot(torch.arange(5) % 2, num_classes)
        bayes = 0.6 * favoured + 0.4 * random_rows(derive(seed, "rows"), 5, num_classes)
        equal = torch.full((5,), 0.2, dtype=torch.float64)
        theta = minimise(lambda z: LOSSES["ce"].function(z, bayes), equal, features, num_classes, seed, starts=1)
        optimum = torch.cat([theta, torch.zeros_like(theta[:, :1])], 1)
    return LinearWorld(features, bayes, optimum - optimum.mean(1, keepdim=True))


Draw = Callable[[int], tuple[Tensor, Tensor]]
"""Features ``(m, p)`` and targets ``(m, K)`` of m examples."""


def _mixtures(world: LinearWorld, share: float, seed: int) -> Draw:
    r"""Targets :math:`u\,e_y + (1-u)\,p^*`."""
    n, num_classes = world.bayes.shape
    targets, joint = mixture_targets(world.bayes, share).flatten(0, 1), (world.bayes / n).flatten()
    generate = generator(seed, "sgd")

    def draw(count: int) -> tuple[Tensor, Tensor]:
        pairs = torch.multinomial(joint, count, replacement=True, generator=generate)
        return world.features[pairs // num_classes], targets[pairs]

    return draw


def _dirichlet(world: LinearWorld, concentration: float, seed: int) -> Draw:
    r"""Targets drawn anew from Dirichlet(:math:`\alpha p^*(x)`)."""
    generate = np.random.default_rng(derive(seed, "sgd"))

    def draw(count: int) -> tuple[Tensor, Tensor]:
        index = torch.tensor(generate.integers(len(world.bayes), size=count))
        parts = torch.tensor(generate.standard_gamma((concentration * world.bayes[index]).numpy()))
        return world.features[index], parts / parts.sum(1, keepdim=True)

    return draw


def sgd(
    world: LinearWorld,
    share: float,
    step: float,
    replicas: int,
    steps: int,
    seed: int,
    start: Tensor | None = None,
    *,
    family: Literal["mixture", "Dirichlet"] = "mixture",
) -> Iterator[Tensor]:
    r"""Squared distances to the optimum after every step of SGD, batch size 1, on unbiased targets.

    Args:
        share: u; 0 trains on p*, 1 on labels.
        step: the constant rate; replicas: paths side by side; start: ``(p, K)``, the optimum by default.
        family: of the targets, :math:`u\,e_y + (1-u)\,p^*` or Dirichlet(:math:`\alpha p^*`) with the same covariance
            (:func:`bcpd.theory.distilled.noisy_targets.matching_concentration`; u in (0, 1)).
    Yields:
        ``(replicas,)``, ``steps`` times.
    """
    if family == "mixture":
        examples = _mixtures(world, share, seed)
    else:
        examples = _dirichlet(world, matching_concentration(share), seed)
    theta = (world.optimum if start is None else start).expand(replicas, -1, -1).clone()
    for done in range(0, steps, BLOCK):
        length = min(BLOCK, steps - done)
        features, targets = (part.view(length, replicas, -1) for part in examples(replicas * length))
        for a, t in zip(features, targets, strict=True):
            z = torch.bmm(a[:, None], theta).squeeze(1).requires_grad_()
            (slope,) = torch.autograd.grad(LOSSES["ce"].function(z, t).sum(), z)
            theta.baddbmm_(a[:, :, None], slope[:, None], alpha=-step)
            yield (theta - world.optimum).square().sum((1, 2))


@dataclass(frozen=True)
class Stationary:
    """A stationary mean squared distance to the optimum, and its standard error over replicas."""

    mean: float
    stderr: float


def stationary_error(
    world: LinearWorld,
    share: float,
    step: float,
    replicas: int,
    seed: int,
    *,
    family: Literal["mixture", "Dirichlet"] = "mixture",
) -> Stationary:
    """By simulation: from the optimum, averaged over time after 2.5 relaxation times, for 4 of them.

    Arguments as of :func:`sgd`. The relaxation time is 1 / (step times the smallest curvature).
    """
    relaxation = 1 / (step * world.curvature)
    burn, steps = math.ceil(2.5 * relaxation), math.ceil(6.5 * relaxation)
    total = torch.zeros(replicas, dtype=torch.float64)
    for number, error in enumerate(sgd(world, share, step, replicas, steps, seed, family=family)):
        if number >= burn:
            total += error
    spread, mean = torch.std_mean(total / (steps - burn))
    return Stationary(float(mean), float(spread) / math.sqrt(replicas))


# ----------------------------------------------------------------------------------------------------------- the claims

BIG_STEP = 0.5
STEPS = (0.06, 0.03)
FROM, TO = 1e-8, 1e-20  # squared distances between which the rate is read off: near the optimum, above rounding


def _start(world: LinearWorld) -> Tensor:
    return torch.zeros_like(world.optimum)


def _path(settings: Settings, control: str | None) -> tuple[LinearWorld, Tensor]:
    """Squared distances ``(steps + 1, replicas)`` from the start on."""
    seed = derive(settings.seed, "sgd-interpolates")
    world = linear_world(derive(seed, "world"), realisable=control != "misspecified")
    share, replicas = 1.0 if control == "labels" else 0.0, 200 if settings.full else 50
    first = world.optimum.square().sum().expand(replicas)
    errors = sgd(world, share, BIG_STEP, replicas, 800, derive(seed, "path"), _start(world))
    return world, torch.stack([first, *errors])


def _converges(path: Callable[[str | None], tuple[LinearWorld, Tensor]], control: str | None = None) -> Outcome:
    """The largest distance to the optimum at the end."""
    return Outcome(float(path(control)[1][-1].max().sqrt()), CONVERGED)


def _never_moves_away(path: Callable[[str | None], tuple[LinearWorld, Tensor]], control: str | None = None) -> Outcome:
    """The largest step away from the optimum, of any path."""
    distance = path(control)[1].sqrt()
    return Outcome(float((distance[1:] - distance[:-1]).max()), 1e-12)


def _geometric(path: Callable[[str | None], tuple[LinearWorld, Tensor]], control: str | None = None) -> Outcome:
    """The relative shortfall of the logarithmic rate, between two squared distances, from what is claimed."""
    world, errors = path(control)
    steps = 1 + ((errors > TO) & (errors <= FROM)).sum(0)
    rates = torch.where(errors[-1] <= TO, math.log(FROM / TO) / steps, 0.0)
    claimed = -math.log(1 - BIG_STEP * (2 - BIG_STEP * world.smoothness) * world.curvature)
    stderr = float(rates.std()) / math.sqrt(len(rates)) / claimed
    shortfall = 1 - float(rates.mean()) / claimed
    return Outcome(shortfall + STANDARD_ERRORS * stderr, 0.01, 1, stderr, difference=shortfall)


def _interpolation_trials(settings: Settings) -> Sequence[Trial]:
    if settings.mixture is not None:
        return []
    path = cache(partial(_path, settings))
    trials = []
    for name, check in (("converges", _converges), ("monotone", _never_moves_away), ("geometric", _geometric)):
        trials.append(Trial("linear softmax", partial(check, path), loss="ce", detail=name))
        trials += [
            Trial("linear softmax", partial(check, path, control), control, "ce", name)
            for control in ("labels", "misspecified")
        ]
    return trials


def _ratio(left: Stationary, right: Stationary, claimed: float) -> Outcome:
    """Of two stationary errors, with the delta method's standard error; the tolerance is a tenth of the right ratio."""
    ratio = left.mean / right.mean
    stderr = ratio * math.hypot(left.stderr / left.mean, right.stderr / right.mean)
    return Outcome(abs(ratio - claimed), 0.2, 1, stderr)


def _stationary(
    settings: Settings, share: float, step: float, family: Literal["mixture", "Dirichlet"] = "mixture"
) -> tuple[LinearWorld, Stationary]:
    seed = derive(settings.seed, "sgd-hovers")
    world = linear_world(derive(seed, "world"))
    replicas = 2000 if settings.full else 1000
    names = ("path", str(share), str(step), *(() if family == "mixture" else (family,)))
    return world, stationary_error(world, share, step, replicas, derive(seed, *names), family=family)


Simulated = Callable[..., tuple[LinearWorld, Stationary]]


def _linear_in_step(simulated: Simulated, claimed: float) -> Outcome:
    return _ratio(simulated(1.0, STEPS[0])[1], simulated(1.0, STEPS[1])[1], claimed)


def _linear_in_target_mse(simulated: Simulated, claimed: float, family: str = "mixture") -> Outcome:
    """Labels against targets whose MSE to p* is a quarter: half label, half p*, or Dirichlet(3 p*)."""
    outcome = _ratio(simulated(1.0, STEPS[0])[1], simulated(0.5, STEPS[0], family)[1], claimed)
    return Outcome(outcome.value, 0.4, 1, outcome.stderr)


def _level(simulated: Simulated, factor: float) -> Outcome:
    """Relative distance of the simulated error from ``factor * step * p * (K - 1)``."""
    world, error = simulated(1.0, STEPS[1])
    features, num_classes = world.optimum.shape
    claimed = factor * STEPS[1] * features * (num_classes - 1)
    return Outcome(abs(error.mean / claimed - 1), 0.1, 1, error.stderr / claimed)


def _hovering_trials(settings: Settings) -> Sequence[Trial]:
    if settings.mixture is not None:
        return []
    simulated = cache(partial(_stationary, settings))
    tried = [
        ("two steps", partial(_linear_in_step, simulated), 2.0, {"squared_step": 4.0, "constant": 1.0}),
        ("two targets", partial(_linear_in_target_mse, simulated), 4.0, {"distance": 2.0}),
        ("Dirichlet targets", partial(_linear_in_target_mse, simulated, family="Dirichlet"), 4.0, {"distance": 2.0}),
        ("level", partial(_level, simulated), 0.5, {"twice": 1.0}),
    ]
    trials = []
    for name, check, right, wrong in tried:
        trials.append(Trial("linear softmax", partial(check, right), loss="ce", detail=name))
        trials += [
            Trial("linear softmax", partial(check, value), control, "ce", name) for control, value in wrong.items()
        ]
    return trials


def _picture(settings: Settings) -> Picture:
    """Mean squared distance to the optimum along SGD, for two targets and two steps."""
    world = linear_world(derive(settings.seed, "sgd-interpolates", "picture"))
    kept = [*range(0, 40, 4), *range(40, 601, 20)]
    series = []
    for share, target, colour in ((1.0, "labels", "control"), (0.0, "p*", "bayes")):
        for step, style in ((0.3, "line"), (0.15, "dashed")):
            seed = derive(settings.seed, "sgd-interpolates", "curve", str(share), str(step))
            errors = [world.optimum.square().sum()]
            errors += [each.mean() for each in sgd(world, share, step, 200, 600, seed, _start(world))]
            curve = [float(errors[t]) for t in kept]
            series.append(
                {"name": f"{target}, step {step}", "x": kept, "y": rounded(curve), "style": style, "colour": colour}
            )
    return {
        "kind": "curves",
        "title": "SGD with a constant step, one example at a time",
        "caption": (
            "With p* as target the distance to the optimum falls geometrically. With labels it stops at a level "
            "proportional to the step."
        ),
        "x_label": "step",
        "y_label": "mean squared distance to the optimum",
        "x_log": False,
        "y_log": True,
        "series": series,
        "lines": [],
    }


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="sgd-interpolates",
        number="C12",
        title="SGD on p* converges with a constant step",
        statement=(
            "With p* as target, constant-step SGD on a convex student that can express p* converges below 1e-8 at a "
            "geometric rate, and no path ever moves away from the optimum"
        ),
        formula=(
            r"\mathbb{E}\|\theta_{t+1} - \theta^*\|^2 \leq "
            r"(1 - \eta(2 - \eta L)\mu)\,\mathbb{E}\|\theta_t - \theta^*\|^2"
        ),
        conditions="linear softmax, cross-entropy, p* in the class, step at most 1 / L; rate near the optimum",
        source="Morad et al. 2026, Theorems 1 and 2; for this student with explicit constants derived here",
        controls={
            "labels": "labels are the targets",
            "misspecified": "p* is not in the class, so that no parameter fits every example",
        },
        trials=_interpolation_trials,
        picture=_picture,
    ),
    Claim(
        id="sgd-hovers",
        number="C12",
        title="SGD on labels hovers at a distance proportional to step and target MSE",
        statement=(
            "With labels as targets the stationary mean squared error of constant-step SGD is linear in the step "
            "(half the step times the number of free parameters) and in the targets' MSE to p*"
        ),
        formula=r"\mathbb{E}\|\theta - \theta^*\|^2 = \frac{\eta}{2}\,v\,p\,(K - 1) + O(\eta^2)",
        conditions=(
            "linear softmax with p features, cross-entropy, p* in the class; small steps; targets whose covariance is "
            "v times that of labels: u^2 for mixtures, 1 / (alpha + 1) for Dirichlet"
        ),
        source="Morad et al. 2026, Theorem 3, for the linearity in the step; the level is derived here",
        controls={
            "squared_step": "the error is claimed to be proportional to the squared step",
            "constant": "the error is claimed not to depend on the step",
            "distance": "the error is claimed to be proportional to the targets' distance to p*, not to its square",
            "twice": "the factor 1/2 is left out",
        },
        trials=_hovering_trials,
    ),
)
