"""Student mixtures: independent densities, the limits of their degrees, tails, and closed Bayes errors."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from bcpd.mixtures import GaussianMixture, Mixture, StudentMixture, calibration_z
from bcpd.testing import mixtures_with_points

MEANS = torch.tensor([[0.0, 0.0], [1.5, 0.5], [-0.5, 1.5]], dtype=torch.float64)


def matrix_of(mixture: StudentMixture, k: int, c: int) -> np.ndarray:
    scale, dimension = mixture.scale, mixture.shape[0]
    if scale.ndim <= 1:
        return torch.diag(scale.expand(dimension)).numpy()
    return (scale if scale.ndim == 2 else scale[k] if scale.ndim == 3 else scale[k, c]).numpy()


@settings(max_examples=30)
@given(mixtures_with_points(kinds=["student"], max_depth=0))
def test_densities_agree_with_scipy(drawn: tuple[Mixture, Tensor]) -> None:
    mixture, x = drawn
    assert isinstance(mixture, StudentMixture)
    for k, means in enumerate(mixture.means):
        terms = [
            stats.multivariate_t(mean.numpy(), matrix_of(mixture, k, c), df=mixture.degrees).logpdf(x.numpy())
            for c, mean in enumerate(means)
        ]
        truth = (
            torch.as_tensor(np.array(terms)).reshape(len(means), -1) + mixture.weights[k].log()[:, None]
        ).logsumexp(0)
        torch.testing.assert_close(mixture.log_density(x)[:, k], truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("degrees", [0.5, 1.0, 2.5, 7.0])
def test_samples_have_the_distribution_of_scipy(degrees: float) -> None:
    """Kolmogorov's distance of 100,000 points below 5 / sqrt(n): a false alarm has probability 4e-22."""
    x, _ = StudentMixture([[2.0, 1.0]], [[1.5, 0.3], [0.3, 0.5]], degrees).sample(100_000, 0)
    for j, (centre, variance) in enumerate([(2.0, 1.5), (1.0, 0.5)]):
        law = stats.t(degrees, centre, math.sqrt(variance))
        assert stats.kstest(x[:, j].numpy(), law.cdf).statistic < 5 / math.sqrt(len(x))
        wrong = stats.t(degrees, centre, variance)
        assert stats.kstest(x[:, j].numpy(), wrong.cdf).statistic > 5 / math.sqrt(len(x))


def test_coordinates_share_one_mixing_variable() -> None:
    """Uncorrelated coordinates of a multivariate t are not independent: large ones come together."""
    x, _ = StudentMixture([[0.0, 0.0]], 1.0, 2.0).sample(100_000, 1)
    far = x.abs() > 4
    together, each = float((far[:, 0] & far[:, 1]).double().mean()), far.double().mean(0)
    assert together > 3 * float(each[0] * each[1]) + 5 * math.sqrt(float(each[0]) / len(x))


@settings(max_examples=20)
@given(st.floats(1e5, 1e9))
def test_many_degrees_are_gaussian(degrees: float) -> None:
    """The log-densities differ by some (d^2 + delta^2) / degrees; near the origin delta is at most 30."""
    x = 2 * torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)
    student = StudentMixture(MEANS, [1.0, 2.0], degrees, priors=[0.5, 0.3, 0.2])
    gaussian = GaussianMixture(MEANS, [1.0, 2.0], priors=[0.5, 0.3, 0.2])
    gap = float((student.log_posterior(x) - gaussian.log_posterior(x)).abs().max())
    assert gap < 1000 / degrees + 1e-12
    assert StudentMixture(MEANS, [1.0, 2.0], 3.0).log_posterior(x).sub(gaussian.log_posterior(x)).abs().max() > 0.01


