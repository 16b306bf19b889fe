"""Factor analysers: Woodbury's form against covariances written out, noise as difficulty, the fit to images."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import MultivariateNormal

from bcpd.mixtures import FAMILIES, FactorAnalyzerMixture, calibration_z
from bcpd.seeds import generator

SHAPE = (1, 3, 4)
Shape = tuple[int, ...]


def normal(seed: int) -> Callable[..., Tensor]:
    stream = generator(seed, "test")
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=stream)


def small(seed: int = 0) -> FactorAnalyzerMixture:
    draw = normal(seed)
    noise = (0.5 * draw(2, 3, *SHAPE)).exp()
    weights, priors = draw(2, 3).softmax(-1), draw(2).softmax(-1)
    return FactorAnalyzerMixture(draw(2, 3, *SHAPE), draw(2, 3, *SHAPE, 2), noise, weights, priors)


def dense(mixture: FactorAnalyzerMixture) -> Tensor:
    """Covariances ``(K, C, d, d)``."""
    loadings = mixture.loadings.flatten(2, -2)
    return loadings @ loadings.mT + torch.diag_embed(mixture.noise_variances.flatten(2))


def digit_images(n: int = 700) -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    x = torch.from_numpy(bunch.images[:n, None]).to(torch.float64)
    return (x - x.mean()) / x.std(), torch.from_numpy(bunch.target[:n]).to(torch.int64)


# ------------------------------------------------------------------------------------------------------------- density


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_densities_are_those_of_covariances_written_out(seed: int) -> None:
    mixture = small(seed)
    x = 2 * normal(seed + 1)(5, *SHAPE)
    law = MultivariateNormal(mixture.means.flatten(2), dense(mixture))
    terms = law.log_prob(x.flatten(1)[:, None, None]) + mixture.weights.log()
    torch.testing.assert_close(mixture.log_density(x), terms.logsumexp(-1), rtol=1e-10, atol=1e-10)


def stiff() -> tuple[FactorAnalyzerMixture, Tensor, Tensor]:
    """Covariances of condition 1e8 and more, and points of the mixture."""
    draw = normal(3)
    means, loadings = 1e-4 * draw(2, 1, 6), draw(2, 1, 6, 2)
    loadings[1] = loadings[0] + 2e-5 * draw(1, 6, 2)
    noise = 1e-8 * (0.5 * draw(2, 1, 6)).exp()
    mixture = FactorAnalyzerMixture(means, loadings, noise)
    return mixture, *mixture.sample(20_000, 0)


def in_50_digits(mixture: FactorAnalyzerMixture, x: Tensor) -> list[float]:
    """log f_1 - log f_0 of one x."""
    found = []
    with mpmath.workdps(50):
        for k in range(2):
            loadings = mpmath.matrix(mixture.loadings[k, 0].tolist())
            covariance = loadings * loadings.T + mpmath.diag(mixture.noise_variances[k, 0].tolist())
            gap = mpmath.matrix(x.tolist()) - mpmath.matrix(mixture.means[k, 0].tolist())
            distance = (gap.T * covariance**-1 * gap)[0]
            found.append(-(distance + mpmath.log(mpmath.det(covariance))) / 2)
        return [float(found[1] - found[0])]


def difference_form(mixture: FactorAnalyzerMixture, x: Tensor, dtype: torch.dtype) -> Tensor:
    """log f_1 - log f_0 by |g|^2 - |R^-T A^T g|^2, the textbook's."""
    logs = []
    for k in range(2):
        deviations = mixture.noise_variances[k, 0].sqrt().to(dtype)
        scaled = mixture.loadings[k, 0].to(dtype) / deviations[:, None]
        factor = torch.linalg.cholesky(torch.eye(2, dtype=dtype) + scaled.mT @ scaled)
        gap = (x.to(dtype) - mixture.means[k, 0].to(dtype)) / deviations
        inside = torch.linalg.solve_triangular(factor, (gap @ scaled).mT, upper=False).mT
        logs.append(
            (inside.square().sum(1) - gap.square().sum(1)) / 2 - deviations.log().sum() - factor.diagonal().log().sum()
        )
    return (logs[1] - logs[0]).to(torch.float64)


def test_a_condition_of_1e8_costs_no_digits_here_and_all_in_single_precision() -> None:
    mixture, x, y = stiff()
    spectrum = torch.linalg.eigvalsh(dense(mixture))
    assert float((spectrum[..., -1] / spectrum[..., 0]).min()) > 1e8
    few = x[:6]
    truth = torch.tensor([in_50_digits(mixture, row) for row in few], dtype=torch.float64)[:, 0]
    densities = mixture.log_density(few)
    torch.testing.assert_close(densities[:, 1] - densities[:, 0], truth, rtol=1e-10, atol=1e-10)
    assert float((difference_form(mixture, few, torch.float64) - truth).abs().max()) > 1e-9
    assert float((difference_form(mixture, few, torch.float32) - truth).abs().max()) > 1
    assert float(calibration_z(x, y, mixture.log_posterior(x)).abs().max()) < 5
    odds = difference_form(mixture, x, torch.float32)
    assert float(calibration_z(x, y, torch.stack([-odds, odds], 1).div(2).log_softmax(-1)).abs().max()) > 8


