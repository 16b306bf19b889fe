r"""Lemma 1 of Menon et al. 2021: how much less the risk varies when p* takes the place of labels.

For a predictor f and a loss write :math:`\boldsymbol\ell(f(x)) = (\ell(k, f(x)))_k`. On a sample of N points

.. math:: \hat R = \tfrac1N \sum_n \ell(y_n, f(x_n)), \quad
          \hat R_* = \tfrac1N \sum_n \langle p^*(x_n), \boldsymbol\ell(f(x_n))\rangle, \quad
          \tilde R = \tfrac1N \sum_n \langle p^t(x_n), \boldsymbol\ell(f(x_n))\rangle

estimate the risk :math:`R = \mathbb E\,\ell(y, f(x))` from labels, from p* and from a teacher that is independent of
the sample. The functions take points with weights, and rows at those points: a finite X, or (equal weights) a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bcpd.losses import Loss
from bcpd.mixtures import FiniteMixture
from bcpd.mixtures.base import distributions
from bcpd.seeds import derive, generator
from bcpd.tensors import ArrayLike, float64, probability_rows
from bcpd.theory.claim import Claim, Outcome, Settings, Trial
from bcpd.theory.finite_tables import (
    default_tables,
    every_sample,
    largest_size,
    losses_of,
    outcome_losses,
    random_rows,
    world_name,
)

__all__ = [
    "CLAIMS",
    "Case",
    "cases",
    "checked",
    "label_variance",
    "sample_mean_error",
    "target_variance",
    "variance_gap",
]

EXACT = 1e-12


def checked(weights: ArrayLike, losses: ArrayLike, *rows: ArrayLike) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Weights ``(n,)``, losses and rows ``(n, K)`` in float64."""
    mass, table = distributions(weights, "weights"), float64(losses, "losses")
    checked = [probability_rows(row, "probabilities") for row in rows]
    if mass.ndim != 1 or any(each.ndim != 2 or each.shape != table.shape for each in [table, *checked]):
        received = [tuple(each.shape) for each in [mass, *checked, table]]
        raise ValueError(f"weights must have shape (n,), probabilities and losses (n, K), received {received}")
    if len(table) != len(mass):
        raise ValueError(f"there must be one weight a row, received {len(mass)} weights and {len(table)} rows")
    return mass, table, checked


def _variance(weights: Tensor, values: Tensor) -> Tensor:
    """About the mean, so that a constant has variance 0 to rounding."""
    variance: Tensor = weights @ (values - weights @ values).square()
    return variance


def label_variance(weights: ArrayLike, bayes: ArrayLike, losses: ArrayLike) -> float:
    r""":math:`N\,\mathrm{Var}\,\hat R = \mathrm{Var}_{x, y}[\ell(y, f(x))]`, the variance of one labelled example.

    Args:
        weights: ``(n,)``; bayes: p*, ``(n, K)``; losses: :math:`\ell(k, f(x))`, ``(n, K)``.
    Raises:
        ValueError: shapes that do not fit, weights or rows that are not probabilities.
    """
    mass, table, (truth,) = checked(weights, losses, bayes)
    return float(_variance((mass[:, None] * truth).flatten(), table.flatten()))


def target_variance(weights: ArrayLike, targets: ArrayLike, losses: ArrayLike) -> float:
    r""":math:`N\,\mathrm{Var}\,\tilde R = \mathrm{Var}_x[\langle t(x), \boldsymbol\ell(f(x))\rangle]` for targets t(x).

    Args:
        weights: ``(n,)``; targets: p* or a teacher, ``(n, K)``; losses: ``(n, K)``.
    Raises:
        ValueError: as in :func:`label_variance`.
    """
    mass, table, (rows,) = checked(weights, losses, targets)
    return float(_variance(mass, (rows * table).sum(-1)))


def variance_gap(weights: ArrayLike, bayes: ArrayLike, losses: ArrayLike) -> float:
    r"""What p* in place of labels saves: :math:`\mathbb E_x \mathrm{Var}_{y \mid x}[\ell(y, f(x))] \geq 0`.

    By the law of total variance it is exactly :math:`N(\mathrm{Var}\,\hat R - \mathrm{Var}\,\hat R_*)`: Lemma 1 of
    Menon et al. 2021 with its gap. It is 0 iff the losses are constant on the support of p*(x), for every x.

    Args:
        weights: ``(n,)``; bayes: ``(n, K)``; losses: ``(n, K)``.
    Raises:
        ValueError: as in :func:`label_variance`.
    """
    mass, table, (truth,) = checked(weights, losses, bayes)
    centred = table - (truth * table).sum(-1, keepdim=True)
    return float(mass @ (truth * centred.square()).sum(-1))


