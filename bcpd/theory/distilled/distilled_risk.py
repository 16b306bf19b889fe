r"""The risk distilled from a teacher: its exact mean squared error (Menon et al. 2021).

The notation, and the risk distilled from p* itself, are in :mod:`bcpd.theory.distilled.distilled_variance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.seeds import derive, generator
from bcpd.tensors import ArrayLike
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.distilled.distilled_bias import risk_bias
from bcpd.theory.distilled.distilled_variance import (
    EXACT,
    Case,
    cases,
    label_variance,
    sample_mean_error,
    target_variance,
    variance_gap,
)
from bcpd.theory.finite_tables import largest_size, random_rows, rounded, world_name

__all__ = ["CLAIMS", "risk_error"]


def risk_error(weights: ArrayLike, bayes: ArrayLike, teacher: ArrayLike, losses: ArrayLike, size: int) -> float:
    r"""The exact :math:`\mathbb E(\tilde R - R)^2 = \frac1N \mathrm{Var}_x[\langle p^t, \boldsymbol\ell\rangle] +
    (\mathbb E\langle p^t - p^*, \boldsymbol\ell\rangle)^2` of a teacher that has not seen the sample.

    Menon et al. 2021 (Proposition 3) bound the second term by a multiple of
    :math:`(\mathbb E\|p^t - p^*\|_2)^2`; kept as it is, the statement is an equality (derived here: an average of
    independent terms of mean :math:`R + b` has mean squared error variance / N + b^2).

    Args:
        weights: ``(n,)``; bayes, teacher: ``(n, K)``; losses: ``(n, K)``; size: N >= 1.
    Raises:
        ValueError: as in :func:`label_variance`, or a size below 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, received {size}")
    bias = risk_bias(weights, bayes, teacher, losses)
    return target_variance(weights, teacher, losses) / size + bias**2


# -------------------------------------------------------------------------------------------------------- the claims


def _error_is_exact(make: Callable[[], Case], *, unbiased: bool = False, control: str | None = None) -> Outcome:
    """The closed form against all samples of x; ``unbiased`` puts p* in the teacher's place."""
    case = make()
    if unbiased:
        case = replace(case, teacher=case.bayes)
    size = largest_size(len(case.weights))
    brute = sample_mean_error((case.teacher * case.losses).sum(-1), case.weights, size, around=case.risk)
    claimed = risk_error(case.weights, case.bayes, case.teacher, case.losses, size)
    bias = risk_bias(case.weights, case.bayes, case.teacher, case.losses)
    if control == "dropped_bias":
        claimed -= bias**2
    if control == "bayes_variance":
        claimed = target_variance(case.weights, case.bayes, case.losses) / size + bias**2
    return Outcome(abs(brute - claimed) / case.scale, EXACT)


def _misleading_pair(seed: int, n: int = 5, num_classes: int = 4) -> tuple[Case, Case]:
    """One predictor and two teachers: a close one that errs along its losses, a distant one that errs across them.

    The close one shifts the risk by the same amount at every x, the distant one nowhere: both distilled risks vary as
    with p*, and only the first is biased.
    """
    draw = generator(seed, "misleading")
    bayes = random_rows(seed, n, num_classes, floor=0.4)
    order = torch.rand(n, num_classes, generator=draw).argsort(-1)
    losses = torch.linspace(0, 1, num_classes, dtype=torch.float64)[order]
    centred = losses - losses.mean(-1, keepdim=True)
    along = centred / centred.abs().amax(-1, keepdim=True)
    across = torch.randn(n, num_classes, generator=draw, dtype=torch.float64)
    across = across - across.mean(-1, keepdim=True)
    across = across - (across * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True) * along
    across = across / across.abs().amax(-1, keepdim=True)
    reach = float(bayes.min())
    weights = torch.full((n,), 1 / n, dtype=torch.float64)
    close, distant = bayes + 0.2 * reach * along, bayes + reach * across
    return Case(weights, bayes, close, losses), Case(weights, bayes, distant, losses)


def _closer_is_better(seed: int, size: int = 3) -> Outcome:
    """By how much the teacher of smaller MSE has the larger error of its distilled risk; ``nan`` if it has not."""
    pair = _misleading_pair(seed)
    distance = [float(case.weights @ simplex.squared_distance(case.teacher, case.bayes)) for case in pair]
    error = [risk_error(case.weights, case.bayes, case.teacher, case.losses, size) for case in pair]
    return Outcome(error[0] - error[1] if distance[0] < distance[1] else float("nan"), EXACT)


