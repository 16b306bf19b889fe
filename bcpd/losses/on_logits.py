"""Losses of the logits themselves, which are no functions of a softmax: the read-out decides what was learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.losses.loss import Loss, ReadOut, expected, identity, softmax, target_rows, wide

__all__ = ["CRAMMER_SINGER", "LOGIT_MSE", "hui_belkin"]


def _logit_mse(logits: Tensor, target: Tensor) -> Tensor:
    z = wide(logits)
    return (z - target_rows(target, z)).square().sum(-1)


def _projection(z: Tensor) -> Tensor:
    """Rows of logits projected onto the simplex; a row that is not finite (a diverged replica's) is read as ``nan``."""
    finite = z.isfinite().all(-1, keepdim=True)
    rows: Tensor = torch.where(finite, simplex.project(torch.where(finite, z, 0.0)), torch.nan)
    return rows


LOGIT_MSE = Loss(
    "logit_mse",
    _logit_mse,
    identity,
    readouts={"projection": _projection, "softmax": softmax},
    score="brier",
    correction=identity,
    population_logits=identity,
)
r"""Square loss on raw logits, :math:`\|e_y - z\|^2`: its minimiser is :math:`z = p`, which the read-out by projection
onto the simplex leaves as it is, and the read-out by softmax turns into something else."""


def hui_belkin(k: float = 4.0, M: float = 2.0) -> Loss:
    r"""Rescaled square loss :math:`\frac1K [k (z_y - M)^2 + \sum_{j \ne y} z_j^2]` (Hui & Belkin 2021) on logits.

    Coordinate by coordinate a weighted mean: minimiser :math:`z_j = k M p_j / (k p_j + 1 - p_j)`, with the inverse
    :math:`p_j = z_j / (k M - (k - 1) z_j)`. The default read-out ``inverse`` applies it and so finds p; it is continued
    linearly above :math:`z_j = M` (which no minimiser exceeds, and beyond which the formula has a pole), and
    projected onto the simplex. The read-out ``softmax`` of the same logits is not p. k = M = 1 is the square loss on
    logits divided by K.

    Args:
        k: weight of the label's own coordinate, > 0.
        M: its target, > 0.
    Raises:
        ValueError: a k or M that is not positive and finite.
    """
    for name, value in (("k", k), ("M", M)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be > 0 and finite, received {value}")

    def function(logits: Tensor, target: Tensor) -> Tensor:
        z = wide(logits)
        t = target_rows(target, z)
        own = torch.where(t == 0, 0.0, t * k * (z - M).square())
        others = torch.where(t == 1, 0.0, (1 - t) * z.square())
        return (own + others).sum(-1) / z.shape[-1]

    def population_logits(p: Tensor) -> Tensor:
        return k * M * p / (k * p + 1 - p)

    def inverse(z: Tensor) -> Tensor:
        inside = z.clamp(max=M)
        return _projection(inside / (k * M - (k - 1) * inside) + k / M * (z - inside))

    readouts: Mapping[str, ReadOut] = {"inverse": inverse, "softmax": softmax}
    return Loss(
        "hui_belkin",
        function,
        lambda p: inverse(population_logits(p)),
        readouts=readouts,
        score="brier",
        parameters={"k": k, "M": M},
        correction=identity,
        population_logits=population_logits,
    )


def _crammer_singer(logits: Tensor, target: Tensor) -> Tensor:
    z = wide(logits)
    top = z.topk(2, -1)
    own = torch.arange(z.shape[-1], device=z.device) == top.indices[..., :1]
    rival = torch.where(own, top.values[..., 1:], top.values[..., :1])
    return expected(torch.relu(1 + rival - z), target)


def _margin(p: Tensor) -> Tensor:
    """The mode leads by 1 where it has more than half the probability; else all logits are equal. Rows sum to 0."""
    lead = (p > 0.5).to(p.dtype)
    return lead - lead.mean(-1, keepdim=True)


CRAMMER_SINGER = Loss(
    "crammer_singer",
    _crammer_singer,
    lambda p: softmax(_margin(p)),
    population_logits=_margin,
)
r"""Multiclass hinge :math:`\max(0, 1 + \max_{j \ne y} z_j - z_y)` (Crammer & Singer 2001); K >= 2.

The risk is piecewise linear. With logits ordered :math:`z_1 \ge z_2 \ge \dots` and :math:`z_1 - z_2 \le 1` it is
:math:`1 + \sum_{y > 1} p_y (z_1 - z_y) - p_1 (z_1 - z_2) \ge 1 + (1 - 2 p_1)(z_1 - z_2)` (derived here). So where one
class has more than half the probability, it leads by exactly 1 and all others are equal, with risk
:math:`2 (1 - \max p)`; where none has, all logits are equal, with risk 1 (unique up to a shift if no :math:`p_k` is 0;
at exactly 1/2 every lead in [0, 1] is optimal, and the one of least norm, 0, is given). Either way p* is lost: **no
correction exists**, since the minimiser depends on p through its mode alone, and below 1/2 not even on that (which is
why the loss is inconsistent for the arg max: Liu 2007, Tewari & Bartlett 2007). The softmax read-out is a stand-in: it
says the same few things whatever p* is. For K = 2 this is the binary hinge :math:`\max(0, 1 - m_y)` of the margin
:math:`m = z_1 - z_0`, whose minimiser is :math:`\mathrm{sign}(2 \eta - 1)`.
"""
