"""Numbers as text: rounded by their interval, with real minus signs, and undefined where they are."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bcpd.report.numbers import as_float, interval, number, p_value, power_of_ten, round_number, scientific


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0021, "0.00210"),
        (-0.5, "−0.500"),
        (0.0, "0"),
        (-0.0, "0"),
        (12345.6, "12346"),
        ("nan", "undefined"),
        (math.nan, "undefined"),
        (None, "undefined"),
        ("inf", "∞"),
        ("-inf", "−∞"),
        (3e-7, "3.0×10⁻⁷"),
    ],
)
def test_a_number_has_three_digits_and_says_what_is_not_one(value: Any, text: str) -> None:
    assert number(value) == text


def test_a_negative_number_that_rounds_to_zero_has_no_sign() -> None:
    assert number(-0.0004, 2) == "0.00"
    assert number(-0.04, 2) == "−0.04"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6.07e-16, "6.1×10⁻¹⁶"),
        (-2.5e-6, "−2.5×10⁻⁶"),
        (2827.0, "2.8×10³"),
        (0.0092, "0.0092"),
        (0.15, "0.15"),
        (61.4, "61"),
        (0.0, "0"),
        ("nan", "undefined"),
    ],
)
def test_scientific_notation_is_for_what_needs_it(value: Any, text: str) -> None:
    assert scientific(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-12, "10⁻¹²"),
        (-1e-6, "−10⁻⁶"),
        (5.0, "5"),
        (0.001, "0.001"),
        (2.211e-11, "2.2×10⁻¹¹"),
        (9.97e-12, "10⁻¹¹"),
        (0.0, "0"),
        (-0.25, "−0.25"),
        ("inf", "∞"),
        (4000, "4000"),
    ],
)
def test_a_number_that_was_chosen_has_few_digits(value: Any, text: str) -> None:
    assert round_number(value) == text


def test_powers_of_ten() -> None:
    assert [power_of_ten(exponent) for exponent in (-3, 0, 1, 12)] == ["10⁻³", "1", "10", "10¹²"]


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ((-0.0021, -0.003, -0.0012), "−0.00210 [−0.00300, −0.00120]"),
        ((-0.0216, -0.0336, -0.0096), "−0.022 [−0.034, −0.010]"),
        ((54.321, 53.1, 55.5), "54.3 [53.1, 55.5]"),
        ((540.0, 300.0, 780.0), "540 [300, 780]"),
        ((0.5, 0.5, 0.5), "0.500 [0.500, 0.500]"),
        (("nan", "nan", "nan"), "undefined"),
        ((0.5, "-inf", "inf"), "0.500 (interval undefined)"),
    ],
)
def test_an_interval_gives_its_half_width_two_digits(bounds: tuple[Any, Any, Any], text: str) -> None:
    assert interval(*bounds) == text


def test_an_interval_can_be_scaled_to_percent() -> None:
    assert interval(0.543, 0.531, 0.555, scale=100) == "54.3 [53.1, 55.5]"


def test_no_interval_opens_a_bracket_with_a_letter() -> None:
    # a terminal's markup would take it for a style
    assert "[u" not in interval(0.5, "-inf", "inf")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0132, "p = 0.013"), (1e-9, "p < 0.001"), (0.999, "p = 1"), ("nan", "p undefined")]
)
def test_small_p_values_are_bounded(value: Any, text: str) -> None:
    assert p_value(value).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize("value", ["1,5", [1.0], True])
def test_what_is_no_stored_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="a stored number must be"):
        as_float(value)
