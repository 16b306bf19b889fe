r"""How much of the label to mix into a teacher's target: the mean squared error of the risk, and where it is least.

Labels are unbiased and noisy, a teacher biased and quiet. The risk of a fixed predictor estimated on N examples with
targets :math:`(1 - a) p^t + a\,e_y` has a mean squared error that is quadratic in a.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bcpd.losses import LOSSES
from bcpd.seeds import derive
from bcpd.tensors import ArrayLike
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial, sampled_mean
from bcpd.theory.distilled.distilled_bias import risk_bias
from bcpd.theory.distilled.distilled_variance import Case, cases, checked, variance_gap
from bcpd.theory.finite_tables import random_table, rounded, world_name

__all__ = ["CLAIMS", "mixed_risk_error", "optimal_share"]


class _Parts(NamedTuple):
    """What the error is made of: squared bias; variance of the teacher's values, covariance with and variance of the
    step to those of p*, label variance, all over N."""

    bias: float
    teacher: float
    covariance: float
    step: float
    label: float

    def error(self, share: float) -> float:
        spread = self.teacher + 2 * share * self.covariance + share**2 * (self.step + self.label)
        return (1 - share) ** 2 * self.bias + spread

    def best_share(self) -> float:
        curvature = self.bias + self.step + self.label
        return min(1.0, max(0.0, (self.bias - self.covariance) / curvature)) if curvature > 0 else 0.0


def _parts(weights: ArrayLike, bayes: ArrayLike, teacher: ArrayLike, losses: ArrayLike, size: int) -> _Parts:
    if size < 1:
        raise ValueError(f"size must be at least 1, received {size}")
    mass, table, (truth, guess) = checked(weights, losses, bayes, teacher)
    soft = (guess * table).sum(-1)
    step = (truth * table).sum(-1) - soft
    mean, mean_step = mass @ soft, mass @ step
    return _Parts(
        bias=float(mean_step) ** 2,
        teacher=float(mass @ (soft - mean).square()) / size,
        covariance=float(mass @ ((soft - mean) * (step - mean_step))) / size,
        step=float(mass @ (step - mean_step).square()) / size,
        label=variance_gap(mass, truth, table) / size,
    )


def mixed_risk_error(
    weights: ArrayLike, bayes: ArrayLike, teacher: ArrayLike, losses: ArrayLike, size: int, share: float
) -> float:
    r"""Mean squared error of the risk on N examples with targets :math:`(1 - a) p^t + a\,e_y` (derived here):

    .. math:: (1 - a)^2 b^2 + \tfrac1N \big( \mathrm{Var}_x[\langle (1 - a) p^t + a p^*, \boldsymbol\ell\rangle]
              + a^2\, \mathbb E_x \mathrm{Var}_{y \mid x}[\ell(y, f(x))] \big)

    with the teacher's bias :math:`b = \mathbb E\langle p^t - p^*, \boldsymbol\ell\rangle`.

    Args:
        weights: ``(n,)``; bayes, teacher: ``(n, K)``; losses: :math:`\ell(k, f(x))`, ``(n, K)``.
        size: N >= 1; share: a, any real number.
    Raises:
        ValueError: shapes that do not fit, rows that are not probabilities, a size below 1.
    """
    return _parts(weights, bayes, teacher, losses, size).error(share)


def optimal_share(weights: ArrayLike, bayes: ArrayLike, teacher: ArrayLike, losses: ArrayLike, size: int) -> float:
    r"""The share a of labels in [0, 1] that makes :func:`mixed_risk_error` smallest (derived here):

    .. math:: a^* = \frac{b^2 - C/N}{b^2 + (V + S)/N}, \qquad
              C = \mathrm{Cov}_x[u, w - u],\ V = \mathrm{Var}_x[w - u],\ S = \mathbb E_x \mathrm{Var}_{y \mid x}[\ell]

    with :math:`u = \langle p^t, \boldsymbol\ell\rangle` and :math:`w = \langle p^*, \boldsymbol\ell\rangle`, clipped.
    It is 0 for p* itself, and tends to 1 with N for a biased teacher.

    Args:
        weights, bayes, teacher, losses, size: as in :func:`mixed_risk_error`.
    Raises:
        ValueError: as in :func:`mixed_risk_error`.
    """
    return _parts(weights, bayes, teacher, losses, size).best_share()


# ------------------------------------------------------------------------------------------------------------ the claim

REPLICAS = 20_000
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


class _Simulation:
    """Errors of the mixture's risk in many samples: the error at the share a is ``start + a * slope``.

    N is chosen so that bias and label variance weigh about the same: there the best share is neither 0 nor 1.
    """

    def __init__(self, case: Case, seed: int) -> None:
        noise = variance_gap(case.weights, case.bayes, case.losses)
        bias = risk_bias(case.weights, case.bayes, case.teacher, case.losses)
        size = min(10_000, max(2, round(noise / bias**2)))
        self.parts = _parts(case.weights, case.bayes, case.teacher, case.losses, size)
        chances = case.joint.numpy()
        draw = np.random.default_rng(derive(seed, "samples"))
        counts = torch.tensor(draw.multinomial(size, chances / chances.sum(), REPLICAS)).double() / size
        soft = (case.teacher * case.losses).sum(-1, keepdim=True).expand_as(case.losses).flatten()
        self.start = counts @ soft - case.risk
        self.slope = counts @ (case.losses.flatten() - soft)

    def errors(self, share: float) -> Tensor:
        return self.start + share * self.slope

    def forgetting(self, control: str | None) -> _Parts:
        if control is None:
            return self.parts
        return self.parts._replace(bias=0.0) if control == "forgotten_bias" else self.parts._replace(label=0.0)


def _error_agrees(simulate: Callable[[], _Simulation], control: str | None = None) -> Outcome:
    """Of five shares, the largest number of standard errors between simulated and claimed error."""
    simulation = simulate()
    claimed = simulation.forgetting(control)
    squares = torch.stack([simulation.errors(a).square() for a in SHARES], 1)
    return sampled_mean(squares, torch.tensor([claimed.error(a) for a in SHARES], dtype=torch.float64))


def _minimum_is_there(simulate: Callable[[], _Simulation], control: str | None = None) -> Outcome:
    """Standard errors from 0 of the derivative of the simulated error at the share that is claimed to be best."""
    simulation = simulate()
    share = simulation.forgetting(control).best_share()
    return sampled_mean(2 * simulation.errors(share) * simulation.slope)


def _trials(settings: Settings) -> Sequence[Trial]:
    sizes = [(6, 3), *([(12, 5)] if settings.full else [])]
    trials: list[Trial] = []
    for loss, shape, make in cases(settings, "optimal-mixing", sizes):
        simulate = cache(partial(_simulate, make, derive(settings.seed, "optimal-mixing", loss, shape)))
        for what, check in (("error", _error_agrees), ("minimum", _minimum_is_there)):
            detail = f"{what}, {shape}"
            trials.append(Trial(world_name(settings), partial(check, simulate), None, loss, detail))
            trials += [
                Trial(world_name(settings), partial(check, simulate, control), control, loss, detail)
                for control in ("forgotten_bias", "forgotten_noise")
            ]
    return trials


def _simulate(make: Callable[[], Case], seed: int) -> _Simulation:
    return _Simulation(make(), seed)


def _picture(settings: Settings) -> Picture:
    """The error against the share of labels for several N, the best share marked."""
    seed = derive(settings.seed, "optimal-mixing", "picture")
    case = Case.random(random_table(seed, 6, 3), LOSSES["ce"], seed)
    law = (case.weights, case.bayes, case.teacher, case.losses)
    shares = [i / 40 for i in range(41)]
    series = []
    for size, colour in zip((3, 10, 30, 100), "abcd", strict=True):
        best = optimal_share(*law, size)
        curve = [math.sqrt(mixed_risk_error(*law, size, a)) for a in shares]
        lowest = [math.sqrt(mixed_risk_error(*law, size, best))]
        series += [
            {"name": f"N = {size}", "x": shares, "y": rounded(curve), "style": "line", "colour": colour},
            {
                "name": f"best, N = {size}",
                "x": rounded([best]),
                "y": rounded(lowest),
                "style": "points",
                "colour": colour,
            },
        ]
    return {
        "kind": "curves",
        "title": "How much of the label to mix in",
        "caption": (
            "The more examples there are, the less their labels' noise matters and the more the teacher's bias: the "
            "best share of labels moves from left to right."
        ),
        "x_label": "share a of the label in the target",
        "y_label": "root mean squared error of the risk",
        "x_log": False,
        "y_log": True,
        "series": series,
        "lines": [],
    }


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="optimal-mixing",
        number="C7",
        title="The best share of labels in a teacher's targets",
        statement=(
            "The mean squared error of the risk with a share a of labels in the target is the claimed quadratic in a, "
            "least at the claimed share: in simulated samples the errors agree, and the derivative vanishes there"
        ),
        formula=(
            r"a^* = \frac{b^2 - C/N}{b^2 + (V + S)/N}, \quad C = \mathrm{Cov}_x[u, w - u],\ "
            r"V = \mathrm{Var}_x[w - u],\ S = \mathbb{E}_x\mathrm{Var}_{y|x}[\ell],\ u = \langle p^t, \ell\rangle,"
            r"\ w = \langle p^*, \ell\rangle"
        ),
        conditions="predictor and teacher do not depend on the sample; clipped to [0, 1]",
        source="derived here, after Dao et al. 2021",
        controls={
            "forgotten_bias": "the teacher's bias is left out",
            "forgotten_noise": "the label variance is left out",
        },
        trials=_trials,
        picture=_picture,
    ),
)
