"""Classes of functions linear in their parameters, and exact minimisers in them: where statements are tried.

A class is a design matrix ``(n, p)``: logits are ``design @ theta`` for K - 1 classes, and 0 for the last. Rows
``[x, 1]`` make the linear softmax (a restricted class); indicator rows the table with free logits for every x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from bcpd.seeds import generator

__all__ = ["exact_parameters", "linear_design", "logits", "minimise", "polish", "quadratic_design", "table_design"]

_RESIDUAL = 1e-9  # of log-odds relative to 1 + the largest


def linear_design(x: Tensor) -> Tensor:
    """Rows ``[x, 1]``, ``(n, d + 1)``: linear softmax."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def quadratic_design(x: Tensor) -> Tensor:
    """Rows ``[x, 1, x_i x_j (i <= j)]``, ``(n, (d + 1)(d + 2) / 2)``: contains p* of Gaussians of any covariance."""
    rows, columns = torch.triu_indices(x.shape[1], x.shape[1])
    return torch.cat([linear_design(x), x[:, rows] * x[:, columns]], 1)


def table_design(x: Tensor) -> Tensor:
    """Indicators of the distinct rows of x, ``(n, points)``: the unrestricted class on finite X."""
    points, inverse = torch.unique(x, dim=0, return_inverse=True)
    return torch.nn.functional.one_hot(inverse, len(points)).double()


def logits(design: Tensor, theta: Tensor) -> Tensor:
    """``(n, K)`` logits of the parameters ``(p, K - 1)``, the last class's fixed at 0."""
    free = design @ theta
    return torch.cat([free, torch.zeros_like(free[:, :1])], 1)


def exact_parameters(design: Tensor, log_bayes: Tensor) -> Tensor | None:
    r"""The theta ``(p, K - 1)`` with :math:`\log p^*_k - \log p^*_K = (\text{design}\,\theta)_k` in every row, if any.

    ``None`` where the class misses p*, as it does wherever some p*_k is 0. The least-norm theta, if there are several.

    Args:
        design: ``(n, p)``; log_bayes: ``(n, K)``.
    """
    odds = log_bayes[:, :-1] - log_bayes[:, -1:]
    if not bool(odds.isfinite().all()):
        return None
    theta = torch.linalg.pinv(design) @ odds
    miss = float((design @ theta - odds).abs().max())
    return theta if miss <= _RESIDUAL * (1 + float(odds.abs().max())) else None


def minimise(
    risk: Callable[[Tensor], Tensor], weights: Tensor, design: Tensor, num_classes: int, seed: int, starts: int = 4
) -> Tensor:
    r"""The parameters of the lowest of several local minima of :math:`\sum_i w_i\, risk_i(z_i)`.

    Trust-region Newton with exact derivatives, plain Newton steps at the end. With linear logits the Hessian is
    :math:`\sum_i w_i\, a_i a_i^\top \otimes \nabla^2 risk_i(z_i)`, which takes K - 1 backward passes over the logits.
    The Brier risk of a linear softmax is not convex, hence the starts: 0, and ``starts - 1`` random ones that depend
    on the seed only, so that two risks are minimised from the same places.

    Args:
        risk: logits ``(n, K)`` -> ``(n,)``, row by row, twice differentiable.
        weights: ``(n,)``; design: ``(n, p)``.
    Returns:
        theta ``(p, K - 1)``, float64.
    """
    size = design.shape[1] * (num_classes - 1)
    value_and_gradient, hessian = _derivatives(risk, weights, design, num_classes)
    draw = generator(seed, "minimise")
    best: Any = np.zeros(size)
    lowest = np.inf
    for start in range(starts):
        first = torch.randn(size, generator=draw, dtype=torch.float64) if start else torch.zeros(size).double()
        result = minimize(
            value_and_gradient,
            first.numpy(),
            jac=True,
            hess=hessian,
            method="trust-exact",
            options={"gtol": 1e-11, "maxiter": 200},
        )
        if result.fun < lowest - 1e-13:
            best, lowest = result.x, float(result.fun)
    return polish(risk, weights, design, torch.tensor(best).reshape(-1, num_classes - 1))


def polish(risk: Callable[[Tensor], Tensor], weights: Tensor, design: Tensor, theta: Tensor) -> Tensor:
    """Newton steps from parameters near a minimum, as long as they halve the gradient.

    They go on where the risk itself has no digits left to fall by, and take a minimum to a finer quadrature.
    """
    value_and_gradient, hessian = _derivatives(risk, weights, design, theta.shape[1] + 1)
    best: Any = theta.reshape(-1).numpy()
    slope = value_and_gradient(best)[1]
    for _ in range(10):
        candidate = best - np.linalg.lstsq(hessian(best), slope, rcond=1e-12)[0]
        there = value_and_gradient(candidate)[1]
        if not np.abs(there).max() < np.abs(slope).max() / 2:
            break
        best, slope = candidate, there
    return torch.tensor(best).reshape(theta.shape)


def _derivatives(
    risk: Callable[[Tensor], Tensor], weights: Tensor, design: Tensor, num_classes: int
) -> tuple[Callable[[Any], tuple[float, Any]], Callable[[Any], Any]]:
    """The total risk with its gradient, and its Hessian, as functions of flat parameters."""
    shape = (design.shape[1], num_classes - 1)
    size = shape[0] * shape[1]

    def at(theta: Any) -> Tensor:
        return logits(design, torch.tensor(theta).reshape(shape)).requires_grad_()

    def value_and_gradient(theta: Any) -> tuple[float, Any]:
        z = at(theta)
        total = weights @ risk(z)
        (slope,) = torch.autograd.grad(total, z)
        return float(total.detach()), (design.T @ slope[:, :-1]).reshape(-1).numpy()

    def hessian(theta: Any) -> Any:
        z = at(theta)
        (slope,) = torch.autograd.grad(weights @ risk(z), z, create_graph=True)
        blocks = torch.empty(*shape, *shape, dtype=torch.float64)
        for k in range(shape[1]):
            (curvature,) = torch.autograd.grad(slope[:, k].sum(), z, retain_graph=True)
            for j in range(shape[1]):
                blocks[:, k, :, j] = design.T @ (design * curvature[:, j, None])
        return blocks.reshape(size, size).numpy()

    return value_and_gradient, hessian
