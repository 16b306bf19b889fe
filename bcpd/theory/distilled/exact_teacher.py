r"""What distillation from an exact teacher converges to: p* at every temperature, if it is on both sides.

.. math:: \gamma\,\mathrm{CE}(p^*, q) + \alpha\, T^2\, KL(p^*_T \| q_T), \qquad
          p_T \propto p^{1/T},\ q_T = \mathrm{softmax}(z / T)

Both terms are minimal at :math:`q = p^*`, so their sum is, whatever the weights and T. With the temperature on the
teacher only, :math:`\mathrm{CE}(p^*, q) + \beta\,KL(p^*_T \| q)` is :math:`1 + \beta` times the cross-entropy against
the average :math:`(p^* + \beta p^*_T) / (1 + \beta)`, up to a constant, and that average is its minimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from bcpd.data import Batch
from bcpd.distill import KD
from bcpd.distill.functional import kd
from bcpd.losses import LOSSES
from bcpd.mixtures import FiniteMixture
from bcpd.nets import Views
from bcpd.seeds import derive
from bcpd.tensors import ArrayLike, probability_rows
from bcpd.theory.claim import Claim, Outcome, Settings, Trial
from bcpd.theory.finite_tables import default_tables, random_rows, world_name
from bcpd.theory.linear import logits, minimise
from bcpd.theory.worlds import rational_world

__all__ = ["CLAIMS", "tempered", "tempered_teacher_minimiser"]

NUMERIC = 1e-6


def tempered(p: ArrayLike, temperature: float) -> Tensor:
    r""":math:`p_T = p^{1/T} / \sum_k p_k^{1/T}`, what a softmax at temperature T makes of the logits log p.

    Args:
        p: rows of probabilities ``(..., K)``; temperature: T > 0.
    Returns:
        float64 rows; zeros stay zeros.
    Raises:
        ValueError: rows that are not probabilities, a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, received {temperature}")
    return (probability_rows(p, "p").log() / temperature).softmax(-1)


def tempered_teacher_minimiser(p: ArrayLike, temperature: float, weight: float) -> Tensor:
    r"""The minimiser :math:`(p + \beta p_T) / (1 + \beta)` of :math:`\mathrm{CE}(p, q) + \beta\,KL(p_T \| q)`.

    Args:
        p: rows of probabilities ``(..., K)``; temperature: T > 0; weight: beta >= 0.
    Raises:
        ValueError: rows that are not probabilities, a temperature or weight out of range.
    """
    if not weight >= 0:
        raise ValueError(f"weight must be >= 0, received {weight}")
    return (probability_rows(p, "p") + weight * tempered(p, temperature)) / (1 + weight)


# ----------------------------------------------------------------------------------------------------------- the claims

LABEL_WEIGHT, TEACHER_WEIGHT = 0.1, 0.9


def _minimiser(risk: Callable[[Tensor], Tensor], table: FiniteMixture, seed: int) -> Tensor:
    """Numerically, one free row of logits for every point, so that the points' weights do not matter."""
    n, k = table.rows.shape
    design, equal = torch.eye(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    return logits(design, minimise(risk, equal, design, k, seed, starts=2)).softmax(-1)


def _distills_to_bayes(table: FiniteMixture, seed: int, temperature: float, control: str | None = None) -> Outcome:
    bayes, teacher = table.rows, table.rows.log()
    if control == "inexact_teacher":
        teacher = random_rows(derive(seed, "teacher"), *bayes.shape).log()

    def risk(z: Tensor) -> Tensor:
        label = LABEL_WEIGHT * LOSSES["ce"].function(z, bayes)
        if control == "teacher_only":
            return label + TEACHER_WEIGHT * kd(z, teacher / temperature, 1.0)
        scale = 1 / temperature**2 if control == "dropped_square" else 1.0
        return label + TEACHER_WEIGHT * scale * kd(z, teacher, temperature)

    return Outcome(float((_minimiser(risk, table, seed) - bayes).abs().max()), NUMERIC)


def _method_is_stationary(seed: int, temperature: float, control: str | None = None) -> Outcome:
    """The gradient of the trainer's own loss, on all pairs of a world, at p*: both terms are convex in the logits."""
    world = rational_world(seed)
    teacher = world.log_bayes
    method = KD(temperature, LABEL_WEIGHT, TEACHER_WEIGHT)
    if control == "inexact_teacher":
        teacher = random_rows(derive(seed, "teacher"), *teacher.shape).log()
    if control == "teacher_only":
        teacher, method = teacher / temperature, KD(1.0, LABEL_WEIGHT, TEACHER_WEIGHT)
    if control == "dropped_square":
        method = KD(temperature, LABEL_WEIGHT, TEACHER_WEIGHT / temperature**2)
    z = world.log_bayes.clone().requires_grad_()
    batch = Batch(x=world.x, y=world.y, index=torch.arange(len(world.y)))
    terms = method.loss(batch, Views(z, z, (), ()), Views(teacher, teacher, (), ()))
    (slope,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), z)
    _, point = torch.unique(world.x, dim=0, return_inverse=True)
    by_point = torch.zeros(int(point.max()) + 1, world.num_classes, dtype=torch.float64).index_add(0, point, slope)
    return Outcome(float(by_point.abs().max()), 1e-12)


