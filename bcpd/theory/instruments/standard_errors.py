"""Are the error bars that everything is reported with what they say they are?"""

from __future__ import annotations

import math
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcpd.measure import distance_of_probabilities
from bcpd.seeds import derive, generator
from bcpd.stats import mean_interval, paired_difference
from bcpd.theory.claim import Claim, Outcome, Settings, Trial, monte_carlo

__all__ = ["CLAIMS"]

POINTS = 400
UNITS = 3
MEASURED = ("mse", "kl", "accuracy")


def _standard_error_trials(settings: Settings) -> list[Trial]:
    samples = 1000 if settings.full else 400
    trials = []
    for key in MEASURED:
        run = partial(_standardised, derive(settings.seed, "standard errors"), key, samples)
        for control in (None, "variance", "spread"):
            trials.append(Trial("finite X", partial(run, control), control, detail=key))
    return trials


def _standardised(seed: int, key: str, samples: int, control: str | None) -> Outcome:
    r"""How far the mean of :math:`z^2` lies from 1, in its standard errors, :math:`z = (\hat d - d) / \mathrm{se}`.

    The mean of z squared is 1 up to O(1/n), here less than 0.01 (n = 400 points, bounded integrands), against a
    standard error of 0.04 to 0.07.
    """
    errors, stderrs = _errors(seed, samples)[key]
    if control == "variance":
        stderrs = stderrs.square()
    elif control == "spread":
        stderrs = stderrs * math.sqrt(POINTS)
    mean = float((errors / stderrs).square().mean())
    # under the claim z is nearly normal, so that z^2 has variance 2
    return monte_carlo(mean, math.sqrt(2 / samples), 1.0)


@lru_cache(maxsize=1)
def _errors(seed: int, samples: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Errors and reported standard errors of repeated measurements, by quantity, ``(samples,)`` each."""
    draw = generator(seed, "world")
    weights = torch.rand(30, generator=draw, dtype=torch.float64) + 0.2
    weights = weights / weights.sum()
    logits, noise = (torch.randn(30, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    log_bayes, log_q = (1.2 * logits).log_softmax(-1), (1.2 * logits + 0.8 * noise).log_softmax(-1)
    truth = distance_of_probabilities(log_q.exp(), log_bayes, weights=weights, log_q=log_q)
    index = torch.multinomial(weights, POINTS * samples, replacement=True, generator=generator(seed, "sample"))
    found = [
        # each sample is measured as a user's file of probabilities would be
        distance_of_probabilities(log_q[at].exp(), log_bayes[at], log_q=log_q[at], decompose=False)
        for at in index.reshape(samples, POINTS)
    ]
    return {
        key: (
            torch.tensor([measured[key].value - truth[key].value for measured in found], dtype=torch.float64),
            torch.tensor([measured[key].stderr for measured in found], dtype=torch.float64),
        )
        for key in MEASURED
    }


def _interval_trials(settings: Settings) -> list[Trial]:
    trials = []
    for number, (key, wrong) in enumerate((("mean_interval", "normal_quantile"), ("paired_difference", "unpaired"))):
        run = partial(_coverage, derive(settings.seed, "coverage", number), key, 16_000 if settings.full else 5_000)
        trials += [Trial("three normal units", partial(run, False), detail=key)]
        trials += [Trial("three normal units", partial(run, True), wrong, detail=key)]
    return trials


def _coverage(seed: int, key: str, repeats: int, wrong: bool) -> Outcome:
    """Misses of a 95 % interval among so many repetitions, as a deviation from 5 % in its standard errors."""
    units = torch.randn(repeats, 3, UNITS, generator=generator(seed, "units"), dtype=torch.float64).numpy()
    misses = sum(_misses(key, rows, wrong) for rows in units)
    return monte_carlo(misses / repeats, math.sqrt(0.05 * 0.95 / repeats), 0.05)


def _misses(key: str, rows: NDArray[np.float64], wrong: bool) -> bool:
    if key == "mean_interval":
        interval = mean_interval(rows[0])
        if wrong:
            return abs(interval.mean) > 1.959964 * interval.stderr
        return not interval.low <= 0 <= interval.high
    # two arms that share most of their luck and have the same mean
    left, right = rows[0] + 0.3 * rows[1], rows[0] + 0.3 * rows[2]
    if wrong:
        return paired_difference(left, np.roll(right, 1)).p_value < 0.05
    return paired_difference(left, right).p_value < 0.05


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "standard-errors",
        "B13",
        "The standard errors of measured distances are right",
        "Over repeated samples, the error of a measured distance divided by its reported standard error has mean "
        "square 1.",
        r"\mathbb{E}\left[(\hat{d} - d)^2 / \widehat{\mathrm{se}}^2\right] \approx 1",
        "Independent points; up to O(1/n).",
        "central limit theorem",
        {
            "variance": "the variance of the mean is reported in place of its root",
            "spread": "the standard deviation of a point is reported in place of that of the mean",
        },
        _standard_error_trials,
        repeat=False,
    ),
    Claim(
        "interval-coverage",
        "B13",
        "95 % intervals and p-values keep their level",
        "Over repeated experiments with three units, the 95 % interval misses the truth, and the paired test rejects "
        "equality, in 5 % of the cases.",
        r"P(\mu \notin [\bar{v} \mp t_{n-1}\, s/\sqrt{n}]) = 0.05",
        "Normal units, here three; exact for every n.",
        "Student 1908",
        {
            "normal_quantile": "1.96 standard errors are taken for Student's quantile",
            "unpaired": "the units of the second arm are shuffled before pairing",
        },
        _interval_trials,
        repeat=False,
    ),
)
