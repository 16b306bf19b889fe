r"""Generalisation of the distilled risk over a finite class: an empirical Bernstein bound with explicit constants.

For losses in [0, 1], a class of M predictors and :math:`\tilde R(f)` the mean of N values
:math:`\langle t(x), \boldsymbol\ell(f(x))\rangle` with sample variance :math:`V_N(f)`, with probability
:math:`1 - \delta` for all f at once (Maurer & Pontil 2009, Theorem 4, with a union bound; Menon et al. 2021 use it)

.. math:: \mathbb E \tilde R(f) \leq \tilde R(f) + \sqrt{\frac{2 V_N(f) \log(2M/\delta)}{N}}
          + \frac{7 \log(2M/\delta)}{3(N - 1)} .

With t = p* the left side is the risk R(f); with a teacher, R(f) exceeds it by minus the bias, at most
:func:`bcpd.theory.distilled.distilled_bias.bias_bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

from bcpd import simplex
from bcpd.losses import Loss
from bcpd.mixtures import FiniteMixture
from bcpd.seeds import derive
from bcpd.tensors import ArrayLike, float64
from bcpd.theory.claim import Claim, Outcome, Settings, Trial
from bcpd.theory.finite_tables import default_tables, losses_of, outcome_losses, random_rows, world_name

__all__ = ["CLAIMS", "bernstein_margin", "most_violations"]

FALSE_ALARM = 2.9e-7
"""One-sided probability beyond 5 standard errors of a normal."""


def bernstein_margin(variance: ArrayLike, size: int, predictors: int, delta: float) -> Tensor:
    r""":math:`\sqrt{2 V_N \log(2M/\delta)/N} + 7\log(2M/\delta)/(3(N-1))`, to be added to a mean of [0, 1] values.

    Args:
        variance: :math:`V_N`, the unbiased sample variance (divisor N - 1), any shape.
        size: N >= 2; predictors: M >= 1, among which the choice may depend on the sample; delta: in (0, 1).
    Returns:
        float64, the shape of ``variance``.
    Raises:
        ValueError: a negative variance, or a size, number or probability out of range.
    """
    spread = float64(variance, "variance")
    if bool((spread < 0).any()):
        raise ValueError(f"variance must be >= 0, received a minimum of {float(spread.min())}")
    if size < 2 or predictors < 1 or not 0 < delta < 1:
        raise ValueError(
            f"size must be at least 2, predictors at least 1 and delta in (0, 1), "
            f"received {size}, {predictors} and {delta}"
        )
    log = math.log(2 * predictors / delta)
    return (2 * spread * log / size).sqrt() + 7 * log / (3 * (size - 1))


def most_violations(samples: int, delta: float, false_alarm: float = FALSE_ALARM) -> int:
    """The most failures in ``samples`` trials that a failure probability of ``delta`` allows.

    The smallest c with P(Binomial(samples, delta) > c) <= ``false_alarm``: exact, one-sided.
    """
    return int(binom.isf(false_alarm, samples, delta))


# ------------------------------------------------------------------------------------------------------------ the claim

SAMPLES, DELTA, PREDICTORS = 2000, 0.05, 200


@dataclass(frozen=True)
class _Class:
    """M random predictors on a table: the weights, and ``(n, M)`` values in [0, 1] by targets and by p*."""

    weights: Tensor
    values: Tensor
    risks: Tensor
    allowance: Tensor

    @classmethod
    def random(cls, table: FiniteMixture, loss: Loss, seed: int, *, teacher: bool) -> _Class:
        """Predictors near p*, losses scaled to [0, 1].

        The teacher is certain of the class that each x most likely is: it promises such predictors too little risk.
        """
        n, k = table.rows.shape
        logits = random_rows(derive(seed, "predictors"), n * PREDICTORS, k).log().view(n, PREDICTORS, k)
        logits = logits + (0.98 * table.rows + 0.02 / k).log()[:, None]
        losses = outcome_losses(loss, logits).double()
        losses = (losses - losses.min()) / (losses.max() - losses.min())
        targets = torch.nn.functional.one_hot(table.rows.argmax(-1), k).double() if teacher else table.rows
        spread = losses.amax(-1) - losses.amin(-1)
        bias = spread * simplex.l1_distance(targets, table.rows)[:, None] / 2
        mean_loss = (table.rows[:, None] * losses).sum(-1)
        values = (targets[:, None] * losses).sum(-1)
        return cls(table.weights, values, table.weights @ mean_loss, table.weights @ bias)


def _violations(
    table: FiniteMixture, loss: Loss, seed: int, size: int, *, teacher: bool = False, control: str | None = None
) -> Outcome:
    """The share of samples in which any predictor's risk exceeds its bound."""
    tried = _Class.random(table, loss, seed, teacher=teacher)
    draw = np.random.default_rng(derive(seed, "samples", size))
    chances = tried.weights.numpy()
    counts = torch.tensor(draw.multinomial(size, chances / chances.sum(), SAMPLES)).double()
    mean = counts @ tried.values / size
    variance = (counts @ tried.values.square() / size - mean.square()).clamp(min=0) * size / (size - 1)
    margin = bernstein_margin(variance, size, PREDICTORS, DELTA)
    if control == "quarter":
        margin = margin / 4
    if teacher and control != "dropped_bias":
        margin = margin + tried.allowance
    share = float((tried.risks > mean + margin).any(1).double().mean())
    stderr = math.sqrt(max(share * (1 - share), 1 / SAMPLES) / SAMPLES)
    return Outcome(share, most_violations(SAMPLES, DELTA) / SAMPLES, 1, stderr)