def _exact_trials(settings: Settings) -> Sequence[Trial]:
    seed = derive(settings.seed, "exact-teacher-kd")
    temperatures = (0.5, 1.0, 4.0, 20.0) if settings.full else (1.0, 4.0)
    tried: list[tuple[str, Callable[..., Outcome], float, str]] = []
    for number, table in enumerate(_tables(settings, seed)):
        shape = f"n={len(table.weights)}, K={table.num_classes}"
        place = (table, derive(seed, "start", number))
        tried += [
            (world_name(settings), partial(_distills_to_bayes, *place, t), t, f"minimiser, T={t:g}, {shape}")
            for t in temperatures
        ]
    if settings.mixture is None:
        where = derive(seed, "rational")
        tried += [
            ("finite X", partial(_method_is_stationary, where, t), t, f"KD's gradient, T={t:g}") for t in temperatures
        ]
    trials: list[Trial] = []
    for name, check, temperature, detail in tried:
        same = temperature == 1.0
        trials += [
            Trial(name, check, detail=detail),
            Trial(name, partial(check, control="inexact_teacher"), "inexact_teacher", detail=detail),
            Trial(name, partial(check, control="teacher_only"), "teacher_only", detail=detail, harmless=same),
            Trial(name, partial(check, control="dropped_square"), "dropped_square", detail=detail, harmless=True),
        ]
    return trials


def _average_is_minimiser(
    table: FiniteMixture, seed: int, temperature: float, weight: float, control: str | None = None
) -> Outcome:
    bayes, teacher = table.rows, table.rows.log() / temperature

    def risk(z: Tensor) -> Tensor:
        return LOSSES["ce"].function(z, bayes) + weight * kd(z, teacher, 1.0)

    claimed = tempered_teacher_minimiser(bayes, temperature, weight)
    if control == "equals_bayes":
        claimed = bayes
    if control == "geometric_mean":
        claimed = ((bayes.log() + weight * tempered(bayes, temperature).log()) / (1 + weight)).softmax(-1)
    return Outcome(float((_minimiser(risk, table, seed) - claimed).abs().max()), NUMERIC)


def _tempered_trials(settings: Settings) -> Sequence[Trial]:
    seed = derive(settings.seed, "tempered-teacher")
    pairs = [(4.0, 0.9), *([(0.5, 0.5), (2.0, 9.0)] if settings.full else [])]
    trials: list[Trial] = []
    for number, table in enumerate(_tables(settings, seed)):
        for temperature, weight in [(1.0, 0.9), *pairs]:
            check = partial(_average_is_minimiser, table, derive(seed, "start", number), temperature, weight)
            detail = f"T={temperature:g}, beta={weight:g}, n={len(table.weights)}, K={table.num_classes}"
            trials.append(Trial(world_name(settings), check, detail=detail))
            trials += [
                Trial(
                    world_name(settings),
                    partial(check, control=control),
                    control,
                    detail=detail,
                    harmless=temperature == 1.0,
                )
                for control in ("equals_bayes", "geometric_mean")
            ]
    return trials


def _tables(settings: Settings, seed: int) -> Sequence[FiniteMixture]:
    """With p* positive, so that its logits are finite."""
    sizes = [(5, 3), *([(4, 6), (8, 2)] if settings.full else [])]
    return default_tables(settings, seed, sizes, most=10, positive=1e-4)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="exact-teacher-kd",
        number="C21",
        title="Distillation from an exact teacher is consistent at every temperature",
        statement=(
            "With the teacher p*, the minimiser of label cross-entropy plus tempered KL is p*, whatever the weights "
            "and the temperature; the factor T^2 has no bearing on it"
        ),
        formula=(
            r"\arg\min_q\ \gamma\,\mathrm{CE}(p^*, q) + \alpha\,T^2\,\mathrm{KL}(p^*_T \| q_T) = p^*, \quad "
            r"p_T \propto p^{1/T}"
        ),
        conditions="an unrestricted class, p* positive, labels summed out",
        source="derived here; the loss is that of Hinton, Vinyals & Dean 2015",
        controls={
            "inexact_teacher": "the teacher is not p*",
            "teacher_only": "the temperature is on the teacher only",
            "dropped_square": "the factor T^2 is left out",
        },
        trials=_exact_trials,
    ),
    Claim(
        id="tempered-teacher",
        number="C21",
        title="Temperature on the teacher only: where distillation goes instead",
        statement=(
            "With the temperature on the exact teacher only, label cross-entropy plus beta times KL is least at the "
            "average of p* and the tempered p* with weights 1 and beta"
        ),
        formula=(
            r"\arg\min_q\ \mathrm{CE}(p^*, q) + \beta\,\mathrm{KL}(p^*_T \| q) = "
            r"\frac{p^* + \beta\,p^*_T}{1 + \beta}"
        ),
        conditions="an unrestricted class, p* positive, labels summed out",
        source="derived here",
        controls={
            "equals_bayes": "the minimiser is claimed to be p*",
            "geometric_mean": "the average is taken of the logarithms",
        },
        trials=_tempered_trials,
    ),
)
