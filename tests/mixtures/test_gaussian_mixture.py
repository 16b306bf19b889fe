"""Gaussian mixtures: every form of the covariance, independent implementations, and the mistakes one could make."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from torch import Tensor

from bcpd.mixtures import FAMILIES, GaussianMixture, Mixture, calibration_z, paper_toy
from bcpd.testing import mixtures_with_points

MEANS = torch.tensor([[0.0, 0.0], [1.5, 0.5], [-0.5, 1.5]], dtype=torch.float64)
PRIORS = [0.5, 0.3, 0.2]


def random_mixture(seed: int, classes: int, components: int, dimension: int, form: str) -> GaussianMixture:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=draw)

    def covariances(*leading: int) -> Tensor:
        root = normal(*leading, dimension, dimension)
        return root @ root.mT + 0.3 * torch.eye(dimension, dtype=torch.float64)

    covariance = {
        "scalar": lambda: normal(1)[0].exp(),
        "diagonal": lambda: normal(dimension).exp(),
        "matrix": covariances,
        "class": lambda: covariances(classes),
        "component": lambda: covariances(classes, components),
    }[form]()
    return GaussianMixture(
        normal(classes, components, dimension),
        covariance,
        weights=normal(classes, components).softmax(-1),
        priors=normal(classes).softmax(-1),
    )


def full_covariance(mixture: GaussianMixture, k: int, c: int) -> Tensor:
    covariance, dimension = mixture.covariance, mixture.shape[0]
    if covariance.ndim <= 1:
        return torch.diag(covariance.expand(dimension))
    return covariance if covariance.ndim == 2 else covariance[k] if covariance.ndim == 3 else covariance[k, c]


def scipy_log_density(mixture: GaussianMixture, x: Tensor) -> Tensor:
    classes = []
    for k, means in enumerate(mixture.means):
        terms = [
            multivariate_normal(mean.numpy(), full_covariance(mixture, k, c).numpy()).logpdf(x.numpy())
            for c, mean in enumerate(means)
        ]
        stacked = torch.as_tensor(np.array(terms)).reshape(len(means), len(x))
        classes.append((stacked + mixture.weights[k].log()[:, None]).logsumexp(0))
    return torch.stack(classes, 1)


gaussians = mixtures_with_points(kinds=["gaussian"], max_depth=0, max_dimension=4)


@settings(max_examples=30)
@given(gaussians)
def test_densities_and_posterior_agree_with_scipy(drawn: tuple[Mixture, Tensor]) -> None:
    mixture, x = drawn
    assert isinstance(mixture, GaussianMixture)
    truth = scipy_log_density(mixture, x)
    torch.testing.assert_close(mixture.log_density(x), truth, rtol=1e-9, atol=1e-9)
    joint = truth + mixture.priors.log()
    torch.testing.assert_close(mixture.log_posterior(x), joint.log_softmax(-1), rtol=1e-9, atol=1e-9)


@settings(max_examples=30)
@given(mixtures_with_points(kinds=["gaussian", "student", "laplace"], max_depth=0), st.floats(0, 12))
def test_rows_stay_probabilities_however_far_x(drawn: tuple[Mixture, Tensor], exponent: float) -> None:
    mixture, x = drawn
    x = 10**exponent * x
    p = mixture.posterior(x)
    assert float((p.sum(-1) - 1).abs().max()) < 1e-12
    assert bool((mixture.log_posterior(x) <= 0).all())


def test_all_forms_of_one_covariance_are_one_mixture() -> None:
    identity = torch.eye(2, dtype=torch.float64)
    x = GaussianMixture(MEANS, 1.7).sample(100, 0)[0]
    expected = GaussianMixture(MEANS, 1.7, priors=PRIORS)
    for covariance in (
        torch.tensor([1.7, 1.7], dtype=torch.float64),
        1.7 * identity,
        1.7 * identity.expand(3, 2, 2),
        1.7 * identity.expand(3, 1, 2, 2),
    ):
        mixture = GaussianMixture(MEANS, covariance, priors=PRIORS)
        torch.testing.assert_close(mixture.log_posterior(x), expected.log_posterior(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mixture.log_density(x), expected.log_density(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mixture.sample(100, 3)[0], expected.sample(100, 3)[0], rtol=1e-12, atol=1e-12)


def test_a_variance_is_not_a_standard_deviation() -> None:
    x, y = GaussianMixture([[0.0]], 4.0).sample(100_000, seed=0)
    # 5 standard errors of a sample variance: 5 * 4 * sqrt(2 / n)
    assert abs(float(x.var()) - 4) < 5 * 4 * math.sqrt(2 / len(y))


@pytest.mark.parametrize("form", ["scalar", "diagonal", "matrix", "class", "component"])
def test_samples_have_the_moments_of_their_component(form: str) -> None:
    mixture = random_mixture(7, 2, 1, 3, form)
    x, y = mixture.sample(100_000, seed=0)
    for k in range(2):
        own, covariance = x[y == k], full_covariance(mixture, k, 0)
        spread = covariance.diagonal().sqrt()
        assert float(((own.mean(0) - mixture.means[k, 0]) / spread).abs().max()) < 5 / math.sqrt(len(own))
        # a product of two correlated unit normals has a variance of at most 2
        error = (own.T.cov() - covariance) / (spread[:, None] * spread)
        assert float(error.abs().max()) < 5 * math.sqrt(2 / len(own))
        assert float((1.1 * own.T.cov() / covariance - 1).diagonal().abs().max()) > 5 * math.sqrt(2 / len(own))


def test_components_of_weight_zero_never_come() -> None:
    means = [[[0.0], [100.0]], [[300.0], [200.0]]]
    mixture = GaussianMixture(means, 1.0, weights=[[1.0, 0.0], [0.0, 1.0]])
    x, y = mixture.sample(10_000, seed=0)
    assert float((x[:, 0] - 200.0 * y).abs().max()) < 10
    plain = GaussianMixture([[0.0], [200.0]], 1.0)
    torch.testing.assert_close(mixture.log_posterior(x), plain.log_posterior(x))
    assert mixture.bayes_error().value == pytest.approx(plain.bayes_error().value, rel=1e-9)


# ------------------------------------------------------------------------------------------------------- digits far out


def test_the_linear_form_keeps_digits_where_the_uncentred_one_loses_them() -> None:
    """Everything at 1e6, x a thousand deviations out: against 50 digits, and a naive version that fails."""
    means, x = MEANS + 1e6, MEANS[0] + 1e6 + 1000 * torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    mixture = GaussianMixture(means, 1.3, priors=PRIORS)
    with mpmath.workdps(50):
        truth = []
        for row in x.tolist():
            joint = [
                mpmath.mpf(p)
                * mpmath.exp(
                    -sum((mpmath.mpf(a) - mpmath.mpf(m)) ** 2 for a, m in zip(row, mean, strict=True))
                    / (2 * mpmath.mpf(1.3))
                )
                for p, mean in zip(PRIORS, means.tolist(), strict=True)
            ]
            truth.append([float(mpmath.log(j / sum(joint))) for j in joint])
    expected = torch.tensor(truth, dtype=torch.float64)
    torch.testing.assert_close(mixture.log_posterior(x), expected, rtol=1e-12, atol=1e-12)
    naive = (x @ means.T - means.square().sum(-1) / 2) / 1.3 + torch.tensor(PRIORS).log()
    assert float((naive.log_softmax(-1) - expected).abs().max()) > 1e-6


@pytest.mark.parametrize("own", [False, True])
def test_log_odds_keep_nine_decimals_up_to_the_cap_on_the_condition_and_beyond_it_are_refused(own: bool) -> None:
    """Close means along the narrowest direction of a covariance of condition 9e5: against 50 digits."""

    def at(condition: float) -> GaussianMixture:
        draw = torch.Generator().manual_seed(0)
        turns = torch.linalg.qr(torch.randn(2, 3, 3, dtype=torch.float64, generator=draw))[0]
        spectrum = torch.tensor([1.0, 0.1, 1 / condition], dtype=torch.float64)
        matrices = turns * spectrum @ turns.mT
        means = turns[:, :, 2] * torch.tensor([[0.0], [1.0]]).double() / condition**0.5
        # the second class narrow where the first is, so that typical points are not certain
        return GaussianMixture(means, torch.stack([matrices[0], 2 * matrices[0]]) if own else matrices[0])

    mixture = at(9e5)
    x, _ = mixture.sample(20, 0)
    with mpmath.workdps(50):
        truth = []
        for row in x.tolist():
            logs = []
            for k in range(2):
                matrix = mpmath.matrix(full_covariance(mixture, k, 0).tolist())
                gap = mpmath.matrix([mpmath.mpf(a) - m for a, m in zip(row, mixture.means[k, 0].tolist(), strict=True)])
                logs.append(-(gap.T * matrix**-1 * gap)[0] / 2 - mpmath.log(mpmath.det(matrix)) / 2)
            truth.append(float(logs[0] - logs[1]))
    logs = mixture.log_posterior(x)
    torch.testing.assert_close(logs[:, 0] - logs[:, 1], torch.tensor(truth, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"condition number of at most 1e\+06 once its diagonal is scaled to 1"):
        at(1e8)


def test_units_do_not_count_for_the_condition() -> None:
    units = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
    plain = torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.3], [0.2, 0.3, 1.0]], dtype=torch.float64)
    means = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    mixture = GaussianMixture(units * means, units[:, None] * plain * units)
    x, _ = mixture.sample(100, 0)
    expected = GaussianMixture(means, plain).log_posterior(x / units)
    torch.testing.assert_close(mixture.log_posterior(x), expected, rtol=1e-9, atol=1e-9)


# -------------------------------------------------------------------------------------------------------- scikit-learn


def points_with_moments(mean: Tensor, covariance: Tensor) -> Tensor:
    """2d points whose mean and covariance (divisor 2d) are exactly these: the mean -+ scaled Cholesky columns."""
    columns = math.sqrt(len(mean)) * torch.linalg.cholesky(covariance).T
    return torch.cat([mean + columns, mean - columns])


@pytest.mark.parametrize("form", ["scalar", "diagonal", "matrix"])
def test_a_shared_covariance_is_scikit_learns_lda(form: str) -> None:
    mixture = random_mixture(3, 4, 1, 3, form)
    covariance = full_covariance(mixture, 0, 0)
    data = [points_with_moments(mean, covariance) for mean in mixture.means[:, 0]]
    lda = LinearDiscriminantAnalysis(solver="lsqr", priors=mixture.priors.numpy())
    lda.fit(torch.cat(data).numpy(), np.repeat(np.arange(4), 6))
    x = mixture.sample(500, 0)[0]
    expected = torch.as_tensor(lda.predict_log_proba(x.numpy()))
    torch.testing.assert_close(mixture.log_posterior(x), expected, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(mixture.misspecified(0.001).log_posterior(x), expected, rtol=1e-5, atol=1e-5)


def test_own_covariances_are_scikit_learns_qda() -> None:
    mixture = random_mixture(4, 3, 1, 3, "class")
    qda = QuadraticDiscriminantAnalysis(priors=mixture.priors.numpy())
    qda.fit(np.random.default_rng(0).normal(size=(30, 3)), np.repeat(np.arange(3), 10))
    # versions of scikit-learn differ in the divisor of a covariance: write what they would have fitted
    spectra = [torch.linalg.eigh(full_covariance(mixture, k, 0)) for k in range(3)]
    qda.means_ = mixture.means[:, 0].numpy()
    qda.scalings_ = [values.numpy() for values, _ in spectra]
    qda.rotations_ = [vectors.numpy() for _, vectors in spectra]
    x = mixture.sample(500, 0)[0]
    expected = torch.as_tensor(qda.predict_log_proba(x.numpy()))
    torch.testing.assert_close(mixture.log_posterior(x), expected, rtol=1e-8, atol=1e-8)
    without_log_determinants = mixture.log_density(x) + mixture.priors.log()
    halves = torch.stack([full_covariance(mixture, k, 0).logdet() / 2 for k in range(3)])
    assert not torch.allclose((without_log_determinants + halves).log_softmax(-1), expected, rtol=1e-2, atol=1e-2)


# ---------------------------------------------------------------------- mistakes that the calibration check must notice


def worst(mixture: GaussianMixture, log_posterior: GaussianMixture | None = None, shift: Tensor | float = 0.0) -> float:
    """Largest calibration score of labels of ``mixture`` under another posterior; 200,000 points."""
    x, y = mixture.sample(200_000, seed=1)
    log_p = (log_posterior or mixture).log_posterior(x)
    return float(calibration_z(x, y, (log_p + shift).log_softmax(-1)).abs().max())


def test_calibration_notices_dropped_log_determinants() -> None:
    mixture = FAMILIES["gaussian-classwise"]()
    assert isinstance(mixture, GaussianMixture)
    assert worst(mixture) < 5
    assert worst(mixture, shift=mixture.covariance.logdet() / 2) > 50


def test_calibration_notices_sigma_in_the_place_of_its_square() -> None:
    mixture = paper_toy()
    assert worst(mixture) < 5
    assert worst(mixture, GaussianMixture(mixture.means, 6.0**0.5)) > 50


def test_calibration_notices_forgotten_priors() -> None:
    mixture = GaussianMixture(MEANS, 1.0, priors=PRIORS)
    assert worst(mixture) < 5
    assert worst(mixture, GaussianMixture(MEANS, 1.0)) > 50


def test_opposite_corners_leave_a_linear_rule_little() -> None:
    """The XOR layout: a Bayes error of 0.16, and no half-plane does better than 0.29."""
    mixture = FAMILIES["gaussian-xor"]()
    x, y = mixture.sample(20_000, 0)
    angles = torch.linspace(0, 2 * math.pi, 60, dtype=torch.float64)
    directions = torch.stack([angles.cos(), angles.sin()])
    offsets = torch.linspace(-2, 2, 21, dtype=torch.float64)
    errors = ((x @ directions)[..., None] > offsets).to(torch.int64).ne(y[:, None, None]).double().mean(0)
    assert mixture.bayes_error().value < 0.17
    assert float(errors.min()) > 0.28


# ------------------------------------------------------------------------------------------------------------ paper_toy


def test_paper_toy_has_the_published_form() -> None:
    mixture = paper_toy()
    assert mixture.means.shape == (10, 1, 30)
    assert set(mixture.means.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert float(mixture.covariance) == 6.0
    torch.testing.assert_close(mixture.priors, torch.full((10,), 0.1, dtype=torch.float64))
    wide = paper_toy(num_classes=3, dimension=8, separation=4.0, variance=2.0, seed=1)
    assert set(wide.means.unique().tolist()) == {-4.0, 0.0, 4.0}
    assert wide.shape == (8,)
    assert not torch.equal(paper_toy(seed=1).means, mixture.means)
    assert torch.equal(paper_toy().means, mixture.means)
    # Bayes accuracies near 0.6 for three draws of the means are reported for this setting
    assert 0.55 < 1 - mixture.bayes_error(n=20_000).value < 0.65


# --------------------------------------------------------------------------------------------------------------- misuse

BAD_COVARIANCES = {
    "positive definite": [[1.0, 2.0], [2.0, 1.0]],
    "symmetric": [[1.0, 0.5], [0.2, 1.0]],
    "variances must be positive": -1.0,
    "positive, received a minimum of 0": [1.0, 0.0],
    r"shape \(\) \(a variance\), \(d,\), \(d, d\), \(K, d, d\) or \(K, C, d, d\).*received \(3,\)": [1.0, 1.0, 1.0],
    "finite": float("nan"),
    "numeric": "wide",
}


@pytest.mark.parametrize("message", BAD_COVARIANCES)
def test_impossible_covariances_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(MEANS, BAD_COVARIANCES[message])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"means": [1.0, 2.0]}, r"means must have shape \(K, d\) or \(K, C, d\), received \(2,\)"),
        ({"means": [[1.0, float("inf")]]}, "means must be finite"),
        ({"means": torch.zeros(0, 2)}, "means must have shape"),
        ({"priors": [0.5, 0.5, 0.1]}, r"priors must be .*sum 1\.1"),
        ({"priors": [0.5, 0.5]}, "priors must be 3 positive numbers"),
        ({"priors": [0.5, 0.5, 0.0]}, "priors must be 3 positive numbers"),
        ({"priors": [0.5, 0.7, -0.2]}, "priors must be .*>= 0"),
        ({"weights": [[0.5, 0.5]] * 3}, r"weights must have shape \(3, 1\), received \(3, 2\)"),
        ({"weights": [[0.5]] * 3}, "weights must be rows of probabilities"),
    ],
)
def test_impossible_parameters_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**{"means": MEANS, "covariance": 1.0, **arguments})  # type: ignore[arg-type]


def test_float32_priors_are_brought_to_sum_to_one() -> None:
    mixture = GaussianMixture(MEANS, 1.0, priors=torch.tensor(PRIORS, dtype=torch.float32))
    assert abs(float(mixture.priors.sum()) - 1) < 1e-15


def test_the_callers_arrays_are_copied() -> None:
    means = MEANS.clone()
    mixture = GaussianMixture(means, 1.0)
    before = mixture.log_posterior(MEANS)
    means += 5
    torch.testing.assert_close(mixture.log_posterior(MEANS), before, rtol=0, atol=0)


def test_log_density_refuses_points_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 2\), received \(4, 3\)"):
        GaussianMixture(MEANS, 1.0).log_density(torch.zeros(4, 3))
