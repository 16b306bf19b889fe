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
from itertools import pairwise, product

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

NUMERIC, EXACT = 1e-6, 1e-12
TEMPERATURES = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 10.0, 100.0)


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

WEIGHTS = ((0.1, 0.9), (0.7, 2.0))
"""Of the labels and of the teacher."""


def _minimiser(risk: Callable[[Tensor], Tensor], table: FiniteMixture, seed: int) -> Tensor:
    """Numerically, one free row of logits for every point, so that the points' weights do not matter."""
    n, k = table.rows.shape
    design, equal = torch.eye(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    return logits(design, minimise(risk, equal, design, k, seed, starts=2)).softmax(-1)


def _distills_to_bayes(
    table: FiniteMixture, seed: int, temperature: float, weights: tuple[float, float], control: str | None = None
) -> Outcome:
    bayes, teacher = table.rows, table.rows.log()
    if control == "inexact_teacher":
        teacher = random_rows(derive(seed, "teacher"), *bayes.shape).log()

    def risk(z: Tensor) -> Tensor:
        label = weights[0] * LOSSES["ce"].function(z, bayes)
        if control == "teacher_only":
            return label + weights[1] * kd(z, teacher / temperature, 1.0)
        scale = 1 / temperature**2 if control == "dropped_square" else 1.0
        return label + weights[1] * scale * kd(z, teacher, temperature)

    return Outcome(float((_minimiser(risk, table, seed) - bayes).abs().max()), NUMERIC)


def _method_is_stationary(
    seed: int, temperature: float, weights: tuple[float, float], control: str | None = None
) -> Outcome:
    """The gradient of the trainer's own loss, on all pairs of a world, at p*: both terms are convex in the logits."""
    world = rational_world(seed)
    teacher = world.log_bayes
    method = KD(temperature, *weights)
    if control == "inexact_teacher":
        teacher = random_rows(derive(seed, "teacher"), *teacher.shape).log()
    if control == "teacher_only":
        teacher, method = teacher / temperature, KD(1.0, *weights)
    if control == "dropped_square":
        method = KD(temperature, weights[0], weights[1] / temperature**2)
    z = world.log_bayes.clone().requires_grad_()
    batch = Batch(x=world.x, y=world.y, index=torch.arange(len(world.y)))
    terms = method.loss(batch, Views(z, z, (), ()), Views(teacher, teacher, (), ()))
    (slope,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), z)
    _, point = torch.unique(world.x, dim=0, return_inverse=True)
    by_point = torch.zeros(int(point.max()) + 1, world.num_classes, dtype=torch.float64).index_add(0, point, slope)
    return Outcome(float(by_point.abs().max()), 1e-12)


def _shown(temperature: float, weights: tuple[float, float]) -> str:
    return f"T={temperature:g}, gamma={weights[0]:g}, alpha={weights[1]:g}"


def _exact_trials(settings: Settings) -> Sequence[Trial]:
    seed = derive(settings.seed, "exact-teacher-kd")
    temperatures = (0.5, 1.0, 4.0, 20.0) if settings.full else (1.0, 4.0)
    tried: list[tuple[str, Callable[..., Outcome], float, str]] = []
    for number, table in enumerate(_tables(settings, seed)):
        shape = f"n={len(table.weights)}, K={table.num_classes}"
        place = (table, derive(seed, "start", number))
        tried += [
            (world_name(settings), partial(_distills_to_bayes, *place, t, w), t, f"minimiser, {_shown(t, w)}, {shape}")
            for t, w in product(temperatures, WEIGHTS)
        ]
    if settings.mixture is None:
        where = derive(seed, "rational")
        tried += [
            ("finite X", partial(_method_is_stationary, where, t, w), t, f"KD's gradient, {_shown(t, w)}")
            for t, w in product(temperatures, WEIGHTS)
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


def _errs_more(table: FiniteMixture, control: str | None = None) -> Outcome:
    """The largest fall of the Bayes error from a temperature to the next."""
    worlds = [FiniteMixture(table.weights, tempered(table.rows, t), table.points) for t in TEMPERATURES]
    errors = [world.bayes_error().value for world in worlds]
    if control == "falls":
        errors = errors[::-1]
    return Outcome(max(cooler - warmer for cooler, warmer in pairwise(errors)), EXACT)


def _ends(table: FiniteMixture, control: str | None = None) -> Outcome:
    """The distance of the Bayes error at extreme temperatures from its limits."""
    cold, hot = (FiniteMixture(table.weights, tempered(table.rows, t), table.points) for t in (1e-4, 1e12))
    modes = (table.rows == table.rows.amax(-1, keepdim=True)).sum(-1).double()
    least = 0.0 if control == "no_ties" else float(table.weights @ (1 - 1 / modes))
    largest = 1 - 1 / table.num_classes
    return Outcome(max(abs(cold.bayes_error().value - least), abs(hot.bayes_error().value - largest)), 1e-9)


def _with_ties(table: FiniteMixture) -> FiniteMixture:
    """The two largest entries of every other row averaged."""
    top, place = table.rows.topk(2, -1)
    tied = table.rows.scatter(-1, place, top.mean(-1, keepdim=True).expand_as(top))
    every_other = (torch.arange(len(tied)) % 2 == 0)[:, None]
    return FiniteMixture(table.weights, torch.where(every_other, tied, table.rows), table.points)


def _error_trials(settings: Settings) -> Sequence[Trial]:
    name, trials = world_name(settings), []
    for table in _tables(settings, derive(settings.seed, "temperature-raises-error")):
        detail = f"n={len(table.weights)}, K={table.num_classes}"
        trials.append(Trial(name, partial(_errs_more, table), detail=detail))
        if settings.mixture is None:
            trials.append(Trial(name, partial(_errs_more, table, "falls"), "falls", detail=detail))
            ties = partial(_ends, _with_ties(table))
            trials.append(Trial(name, ties, detail=f"limits, {detail}"))
            trials.append(Trial(name, partial(ties, control="no_ties"), "no_ties", detail=f"limits, {detail}"))
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
    Claim(
        id="temperature-raises-error",
        number="C18",
        title="Temperature raises the Bayes error",
        statement=(
            "Where the tempered p* takes the place of p*, the Bayes error grows with the temperature, from the share "
            "that ties of the mode leave to 1 - 1/K"
        ),
        formula=(
            r"L^*_T = 1 - \mathbb{E}\left[\sum_k (p^*_k / \max_j p^*_j)^{1/T}\right]^{-1}, \quad "
            r"T \leq T' \Rightarrow L^*_T \leq L^*_{T'}"
        ),
        conditions="p* positive for the limit 1 - 1/K; the distribution of x stays",
        source="derived here; for flows with a temperature on x Theisen et al. 2021, Proposition 2",
        controls={
            "falls": "the Bayes error is claimed to fall",
            "no_ties": "it is claimed to start from 0 although modes tie",
        },
        trials=_error_trials,
    ),
)