def _trials(settings: Settings) -> Sequence[Trial]:
    seed = derive(settings.seed, "finite-class-bernstein")
    sizes = [(24, 3), *([(40, 10)] if settings.full else [])]
    trials: list[Trial] = []
    for number, table in enumerate(default_tables(settings, seed, sizes)):
        for loss in losses_of(settings):
            check = partial(_violations, table, loss, derive(seed, "class", number))
            shape = f"n={len(table.weights)}, K={table.num_classes}"
            tried: list[tuple[str, Callable[..., Outcome], str | None]] = [
                ("N=50", partial(check, size=50), None),
                ("N=200000", partial(check, size=200_000), "quarter"),
            ]
            # a teacher that is hardly wrong makes no bias to speak of
            if float(table.weights @ (1 - table.rows.amax(-1))) > 0.1:
                tried.append(("teacher, N=2000", partial(check, size=2000, teacher=True), "dropped_bias"))
            for name, right, control in tried:
                detail = f"{name}, {shape}"
                trials.append(Trial(world_name(settings), right, None, loss.name, detail))
                if control is not None:
                    wrong = partial(right, control=control)
                    trials.append(Trial(world_name(settings), wrong, control, loss.name, detail))
    return trials


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="finite-class-bernstein",
        number="C6",
        title="Empirical Bernstein bound of the distilled risk",
        statement=(
            "With probability 1 - delta the risk of every predictor of a finite class is at most its distilled risk "
            "plus Maurer and Pontil's margin, plus the bias bound where a teacher supplies the targets"
        ),
        formula=(
            r"R(f) \leq \tilde{R}(f) + \sqrt{\frac{2 V_N \log(2M/\delta)}{N}} + \frac{7 \log(2M/\delta)}{3(N-1)} + "
            r"\frac{1}{2}\mathbb{E}[\rho\,\|p^t - p^*\|_1]"
        ),
        conditions="losses in [0, 1]; M predictors fixed before the sample, and a teacher independent of it",
        source="Maurer & Pontil 2009, Theorem 4, with a union bound; Menon et al. 2021 for its use",
        controls={
            "quarter": "the margin is divided by 4",
            "dropped_bias": "the bias of the teacher is left out",
        },
        trials=_trials,
    ),
)
