r"""Distillation as plug-in estimation with the nuisance p* (Dao et al. 2021): mixing labels into the teacher's targets.

Correcting the teacher's rows by :math:`\gamma(x)(e_y - p^t)` with :math:`\gamma = a I` gives the target
:math:`p^t + a(e_y - p^t) = (1 - a)\,p^t + a\,e_y`: for losses linear in the target, Hinton's mixture of hard and soft
labels *is* a gamma-correction. It shrinks the teacher's bias by 1 - a and lets in a^2 of the labels' variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from bcpd.mixtures import FiniteMixture
from bcpd.seeds import derive
from bcpd.tensors import ArrayLike, probability_rows
from bcpd.theory.claim import Claim, Outcome, Settings, Trial
from bcpd.theory.distilled.distilled_bias import risk_bias
from bcpd.theory.distilled.distilled_variance import EXACT, Case, cases, sample_mean_error, variance_gap
from bcpd.theory.distilled.mixing_weight import mixed_risk_error
from bcpd.theory.finite_tables import default_tables, largest_size, losses_of, random_rows, world_name

__all__ = ["CLAIMS", "corrected_target"]


def corrected_target(teacher: ArrayLike, label: ArrayLike, share: float) -> Tensor:
    r"""The gamma-corrected target :math:`p^t + a\,(e_y - p^t)`.

    Args:
        teacher: rows ``(..., K)``; label: one-hot or soft rows that broadcast with them; share: a in [0, 1].
    Returns:
        float64 rows.
    Raises:
        ValueError: rows that are not probabilities, a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], received {share}")
    rows, hard = probability_rows(teacher, "teacher"), probability_rows(label, "label")
    return rows + share * (hard - rows)


# ----------------------------------------------------------------------------------------------------------- the claims


def _square_of_logarithms(logits: Tensor, target: Tensor) -> Tensor:
    """Wrong: the squared distance of log-probabilities (floored at 1e-3) is not linear in the target."""
    floor = math.log(1e-3)
    return (logits.log_softmax(-1).clamp(min=floor) - target.log().clamp(min=floor)).square().sum(-1)


def _distance_to_target(logits: Tensor, target: Tensor) -> Tensor:
    r"""Wrong: :math:`\|t - q\|_1`, which equals the expected label loss of ``mae`` for one-hot targets only."""
    return (logits.softmax(-1) - target).abs().sum(-1)


NON_LINEAR = {"square_of_logarithms": _square_of_logarithms, "distance_to_target": _distance_to_target}
Function = Callable[[Tensor, Tensor], Tensor]


def _mixture_terms(
    table: FiniteMixture, seed: int, share: float, predictors: int
) -> tuple[Tensor, list[tuple[float, Tensor]]]:
    """Logits ``(predictors, n, K, K)`` of random predictors, and the signed targets that should cancel.

    The third axis is the label.
    """
    n, k = table.rows.shape
    logits = random_rows(derive(seed, "predictors"), predictors * n, k, floor=1e-3).log().view(predictors, n, 1, k)
    logits = logits.expand(predictors, n, k, k).clone()
    teacher = random_rows(derive(seed, "teacher"), n, k)[:, None].expand(n, k, k)
    hard = torch.eye(k, dtype=torch.float64).expand(n, k, k)
    terms = [(1.0, corrected_target(teacher, hard, share)), (share - 1, teacher), (-share, hard)]
    return logits, [(sign, target.expand_as(logits)) for sign, target in terms]


def _linear_up_to_constant(function: Function, table: FiniteMixture, seed: int, share: float) -> Outcome:
    """The loss at the mixture minus the mixture of losses must not depend on the predictor."""
    logits, terms = _mixture_terms(table, seed, share, 8)
    values = [function(logits, target) for _, target in terms]
    excess = torch.stack([sign * value for (sign, _), value in zip(terms, values, strict=True)]).sum(0)
    scale = 1 + float(torch.stack(values).abs().max())
    return Outcome(float((excess.amax(0) - excess.amin(0)).max()) / scale, EXACT)


def _equal_gradients(function: Function, table: FiniteMixture, seed: int, share: float) -> Outcome:
    """In the logits, example by example."""
    logits, terms = _mixture_terms(table, seed, share, 2)
    slopes: list[Tensor] = []
    for _, target in terms:
        leaf = logits.clone().requires_grad_()
        slopes += torch.autograd.grad(function(leaf, target).sum(), leaf)
    residual = torch.stack([sign * slope for (sign, _), slope in zip(terms, slopes, strict=True)]).sum(0)
    return Outcome(float(residual.abs().max()) / (1 + float(slopes[0].abs().max())), EXACT)


def _mixture_trials(settings: Settings) -> Sequence[Trial]:
    name, seed = world_name(settings), derive(settings.seed, "hard-soft-mixture")
    sizes = [(6, 3), *([(12, 5), (4, 10)] if settings.full else [])]
    trials: list[Trial] = []
    for number, table in enumerate(default_tables(settings, seed, sizes, most=50)):
        for what, check in (("value", _linear_up_to_constant), ("gradient", _equal_gradients)):
            place = (table, derive(seed, "case", number), 0.3)
            detail = f"{what}, n={len(table.weights)}, K={table.num_classes}"
            trials += [
                Trial(name, partial(check, loss.function, *place), None, loss.name, detail)
                for loss in losses_of(settings)
            ]
            trials += [
                Trial(name, partial(check, function, *place), control, "-", detail)
                for control, function in NON_LINEAR.items()
            ]
    return trials


