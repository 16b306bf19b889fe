"""Bayes errors against closed forms, independent integrals, and each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from bcpd.estimate import Estimate
from bcpd.mixtures import GaussianMixture, LabelNoise, Mixture, PriorShift, Superclasses, paper_toy


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def agrees_with_monte_carlo(mixture: Mixture, estimate: Estimate, n: int = 200_000) -> bool:
    """Within 5 standard errors; one comparison with a right value fails with probability 6e-7."""
    sampled = mixture.bayes_error("monte_carlo", n=n, seed=7)
    return abs(estimate.value - sampled.value) < 5 * (sampled.stderr**2 + estimate.stderr**2) ** 0.5


# ----------------------------------------------------------------------------------------------------- on a line: exact


@pytest.mark.parametrize("dimension", [1, 2, 30])
@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0, 20.0])
def test_two_classes_have_the_textbook_error(dimension: int, distance: float) -> None:
    direction = normal(dimension, dimension)
    means = torch.stack([torch.zeros(dimension, dtype=torch.float64), 2 * distance * direction / direction.norm()])
    error = GaussianMixture(means + 5, 4.0).bayes_error()
    assert error.method == "exact"
    assert error.stderr == 0
    assert error.value == pytest.approx(norm.cdf(-distance / 2), rel=1e-9)


@settings(max_examples=30)
@given(st.floats(0.01, 0.99), st.floats(0.05, 6.0), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_two_classes_with_unequal_priors(prior: float, distance: float, dimension: int, seed: int) -> None:
    root = normal(seed, dimension, dimension)
    covariance = root @ root.T + torch.eye(dimension, dtype=torch.float64)
    direction = normal(seed + 1, dimension)
    direction = direction * distance / float((direction @ torch.linalg.solve(covariance, direction)).sqrt())
    mixture = GaussianMixture(torch.stack([0 * direction, direction]), covariance, priors=[prior, 1 - prior])
    threshold = np.log(prior / (1 - prior)) / distance
    expected = prior * norm.sf(distance / 2 + threshold) + (1 - prior) * norm.cdf(-distance / 2 + threshold)
    assert mixture.bayes_error().value == pytest.approx(expected, rel=1e-7, abs=1e-12)
    assert mixture.bayes_error().method == "exact"


def test_many_classes_on_a_line_some_never_chosen() -> None:
    positions, priors = torch.tensor([0.0, 0.3, 1.0, 1.0, 2.5, 4.0]), torch.tensor([0.3, 0.05, 0.25, 0.1, 0.2, 0.1])
    direction = torch.tensor([3.0, -4.0, 0.0]) / 5
    mixture = GaussianMixture(positions[:, None] * direction, 1.0, priors=priors)

    def best(t: float) -> float:
        return float(np.max(priors.numpy() * norm.pdf(t - positions.numpy())))

    accuracy = quad(best, -9, 13, limit=400, points=np.linspace(-2, 6, 17), epsabs=1e-11)[0]
    assert mixture.bayes_error().method == "exact"
    assert mixture.bayes_error().value == pytest.approx(1 - accuracy, abs=1e-8)


def test_identical_classes_err_by_all_but_the_largest_prior() -> None:
    mixture = GaussianMixture(torch.zeros(3, 4), 1.0, priors=[0.2, 0.5, 0.3])
    assert mixture.bayes_error().value == pytest.approx(0.5, abs=1e-12)


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_own_variances_on_a_line(seed: int, classes: int) -> None:
    means, variances = 2 * normal(seed, classes), normal(seed + 1, classes).exp()
    priors = normal(seed + 2, classes).softmax(0)
    mixture = GaussianMixture(means[:, None], variances[:, None, None], priors=priors)
    grid = np.linspace(-40, 40, 160_001)
    joint = priors.numpy() * norm.pdf(grid[:, None], means.numpy(), variances.sqrt().numpy())
    accuracy = np.trapezoid(joint.max(1), grid)
    error = mixture.bayes_error()
    assert error.method == "exact"
    assert error.value == pytest.approx(1 - accuracy, abs=1e-6)


def test_several_components_on_a_line_are_integrated() -> None:
    mixture = GaussianMixture([[[-2.0], [1.0]], [[0.0], [3.0]]], [[[[0.2]], [[1.0]]], [[[0.5]], [[0.1]]]])
    error = mixture.bayes_error()
    grid = np.linspace(-12, 12, 400_001)
    density = mixture.log_density(grid[:, None]).exp().numpy() / 2
    assert error.method == "quadrature"
    assert error.value == pytest.approx(1 - np.trapezoid(density.max(1), grid), abs=1e-7)
    assert error.stderr < 1e-8


# --------------------------------------------------------------------------------------------------------- in the plane


def test_orthogonal_means_have_a_one_dimensional_formula() -> None:
    r""":math:`L^* = 1 - \int \varphi(z) \Phi(a + z)^{K-1} dz` for means a e_k; their span has K - 1 = 2 dimensions."""
    for a in (0.5, 2.0, 5.0):
        mixture = GaussianMixture(a * torch.eye(3, dtype=torch.float64), 1.0)
        expected = 1 - quad(lambda z, a=a: norm.pdf(z) * norm.cdf(a + z) ** 2, -12, 12, epsabs=1e-12)[0]
        error = mixture.bayes_error()
        assert error.method == "quadrature"
        assert error.value == pytest.approx(expected, abs=1e-9)
        assert error.stderr < 1e-8


@settings(max_examples=20)
@given(st.integers(4, 30), st.just(0.0) | st.floats(1e-6, 12))
def test_equidistant_means_have_it_for_any_number_of_classes(classes: int, distance: float) -> None:
    """Against Gauss-Hermite nodes, which are exact here to 1e-9 up to K = 30."""
    mixture = GaussianMixture(distance / np.sqrt(2) * torch.eye(classes, dtype=torch.float64) + 7, 1.0)
    z, w = np.polynomial.hermite_e.hermegauss(160)
    expected = 1 - w @ norm.cdf(distance / np.sqrt(2) + z) ** (classes - 1) / w.sum()
    error = mixture.bayes_error()
    assert error.method == ("quadrature" if distance > 0 else "exact")
    assert error.value == pytest.approx(expected, abs=1e-8)


def test_the_formula_is_for_equal_distances_and_priors() -> None:
    corners = torch.eye(5, dtype=torch.float64)
    assert GaussianMixture(corners, 2.0).bayes_error().method == "quadrature"
    for other in (
        GaussianMixture(corners, 2.0, priors=[0.1, 0.2, 0.2, 0.2, 0.3]),
        GaussianMixture(corners * torch.tensor([1.0, 1.0, 1.0, 1.0, 1.1]), 2.0),
        GaussianMixture(corners, [1.0, 1.0, 1.0, 1.0, 1.1]),
    ):
        assert other.bayes_error(n=1000).method == "monte_carlo"
    noisy = LabelNoise.symmetric(GaussianMixture(corners, 2.0), 0.2)
    assert noisy.bayes_error().method == "quadrature"
    assert agrees_with_monte_carlo(noisy, noisy.bayes_error())


def test_a_plane_in_thirty_dimensions_is_still_a_plane() -> None:
    plane = GaussianMixture(normal(0, 5, 2), 1.0, priors=[0.1, 0.15, 0.2, 0.25, 0.3])
    turn = torch.linalg.qr(normal(1, 30, 30))[0][:2]
    space = GaussianMixture(1e3 + 3 * plane.means[:, 0] @ turn, 9.0, priors=plane.priors)
    assert space.bayes_error().method == "quadrature"
    assert space.bayes_error().value == pytest.approx(plane.bayes_error().value, abs=1e-9)
    lifted = torch.cat([plane.means[:, 0], normal(2, 5, 1)], 1)
    assert GaussianMixture(lifted, 1.0).bayes_error(n=1000).method == "monte_carlo"


@pytest.mark.parametrize("seed", range(2))
def test_own_covariances_in_the_plane(seed: int) -> None:
    roots = normal(seed + 10, 3, 2, 2)
    covariances = roots @ roots.mT + 0.05 * torch.eye(2, dtype=torch.float64)
    mixture = GaussianMixture(1.5 * normal(seed, 3, 2), covariances, priors=[0.5, 0.3, 0.2])
    error = mixture.bayes_error()
    assert error.method == "quadrature"
    assert error.stderr < 1e-6
    assert agrees_with_monte_carlo(mixture, error)
    wrong = Estimate(error.value * 1.05, error.stderr, "quadrature")
    assert not agrees_with_monte_carlo(mixture, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_components_in_the_plane_also_when_their_scales_differ(seed: int) -> None:
    roots = normal(seed + 20, 2, 3, 2, 2) * torch.tensor([1.0, 0.1, 3.0]).reshape(1, 3, 1, 1)
    covariances = roots @ roots.mT + 1e-3 * torch.eye(2, dtype=torch.float64)
    mixture = GaussianMixture(normal(seed, 2, 3, 2), covariances)
    error = mixture.bayes_error()
    assert error.method == "quadrature"
    assert error.stderr < 1e-6
    assert agrees_with_monte_carlo(mixture, error, n=100_000)


def test_numerical_boundaries_meet_the_exact_ones() -> None:
    """A class split into two equal components is the same class: two rules, one value."""
    means = normal(5, 3, 2)
    once = GaussianMixture(means, 0.5).bayes_error()
    twice = GaussianMixture(means[:, None].expand(3, 2, 2), 0.5).bayes_error()
    assert once.stderr < 1e-8
    assert twice.stderr < 1e-6
    assert abs(once.value - twice.value) < 1e-7


# ------------------------------------------------------------------------------------------------------ under wrappers


def test_symmetric_noise_is_derived_from_the_clean_error() -> None:
    base = GaussianMixture([[0.0], [2.0]], 1.0)
    noisy = LabelNoise.symmetric(base, 0.3).bayes_error()
    assert noisy.method == "exact"
    assert noisy.value == pytest.approx(1 - 0.7 * (1 - norm.cdf(-1)) - 0.15, abs=1e-12)
    # the same noise as an unmarked channel goes through quadrature over shared components
    almost = LabelNoise(base, [[0.85, 0.15], [0.15 - 1e-9, 0.85 + 1e-9]]).bayes_error()
    assert almost.method == "quadrature"
    assert almost.value == pytest.approx(noisy.value, abs=1e-7)


def test_noise_that_moves_the_argmax_is_not_derived() -> None:
    base = GaussianMixture([[0.0], [2.0]], 1.0)
    flipped = LabelNoise(base, [[0.2, 0.8], [0.8, 0.2]])
    assert flipped.bayes_error().value == pytest.approx(LabelNoise.symmetric(base, 0.4).bayes_error().value, abs=1e-9)
    with pytest.raises(ValueError, match=r"'exact' is not available for this mixture; available: \['quadrature'"):
        flipped.bayes_error("exact")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: Superclasses(m, [[0, 2], [1, 3]]),
        lambda m: PriorShift(m, [0.1, 0.2, 0.3, 0.4]),
        lambda m: LabelNoise(m, [[0.9, 0.1, 0], [0, 0.7, 0.3], [0.2, 0.2, 0.6], [0, 0, 1]]),
        lambda m: Superclasses(PriorShift(LabelNoise.symmetric(m, 0.2), [0.4, 0.3, 0.2, 0.1]), [0, 0, 1, 1]),
    ],
)
def test_wrapped_gaussians_in_the_plane_are_integrated(wrap: object) -> None:
    mixture = wrap(GaussianMixture(1.5 * normal(3, 4, 2), 1.0))  # type: ignore[operator]
    error = mixture.bayes_error()
    assert error.method == "quadrature"
    assert agrees_with_monte_carlo(mixture, error)


def test_prior_shift_of_gaussians_is_the_mixture_with_those_priors() -> None:
    base, priors = paper_toy(num_classes=2), [0.3, 0.7]
    direct = GaussianMixture(base.means, base.covariance, priors=priors).bayes_error()
    shifted = PriorShift(base, priors).bayes_error()
    assert shifted.method == direct.method == "exact"
    assert shifted.value == pytest.approx(direct.value, rel=1e-12)


def test_merging_classes_never_raises_the_error() -> None:
    base = GaussianMixture(normal(1, 6, 2), 1.0)
    assert Superclasses(base, [[0, 1, 2], [3, 4, 5]]).bayes_error().value < base.bayes_error().value


# ---------------------------------------------------------------------------------------------------------- monte carlo


def test_the_standard_error_covers() -> None:
    """The exact value within 2 standard errors in about 95 of 100 samples; 80 or fewer: probability 1e-7."""
    mixture = GaussianMixture([[0.0], [1.0], [2.5]], 1.0, priors=[0.5, 0.2, 0.3])
    exact = mixture.bayes_error().value
    estimates = [mixture.bayes_error("monte_carlo", n=500, seed=seed) for seed in range(100)]
    inside = sum(abs(e.value - exact) < 2 * e.stderr for e in estimates)
    assert inside > 80
    assert sum(abs(e.value - exact) < 0.2 * e.stderr for e in estimates) < 50


def test_the_standard_error_is_that_of_all_points_at_once() -> None:
    mixture = GaussianMixture([[0.0], [1.0], [2.5]], 1.0)
    errors = 1 - mixture.posterior(mixture.sample(150_000, 3)[0]).amax(-1)
    estimate = mixture.bayes_error("monte_carlo", n=150_000, seed=3)
    assert estimate.value == pytest.approx(float(errors.mean()), rel=1e-12)
    assert estimate.stderr == pytest.approx(float(errors.std()) / 150_000**0.5, rel=1e-10)


def test_one_point_has_no_standard_error() -> None:
    with pytest.raises(ValueError, match="n >= 2"):
        paper_toy().bayes_error("monte_carlo", n=1)
