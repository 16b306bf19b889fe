"""How many draws a paired comparison needs: power of the two-sided paired t-test, exactly, by the noncentral t law."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit
from scipy.stats import nct

__all__ = ["detectable_effect", "draws_needed", "power_of"]


def power_of(sd: float, effect: float, draws: int, level: float = 0.05) -> float:
    r"""Chance that a paired t-test over ``draws`` draws rejects "no difference".

    With normal differences of mean :math:`\delta` and standard deviation s the statistic is noncentral t with n - 1
    degrees of freedom and noncentrality :math:`\delta \sqrt n / s`.

    Args:
        sd: of the difference of one draw, > 0.
        effect: mean difference; its sign does not matter.
        draws: n >= 2.
        level: two-sided, in (0, 1).
    Raises:
        ValueError: a number outside its range.
    """
    _check(sd, effect, level)
    if draws < 2:
        raise ValueError(f"draws must be at least 2, received {draws}")
    critical = float(stdtrit(draws - 1, 1 - level / 2))
    # beyond 1e8 scipy returns nan, as it does for the tail on the other side of 0 where it underflows
    noncentrality = min(abs(effect) * math.sqrt(draws) / sd, 1e8)
    other_side = np.nan_to_num(nct.cdf(-critical, draws - 1, noncentrality))
    return float(nct.sf(critical, draws - 1, noncentrality) + other_side)


def draws_needed(sd: float, effect: float, power: float = 0.8, level: float = 0.05) -> int:
    """The smallest number of draws with which an effect is seen with the given power; at least 2.

    Args:
        sd: of the paired difference of one draw, >= 0.
        effect: the mean difference to be seen, not 0; its sign does not matter.
        power: in (level, 1).
        level: of the two-sided paired t-test.
    Raises:
        ValueError: a number outside its range.
    """
    if sd == 0 and effect:
        return 2
    _check(sd, effect, level)
    _check_power(power, level)
    if effect == 0:
        raise ValueError("effect must not be 0: no number of draws sees it")
    guess = (float(ndtri(1 - level / 2) + ndtri(power)) * sd / abs(effect)) ** 2
    if guess > 2**40:
        raise ValueError(f"effect {effect:g} is too small beside sd {sd:g}: more than 2^40 draws are needed")

    def enough(draws: int) -> bool:
        return power_of(sd, effect, draws, level) >= power

    # that of the normal test is a few draws off: search from there, in doubling steps
    high, step = max(2, math.ceil(guess)), 1
    low = high - step
    if enough(high):
        while low >= 2 and enough(low):
            step *= 2
            low, high = low - step, low
    else:
        low, high = high, high + step
        while not enough(high):
            step *= 2
            low, high = high, high + step
    low = max(low, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable_effect(sd: float, draws: int, power: float = 0.8, level: float = 0.05) -> float:
    """The effect that ``draws`` draws see with the given power: the inverse of :func:`draws_needed`; in sd's unit."""
    _check(sd, 1.0, level)
    _check_power(power, level)
    high = 1.0
    while power_of(1.0, high, draws, level) < power:
        high *= 2
    return sd * float(brentq(lambda effect: power_of(1.0, effect, draws, level) - power, 0.0, high, xtol=1e-12))


def _check(sd: float, effect: float, level: float) -> None:
    if not (math.isfinite(sd) and sd > 0):
        raise ValueError(f"sd must be positive and finite, received {sd}")
    if not math.isfinite(effect):
        raise ValueError(f"effect must be finite, received {effect}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), received {level}")


def _check_power(power: float, level: float) -> None:
    if not level < power < 1:
        raise ValueError(f"power must lie in (level, 1) = ({level:g}, 1), received {power}")
