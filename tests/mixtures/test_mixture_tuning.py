"""Tuning: targets are met, monotone where that is proved, refused where they cannot be reached."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpd.mixtures import FAMILIES, GaussianMixture, LabelNoise, paper_toy
from bcpd.mixtures.tuning import solve_separation


@settings(max_examples=50)
@given(st.floats(1e-6, 0.499))
def test_two_classes_meet_any_error_below_one_half(target: float) -> None:
    mixture = GaussianMixture([[0.0, 1.0], [2.0, 0.0]], 3.0)
    assert mixture.tuned(target).bayes_error().value == pytest.approx(target, abs=1e-6)


@pytest.mark.parametrize("target", [0.5, 0.9, 0.0, -0.1])
def test_two_classes_refuse_the_rest(target: float) -> None:
    with pytest.raises(ValueError, match=r"cannot be reached.*strictly between 0 and 0\.5"):
        GaussianMixture([[0.0, 1.0], [2.0, 0.0]], 3.0).tuned(target)


def test_noise_bounds_the_reachable_range_from_below() -> None:
    noisy = LabelNoise.symmetric(GaussianMixture([[0.0], [1.0]], 1.0), 0.2)
    with pytest.raises(ValueError, match=r"strictly between 0\.1 and 0\.5"):
        noisy.tuned(0.09)
    tuned = noisy.tuned(0.3)
    assert tuned.bayes_error().value == pytest.approx(0.3, abs=1e-6)
    assert torch.equal(tuned.transition, noisy.transition)


def test_tuning_scales_the_means_about_their_centre_and_nothing_else() -> None:
    mixture = GaussianMixture([[[5.0, 0.0], [6.0, 1.0]], [[9.0, 4.0], [7.0, 2.0]]], 1.0, priors=[0.25, 0.75])
    tuned = mixture.tuned(0.2)

    def centre(m: GaussianMixture) -> torch.Tensor:
        return (m.priors[:, None, None] * m.weights[..., None] * m.means).sum((0, 1))

    torch.testing.assert_close(centre(tuned), centre(mixture))
    ratio = (tuned.means - centre(tuned)) / (mixture.means - centre(mixture))
    torch.testing.assert_close(ratio, ratio[0, 0, 0].expand_as(ratio))
    assert float(ratio[0, 0, 0]) < 1
    assert torch.equal(tuned.covariance, mixture.covariance)
    assert torch.equal(tuned.priors, mixture.priors)


@pytest.mark.parametrize("name", ["gaussian-1d", "gaussian-2d-shared", "laplace-1d", "finite", "banana"])
def test_the_error_falls_with_the_separation_where_that_is_proved(name: str) -> None:
    mixture = FAMILIES[name]()
    errors = [mixture._separated(s).bayes_error().value for s in (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 4)]
    assert all(a > b for a, b in pairwise(errors))


def test_the_error_need_not_fall_with_own_covariances() -> None:
    """Two wide classes and a narrow one between them; whatever the shape of the curve, a value on it is reached."""
    narrow = GaussianMixture([[-1.0], [1.0]], [[[1.0]], [[16.0]]], priors=[0.3, 0.7])
    apart = [narrow._separated(s).bayes_error().value for s in (0.0, 0.5, 1.0, 2.0, 8.0)]
    assert apart[-1] < 0.02
    for target in (0.5 * (apart[1] + apart[2]), 0.5 * (apart[3] + apart[4])):
        assert narrow.tuned(target).bayes_error().value == pytest.approx(target, abs=1e-6)


def test_monte_carlo_targets_hold_on_fresh_points() -> None:
    """Within 1e-3 and 5 standard errors of an independent sample of 400,000."""
    mixture = paper_toy(num_classes=6, dimension=12, variance=3.0)
    tuned = mixture.tuned(0.25)
    fresh = tuned.bayes_error(n=400_000, seed=123)
    assert fresh.method == "monte_carlo"
    assert abs(fresh.value - 0.25) < 1e-3 + 5 * fresh.stderr
    assert abs(mixture.bayes_error().value - 0.25) > 0.01
    again = mixture.tuned(0.25)
    assert torch.equal(again.means, tuned.means)


@pytest.mark.parametrize("target", [math.nan, math.inf])
def test_a_target_that_is_no_number_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="target_bayes_error must be a finite number"):
        paper_toy().tuned(target)


def test_the_search_finds_the_crossing_next_to_one() -> None:
    """A curve that rises and falls: 0.2 is met at 0.5 and at 3; asked from 1, the nearer of the two on the ladder."""

    def bump(s: float) -> float:
        return max(0.0, 0.3 - 0.1 * abs(s - 1.5))

    found = solve_separation(bump, 0.2, monotone=False)
    assert bump(found) == pytest.approx(0.2, abs=1e-7)
    with pytest.raises(ValueError, match="reachable: strictly between 0 and"):
        solve_separation(bump, 0.9, monotone=False)
