"""Power of the paired t-test against scipy's own test on simulated draws, and the inverses against the power."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ncx2, norm, ttest_1samp

from bcpd.power import detectable_effect, draws_needed, power_of

effects = st.floats(0.05, 3.0)


@pytest.mark.parametrize(("effect", "draws"), [(1.0, 8), (0.6, 12), (2.0, 4), (0.2, 60)])
def test_power_is_the_share_of_rejections(effect: float, draws: int) -> None:
    """40,000 simulated tests: six standard errors are below 0.015; the normal approximation is further off."""
    rng = np.random.default_rng(draws)
    samples = rng.normal(-effect * 0.3, 0.3, (40_000, draws))
    share = float((ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05).mean())
    assert abs(power_of(0.3, 0.3 * effect, draws) - share) < 6 * math.sqrt(share * (1 - share) / 40_000)
    if draws <= 8:
        normal = norm.sf(norm.isf(0.025) - effect * math.sqrt(draws))
        assert abs(normal - share) > 0.05


def test_power_without_an_effect_is_the_level_and_with_many_draws_that_of_the_normal_test() -> None:
    for draws in (2, 7, 300):
        assert power_of(2.0, 0.0, draws, 0.1) == pytest.approx(0.1, abs=1e-9)
    many = 10**6
    normal = ncx2.sf(norm.isf(0.025) ** 2, 1, 0.002**2 * many)
    assert power_of(1.0, 0.002, many) == pytest.approx(normal, abs=1e-5)
    assert power_of(1.0, 1e300, 12) == pytest.approx(1.0)


@given(effects, st.floats(0.3, 0.99), st.floats(0.001, 0.2), st.floats(1e-6, 1e3))
def test_draws_needed_is_the_first_number_with_the_power(effect: float, power: float, level: float, sd: float) -> None:
    needed = draws_needed(sd, -effect * sd, power, level)
    assert power_of(sd, effect * sd, needed, level) >= power
    assert needed == 2 or power_of(sd, effect * sd, needed - 1, level) < power


@given(effects, st.integers(2, 200))
def test_the_detectable_effect_needs_just_those_draws(sd: float, draws: int) -> None:
    effect = detectable_effect(sd, draws)
    assert power_of(sd, effect, draws) == pytest.approx(0.8, abs=1e-6)
    assert draws_needed(sd, effect * (1 + 1e-6)) == draws


def test_known_sizes() -> None:
    """Half a standard deviation, power 0.8 at level 0.05, needs 34 pairs in every table; a whole one 10."""
    assert draws_needed(1.0, 0.5) == 34
    assert draws_needed(1.0, 1.0) == 10
    assert draws_needed(0.0, 1.0) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((-1.0, 1.0), "sd must be positive"),
        ((1.0, 0.0), "effect must not be 0"),
        ((1.0, math.nan), "effect must be finite"),
        ((1.0, 1.0, 0.04), "power must lie in"),
        ((1.0, 1.0, 0.8, 1.5), "level must lie in"),
        ((1.0, 1e-9), "too small"),
    ],
)
def test_impossible_questions_are_refused(arguments: tuple[float, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        draws_needed(*arguments)


def test_one_draw_has_no_test() -> None:
    with pytest.raises(ValueError, match="draws must be at least 2, received 1"):
        power_of(1.0, 1.0, 1)