# --------------------------------------------------------------------------------------------------------- the claim


@dataclass(frozen=True)
class Case:
    r"""What a statement about the distilled risk is tried on.

    Attributes:
        weights: ``(n,)``; bayes, teacher: ``(n, K)``; losses: :math:`\ell(k, f(x))` of the predictor, ``(n, K)``.
    """

    weights: Tensor
    bayes: Tensor
    teacher: Tensor
    losses: Tensor

    @classmethod
    def random(cls, mixture: FiniteMixture, loss: Loss, seed: int) -> Case:
        """A random predictor, and a teacher that thinks its losses likelier than they are: biased at every x."""
        n, k = mixture.rows.shape
        losses = outcome_losses(loss, random_rows(derive(seed, "predictor"), n, k).log()).double()
        spread = losses.amax(-1, keepdim=True) - losses.amin(-1, keepdim=True)
        power = 0.5 + torch.rand(n, 1, generator=generator(seed, "teacher"), dtype=torch.float64)
        tilted = mixture.rows * (power * losses / spread).exp()
        return cls(mixture.weights, mixture.rows, tilted / tilted.sum(-1, keepdim=True), losses)

    @property
    def joint(self) -> Tensor:
        """Probabilities of the pairs (x, y), ``(n * K,)``."""
        return (self.weights[:, None] * self.bayes).flatten()

    @property
    def risk(self) -> float:
        return float(self.joint @ self.losses.flatten())

    @property
    def scale(self) -> float:
        """What an error of a squared risk is relative to."""
        return 1 + float(self.losses.square().max())


def cases(
    settings: Settings, claim: str, sizes: Sequence[tuple[int, int]]
) -> list[tuple[str, str, Callable[[], Case]]]:
    """For every table and loss: the loss's name, the table's size, and how to make the case."""
    seed = derive(settings.seed, claim)
    return [
        (
            loss.name,
            f"n={len(table.weights)}, K={table.num_classes}",
            partial(Case.random, table, loss, derive(seed, "case", i)),
        )
        for i, table in enumerate(default_tables(settings, seed, sizes))
        for loss in losses_of(settings)
    ]


def sample_mean_error(values: Tensor, probabilities: Tensor, size: int, around: float | None = None) -> float:
    """Mean squared deviation of a mean of ``size`` draws from its expectation, or from ``around``: every sample listed.

    Args:
        values, probabilities: of the outcomes, ``(m,)``.
    """
    indices, chances = every_sample(probabilities, size)
    means = values[indices].mean(1)
    return float(chances @ (means - (chances @ means if around is None else around)).square())


def _gap_is_exact(make: Callable[[], Case], *, teacher: bool = False, gap: bool = True) -> Outcome:
    case = make()
    targets = case.teacher if teacher else case.bayes
    size = largest_size(case.losses.numel())
    by_labels = sample_mean_error(case.losses.flatten(), case.joint, size)
    by_targets = sample_mean_error((targets * case.losses).sum(-1), case.weights, size)
    claimed = variance_gap(case.weights, case.bayes, case.losses) if gap else 0.0
    return Outcome(abs(size * (by_labels - by_targets) - claimed) / case.scale, EXACT)


def _never_larger(make: Callable[[], Case], *, teacher: bool = False) -> Outcome:
    case = make()
    hard = label_variance(case.weights, case.bayes, case.losses)
    soft = target_variance(case.weights, case.teacher if teacher else case.bayes, case.losses)
    return Outcome((soft - hard) / case.scale, EXACT, tightness=min(1.0, soft / hard) if hard else None)


def _equality(make: Callable[[], Case], *, constant: bool = True) -> Outcome:
    """Of the variances, where the losses do not depend on the outcome (but do on x), or with those of the case."""
    case = make()
    losses = case.losses.mean(-1, keepdim=True).expand_as(case.losses) if constant else case.losses
    hard = label_variance(case.weights, case.bayes, losses)
    soft = target_variance(case.weights, case.bayes, losses)
    return Outcome(abs(hard - soft) / case.scale, EXACT, tightness=min(1.0, soft / hard) if hard else None)


