"""The empirical Bernstein bound: its margin by hand, its failures, and how many of them chance allows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from trying import settings_at, tried

from bcpd.theory.distilled.finite_class import CLAIMS, FALSE_ALARM, bernstein_margin, most_violations


@pytest.mark.parametrize("seed", [0, 1])
def test_claims_hold_and_controls_fail(seed: int) -> None:
    tried(CLAIMS, settings_at(seed))


@pytest.mark.parametrize("name", ["finite", "bernoulli", "noisy-shifted-superclasses"])
def test_a_users_finite_mixture_is_tried(name: str) -> None:
    assert {check.world for check in tried(CLAIMS, settings_at(0, name))} == {name}


def test_the_margin_by_hand() -> None:
    log = math.log(2 * 7 / 0.1)
    expected = math.sqrt(2 * 0.04 * log / 50) + 7 * log / (3 * 49)
    assert float(bernstein_margin(0.04, 50, 7, 0.1)) == pytest.approx(expected, rel=1e-14)


@given(st.floats(0, 0.25), st.integers(2, 10_000), st.integers(1, 1000), st.floats(1e-6, 0.5))
def test_the_margin_grows_with_variance_and_class_and_falls_with_the_sample(
    variance: float, size: int, predictors: int, delta: float
) -> None:
    margin = float(bernstein_margin(variance, size, predictors, delta))
    assert float(bernstein_margin(variance + 0.01, size, predictors, delta)) > margin
    assert float(bernstein_margin(variance, size, predictors + 1, delta)) > margin
    assert float(bernstein_margin(variance, size + 1, predictors, delta)) < margin
    assert float(bernstein_margin(variance, size, predictors, delta / 2)) > margin


def test_a_single_bernoulli_mean_stays_within_the_margin() -> None:
    """Exact failure probability, summed over the binomial: no simulation."""
    size, p, delta = 40, 0.1, 0.05
    hits = np.arange(size + 1)
    mean = hits / size
    variance = mean * (1 - mean) * size / (size - 1)
    margin = bernstein_margin(torch.tensor(variance), size, 1, delta).numpy()
    failure = float(binom.pmf(hits, size, p)[p > mean + margin].sum())
    assert failure <= delta
    assert float(binom.pmf(hits, size, p)[p > mean + margin / 4].sum()) > delta


@pytest.mark.parametrize("delta", [0.01, 0.05, 0.3])
def test_most_violations_is_the_smallest_count_beyond_which_chance_does_not_go(delta: float) -> None:
    count = most_violations(2000, delta)
    assert binom.sf(count, 2000, delta) <= FALSE_ALARM < binom.sf(count - 1, 2000, delta)
    # five standard errors, but for the skewness of the binomial
    assert (count - 2000 * delta) / math.sqrt(2000 * delta * (1 - delta)) == pytest.approx(5, abs=1.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1, 10, 1, 0.1), "received a minimum of -0.1"),
        ((0.1, 1, 1, 0.1), "received 1, 1 and 0.1"),
        ((0.1, 10, 0, 0.1), "received 10, 0 and 0.1"),
        ((0.1, 10, 1, 1.0), "received 10, 1 and 1.0"),
    ],
)
def test_mistakes_are_named(arguments: tuple[float, int, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bernstein_margin(*arguments)
