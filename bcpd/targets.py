r"""Families of imperfect targets around a known p*: what a student may be shown instead of the truth.

A family moves p* by a ``level`` in ``[0, highest]``; at level 0 every one of them is p* itself. Families differ in what
they do to a row: add noise that is zero on average given x (*unbiased*: a student's population target is still p*, and
only the variance of its gradient changes), or change the conditional mean (*biased*), with or without moving the
largest entry. With levels chosen so that several families have one MSE to p*, or one KL, the two distances can be told
apart; within one family they are rank-identical.

Rows are handed around by their logarithms, float64 ``(N, K)``: a probability that underflows still has a finite one,
and KL to p* needs it. Random numbers depend on the seed alone, not on the level: two levels of one seed are compared
on common random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import gammaincinv
from torch import Tensor

from bcpd import simplex
from bcpd.seeds import generator
from bcpd.tensors import ArrayLike, float64, labels

__all__ = ["TARGETS", "Moments", "TargetFamily", "bias_and_variance", "level_for", "permuted", "reachable"]

Distance = Literal["mse", "kl"]

CLIP = 0.01
"""A clipped entry keeps this share of p*, so that no probability becomes 0 and KL to p* stays finite."""


@dataclass(frozen=True)
class Moments:
    """Conditional moments of a target given x.

    Attributes:
        mean: :math:`E[t \\mid x]`, ``(N, K)``.
        variance: :math:`E[\\|t - E[t \\mid x]\\|^2 \\mid x]`, summed over classes, ``(N,)``.
    """

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class TargetFamily:
    r"""One way to be wrong about p*.

    Attributes:
        name: the key in :data:`TARGETS`.
        formula: t as a function of p* = p, the label y and the level.
        unbiased: whether :math:`E[t \mid x] = p^*` at every level.
        keeps_argmax: whether every row keeps the largest entry of p*, and with it the Bayes decision.
        highest: the largest level.
        log_rows: ``(log p*, y, level, seed) -> log t`` without checks.
        moments: ``(p*, level) ->`` :class:`Moments`; None where there is no closed form.
    """

    name: str
    formula: str
    unbiased: bool
    keeps_argmax: bool
    highest: float
    log_rows: Callable[[Tensor, Tensor, float, int], Tensor]
    moments: Callable[[Tensor, float], Moments] | None

    def __call__(self, log_bayes: ArrayLike, y: ArrayLike, level: float, seed: int = 0) -> Tensor:
        """Logarithms of the targets, float64 ``(N, K)``.

        Args:
            log_bayes: log p* ``(N, K)``.
            y: labels drawn from p*, ``(N,)``; only ``label_mixture`` looks at them.
            level: in ``[0, highest]``; 0 is p*.
            seed: root seed of the family's noise.
        Raises:
            ValueError: a level out of range, or rows and labels that do not belong together.
        """
        rows, drawn = _checked(log_bayes, y)
        if not 0 <= level <= self.highest:
            raise ValueError(f"the level of {self.name} must lie in [0, {self.highest:g}], received {level}")
        return rows if level == 0 else self.log_rows(rows, drawn, float(level), seed)

    def expected_mse(self, log_bayes: ArrayLike, level: float) -> float:
        r""":math:`E_x\,E[\|t - p^*\|^2 \mid x]` over the rows, labels and noise averaged out.

        Raises:
            ValueError: a family without closed form.
        """
        if self.moments is None:
            raise ValueError(f"{self.name} has no closed form of its MSE; average redraws with bias_and_variance")
        squared_bias, variance = _parts(self.moments(float64(log_bayes, "log_bayes").exp(), level), log_bayes)
        return squared_bias + variance


def bias_and_variance(
    family: TargetFamily, log_bayes: ArrayLike, level: float, *, redraws: int = 64, seed: int = 0
) -> tuple[float, float]:
    r"""The two parts of the expected MSE: :math:`E_x\|E[t|x] - p^*\|^2` and :math:`E_x\,E\|t - E[t|x]\|^2`.

    Exact where the family has closed-form moments; otherwise labels and noise are redrawn M times, with
    :math:`\|\bar t - p^*\|^2 - s^2/M` for the bias, which is unbiased and may fall below 0.

    Args:
        redraws: M >= 2, for families without closed form.
        seed: of the redraws.
    Raises:
        ValueError: fewer than 2 redraws, or as for the family itself.
    """
    if redraws < 2:
        raise ValueError(f"redraws must be at least 2, received {redraws}")
    log_p = float64(log_bayes, "log_bayes")
    p = log_p.exp()
    if family.moments is not None:
        return _parts(family.moments(p, level), log_p)
    total, squares = torch.zeros_like(p), torch.zeros(len(p), dtype=torch.float64)
    stream = generator(seed, "target labels")
    for number in range(redraws):
        y = torch.multinomial(p, 1, generator=stream)[:, 0]
        rows = family(log_p, y, level, int(torch.randint(2**62, (), generator=stream)) + number).exp()
        gap = rows - p  # around p*, not around 0: less is lost when the squares are subtracted
        total += gap
        squares += gap.square().sum(-1)
    mean = total / redraws
    variance = (squares - redraws * mean.square().sum(-1)) / (redraws - 1)
    return float((mean.square().sum(-1) - variance / redraws).mean()), float(variance.mean())


def reachable(family: TargetFamily, distance: Distance, log_bayes: ArrayLike, y: ArrayLike, seed: int = 0) -> float:
    """The largest distance to p* that the family reaches on these rows: the one at its highest level."""
    log_p, drawn = _checked(log_bayes, y)
    return _distance(distance, log_p, family(log_p, drawn, family.highest, seed))


def level_for(
    family: TargetFamily, distance: Distance, goal: float, log_bayes: ArrayLike, y: ArrayLike, seed: int = 0
) -> float:
    """The level at which the family's targets have the distance ``goal`` to p*, on these very rows and noise.

    Bracketed root finding on common random numbers. Of ``swap``, which exchanges whole rows, the distance is a
    staircase: the level is met to within one row.

    Args:
        distance: ``mse`` (summed over classes) or ``kl``, :math:`KL(p^* \\| t)` in nats; means over the rows.
        goal: > 0.
        log_bayes, y: ``(N, K)`` and ``(N,)``.
    Raises:
        ValueError: a goal out of reach; the message says what is reachable.
    """
    if not goal > 0:
        raise ValueError(f"goal must be a positive distance, received {goal}")
    log_p, drawn = _checked(log_bayes, y)
    most = _distance(distance, log_p, family(log_p, drawn, family.highest, seed))
    if goal > most:
        raise ValueError(f"{family.name} reaches a {distance} of 0 to {most:.4g} on these rows, received {goal:g}")

    def excess(level: float) -> float:
        found = _distance(distance, log_p, family(log_p, drawn, level, seed)) if level else 0.0
        return min(found, 2 * goal + 1) - goal  # an infinite KL still has a side

    return float(brentq(excess, 0.0, family.highest, xtol=1e-9, rtol=1e-9))


def permuted(log_bayes: ArrayLike, seed: int = 0) -> Tensor:
    """The rows of log p* dealt out to other x: the same rows, the same marginals, and nothing about x."""
    rows = float64(log_bayes, "log_bayes")
    return rows[torch.randperm(len(rows), generator=generator(seed, "target", "permuted"))]


# ------------------------------------------------------------------------------------------------------------- formulas


def _label_mixture(log_p: Tensor, y: Tensor, level: float, seed: int) -> Tensor:
    rows = log_p + (math.log1p(-level) if level < 1 else -math.inf)
    place = y.unsqueeze(-1)
    # logaddexp of two -inf is nan in neither torch nor here: log u is finite
    return rows.scatter(-1, place, torch.logaddexp(rows.gather(-1, place), rows.new_tensor(math.log(level))))


def _dirichlet(log_p: Tensor, y: Tensor, level: float, seed: int) -> Tensor:
    # log Gamma(a) = log Gamma(a + 1) + log(U) / a: by quantiles, smooth in the level, and nothing underflows
    concentration = (1 / level**2 - 1) * log_p.exp()
    first, second = (_uniform(log_p.shape, seed, f"dirichlet {number}") for number in (0, 1))
    boosted = torch.from_numpy(np.asarray(gammaincinv((concentration + 1).numpy(), first.numpy())))
    return (boosted.log() + second.log() / concentration.clamp(min=1e-300)).log_softmax(-1)


def _top_two_noise(log_p: Tensor, y: Tensor, level: float, seed: int) -> Tensor:
    values, places = log_p.topk(2, -1)
    sign = torch.where(_uniform(log_p.shape[:1], seed, "top_two_noise") < 0.5, -1.0, 1.0).double()
    amount = values[:, 1].exp() * level
    first = (values[:, 0].exp() + sign * amount).log()
    second = values[:, 1] + (-level * sign).log1p()
    return log_p.scatter(-1, places, torch.stack([first, second], -1))


def _clipped_gaussian(log_p: Tensor, y: Tensor, level: float, seed: int) -> Tensor:
    p = log_p.exp()
    noisy = p + level * _normal(log_p.shape, seed, "clipped_gaussian")
    rows = torch.where(noisy > CLIP * p, noisy.clamp(min=1e-300).log(), log_p + math.log(CLIP))
    return rows - rows.logsumexp(-1, keepdim=True)


def _logit_noise(log_p: Tensor, y: Tensor, level: float, seed: int) -> Tensor:
    return (log_p + level * _normal(log_p.shape, seed, "logit_noise")).log_softmax(-1)


def _smoothing(log_p: Tensor, y: Tensor, level: float, seed: int) -> Tensor:
    return _mixed(log_p, torch.full_like(log_p, -math.log(log_p.shape[-1])), level)


def _flatten(log_p: Tensor, y: Tensor, level: float, seed: int) -> Tensor:
    return ((1 - level) * log_p).log_softmax(-1)


def _sharpen(log_p: Tensor, y: Tensor, level: float, seed: int) -> Tensor:
    return (log_p / (1 - level)).log_softmax(-1)


def _swap(log_p: Tensor, y: Tensor, level: float, seed: int) -> Tensor:
    values, places = log_p.topk(2, -1)
    exchanged = log_p.scatter(-1, places, values.flip(-1))
    return torch.where((_uniform(log_p.shape[:1], seed, "swap") < level).unsqueeze(-1), exchanged, log_p)


def _leak(log_p: Tensor, y: Tensor, level: float, seed: int) -> Tensor:
    return _mixed(log_p, log_p.roll(1, -1), level)


def _unbiased(p: Tensor, level: float) -> Moments:
    return Moments(p, level**2 * (1 - p.square().sum(-1)))


def _top_two_moments(p: Tensor, level: float) -> Moments:
    return Moments(p, 2 * (level * p.topk(2, -1).values[:, 1]).square())


def _swap_moments(p: Tensor, level: float) -> Moments:
    values, places = p.topk(2, -1)
    gap = values[:, :1] - values[:, 1:]
    mean = p.scatter(-1, places, values + level * torch.cat([-gap, gap], -1))
    return Moments(mean, level * (1 - level) * 2 * gap[:, 0].square())


def _fixed(rows: Callable[[Tensor, Tensor, float, int], Tensor], p: Tensor, level: float) -> Moments:
    """Of a function of p* alone."""
    none = torch.zeros(len(p), dtype=torch.long)
    return Moments(rows(p.log(), none, level, 0).exp() if level else p, torch.zeros(len(p), dtype=torch.float64))


_FAMILIES = (
    TargetFamily("label_mixture", "t = u e_y + (1 - u) p", True, False, 1.0, _label_mixture, _unbiased),
    TargetFamily("dirichlet", "t ~ Dirichlet(a p), 1 / (a + 1) = u^2", True, False, 0.999, _dirichlet, _unbiased),
    TargetFamily(
        "top_two_noise",
        "t = p +- u p_(2) (e_(1) - e_(2)), a fair coin",
        True,
        False,
        1 - 1e-9,
        _top_two_noise,
        _top_two_moments,
    ),
    TargetFamily(
        "clipped_gaussian", "t ~ max(p + s e, p / 100), e standard normal", False, False, 4.0, _clipped_gaussian, None
    ),
    TargetFamily("logit_noise", "t = softmax(log p + s e), e standard normal", False, False, 20.0, _logit_noise, None),
    TargetFamily("smoothing", "t = (1 - s) p + s / K", False, True, 1 - 1e-9, _smoothing, partial(_fixed, _smoothing)),
    TargetFamily("flatten", "t ~ p^(1 - s)", False, True, 1 - 1e-9, _flatten, partial(_fixed, _flatten)),
    TargetFamily("sharpen", "t ~ p^(1 / (1 - s))", False, True, 0.999, _sharpen, partial(_fixed, _sharpen)),
    TargetFamily("swap", "the top two entries exchanged on a share s of x", False, False, 1.0, _swap, _swap_moments),
    TargetFamily("leak", "t_k = (1 - s) p_k + s p_(k-1)", False, False, 1.0, _leak, partial(_fixed, _leak)),
)

TARGETS: Mapping[str, TargetFamily] = {family.name: family for family in _FAMILIES}
r"""The families by name; p is p*, ``p_(1)`` its largest entry.

