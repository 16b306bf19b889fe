"""An estimate says its value, its error and how it was obtained, and nothing it does not know."""

from __future__ import annotations

import math

import pytest

from bcpd.estimate import Estimate


def test_interval_is_normal() -> None:
    low, high = Estimate(1.0, 0.1, "monte_carlo").interval()
    assert (low, high) == pytest.approx((1 - 0.1959964, 1 + 0.1959964), abs=1e-7)
    narrow = Estimate(1.0, 0.1, "monte_carlo").interval(0.6826894921)
    assert narrow == pytest.approx((0.9, 1.1), abs=1e-9)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\)"):
        Estimate(1.0, 0.1, "monte_carlo").interval(confidence)


def test_text() -> None:
    assert str(Estimate(0.25, 0.0, "exact")) == "0.25 (exact)"
    assert str(Estimate(0.25, 0.01, "monte_carlo")) == "0.25 +- 0.01 (monte_carlo)"
    assert str(Estimate(math.inf, math.nan, "exact")) == "inf (exact)"
    assert str(Estimate(math.nan, math.nan, "monte_carlo")) == "nan (monte_carlo)"


def test_infinite_values_have_no_interval() -> None:
    assert all(math.isnan(end) for end in Estimate(math.inf, math.nan, "monte_carlo").interval())


def test_errors() -> None:
    with pytest.raises(ValueError, match="stderr must be >= 0 or nan, received -1"):
        Estimate(0.0, -1.0, "monte_carlo")
    with pytest.raises(ValueError, match=r"method must be one of exact, quadrature, .* received 'guess'"):
        Estimate(0.0, 0.0, "guess")  # type: ignore[arg-type]