def _off_the_support(seed: int, *, zeros: bool = True, n: int = 6, num_classes: int = 5) -> Case:
    """Losses that depend on the outcome for two classes only, to which p* gives 0, or (without ``zeros``) does not."""
    order = torch.rand(n, num_classes, generator=generator(seed, "classes")).argsort(-1)
    possible = order < num_classes - 2
    bayes = random_rows(seed, n, num_classes)
    if zeros:
        bayes = torch.where(possible, bayes, 0.0)
        bayes = bayes / bayes.sum(-1, keepdim=True)
    draw = generator(seed, "losses")
    levels, losses = (torch.rand(n, size, generator=draw, dtype=torch.float64) for size in (1, num_classes))
    weights = random_rows(derive(seed, "weights"), 1, n)[0]
    return Case(weights, bayes, bayes, torch.where(possible, levels, 1 + losses))


def _fickle_teacher(seed: int, n: int = 6, num_classes: int = 3) -> Case:
    """p* is nearly certain of class 0 everywhere; the teacher is certain, of class 0 and class 1 in turn.

    The loss is the 0-1 loss of "always class 0": labels vary by at most 0.1, the teacher's verdict by 0.25.
    """
    certain = torch.nn.functional.one_hot(torch.zeros(n, dtype=torch.int64), num_classes).double()
    turns = torch.nn.functional.one_hot(torch.arange(n) % 2, num_classes).double()
    bayes = 0.9 * certain + 0.1 * random_rows(seed, n, num_classes)
    return Case(torch.full((n,), 1 / n, dtype=torch.float64), bayes, turns, 1 - certain)


def _variance_trials(settings: Settings) -> Sequence[Trial]:
    name, sizes = world_name(settings), [(5, 3), (4, 4), *([(3, 5), (5, 2)] if settings.full else [])]
    trials = []
    for loss, shape, make in cases(settings, "distilled-variance", sizes):
        gap, same, less = f"gap, {shape}", f"equality, {shape}", f"inequality, {shape}"
        trials += [
            Trial(name, partial(_gap_is_exact, make), None, loss, gap),
            Trial(name, partial(_gap_is_exact, make, teacher=True), "teacher_for_bayes", loss, gap),
            Trial(name, partial(_gap_is_exact, make, gap=False), "dropped_gap", loss, gap),
            Trial(name, partial(_never_larger, make), None, loss, less),
            Trial(name, partial(_equality, make), None, loss, same),
            Trial(name, partial(_equality, make, constant=False), "losses_that_vary", loss, same),
        ]
    if settings.mixture is None:
        seed = derive(settings.seed, "distilled-variance", "off the support")
        for zeros, control in ((True, None), (False, "losses_that_vary")):
            outside = partial(_equality, partial(_off_the_support, seed, zeros=zeros), constant=False)
            trials.append(Trial(name, outside, control, detail="equality, losses vary off the support"))
        fickle = partial(_fickle_teacher, derive(settings.seed, "distilled-variance", "fickle"))
        trials += [
            Trial(name, partial(_never_larger, fickle), None, "0-1", "inequality, fickle teacher"),
            Trial(
                name,
                partial(_never_larger, fickle, teacher=True),
                "teacher_for_bayes",
                "0-1",
                "inequality, fickle teacher",
            ),
        ]
    return trials


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="distilled-variance",
        number="C5",
        title="p* in place of labels: the variance of the risk",
        statement=(
            "For a fixed predictor the risk estimated with p* varies no more than the risk estimated from labels, less "
            "by exactly the label variance of the losses, and equally iff the losses are constant on the support of p*"
        ),
        formula=(
            r"N\,(\mathrm{Var}\,\hat{R} - \mathrm{Var}\,\hat{R}_*) = "
            r"\mathbb{E}_x\,\mathrm{Var}_{y|x}[\ell(y, f(x))] \geq 0"
        ),
        conditions="a predictor that does not depend on the sample; any loss",
        source="Menon et al. 2021, Lemma 1; the exact gap is derived here",
        controls={
            "teacher_for_bayes": "a teacher other than p* supplies the targets",
            "dropped_gap": "the two variances are taken to be equal",
            "losses_that_vary": "equality is claimed for losses that depend on the outcome",
        },
        trials=_variance_trials,
    ),
)
