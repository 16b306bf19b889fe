"""Finite X by brute force: random tables, and every sample of a size with its probability."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import torch
from scipy.special import roots_jacobi
from torch import Tensor

from bcpd.losses import LOSSES, Loss
from bcpd.mixtures import FiniteMixture
from bcpd.seeds import derive, generator
from bcpd.theory.claim import Settings

__all__ = [
    "beta_nodes",
    "default_tables",
    "every_sample",
    "largest_size",
    "losses_of",
    "outcome_losses",
    "random_rows",
    "random_table",
    "rounded",
    "world_name",
]

FLOOR = 0.02  # share of the uniform row in random rows: no entry so small that a comparison would turn on it


def random_rows(seed: int, n: int, num_classes: int, spread: float = 1.5, floor: float = FLOOR) -> Tensor:
    """Rows ``(n, K)`` in the interior of the simplex: softmax of normal logits, mixed with the uniform row.

    Args:
        spread: standard deviation of the logits; floor: share of the uniform row.
    """
    logits = spread * torch.randn(n, num_classes, generator=generator(seed, "rows"), dtype=torch.float64)
    return (1 - floor) * logits.softmax(-1) + floor / num_classes


def random_table(seed: int, points: int, num_classes: int, dimension: int = 2) -> FiniteMixture:
    """A finite mixture with random weights, p* and points."""
    weights = random_rows(seed, 1, points, spread=0.7)[0]
    place = torch.randn(points, dimension, generator=generator(seed, "points"), dtype=torch.float64)
    return FiniteMixture(weights, random_rows(seed, points, num_classes), place)


def default_tables(
    settings: Settings, seed: int, sizes: Sequence[tuple[int, int]], *, most: int = 50, positive: float = 0.0
) -> Sequence[FiniteMixture]:
    """The user's finite mixture, or random tables of ``(points, K)`` in ``sizes``.

    Of a user's table the ``most`` heaviest points are kept whose smallest probability is at least ``positive``, given
    that x is among them. Fewer than two points, or labels that are certain, have nothing to show: none is returned.
    """
    tables = settings.finite([random_table(derive(seed, "table", i), points, k) for i, (points, k) in enumerate(sizes)])
    kept = [_heaviest(table, most, positive) for table in tables]
    return [table for table in kept if table is not None and float(table.weights @ (1 - table.rows.amax(-1))) > 1e-3]


def _heaviest(table: FiniteMixture, most: int, positive: float) -> FiniteMixture | None:
    eligible = torch.where(table.rows.amin(-1) >= positive, table.weights, 0.0)
    chosen = eligible.argsort(descending=True, stable=True)[: min(most, int((eligible > 0).sum()))].sort().values
    if len(chosen) < 2:
        return None
    if len(chosen) == len(table.weights):
        return table
    return FiniteMixture(eligible[chosen] / eligible[chosen].sum(), table.rows[chosen], table.points[chosen])


def world_name(settings: Settings) -> str:
    """Of the worlds of :func:`default_tables`, for the report."""
    return "finite X" if settings.mixture is None else settings.mixture[0]


def losses_of(settings: Settings) -> Sequence[Loss]:
    """The user's loss, or the two losses of the project."""
    return [LOSSES["ce"], LOSSES["mse"]] if settings.loss is None else [settings.loss]


def outcome_losses(loss: Loss, logits: Tensor) -> Tensor:
    r"""The vectors :math:`\boldsymbol\ell(f(x))_k = \ell(k, f(x))`: logits ``(..., K)`` -> ``(..., K)``."""
    labels = range(logits.shape[-1])
    losses = [loss.function(logits, torch.full(logits.shape[:-1], k, dtype=torch.int64)) for k in labels]
    return torch.stack(losses, -1)


def every_sample(probabilities: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """All ordered samples of ``size`` draws from m outcomes: indices ``(m**size, size)``, probabilities ``(m**size,)``.

    The oracle for statements about the law of a sample: expectations become finite sums.
    """
    outcomes = torch.arange(len(probabilities))
    indices = torch.cartesian_prod(*repeat(outcomes, size)).reshape(-1, size)
    return indices, probabilities[indices].prod(1)


def largest_size(outcomes: int, most: int = 3, samples: int = 50_000) -> int:
    """The largest sample size up to ``most`` of which there are at most ``samples`` samples; at least 1."""
    return max(size for size in range(1, most + 1) if size == 1 or outcomes**size <= samples)


def beta_nodes(p: float, concentration: float) -> tuple[Tensor, Tensor]:
    r"""Nodes in [0, 1] and weights that integrate polynomials of degree 5 against a Dirichlet's marginal, exactly.

    Entry k of Dirichlet(:math:`\alpha p`) is Beta(:math:`\alpha p_k, \alpha (1 - p_k)`); its Gauss-Jacobi rule knows
    nothing of the closed form of its moments.

    Args:
        p: in [0, 1]; concentration: alpha > 0.
    """
    if p in (0.0, 1.0):
        return torch.tensor([p], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    nodes, weights = roots_jacobi(3, concentration * (1 - p) - 1, concentration * p - 1)
    return (1 + torch.tensor(nodes)) / 2, torch.tensor(weights / weights.sum())


def rounded(values: Tensor | Sequence[float]) -> list[float]:
    """Five significant digits, for pictures."""
    return [float(f"{float(value):.5g}") for value in values]