def _error_trials(settings: Settings) -> Sequence[Trial]:
    name, sizes = world_name(settings), [(5, 3), (4, 4), *([(3, 5), (5, 2)] if settings.full else [])]
    trials = []
    for loss, shape, make in cases(settings, "distilled-risk-error", sizes):
        check = partial(_error_is_exact, make)
        trials += [
            Trial(name, check, None, loss, shape),
            Trial(name, partial(check, control="dropped_bias"), "dropped_bias", loss, shape),
            Trial(name, partial(check, control="bayes_variance"), "bayes_variance", loss, shape),
            Trial(
                name,
                partial(check, unbiased=True, control="dropped_bias"),
                "dropped_bias",
                loss,
                f"{shape}, teacher p*",
                True,
            ),
        ]
    if settings.mixture is None:
        seed = derive(settings.seed, "distilled-risk-error", "misleading")
        trials.append(Trial(name, partial(_closer_is_better, seed), "closer_is_better", detail="two teachers"))
    return trials


def _error_picture(settings: Settings) -> Picture:
    """The error of the risk against the distance of two teachers, and against N."""
    close, distant = _misleading_pair(derive(settings.seed, "distilled-risk-error", "picture"))
    size, shares = 100, torch.linspace(0, 1, 26, dtype=torch.float64)
    law = (close.weights, close.bayes)

    def root(teacher: Tensor, n: int) -> float:
        return math.sqrt(risk_error(*law, teacher, close.losses, n))

    def labels(n: int) -> float:
        return math.sqrt(label_variance(*law, close.losses) / n)

    series = []
    for teacher_name, teacher, colour in (
        ("errs along the losses", close.teacher, "a"),
        ("errs across them", distant.teacher, "b"),
    ):
        direction = (teacher - close.bayes) * (
            0.9 * float(close.bayes.min()) / float((teacher - close.bayes).abs().max())
        )
        rows = [close.bayes + share * direction for share in shares]
        distance = torch.stack([(close.weights @ simplex.squared_distance(row, close.bayes)).sqrt() for row in rows])
        errors = torch.tensor([root(row, size) for row in rows])
        series.append(
            {"name": teacher_name, "x": rounded(distance), "y": rounded(errors), "style": "line", "colour": colour}
        )
    sizes = [10 * 2**i for i in range(12)]
    # so biased that its error meets that of labels at N = 100, if that leaves it in the simplex
    noise = variance_gap(close.weights, close.bayes, close.losses)
    scale = math.sqrt(noise / 100) / abs(risk_bias(*law, close.teacher, close.losses))
    along = close.bayes + (close.teacher - close.bayes) * min(scale, 0.9 / 0.2)
    rivals = (
        ("labels", labels, "control"),
        ("p*", partial(root, close.bayes), "bayes"),
        ("teacher that errs along the losses", partial(root, along), "a"),
    )
    return {
        "kind": "panels",
        "title": "Error of the distilled risk",
        "caption": (
            "Left: at the same distance to p* a teacher may cost nothing or a lot; what counts is its error along the "
            "losses. Right: a biased teacher beats labels on few points and loses to them on many."
        ),
        "panels": [
            {
                "kind": "curves",
                "title": f"N = {size}",
                "caption": "",
                "x_label": "root MSE of the teacher to p*",
                "y_label": "root mean squared error of the risk",
                "x_log": False,
                "y_log": False,
                "series": series,
                "lines": [{"y": float(f"{labels(size):.5g}"), "name": "labels"}],
            },
            {
                "kind": "curves",
                "title": "growing samples",
                "caption": "",
                "x_label": "N",
                "y_label": "root mean squared error of the risk",
                "x_log": True,
                "y_log": True,
                "series": [
                    {
                        "name": rival,
                        "x": sizes,
                        "y": rounded(torch.tensor([error(n) for n in sizes])),
                        "style": "line",
                        "colour": colour,
                    }
                    for rival, error, colour in rivals
                ],
                "lines": [],
            },
        ],
    }


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="distilled-risk-error",
        number="C5",
        title="Error of the risk distilled from a teacher",
        statement=(
            "The mean squared error of the risk estimated with a teacher's rows is exactly its variance over N plus "
            "its squared bias"
        ),
        formula=(
            r"\mathbb{E}(\tilde{R} - R)^2 = \frac{1}{N}\mathrm{Var}_x[\langle p^t, \ell\rangle] + "
            r"(\mathbb{E}\langle p^t - p^*, \ell\rangle)^2"
        ),
        conditions="predictor and teacher do not depend on the sample; any loss with finite second moments",
        source="Menon et al. 2021, Proposition 3, as an equality (derived here)",
        controls={
            "dropped_bias": "the bias of the teacher is left out",
            "bayes_variance": "the variance is that of p*, not of the teacher",
            "closer_is_better": "the teacher of smaller MSE is claimed to give the smaller error",
        },
        trials=_error_trials,
        picture=_error_picture,
    ),
)
