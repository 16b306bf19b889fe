"""Data for the pictures of ``bcpd verify``: p* itself, Theorem 1, projections onto a class that misses p*, minimisers.

Nothing is derived here: networks, versions, worlds and minimisers are those that the checks use.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bcpd.losses import LOSSES, focal, label_smoothing
from bcpd.mixtures import FAMILIES
from bcpd.seeds import derive
from bcpd.theory.linear import linear_design, logits, minimise
from bcpd.theory.scores.identities import random_network
from bcpd.theory.scores.theorem1 import contaminated_line
from bcpd.theory.scores.versions import Version, version
from bcpd.theory.worlds import quadrature_world, rational_world

__all__ = ["pictures"]

PLANE = "gaussian-2d-shared"
NETWORKS = 60
IDENTITY_CONTROLS = ("dropped_constant", "swapped_arguments")
BAYES = (0.6, 0.3, 0.1)
SMOOTHING = tuple(step / 20 for step in range(20))
FOCUSING = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)


def pictures(seed: int) -> dict[str, Any]:
    """JSON-able data of all pictures, rounded to what a picture can show.

    Returns:
        ``posterior``: p* of a mixture in the plane on a grid, with sampled points. ``identity``: for random networks,
        the label risk against constant + distance, right and wrong. ``projection``: the minimisers of CE and of the
        Brier score in a class that misses p*. ``minimisers``: where every loss ends on the simplex for one p*.
    Raises:
        ValueError: a seed that is not an integer.
    """
    return {
        "seed": seed,
        "posterior": _posterior(derive(seed, "pictures", "posterior")),
        "identity": _identity(derive(seed, "pictures", "identity")),
        "projection": _projection(derive(seed, "pictures", "projection")),
        "minimisers": _minimisers(),
    }


def _posterior(seed: int, nodes: int = 72, samples: int = 240) -> dict[str, Any]:
    """p* on a grid that covers the sampled points: ``bayes[row][column][class]``, rows along the second axis."""
    mixture = FAMILIES[PLANE]()
    x, y = mixture.sample(samples, seed)
    low, high = x.amin(0) - 0.3, x.amax(0) + 0.3
    first, second = (torch.linspace(float(low[axis]), float(high[axis]), nodes).double() for axis in (0, 1))
    grid = torch.stack(torch.meshgrid(first, second, indexing="xy"), -1)
    bayes_error = mixture.bayes_error()
    return {
        "mixture": PLANE,
        "bayes_error": _number(bayes_error.value, 5),
        "bayes_error_method": bayes_error.method,
        "first": [_number(low[0], 3), _number(high[0], 3)],
        "second": [_number(low[1], 3), _number(high[1], 3)],
        "bayes": _rounded(mixture.posterior(grid), 3),
        "points": _rounded(x, 3),
        "labels": y.tolist(),
    }


@torch.no_grad()
def _identity(seed: int) -> dict[str, Any]:
    """Both sides of Theorem 1 for random networks on finite X, and the claimed side of two wrong versions."""
    world = rational_world(seed)
    gains = torch.linspace(0.3, 1.8, NETWORKS).tolist()
    nets = [random_network(world, derive(seed, "network", number), gain) for number, gain in enumerate(gains)]
    outputs = [net(world.x).logits for net in nets]
    losses: dict[str, Any] = {}
    for loss in ("ce", "mse"):
        sides = {}
        for control in (None, *IDENTITY_CONTROLS):
            tried = version(loss, control)
            claimed = [
                world.mean(tried.constant(world.bayes) + tried.divergence(world.bayes, tried.readout(z)))
                for z in outputs
            ]
            sides[control or "claimed"] = [_number(value, 6) for value in claimed]
        right = version(loss)
        risk = [_number(world.mean(right.label_loss(z, world.y)), 6) for z in outputs]
        constant = _number(world.mean(right.constant(world.bayes)), 6)
        losses[loss] = {"risk": risk, "constant": constant, **sides}
    return {"world": world.name, "networks": NETWORKS, "losses": losses}


def _projection(seed: int, nodes: int = 241) -> dict[str, Any]:
    """The linear softmax closest to p* in KL (what CE reaches) and in MSE (what the Brier score reaches)."""
    mixture = contaminated_line()
    world = quadrature_world(mixture, 128, "quadrature 1-D", finer=False)
    line = torch.linspace(-4.5, 7.5, nodes, dtype=torch.float64).unsqueeze(-1)
    design = linear_design(world.x)
    fitted, distances = {}, {}
    for loss in ("ce", "mse"):
        tried = version(loss)
        risk = partial(_loss_of_labels, tried, world.y)
        theta = minimise(risk, world.weights, design, world.num_classes, seed)
        fitted[loss] = _rounded(tried.readout(logits(linear_design(line), theta))[:, 1], 4)
        reached = tried.readout(logits(design, theta))
        distances[loss] = {
            metric: _number(world.mean(version(of).divergence(world.bayes, reached)), 6)
            for metric, of in (("mse", "mse"), ("kl", "ce"))
        }
    joint = mixture.log_density(line).exp() * mixture.priors
    return {
        "x": _rounded(line[:, 0], 3),
        "bayes": _rounded(mixture.posterior(line)[:, 1], 4),
        "densities": _rounded(joint.T, 5),
        "fitted": fitted,
        "distances": distances,
    }


def _loss_of_labels(tried: Version, y: Tensor, z: Tensor) -> Tensor:
    """What training on labels minimises, as a function of the logits."""
    return tried.label_loss(z, y)


def _minimisers() -> dict[str, Any]:
    """Population minimisers for one p* with three classes, and two families' paths away from it."""
    p = torch.tensor(BAYES, dtype=torch.float64)
    reached = []
    for name in ("ce", "mse", "spherical", "label_smoothing", "focal", "mae", "logit_mse"):
        loss = LOSSES[name]
        for readout in loss.readouts:
            reached.append(
                {
                    "loss": name,
                    "readout": readout,
                    "proper": loss.proper,
                    "parameters": dict(loss.parameters),
                    "minimiser": _rounded(loss.minimiser(p, readout), 6),
                }
            )
    return {
        "bayes": list(BAYES),
        "reached": reached,
        "paths": {
            "label_smoothing": {
                "parameter": "epsilon",
                "values": list(SMOOTHING),
                "minimisers": [_rounded(label_smoothing(value).minimiser(p), 6) for value in SMOOTHING],
            },
            "focal": {
                "parameter": "gamma",
                "values": list(FOCUSING),
                "minimisers": [_rounded(focal(value).minimiser(p), 6) for value in FOCUSING],
            },
        },
    }


def _rounded(values: Tensor, digits: int) -> Any:
    """Nested lists; the rounding is done on Python floats, so that 0.1 is written 0.1."""
    if values.ndim == 0:
        return _number(values, digits)
    return (
        [_rounded(value, digits) for value in values]
        if values.ndim > 1
        else [round(value, digits) for value in values.tolist()]
    )


def _number(value: Tensor | float, digits: int) -> float:
    return round(float(value), digits)
