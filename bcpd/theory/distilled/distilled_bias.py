r"""The bias of the risk distilled from a teacher, and bounds on it by the teacher's distance to p*.

The notation is that of :mod:`bcpd.theory.distilled.distilled_variance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch

from bcpd import simplex
from bcpd.seeds import derive, generator
from bcpd.tensors import ArrayLike
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.distilled.distilled_variance import EXACT, Case, cases, checked
from bcpd.theory.finite_tables import random_rows, rounded, world_name

__all__ = ["CLAIMS", "BiasBounds", "attaining_case", "bias_bounds", "risk_bias"]


def risk_bias(weights: ArrayLike, bayes: ArrayLike, teacher: ArrayLike, losses: ArrayLike) -> float:
    r""":math:`\mathbb E \tilde R - R = \mathbb E_x \langle p^t - p^*, \boldsymbol\ell(f(x))\rangle`.

    Args:
        weights: ``(n,)``; bayes, teacher: ``(n, K)``; losses: ``(n, K)``.
    Raises:
        ValueError: as in :func:`label_variance`.
    """
    mass, table, (truth, guess) = checked(weights, losses, bayes, teacher)
    return float(mass @ ((guess - truth) * table).sum(-1))


class BiasBounds(NamedTuple):
    r"""Upper bounds of :math:`|\mathbb E \tilde R - R|`, the first the smallest: see :func:`bias_bounds`."""

    l1: float
    l2: float
    sup: float


def bias_bounds(weights: ArrayLike, bayes: ArrayLike, teacher: ArrayLike, losses: ArrayLike) -> BiasBounds:
    r"""Bounds on the bias of the distilled risk by the distance of the teacher to p*.

    With :math:`\rho(x) = \max_k \ell_k - \min_k \ell_k` and :math:`B = \sup |\ell|`,

    .. math:: |b| \leq \tfrac12 \mathbb E[\rho\,\|p^t - p^*\|_1]
                  \leq \tfrac12 c_K\, \mathbb E[\rho\,\|p^t - p^*\|_2]
                  \leq \sqrt K\, B\, \mathbb E\|p^t - p^*\|_2, \qquad c_K^2 = K - \tfrac{1}{K} [K\text{ odd}] .

    Derived here: :math:`d = p^t - p^*` sums to 0, so the losses may be shifted to :math:`\pm\rho/2`, which gives the
    first; :math:`\|d\|_1 = \langle d, s - \bar s\rangle` with signs s, and
    :math:`\|s - \bar s\|^2 = K - (\sum_k s_k)^2 / K \leq c_K^2`, which gives the second; :math:`\rho \leq 2B` the
    third, the usual form. The first two are attained for every K, the third for even K and losses of both signs only:
    **for losses in [0, B] it can be halved** (:math:`\rho \leq B`). The first two hold for losses that are unbounded
    over x, such as the logarithmic, as long as the expectations are finite.

    Args:
        weights: ``(n,)``; bayes, teacher: ``(n, K)``; losses: ``(n, K)``.
    Raises:
        ValueError: shapes that do not fit, weights or rows that are not probabilities.
    """
    mass, table, (truth, guess) = checked(weights, losses, bayes, teacher)
    num_classes = table.shape[-1]
    spread = table.amax(-1) - table.amin(-1)
    distance = simplex.squared_distance(guess, truth).sqrt()
    constant = math.sqrt(num_classes - (num_classes % 2) / num_classes)
    return BiasBounds(
        l1=float(mass @ (spread * simplex.l1_distance(guess, truth))) / 2,
        l2=constant * float(mass @ (spread * distance)) / 2,
        sup=math.sqrt(num_classes) * float(table.abs().max()) * float(mass @ distance),
    )


# --------------------------------------------------------------------------------------------------------- the claim


def attaining_case(form: str, num_classes: int, seed: int, n: int = 4) -> Case:
    r"""Losses and a teacher that attain a bound of :func:`bias_bounds` (``sup`` for even K only), at random p*.

    ``l1``: mass moves from the cheapest outcome to the dearest. ``l2`` and ``sup``: losses :math:`\pm 1`, half of each,
    and :math:`p^t - p^*` proportional to the centred losses.
    """
    bayes = random_rows(seed, n, num_classes, floor=0.4)
    if form == "l1":
        losses = torch.rand(n, num_classes, generator=generator(seed, "losses"), dtype=torch.float64)
        direction = (losses == losses.amax(-1, keepdim=True)).double() - (
            losses == losses.amin(-1, keepdim=True)
        ).double()
    else:
        signs = torch.where(torch.arange(num_classes) % 2 == 0, 1.0, -1.0).double()
        order = torch.rand(n, num_classes, generator=generator(seed, "losses")).argsort(-1)
        losses = signs[order]
        direction = losses - losses.mean(-1, keepdim=True)
    step = 0.5 * float(bayes.min()) / float(direction.abs().max())
    weights = random_rows(derive(seed, "weights"), 1, n)[0]
    return Case(weights, bayes, bayes + step * direction, losses)


FORMS = ("l1", "l2", "sup")
DRAWN = 60  # random cases for the picture
FACTORS: Mapping[str, Callable[[int], float]] = {
    "halved": lambda num_classes: 0.5,
    "without_root_k": lambda num_classes: float(num_classes) ** -0.5,
}


def _within(make: Callable[[], Case], form: str, control: str | None = None) -> Outcome:
    case = make()
    bias = abs(risk_bias(case.weights, case.bayes, case.teacher, case.losses))
    limit = getattr(bias_bounds(case.weights, case.bayes, case.teacher, case.losses), form)
    if control is not None:
        limit *= FACTORS[control](case.losses.shape[-1])
    return Outcome(bias - limit, EXACT * case.scale, tightness=min(1.0, bias / limit))


def _attained(make: Callable[[], Case], form: str) -> Outcome:
    share = _within(make, form).tightness or 0.0
    return Outcome(1 - share, 1e-3, tightness=share)


def _bound_trials(settings: Settings) -> Sequence[Trial]:
    name, sizes = world_name(settings), [(7, 3), (6, 4), *([(5, 2), (12, 10)] if settings.full else [])]
    trials = [
        Trial(name, partial(_within, make, form), None, loss, f"{form}, {shape}")
        for loss, shape, make in cases(settings, "distilled-bias-bounds", sizes)
        for form in FORMS
    ]
    if settings.mixture is None:
        for form, num_classes in product(FORMS, (2, 3, 4, 9) if settings.full else (3, 4)):
            if form == "sup" and num_classes % 2:
                continue
            seed = derive(settings.seed, "distilled-bias-bounds", form, num_classes)
            make, detail = partial(attaining_case, form, num_classes, seed), f"{form} attained, K={num_classes}"
            trials += [
                Trial(name, partial(_attained, make, form), detail=detail),
                Trial(name, partial(_within, make, form, "halved"), "halved", detail=detail),
            ]
            if form != "l1":
                trials.append(
                    Trial(name, partial(_within, make, form, "without_root_k"), "without_root_k", detail=detail)
                )
    return trials


def _shares(case: Case) -> list[float]:
    """Of each bound, how much the bias uses."""
    bias = abs(risk_bias(case.weights, case.bayes, case.teacher, case.losses))
    return [bias / bound for bound in bias_bounds(case.weights, case.bayes, case.teacher, case.losses)]


def _tightness_picture(settings: Settings) -> Picture:
    """The share of each bound that random and built cases attain, against K."""
    classes = list(range(2, 11))
    seeds = [derive(settings.seed, "distilled-bias-bounds", "picture", k) for k in classes]
    drawn = [
        [max(each) for each in zip(*map(_shares, _one_point_cases(s, k)), strict=True)]
        for s, k in zip(seeds, classes, strict=True)
    ]
    series: list[dict[str, Any]] = []
    for place, (form, colour) in enumerate(zip(FORMS, "abc", strict=True)):
        built = [_shares(attaining_case(form, k, s))[place] for s, k in zip(seeds, classes, strict=True)]
        best = [shares[place] for shares in drawn]
        series += [
            {"name": f"{form}, built", "x": classes, "y": rounded(built), "style": "line+points", "colour": colour},
            {
                "name": f"{form}, best of {DRAWN} random",
                "x": classes,
                "y": rounded(best),
                "style": "dashed",
                "colour": colour,
            },
        ]
    return {
        "kind": "curves",
        "title": "Attained share of the bounds on the bias",
        "caption": (
            "The range forms (l1, l2) are attained for every number of classes, the sup form for even ones. Random "
            "losses and teachers use less of them the more classes there are."
        ),
        "x_label": "classes K",
        "y_label": "bias / bound",
        "x_log": False,
        "y_log": False,
        "series": series,
        "lines": [{"y": 1.0, "name": "the bound"}],
    }


def _one_point_cases(seed: int, num_classes: int) -> list[Case]:
    """Single points: random p*, teachers and losses in [-1, 1]."""
    losses = 2 * torch.rand(DRAWN, num_classes, generator=generator(seed, "drawn losses"), dtype=torch.float64) - 1
    bayes, teacher = (random_rows(derive(seed, name), DRAWN, num_classes) for name in ("drawn bayes", "drawn teacher"))
    one = torch.ones(1, dtype=torch.float64)
    return [Case(one, bayes[i, None], teacher[i, None], losses[i, None]) for i in range(DRAWN)]


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="distilled-bias-bounds",
        number="C5",
        title="Bias of the distilled risk and distance of the teacher",
        statement=(
            "The bias of the distilled risk is at most half the mean of range times L1 distance, at most c_K/2 times "
            "that of range times L2 distance, and at most sqrt(K) times the largest loss times the mean L2 distance; "
            "the first two are attained for every K"
        ),
        formula=(
            r"|\mathbb{E}\tilde{R} - R| \leq \frac{1}{2}\mathbb{E}[\rho\,\|p^t - p^*\|_1] \leq "
            r"\frac{c_K}{2}\mathbb{E}[\rho\,\|p^t - p^*\|_2] \leq \sqrt{K}\,B\,\mathbb{E}\|p^t - p^*\|_2"
        ),
        conditions="bounded losses for the third form; c_K squared is K for even K and K - 1/K for odd",
        source="derived here; Menon et al. 2021, Proposition 3 without constants",
        controls={
            "halved": "the constant is halved",
            "without_root_k": "the factor sqrt(K) is left out",
        },
        trials=_bound_trials,
        picture=_tightness_picture,
    ),
)