=================  ================================================  ==================================================
label_mixture      :math:`u e_y + (1 - u) p`                         :math:`u^2 E[1 - \|p\|^2]`, unbiased
dirichlet          Dirichlet(:math:`\alpha p`)                       :math:`E[1 - \|p\|^2] / (\alpha + 1)`, unbiased
top_two_noise      :math:`p \pm u p_{(2)} (e_{(1)} - e_{(2)})`       :math:`2 u^2 E[p_{(2)}^2]`, unbiased
clipped_gaussian   :math:`\propto \max(p + s \epsilon, p / 100)`     no closed form
logit_noise        :math:`\mathrm{softmax}(\log p + s \epsilon)`     no closed form
smoothing          :math:`(1 - s) p + s / K`                         :math:`s^2 E\|p - 1/K\|^2`
flatten            :math:`\propto p^{1 - s}`                         a function of p
sharpen            :math:`\propto p^{1 / (1 - s)}`                   a function of p
swap               top two exchanged on a share s of x               :math:`2 s\, E[(p_{(1)} - p_{(2)})^2]`
leak               :math:`(1 - s) p_k + s p_{k-1}` (cyclic)          :math:`s^2 E \sum_k (p_k - p_{k-1})^2`
=================  ================================================  ==================================================
"""


def _mixed(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """log((1 - share) a + share b)."""
    if share == 1:
        return log_b
    return torch.logaddexp(log_a + math.log1p(-share), log_b + math.log(share))


def _uniform(shape: tuple[int, ...], seed: int, what: str) -> Tensor:
    """In the open interval (0, 1)."""
    drawn = torch.rand(shape, dtype=torch.float64, generator=generator(seed, "target", what))
    return drawn.clamp(min=2.0**-54)


def _normal(shape: tuple[int, ...], seed: int, what: str) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, "target", what))


def _distance(name: Distance, log_p: Tensor, log_t: Tensor) -> float:
    if name == "mse":
        return float(simplex.squared_distance(log_p.exp(), log_t.exp()).mean())
    if name == "kl":
        return float(simplex.kl_from_log(log_p, log_t).mean())
    raise ValueError(f"distance must be 'mse' or 'kl', received {name!r}")


def _parts(moments: Moments, log_bayes: ArrayLike) -> tuple[float, float]:
    p = float64(log_bayes, "log_bayes").exp()
    return float(simplex.squared_distance(moments.mean, p).mean()), float(moments.variance.mean())


def _checked(log_bayes: ArrayLike, y: ArrayLike) -> tuple[Tensor, Tensor]:
    rows = float64(log_bayes, "log_bayes")
    if rows.ndim != 2 or rows.shape[-1] < 2 or not len(rows):
        raise ValueError(f"log_bayes must have shape (N, K) with K >= 2, received {tuple(rows.shape)}")
    error = float(rows.logsumexp(-1).abs().max())
    if not error <= 1e-6:
        raise ValueError(f"log_bayes must be log probabilities, received a row with log-sum-exp {error:g}")
    drawn = labels(y, rows.shape[-1], "y")
    if drawn.shape != rows.shape[:1]:
        raise ValueError(f"y must have shape {tuple(rows.shape[:1])}, received {tuple(drawn.shape)}")
    return rows, drawn