def test_dropped_determinants_are_found() -> None:
    mixture = FAMILIES["factor-analyzers"]()
    assert isinstance(mixture, FactorAnalyzerMixture)
    x, y = mixture.sample(20_000, 0)
    assert float(calibration_z(x, y, mixture.log_posterior(x)).abs().max()) < 5
    terms = mixture._log_components(x) + mixture._log_scales.reshape(3, 2) + mixture.weights.log()
    dropped = (terms.logsumexp(-1) + mixture.priors.log()).log_softmax(-1)
    assert float(calibration_z(x, y, dropped).abs().max()) > 8


def test_samples_have_the_components_mean_and_covariance() -> None:
    mixture = small()
    component = torch.full((40_000,), 4)
    x = mixture._sample_components(component, generator(0, "test")).flatten(1)
    covariance = dense(mixture)[1, 1]
    factor, gap = torch.linalg.cholesky(covariance), x - mixture.means[1, 1].flatten()
    white = torch.linalg.solve_triangular(factor, gap.mT, upper=False)
    assert float(white.mean(1).abs().max()) * 200 < 5
    products = (white @ white.mT / 40_000 - torch.eye(12, dtype=torch.float64)) * 200
    assert float(products.abs().max()) < 5 * math.sqrt(2)
    other = torch.linalg.solve_triangular(torch.linalg.cholesky(dense(mixture)[1, 0]), white, upper=False)
    assert float((other @ other.mT / 40_000 - torch.eye(12, dtype=torch.float64)).abs().max()) * 200 > 50


# ---------------------------------------------------------------------------------------------------------- separation


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_less_separation_is_noise_on_x(seed: int, s: float) -> None:
    mixture = small(seed)
    harder, v = mixture._separated(s), mixture.mean_variance
    expected = s**2 * dense(mixture) + (1 - s**2) * v * torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(dense(harder), expected, rtol=1e-12, atol=1e-12)
    assert harder.mean_variance == pytest.approx(v, rel=1e-12)
    once, twice = mixture._separated(s * 0.7), harder._separated(0.7)
    for name in ("means", "loadings", "noise_variances"):
        torch.testing.assert_close(getattr(twice, name), getattr(once, name), rtol=1e-12, atol=1e-12)


def test_more_separation_is_less_noise_that_all_components_have() -> None:
    mixture = small()
    covariances = [dense(mixture._separated(s)) for s in (1.0, 1.5, 4.0, 100.0, 4096.0)]
    for noisier, clearer in pairwise(covariances):
        gap = noisier - clearer
        torch.testing.assert_close(gap, gap[:1, :1].expand_as(gap), rtol=0, atol=1e-14)
        assert float((gap - torch.diag_embed(gap.diagonal(dim1=-2, dim2=-1))).abs().max()) < 1e-14
        assert float(gap.diagonal(dim1=-2, dim2=-1).min()) >= 0


def test_the_bayes_error_falls_with_the_separation_and_has_a_lower_end() -> None:
    mixture = FAMILIES["factor-analyzers"]()
    errors = [mixture._separated(s).bayes_error(n=8192).value for s in (0, 0.4, 0.8, 1, 1.5, 4)]
    assert all(a > b for a, b in pairwise(errors))
    assert errors[0] == pytest.approx(1 - 0.45, abs=1e-12)
    with pytest.raises(ValueError, match=r"0\.00001 cannot be reached|1e-05 cannot be reached"):
        mixture.tuned(1e-5)


# ----------------------------------------------------------------------------------------------------------------- fit


@pytest.fixture(scope="module")
def fitted() -> FactorAnalyzerMixture:
    x, y = digit_images()
    return FactorAnalyzerMixture.fit(x, y, 10, components=2, rank=3, floor=0.02)


@pytest.mark.slow
def test_a_fit_to_its_own_kind_comes_close() -> None:
    """2,000 images a class: 48 parameters cost about 48 / 4,000 nats; directions of its own are worth much more."""
    draw = normal(5)
    truth = FactorAnalyzerMixture(draw(2, 1, *SHAPE), draw(2, 1, *SHAPE, 2), (0.5 * draw(2, 1, *SHAPE)).exp())
    found = FactorAnalyzerMixture.fit(*truth.sample(4000, 0), 2, rank=2)
    noise = found.noise_variances + found.loadings.square().sum(-1)
    plain = FactorAnalyzerMixture(found.means, torch.zeros_like(found.loadings), noise)
    x, y = truth.sample(10_000, 1)

    def lost(mixture: FactorAnalyzerMixture) -> float:
        return float((truth.log_density(x) - mixture.log_density(x)).gather(1, y[:, None]).mean())

    assert 0 < lost(found) < 0.03
    assert lost(plain) > 0.5