def _corrected(case: Case, share: float) -> tuple[Tensor, Tensor]:
    """Of every pair (x, y): its probability, and the loss of the corrected target, ``(n, K)``."""
    n, k = case.bayes.shape
    target = corrected_target(case.teacher[:, None].expand(n, k, k), torch.eye(k).expand(n, k, k), share)
    return case.weights[:, None] * case.bayes, (target * case.losses[:, None]).sum(-1)


def _bias_shrinks(make: Callable[[], Case], share: float, control: str | None = None) -> Outcome:
    case = make()
    chances, values = _corrected(case, share)
    bias = risk_bias(case.weights, case.bayes, case.teacher, case.losses)
    claimed = bias * (1 - share) ** (2 if control == "bias_squared" else 1)
    return Outcome(abs(float((chances * values).sum()) - case.risk - claimed) / case.scale, EXACT)


def _label_variance_grows(make: Callable[[], Case], share: float, control: str | None = None) -> Outcome:
    case = make()
    _, values = _corrected(case, share)
    centred = values - (case.bayes * values).sum(-1, keepdim=True)
    brute = float(case.weights @ (case.bayes * centred.square()).sum(-1))
    claimed = variance_gap(case.weights, case.bayes, case.losses) * share ** (1 if control == "variance_linear" else 2)
    return Outcome(abs(brute - claimed) / case.scale, EXACT)


def _error_is_exact(make: Callable[[], Case], share: float, control: str | None = None) -> Outcome:
    """Against the enumeration of all labelled samples."""
    case = make()
    size = largest_size(case.losses.numel())
    chances, values = _corrected(case, share)
    brute = sample_mean_error(values.flatten(), chances.flatten(), size, around=case.risk)
    claimed = mixed_risk_error(case.weights, case.bayes, case.teacher, case.losses, size, share)
    if control == "bias_squared":
        bias = risk_bias(case.weights, case.bayes, case.teacher, case.losses)
        claimed += bias**2 * ((1 - share) ** 4 - (1 - share) ** 2)
    if control == "variance_linear":
        claimed += variance_gap(case.weights, case.bayes, case.losses) * (share - share**2) / size
    return Outcome(abs(brute - claimed) / case.scale, EXACT)


def _correction_trials(settings: Settings) -> Sequence[Trial]:
    name, share = world_name(settings), 0.3
    sizes = [(5, 3), *([(4, 4), (3, 5), (5, 2)] if settings.full else [])]
    trials: list[Trial] = []
    for loss, shape, make in cases(settings, "gamma-correction", sizes):
        tried: list[tuple[str, Callable[..., Outcome], Sequence[str]]] = [
            ("bias", _bias_shrinks, ["bias_squared"]),
            ("variance", _label_variance_grows, ["variance_linear"]),
            ("error", _error_is_exact, ["bias_squared", "variance_linear"]),
        ]
        for what, check, controls in tried:
            detail = f"{what}, {shape}"
            trials.append(Trial(name, partial(check, make, share), None, loss, detail))
            trials += [Trial(name, partial(check, make, share, control), control, loss, detail) for control in controls]
    return trials


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="hard-soft-mixture",
        number="C7",
        title="A mixture of hard and soft labels is a gamma-correction",
        statement=(
            "For a loss linear in the target (up to a constant) training on p^t + a (e_y - p^t) is training on the "
            "mixture of both losses: the values agree up to a constant, and the gradients agree"
        ),
        formula=(r"\ell(p^t + a\,(e_y - p^t),\, q) = (1 - a)\,\ell(p^t, q) + a\,\ell(e_y, q) + c(p^t, y)"),
        conditions="losses that are the expected label loss for soft targets, up to a term without q",
        source="Dao et al. 2021 for the correction; the identity is derived here",
        controls={
            "square_of_logarithms": "the loss is the squared distance of log-probabilities",
            "distance_to_target": "the loss is the L1 distance of the target",
        },
        trials=_mixture_trials,
    ),
    Claim(
        id="gamma-correction",
        number="C7",
        title="What a share of labels does to the bias and variance of the distilled risk",
        statement=(
            "With a share a of labels in the target the bias of the risk is 1 - a times the teacher's, and the "
            "variance that labels bring in a^2 times that of labels alone"
        ),
        formula=(
            r"\mathbb{E}(\tilde{R}_a - R)^2 = (1-a)^2 b^2 + \frac{1}{N}(\mathrm{Var}_x[m_a] + "
            r"a^2\,\mathbb{E}_x\mathrm{Var}_{y|x}[\ell]), \quad m_a = \langle (1-a)p^t + a p^*, \ell\rangle"
        ),
        conditions="predictor and teacher do not depend on the sample",
        source="derived here, after Dao et al. 2021",
        controls={
            "bias_squared": "the bias is claimed to shrink by the square of 1 - a",
            "variance_linear": "the label variance is claimed to grow as a",
        },
        trials=_correction_trials,
    ),
)
