r"""Unbiased noisy targets, :math:`\mathbb E[\tilde p \mid x] = p^*(x)`: two families and how far they are from p*.

A student trained on them has the population target of one trained on p*; only the variance differs, by the target's
MSE. A one-hot label is the extreme case of both families.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.mixtures import FiniteMixture
from bcpd.mixtures.base import distributions
from bcpd.seeds import derive
from bcpd.tensors import ArrayLike, probability_rows
from bcpd.theory.claim import Claim, Outcome, Settings, Trial
from bcpd.theory.finite_tables import beta_nodes, default_tables, random_rows, world_name

__all__ = [
    "CLAIMS",
    "dirichlet_target_mse",
    "matching_concentration",
    "mixture_target_mse",
    "one_hot_target_mse",
]

EXACT = 1e-12


def one_hot_target_mse(weights: ArrayLike, bayes: ArrayLike) -> float:
    r"""MSE to p* of the labels themselves, :math:`\mathbb E\|e_y - p^*\|^2 = \mathbb E[1 - \|p^*\|^2]`.

    Args:
        weights: ``(n,)``; bayes: p*, ``(n, K)``.
    Raises:
        ValueError: weights or rows that are not probabilities.
    """
    mass, rows = distributions(weights, "weights"), probability_rows(bayes, "bayes")
    return float(mass @ (rows * (1 - rows)).sum(-1))


def mixture_target_mse(weights: ArrayLike, bayes: ArrayLike, share: float) -> float:
    r"""MSE to p* of the targets :math:`u\,e_y + (1 - u)\,p^*`: :math:`u^2\,\mathbb E[1 - \|p^*\|^2]`.

    Args:
        weights: ``(n,)``; bayes: ``(n, K)``; share: u in [0, 1]; 1 is the label.
    Raises:
        ValueError: weights or rows that are not probabilities, a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], received {share}")
    return share**2 * one_hot_target_mse(weights, bayes)


def dirichlet_target_mse(weights: ArrayLike, bayes: ArrayLike, concentration: float) -> float:
    r"""MSE to p* of targets drawn from Dirichlet(:math:`\alpha p^*`): :math:`\mathbb E[1 - \|p^*\|^2] / (\alpha + 1)`.

    Args:
        weights: ``(n,)``; bayes: ``(n, K)``; concentration: alpha >= 0; 0 is the label (the limit).
    Raises:
        ValueError: weights or rows that are not probabilities, a negative concentration.
    """
    if not concentration >= 0:
        raise ValueError(f"concentration must be >= 0, received {concentration}")
    return one_hot_target_mse(weights, bayes) / (concentration + 1)


def matching_concentration(share: float) -> float:
    r"""The :math:`\alpha = 1/u^2 - 1` at which Dirichlet targets have the MSE of the mixture's; ``inf`` for u = 0.

    Args:
        share: u in [0, 1].
    Raises:
        ValueError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], received {share}")
    return math.inf if share == 0 else share**-2 - 1


# ------------------------------------------------------------------------------------------------------------ the claim


def mixture_targets(bayes: Tensor, share: float) -> Tensor:
    """``(n, K, K)``: the target of every point and label y (second axis)."""
    return share * torch.eye(bayes.shape[-1], dtype=torch.float64) + (1 - share) * bayes[:, None, :]


def _mixture_error(table: FiniteMixture, share: float) -> Tensor:
    """Of every point, over all labels."""
    return (table.rows * simplex.squared_distance(mixture_targets(table.rows, share), table.rows[:, None, :])).sum(-1)


def dirichlet_moments(bayes: Tensor, concentration: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of every entry of a Dirichlet target ``(n, K)``, integrated by quadrature."""
    mean, variance = torch.empty_like(bayes), torch.empty_like(bayes)
    for place in range(bayes.numel()):
        p = float(bayes.flatten()[place])
        nodes, weights = beta_nodes(p, concentration)
        mean.view(-1)[place] = weights @ nodes
        variance.view(-1)[place] = weights @ (nodes - p).square()
    return mean, variance


def dirichlet_covariance(bayes: Tensor, concentration: float) -> Tensor:
    """``(n, K, K)``, integrated by quadrature: the sum of two entries is Beta as well, and its variance tells theirs.

    Args:
        bayes: ``(n, K)``; concentration: alpha > 0.
    """
    n, k = bayes.shape
    sums = (bayes[:, :, None] + bayes[:, None, :]).clamp(max=1.0)
    sums = torch.where(sums > 1 - 1e-12, 1.0, sums)
    variance = dirichlet_moments(bayes, concentration)[1]
    of_sums = dirichlet_moments(sums.view(n, k * k), concentration)[1].view(n, k, k)
    covariance = (of_sums - variance[:, :, None] - variance[:, None, :]) / 2
    diagonal = torch.eye(k, dtype=torch.bool)
    return torch.where(diagonal, variance[:, :, None], covariance)