def test_a_fit_tells_images_apart_that_it_never_saw(fitted: FactorAnalyzerMixture) -> None:
    bunch = load_digits()
    raw = torch.from_numpy(bunch.images)
    x = ((raw - raw[:700].mean()) / raw[:700].std())[700:, None]
    y = torch.from_numpy(bunch.target[700:]).to(torch.int64)
    assert fitted.shape == (1, 8, 8)
    assert float((fitted.posterior(x).argmax(-1) == y).double().mean()) > 0.85


def test_p_is_that_of_the_fit_and_can_be_tuned(fitted: FactorAnalyzerMixture) -> None:
    assert fitted.bayes_error(n=4096).value < 0.02
    harder = fitted._separated(0.3)
    x, y = harder.sample(20_000, 1)
    assert x.shape == (20_000, 1, 8, 8)
    assert float(calibration_z(x, y, harder.log_posterior(x)).abs().max()) < 5
    assert float(calibration_z(x, y, fitted.log_posterior(x)).abs().max()) > 8
    assert harder.bayes_error(n=4096).value > 0.05


def test_pixels_that_never_change_get_the_floor(fitted: FactorAnalyzerMixture) -> None:
    x, y = digit_images()
    dead = x.flatten(1).std(0) == 0
    assert bool(dead.any())
    noise = fitted.noise_variances.flatten(2)
    assert bool((noise[..., dead] == 0.02).all())
    assert float(noise.min()) == 0.02
    torch.testing.assert_close(fitted.priors, y.bincount().double() / len(y))
    again = FactorAnalyzerMixture.fit(x, y, 10, components=2, rank=3, floor=0.02)
    assert torch.equal(again.loadings, fitted.loadings)


def test_classes_of_one_image_or_of_twins_are_fitted_too() -> None:
    draw = normal(0)
    x = torch.cat([draw(1, 2, 2), draw(1, 2, 2).expand(3, 2, 2), draw(9, 2, 2)])
    y = torch.tensor([0, 1, 1, 1] + [2] * 9)
    mixture = FactorAnalyzerMixture.fit(x, y, 3, components=3, rank=2, floor=0.1)
    assert mixture.weights[:2].tolist() == [[1.0, 0.0, 0.0]] * 2
    assert bool((mixture.weights[2] > 0).all())
    torch.testing.assert_close(mixture.means[0, 0], x[0])
    assert bool((mixture.noise_variances[:2] == 0.1).all())
    torch.testing.assert_close(mixture.posterior(x).sum(-1), torch.ones(13, dtype=torch.float64))


# --------------------------------------------------------------------------------------------------------------- misuse


def analyzers(means: Shape, loadings: Shape, noise: Shape, level: float = 1.0) -> FactorAnalyzerMixture:
    return FactorAnalyzerMixture(torch.ones(means), torch.ones(loadings), level * torch.ones(noise).double())


def fit(classes: list[int], num_classes: int, n: int = 4, floor: float = 0.1) -> FactorAnalyzerMixture:
    return FactorAnalyzerMixture.fit(torch.ones(n, 3), torch.tensor(classes), num_classes, floor=floor)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: analyzers((2, 3), (2, 3, 1), (2, 3)), r"means must have shape \(K, C, \*shape\), received \(2, 3\)"),
        (lambda: analyzers((2, 1, 3), (2, 1, 3), (2, 1, 3)), r"loadings must have shape \(2, 1, 3, r\)"),
        (lambda: analyzers((2, 1, 3), (2, 1, 3, 0), (2, 1, 3)), r"r >= 1, received \(2, 1, 3, 0\)"),
        (lambda: analyzers((2, 1, 3), (2, 1, 3, 2), (2, 3)), r"noise_variances must have shape \(2, 1, 3\)"),
        (lambda: analyzers((2, 1, 3), (2, 1, 3, 2), (2, 1, 3), 0.0), "noise_variances must be positive"),
        (
            lambda: analyzers((2, 1, 3), (2, 1, 3, 2), (2, 1, 3), 1e-13),
            "at least 1e-12 of the largest variance of their component, received a minimum of 1e-13",
        ),
        (lambda: fit([0, 0, 2, 2], 3), r"every class needs an image, received none of \[1\]"),
        (lambda: fit([0, 1], 2), r"y \(n,\), received \(4, 3\) and \(2,\)"),
        (lambda: fit([0, 1], 2, n=2, floor=0.0), "floor > 0, received 1, 6 and 0"),
    ],
)
def test_impossible_parameters_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
