"""Numbers and intervals as text: one formatting for the terminal and the page."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["MINUS", "as_float", "interval", "number", "p_value", "power_of_ten", "round_number", "scientific"]

MINUS = "\N{MINUS SIGN}"
NBSP = "\N{NO-BREAK SPACE}"
TIMES = "\N{MULTIPLICATION SIGN}"
UNDEFINED = "undefined"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def as_float(value: Any) -> float:
    """A stored number, also one of the strings ``"nan"``, ``"inf"``, ``"-inf"``; ``None`` is nan.

    Raises:
        ValueError: anything else.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"a stored number must be a number or one of 'nan', 'inf', '-inf', received {value!r}")
    try:
        return float(value)
    except ValueError:
        raise ValueError(
            f"a stored number must be a number or one of 'nan', 'inf', '-inf', received {value!r}"
        ) from None


def number(value: Any, decimals: int | None = None) -> str:
    """``-0.00214`` as ``−0.00214``: three significant digits, or so many decimals; never ``nan`` or ``-0.0``."""
    real = as_float(value)
    if math.isnan(real):
        return UNDEFINED
    if math.isinf(real):
        return "∞" if real > 0 else f"{MINUS}∞"
    if decimals is None:
        if real != 0 and not 1e-4 <= abs(real) < 1e6:
            return scientific(real)
        decimals = 0 if real == 0 else max(0, 2 - math.floor(math.log10(abs(real))))
    text = f"{abs(real):.{decimals}f}"
    negative = real < 0 and float(text) != 0
    return f"{MINUS if negative else ''}{text}"


def scientific(value: Any) -> str:
    """``6.1e-16`` as ``6.1×10⁻¹⁶``; numbers from 0.001 to 999 as they are, to two significant digits."""
    real = as_float(value)
    if not math.isfinite(real):
        return number(real)
    if real == 0:
        return "0"
    mantissa, exponent = f"{abs(real):.1e}".split("e")
    power = int(exponent)
    sign = MINUS if real < 0 else ""
    if -3 <= power < 3:
        return f"{sign}{float(f'{abs(real):.2g}'):.{max(0, 1 - power)}f}"
    return f"{sign}{mantissa}{TIMES}10{str(power).translate(_SUPERSCRIPTS)}"


def round_number(value: Any) -> str:
    """A number that somebody chose, in as few digits as it has, at most two of a power: ``10⁻¹²``, ``5``, ``0.001``."""
    real = as_float(value)
    if not math.isfinite(real) or 1e-3 <= abs(real) < 1e4 or real == 0:
        return number(real) if not math.isfinite(real) else f"{real:g}".replace("-", MINUS)
    mantissa, exponent = f"{abs(real):.1e}".split("e")
    digits = mantissa.removesuffix(".0")
    factor = "" if digits == "1" else digits + TIMES
    return f"{MINUS if real < 0 else ''}{factor}{power_of_ten(int(exponent))}"


def power_of_ten(exponent: int) -> str:
    """``10⁻¹²``; ``1`` and ``10`` without an exponent."""
    return {0: "1", 1: "10"}.get(exponent, f"10{str(exponent).translate(_SUPERSCRIPTS)}")


def interval(mean: Any, low: Any, high: Any, scale: float = 1.0) -> str:
    """``−0.0021 [−0.0030, −0.0012]``: as many decimals as give the half width two significant digits.

    An interval that is not finite (one unit, a diverged run) is said to be undefined.
    """
    centre, below, above = (as_float(value) * scale for value in (mean, low, high))
    if not all(math.isfinite(value) for value in (centre, below, above)):
        return f"{number(centre)} (interval {UNDEFINED})" if math.isfinite(centre) else number(centre)
    half = (above - below) / 2
    if half <= 0:
        return f"{number(centre)} [{number(below)}, {number(above)}]"
    decimals = min(max(0, 1 - math.floor(math.log10(half))), 12)
    return f"{number(centre, decimals)} [{number(below, decimals)}, {number(above, decimals)}]"


def p_value(value: Any) -> str:
    """``p = 0.013``, or ``p < 0.001``, with spaces that do not break."""
    real = as_float(value)
    if math.isnan(real):
        return f"p{NBSP}{UNDEFINED}"
    if real < 0.001:
        return f"p{NBSP}<{NBSP}0.001"
    return f"p{NBSP}={NBSP}{real:.2g}" if real < 0.995 else f"p{NBSP}={NBSP}1"
