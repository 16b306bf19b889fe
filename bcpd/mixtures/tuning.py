"""Find the separation at which a mixture has a wanted Bayes error."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

from scipy.optimize import brentq

__all__ = ["solve_separation"]

_LADDER = [4.0**k for k in range(7)]  # 1 .. 4096
_DESCENT = [4.0**-k for k in range(1, 5)]


def solve_separation(error_at: Callable[[float], float], target: float, monotone: bool) -> float:
    """A separation s > 0 with ``error_at(s) == target``, found by bracketing outwards from s = 1, then Brent's method.

    Args:
        error_at: Bayes error as a continuous function of the separation, defined on ``[0, inf)``.
        target: the wanted error.
        monotone: ``error_at`` is known to decrease; then its two ends alone decide what is reachable.
    Raises:
        ValueError: no bracket; the message has the reachable range (open: its ends are limits).
    """
    if not math.isfinite(target):
        raise ValueError(f"target_bayes_error must be a finite number, received {target!r}")
    error = cache(error_at)
    lowest, highest = sorted((error(_LADDER[-1]), error(0.0)))
    if monotone and not lowest < target < highest:
        raise _unreachable(target, lowest, highest)
    steps = _outwards()
    for near, far in steps if target > 0 else []:
        if error(near) == target:
            return near
        if (error(near) - target) * (error(far) - target) < 0:
            return float(brentq(lambda s: error(s) - target, near, far, xtol=1e-8, rtol=1e-8))
    scanned = [error(s) for step in steps for s in step]
    raise _unreachable(target, min(scanned), max(scanned))


def _outwards() -> list[tuple[float, float]]:
    """Adjacent pairs of the ladder 0, 1/256, ..., 1, ..., 4096, those next to 1 first."""
    up = list(pairwise(_LADDER))
    down = [1.0, *_DESCENT, 0.0]
    pairs = list(pairwise(down))
    mixed = [pair for both in zip(up, pairs, strict=False) for pair in both]
    return mixed + up[len(pairs) :] + pairs[len(up) :]


def _unreachable(target: float, lowest: float, highest: float) -> ValueError:
    return ValueError(
        f"a Bayes error of {target:g} cannot be reached by moving the classes of this mixture; "
        f"reachable: strictly between {lowest:.6g} and {highest:.6g}"
    )
