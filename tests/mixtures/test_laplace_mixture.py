"""Laplace products: independent densities, digits far out, and the error of two classes in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from bcpd.mixtures import LabelNoise, LaplaceMixture, Mixture, Superclasses
from bcpd.testing import mixtures_with_points

MEANS = torch.tensor([[0.0, 0.0], [1.5, 0.5], [-0.5, 1.5]], dtype=torch.float64)


@settings(max_examples=30)
@given(mixtures_with_points(kinds=["laplace"], max_depth=0))
def test_densities_agree_with_scipy(drawn: tuple[Mixture, Tensor]) -> None:
    mixture, x = drawn
    assert isinstance(mixture, LaplaceMixture)
    k, c, d = mixture.means.shape
    own = mixture.scales[:, None] if mixture.scales.ndim == 2 else mixture.scales
    scales = own.expand(k, c, d)
    logs = stats.laplace(mixture.means.numpy(), scales.numpy()).logpdf(x.numpy()[:, None, None]).sum(-1)
    truth = (torch.as_tensor(logs) + mixture.weights.log()).logsumexp(-1)
    torch.testing.assert_close(mixture.log_density(x), truth, rtol=1e-10, atol=1e-10)


def test_samples_have_the_distribution_of_scipy() -> None:
    """Kolmogorov's distance of 100,000 points below 5 / sqrt(n): a false alarm has probability 4e-22."""
    x, _ = LaplaceMixture([[2.0, -1.0]], [0.5, 3.0]).sample(100_000, 0)
    for j, (centre, scale) in enumerate([(2.0, 0.5), (-1.0, 3.0)]):
        column = x[:, j].numpy()
        assert stats.kstest(column, stats.laplace(centre, scale).cdf).statistic < 5 / math.sqrt(len(x))
        # the standard deviation is sqrt 2 times the scale
        assert stats.kstest(column, stats.laplace(centre, scale / math.sqrt(2)).cdf).statistic > 5 / math.sqrt(len(x))
    assert abs(float(torch.corrcoef(x.T)[0, 1])) < 5 / math.sqrt(len(x))


@given(st.floats(0, 15), st.integers(0, 2**32 - 1))
def test_log_odds_of_shared_scales_are_bounded_and_keep_their_digits(exponent: float, seed: int) -> None:
    """Beyond all means the log-odds are the same constants however far x is; a difference of distances loses them."""
    mixture = LaplaceMixture(MEANS, [0.7, 1.3], priors=[0.5, 0.3, 0.2])
    signs = 2.0 * torch.randint(0, 2, (4, 2), generator=torch.Generator().manual_seed(seed)) - 1
    far = mixture.log_posterior(signs * (4 + 10**exponent))
    torch.testing.assert_close(far, mixture.log_posterior(4 * signs), rtol=0, atol=1e-12)
    assert float(far.min()) > -10


def test_a_difference_of_distances_would_lose_them() -> None:
    x, scales = torch.tensor([[1e13, -1e13]], dtype=torch.float64), torch.tensor([0.7, 1.3], dtype=torch.float64)
    naive = -((x[:, None] - MEANS).abs() / scales).sum(-1)
    right = LaplaceMixture(MEANS, scales).log_posterior(x)
    assert float((naive.log_softmax(-1) - right).abs().max()) > 1e-5


# ---------------------------------------------------------------------------------------------------------- Bayes error


@given(st.floats(0, 30), st.floats(0.1, 10), st.integers(1, 4))
def test_two_equal_classes_have_a_closed_form(distance: float, scale: float, dimension: int) -> None:
    """Half of exp(-distance / 2b); coordinates with the same law under both classes cancel."""
    first = torch.linspace(-1, 1, dimension, dtype=torch.float64)
    second = first.clone()
    second[-1] += distance
    mixture = LaplaceMixture(torch.stack([first, second]), scale)
    gap = float(second[-1] - first[-1])
    error = mixture.bayes_error()
    assert error.method == "exact"
    assert error.value == pytest.approx(math.exp(-gap / (2 * scale)) / 2, rel=1e-9)


@settings(max_examples=40)
@given(mixtures_with_points(kinds=["laplace"], max_depth=0, max_dimension=1))
def test_errors_on_a_line_agree_with_a_sum_over_a_grid(drawn: tuple[Mixture, Tensor]) -> None:
    mixture, _ = drawn
    assert isinstance(mixture, LaplaceMixture)
    reach = float(mixture.means.abs().max()) + 40 * float(mixture.scales.max())
    grid = np.linspace(-reach, reach, 100_001)
    joint = mixture.log_density(grid[:, None]).exp() * mixture.priors
    accuracy = np.trapezoid(joint.amax(-1).numpy(), grid)
    error = mixture.bayes_error()
    single = mixture.means.shape[1] == 1
    assert error.method == ("exact" if single else "quadrature")
    assert error.value == pytest.approx(1 - accuracy, abs=2e-5)


def test_wrapped_laplaces_on_a_line_are_integrated() -> None:
    base = LaplaceMixture([[-1.0], [0.5], [2.0]], 0.8, priors=[0.3, 0.3, 0.4])
    for mixture in (
        Superclasses(base, [[0, 2], [1]]),
        LabelNoise(base, [[0.8, 0.2, 0.0], [0.1, 0.8, 0.1], [0.0, 0.3, 0.7]]),
    ):
        error, sampled = mixture.bayes_error(), mixture.bayes_error("monte_carlo", n=100_000, seed=3)
        assert error.method == "quadrature"
        assert error.stderr < 1e-6
        assert abs(error.value - sampled.value) < 5 * sampled.stderr


def test_two_coordinates_that_tell_classes_apart_are_sampled() -> None:
    assert LaplaceMixture(MEANS, 1.0).bayes_error(n=1000).method == "monte_carlo"
    same_means = LaplaceMixture([[0.0, 1.0], [0.0, 1.0]], [[1.0, 2.0], [3.0, 2.0]])
    assert same_means.bayes_error().method == "exact"  # the first coordinate's scale alone tells them apart


@settings(max_examples=20)
@given(st.floats(0, 3), st.floats(0.01, 3))
def test_the_error_falls_with_the_separation_for_shared_scales(near: float, more: float) -> None:
    mixture = LaplaceMixture([[-1.0], [0.0], [2.0]], 1.1, priors=[0.35, 0.25, 0.4])
    closer, farther = (mixture._separated(s).bayes_error().value for s in (near, near + more))
    assert farther <= closer + 1e-15


# --------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": 0.0}, "scales must be positive, received a minimum of 0"),
        ({"scales": [1.0, -2.0]}, "scales must be positive, received a minimum of -2"),
        ({"scales": [1.0, 1.0, 1.0]}, r"scales must have shape \(\), \(d,\), \(K, d\) or \(K, C, d\).*received \(3,\)"),
        ({"scales": math.nan}, "scales must be finite"),
        ({"means": [1.0]}, r"means must have shape \(K, d\) or \(K, C, d\), received \(1,\)"),
        ({"priors": [0.5, 0.5, 0.0]}, "priors must be 3 positive numbers"),
    ],
)
def test_impossible_parameters_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LaplaceMixture(**{"means": MEANS, "scales": 1.0, **arguments})  # type: ignore[arg-type]