def test_far_out_a_shared_scale_leaves_the_priors_and_own_scales_a_constant() -> None:
    priors = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    direction = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    shared = StudentMixture(MEANS, 1.0, 2.0, priors=priors)
    torch.testing.assert_close(shared.posterior(1e9 * direction)[0], priors, rtol=0, atol=1e-8)
    torch.testing.assert_close(shared.posterior(1e200 * direction)[0], priors, rtol=0, atol=1e-12)
    scales = torch.stack([variance * torch.eye(2, dtype=torch.float64) for variance in (1.0, 4.0, 0.25)])
    own = StudentMixture(MEANS, scales, 2.0, priors=priors)
    # (nu + d) / 2 = 2, less the log-determinant: a share of variance^(nu / 2)
    limit = priors * torch.tensor([1.0, 4.0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(own.posterior(1e200 * direction)[0], limit / limit.sum(), rtol=0, atol=1e-12)
    assert float(GaussianMixture(MEANS, 1.0).posterior(1e9 * direction).max()) == 1


def test_logarithms_keep_their_digits_where_squares_overflow() -> None:
    mixture = StudentMixture([[0.0], [3.0]], [[[1.0]], [[2.0]]], 1.5, priors=[0.25, 0.75])
    points = [[1e153], [-1e160], [1e300], [5.0]]
    with mpmath.workdps(50):
        truth = []
        for (x,) in points:
            joint = [
                mpmath.mpf(p)
                / mpmath.sqrt(v)
                * (1 + (mpmath.mpf(x) - m) ** 2 / (v * mpmath.mpf(1.5))) ** mpmath.mpf(-1.25)
                for p, m, v in ((0.25, 0, 1), (0.75, 3, 2))
            ]
            truth.append([float(mpmath.log(j / sum(joint))) for j in joint])
    expected = torch.tensor(truth, dtype=torch.float64)
    torch.testing.assert_close(mixture.log_posterior(points), expected, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------- Bayes error


@given(st.floats(0.5, 20), st.floats(0, 10), st.integers(1, 4))
def test_two_equal_classes_have_a_closed_form_in_any_dimension(degrees: float, distance: float, dimension: int) -> None:
    direction = torch.ones(dimension, dtype=torch.float64) / math.sqrt(dimension)
    mixture = StudentMixture(torch.stack([0 * direction, 2 * distance * direction]) - 3, 4.0, degrees)
    error = mixture.bayes_error()
    assert error.method == "exact"
    assert error.value == pytest.approx(stats.t(degrees).cdf(-distance / 2), rel=1e-6, abs=1e-12)


def test_the_closed_form_is_not_used_where_the_nearest_mean_need_not_win() -> None:
    means = [[0.0, 0.0], [2.0, 0.0]]
    assert StudentMixture(means, 1.0, 3.0, priors=[0.6, 0.4]).bayes_error(n=1000).method == "monte_carlo"
    own = [[[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 1.0]]]
    assert StudentMixture(means, own, 3.0).bayes_error(n=1000).method == "monte_carlo"
    assert StudentMixture([*means, [0.0, 2.0]], 1.0, 3.0).bayes_error(n=1000).method == "monte_carlo"
    three = StudentMixture([*means, [5.0, 0.0]], 1.0, 3.0)
    sampled = three.bayes_error("monte_carlo", n=100_000, seed=1)
    assert three.bayes_error().method == "exact"
    assert abs(three.bayes_error().value - sampled.value) < 5 * sampled.stderr


@settings(max_examples=25)
@given(mixtures_with_points(kinds=["student"], max_depth=0, max_dimension=1))
def test_errors_on_a_line_agree_with_a_sum_over_a_grid(drawn: tuple[Mixture, Tensor]) -> None:
    mixture, _ = drawn
    assert isinstance(mixture, StudentMixture)
    u = torch.linspace(-60, 60, 100_001, dtype=torch.float64)
    joint = mixture.log_density(u.sinh()[:, None]).exp() * mixture.priors * u.cosh()[:, None]
    accuracy = float(torch.trapezoid(joint.amax(-1), u))
    error = mixture.bayes_error()
    assert error.method in ("exact", "quadrature")
    assert error.value == pytest.approx(1 - accuracy, abs=1e-5)


# --------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize("degrees", [0.0, -1.0, 0.05, math.nan, math.inf])
def test_impossible_degrees_are_refused(degrees: float) -> None:
    with pytest.raises(ValueError, match=r"degrees must be a finite number >= 0\.1, received"):
        StudentMixture(MEANS, 1.0, degrees)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": -1.0}, "variances must be positive"),
        ({"scale": [[1.0, 2.0], [2.0, 1.0]]}, "scale must be positive definite"),
        ({"scale": [1.0, 1.0, 1.0]}, r"scale must have shape .*received \(3,\)"),
        ({"means": [1.0]}, "means must have shape"),
        ({"priors": [0.5, 0.5]}, "priors must be 3 positive numbers"),
    ],
)
def test_impossible_parameters_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudentMixture(**{"means": MEANS, "scale": 1.0, "degrees": 3.0, **arguments})  # type: ignore[arg-type]


# ---------------------------------------------------------------------- mistakes that the calibration check must notice


def worst(mixture: StudentMixture, stated: Mixture) -> float:
    x, y = mixture.sample(100_000, seed=1)
    return float(calibration_z(x, y, stated.log_posterior(x)).abs().max())


def test_calibration_notices_a_gaussian_and_a_dropped_log_determinant() -> None:
    scales = torch.stack([torch.eye(2, dtype=torch.float64), 9 * torch.eye(2, dtype=torch.float64)])
    mixture = StudentMixture(MEANS[:2], scales, 2.5)
    assert worst(mixture, mixture) < 5
    assert worst(mixture, GaussianMixture(MEANS[:2], scales)) > 50
    assert (
        worst(mixture, StudentMixture(MEANS[:2], scales, 2.5, priors=[0.9, 0.1])) > 50
    )  # 9 : 1, the determinants' ratio