def _mixture_mse(table: FiniteMixture, share: float, control: str | None = None) -> Outcome:
    brute = float(table.weights @ _mixture_error(table, share))
    claimed = mixture_target_mse(table.weights, table.rows, share)
    if control == "linear_in_share":
        claimed /= share
    return Outcome(abs(brute - claimed), EXACT)


def _dirichlet_mse(table: FiniteMixture, concentration: float, control: str | None = None) -> Outcome:
    brute = float(table.weights @ dirichlet_moments(table.rows, concentration)[1].sum(-1))
    claimed = dirichlet_target_mse(table.weights, table.rows, concentration)
    if control == "over_concentration":
        claimed *= (concentration + 1) / concentration
    return Outcome(abs(brute - claimed), EXACT)


def _matched(table: FiniteMixture, share: float, control: str | None = None) -> Outcome:
    concentration = 1 / share - 1 if control == "linear_in_share" else matching_concentration(share)
    dirichlet = float(table.weights @ dirichlet_moments(table.rows, concentration)[1].sum(-1))
    return Outcome(abs(dirichlet - float(table.weights @ _mixture_error(table, share))), EXACT)


def _population_target(table: FiniteMixture, share: float, concentration: float, control: str | None = None) -> Outcome:
    """Means of both families, against p*; the control's targets are smoothed labels."""
    targets = mixture_targets(table.rows, share)
    if control == "smoothed_labels":
        k = table.num_classes
        targets = (share * torch.eye(k, dtype=torch.float64) + (1 - share) / k).expand(len(table.rows), k, k)
    mean = (table.rows[:, :, None] * targets).sum(1)
    error = float((mean - table.rows).abs().max())
    if control is None:
        error = max(error, float((dirichlet_moments(table.rows, concentration)[0] - table.rows).abs().max()))
    return Outcome(error, EXACT)


def _trials(settings: Settings) -> Sequence[Trial]:
    seed = derive(settings.seed, "unbiased-noise")
    sizes = [(6, 3), (5, 5), *([(12, 2), (30, 10)] if settings.full else [])]
    trials: list[Trial] = []
    for number, table in enumerate(default_tables(settings, seed, sizes, most=20)):
        low, high = random_rows(derive(seed, "shares", number), 1, 2, spread=0.5)[0].sort().values.tolist()
        shape = f"n={len(table.weights)}, K={table.num_classes}"
        family: tuple[tuple[str, Callable[..., Outcome], str], ...] = (
            ("mixture", partial(_mixture_mse, table, low), "linear_in_share"),
            ("Dirichlet", partial(_dirichlet_mse, table, 10 * high), "over_concentration"),
            ("matched", partial(_matched, table, high), "linear_in_share"),
            ("mean", partial(_population_target, table, low, 10 * high), "smoothed_labels"),
        )
        for name, check, control in family:
            detail = f"{name}, {shape}"
            trials.append(Trial(world_name(settings), check, detail=detail))
            trials.append(Trial(world_name(settings), partial(check, control=control), control, detail=detail))
    return trials


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="unbiased-noise",
        number="C5",
        title="Unbiased noisy targets and their MSE to p*",
        statement=(
            "Targets u e_y + (1 - u) p* and Dirichlet(alpha p*) have the mean p*, and MSE u^2 E[1 - |p*|^2] and "
            "E[1 - |p*|^2] / (alpha + 1): equal at u^2 = 1 / (alpha + 1)"
        ),
        formula=(
            r"\mathbb{E}\|\tilde{p} - p^*\|^2 = u^2\,\mathbb{E}[1 - \|p^*\|^2] = "
            r"\frac{1}{\alpha + 1}\,\mathbb{E}[1 - \|p^*\|^2] \quad (u^2 (\alpha + 1) = 1)"
        ),
        conditions="labels drawn from p*, given x independent of everything else",
        source="derived here, from the moments of the categorical and the Dirichlet distribution",
        controls={
            "linear_in_share": "u takes the place of its square",
            "over_concentration": "alpha takes the place of alpha + 1",
            "smoothed_labels": "the label is mixed with the uniform row instead of p*",
        },
        trials=_trials,
    ),
)
