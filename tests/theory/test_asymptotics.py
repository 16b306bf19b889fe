"""Limits of M-estimators against sandwiches by hand, the delta method in numpy, and all data sets of a small world."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import root
from scipy.special import expit, gammaln, xlogy
from scipy.stats import binom, norm
from torch import Tensor
from trying import settings_at, tried

from bcpd.losses import LOSSES, Loss
from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.nets.mlp import MLP
from bcpd.testing import finite_mixtures, losses, row_tables
from bcpd.theory import asymptotics, efficiency_ratio
from bcpd.theory.asymptotic import asymptotics as limits
from bcpd.theory.asymptotic import efficiency
from bcpd.theory.asymptotic.asymptotics import fisher_rank, model_of, proper_loss
from bcpd.theory.asymptotic.estimators import law_of
from bcpd.theory.asymptotic.models import LinearModel, NetModel
from bcpd.theory.asymptotic.projections import projection
from bcpd.theory.asymptotic.regular import (
    containing_design,
    linear_place,
    places,
    prediction,
    settled_size,
    two_gaussians,
    two_gaussians_on_nodes,
)
from bcpd.theory.linear import linear_design, quadratic_design, table_design

Array = NDArray[Any]


def constant_design(x: Tensor) -> Tensor:
    """One free row of logits for every x."""
    return torch.ones_like(x[:, :1])


def slope_design(x: Tensor) -> Tensor:
    """Lines through the origin."""
    return x


# ----------------------------------------------------------------------------------------- a linear softmax in numpy


def softmax(z: Array) -> Array:
    """Analytic, so that a complex step differentiates it."""
    rows: Array = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    return rows


def linear_logits(theta: Array, design: Array) -> Array:
    """The last class's logit is 0."""
    free = design @ theta.reshape(design.shape[1], -1)
    return np.concatenate([free, 0 * free[:, :1]], 1)


def scores(theta: Array, design: Array, loss: str) -> Array:
    """Gradients of the losses of the outcomes: -log q_k, or |q - e_k|^2; ``(n, K, P)``."""
    q = softmax(linear_logits(theta, design))
    residual = q[:, None] - np.eye(q.shape[1])
    if loss == "mse":
        residual = 2 * q[:, None] * (residual - (q[:, None] * residual).sum(-1, keepdims=True))
    outer: Array = design[:, None, :, None] * residual[:, :, None, :-1]
    return outer.reshape(*q.shape, -1)


def slope_of(theta: Array, table: Array, design: Array, loss: str) -> Array:
    """The gradient of the mean loss over a table of frequencies ``(n, K)``."""
    slope: Array = np.einsum("nk,nkp->p", table, scores(theta, design, loss))
    return slope


def derivative(function: Callable[[Array], Array], at: Array) -> Array:
    """By complex steps, exact to rounding: ``(..., P)``."""
    return np.stack([function(at + 1e-30j * unit).imag / 1e-30 for unit in np.eye(len(at))], -1)


def distances(q: Array, table: Array) -> Array:
    """Expected squared distance and KL from p*."""
    weights = table.sum(1, keepdims=True)
    p = table / weights
    return np.array([(weights * (p - q) ** 2).sum(), (table * np.log(p / q)).sum()])


def by_hand(theta: Array, table: Array, design: Array, loss: str) -> tuple[Array, Array, Array]:
    """A^-1 B A^-1 with its two parts, in numpy."""
    hessian = derivative(lambda t: slope_of(t, table, design, loss), theta)
    psi = scores(theta, design, loss)
    outer = np.einsum("nk,nki,nkj->ij", table, psi, psi)
    inverse = np.linalg.inv(hessian)
    return inverse @ outer @ inverse, hessian, outer


def expansion(function: Callable[[Array], Array], table: Array) -> tuple[Array, Array]:
    """The 1/N terms of mean and covariance of a smooth function of the frequencies of N draws from ``table``.

    The delta method: half the second derivatives and the squares of the first, summed over the axes of the multinomial
    covariance, by differences of fourth order. No loss and no estimating equation is differentiated.
    """
    flat, step = table.reshape(-1), 2e-3
    values, axes = np.linalg.eigh(np.diag(flat) - np.outer(flat, flat))
    mean, covariance = 0.0, 0.0
    for value, axis in zip(values, axes.T, strict=True):
        if value > 1e-12:
            at = [function((flat + k * step * axis).reshape(table.shape)) for k in (-2, -1, 0, 1, 2)]
            first = (at[0] - 8 * at[1] + 8 * at[3] - at[4]) / (12 * step)
            second = (-at[0] + 16 * at[1] - 30 * at[2] + 16 * at[3] - at[4]) / (12 * step**2)
            mean = mean + value * second / 2
            covariance = covariance + value * np.outer(first, first)
    return np.asarray(mean), np.asarray(covariance)


def estimate(slope: Callable[[Array, Array], Array], table: Array, start: Array) -> Array:
    """Where the gradient of the mean loss over a table vanishes, by MINPACK."""
    found: Array = root(slope, start, args=(table,), tol=1e-13).x
    assert np.abs(slope(found, table)).max() < 1e-11
    return found


@st.composite
def worlds(draw: st.DrawFn, contains: bool = False) -> FiniteMixture:
    """Three to five points on a line with two or three classes; p* from a linear softmax if so told."""
    n, k = draw(st.integers(3, 5)), draw(st.integers(2, 3))
    weights = draw(row_tables(1, n, floor=0.05))[0]
    x = torch.linspace(-1, 1, n, dtype=torch.float64)[:, None]
    if not contains:
        return FiniteMixture(weights, draw(row_tables(n, k, floor=0.1)), x)
    entries = st.floats(-1.5, 1.5)
    theta = torch.tensor([[draw(entries) for _ in range(k)] for _ in range(2)], dtype=torch.float64)
    return FiniteMixture(weights, (linear_design(x) @ theta).softmax(1), x)


def as_table(mixture: FiniteMixture) -> tuple[Array, Array]:
    """The probabilities of the pairs, and the design [x, 1]."""
    return (mixture.weights[:, None] * mixture.rows).numpy(), linear_design(mixture.points).numpy()


BENT = FiniteMixture(
    [0.2, 0.3, 0.15, 0.25, 0.1],
    [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.1, 0.3, 0.6], [0.4, 0.4, 0.2]],
    [[-1.0], [-0.4], [0.1], [0.7], [1.2]],
)
LIGHT = FiniteMixture(
    [0.3, 0.3, 0.2, 0.2], [[0.8, 0.2], [0.35, 0.65], [0.55, 0.45], [0.2, 0.8]], [[-1.0], [0.0], [0.5], [1.5]]
)

# ---------------------------------------------------------------------------------------------- information identity


def test_the_information_identity_holds_and_fails_where_p_star_is_missed() -> None:
    (claim,) = (claim for claim in efficiency.CLAIMS if claim.id == "information-identity")
    checks = tried([claim], settings_at(0))
    assert {(check.role, check.loss) for check in checks} == {
        (role, loss) for role in ("claim", "control") for loss in ("ce", "mse")
    }
    assert min(check.value for check in checks if check.role == "control") > 0.01


@pytest.mark.parametrize("loss", ["ce", "mse"])
@pytest.mark.parametrize("wrong", ["no mean", "no weight"])
def test_the_information_identity_sees_a_wrong_derivative_of_the_softmax(
    loss: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def derivative(jacobian: Tensor, q: Tensor) -> Tensor:
        centred = jacobian - torch.einsum("nk,nkp->np", q, jacobian)[:, None]
        return q[..., None] * jacobian if wrong == "no mean" else centred

    (claim,) = (claim for claim in efficiency.CLAIMS if claim.id == "information-identity")
    monkeypatch.setattr(limits, "_softmax_jacobian", derivative)
    for trial in claim.trials(settings_at(0)):
        if trial.control is None and trial.loss == loss and trial.world != "tanh net":
            assert claim.check(trial).value > 1e-3


# ------------------------------------------------------------------------------------------------------ the sandwich


@pytest.mark.parametrize("loss", ["ce", "mse"])
@settings(max_examples=12)
@given(mixture=worlds())
def test_the_sandwich_of_a_class_that_misses_p_star_by_hand(loss: str, mixture: FiniteMixture) -> None:
    found = asymptotics(mixture, loss=loss)
    table, design = as_table(mixture)
    theta = found.theta.numpy()
    assert np.abs(slope_of(theta, table, design, loss)).max() < 1e-9
    covariance, hessian, outer = by_hand(theta, table, design, loss)
    scale = np.abs(covariance).max()
    assert found.covariance.numpy() == pytest.approx(covariance, abs=1e-6 * scale)
    assert found.hessian.numpy() == pytest.approx(hessian, abs=1e-8)
    assert found.score_covariance.numpy() == pytest.approx(outer, abs=1e-8)
    q = softmax(linear_logits(theta, design))
    assert [found.mse, found.kl] == pytest.approx(distances(q, table), abs=1e-10)


@pytest.mark.parametrize("loss", ["ce", "mse"])
@settings(max_examples=12)
@given(mixture=worlds(contains=True))
def test_both_coefficients_of_a_class_that_contains_p_star_by_hand(loss: str, mixture: FiniteMixture) -> None:
    """N MSE -> tr(E[J'J] V) and N KL -> tr(E[J' diag(1/p) J] V) / 2; the latter rank / 2 for the cross-entropy."""
    found = asymptotics(mixture, loss=loss)
    table, design = as_table(mixture)
    theta = found.theta.numpy()
    covariance, _, _ = by_hand(theta, table, design, loss)
    jacobian = derivative(lambda t: softmax(linear_logits(t, design)), theta)
    p, weights = mixture.rows.numpy(), mixture.weights.numpy()
    gram = np.einsum("n,nki,nkj->ij", weights, jacobian, jacobian)
    fisher = np.einsum("n,nk,nki,nkj->ij", weights, 1 / p, jacobian, jacobian)
    assert found.well_specified
    assert found.rank == 2 * (p.shape[1] - 1)
    assert found.gram.numpy() == pytest.approx(gram, abs=1e-10)
    assert found.fisher.numpy() == pytest.approx(fisher, abs=1e-10)
    assert found.n_mse == pytest.approx(np.trace(gram @ covariance), rel=1e-7)
    assert found.n_kl == pytest.approx(np.trace(fisher @ covariance) / 2, rel=1e-7)
    assert found.expected("mse", 50) == pytest.approx(found.n_mse / 50, abs=1e-12)
    if loss == "ce":
        assert found.n_kl == pytest.approx(p.shape[1] - 1, rel=1e-7)
    else:  # the sandwich of the Brier score is no inverse of Fisher's information, unless p* is constant
        assert found.n_kl >= p.shape[1] - 1 - 1e-7


@pytest.mark.parametrize("mixture", [BENT, LIGHT], ids=["three classes", "two classes"])
@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_bias_covariance_and_coefficients_of_a_class_that_misses_p_star(loss: str, mixture: FiniteMixture) -> None:
    """By the delta method on the table of frequencies, whose minimiser is found anew for every table."""
    found = asymptotics(mixture, loss=loss)
    table, design = as_table(mixture)
    slope = partial(slope_of, design=design, loss=loss)
    start = found.theta.numpy()

    def everything(frequencies: Array) -> Array:
        theta = estimate(slope, frequencies, start)
        return np.concatenate([theta, distances(softmax(linear_logits(theta, design)), table)])

    mean, covariance = expansion(everything, table)
    size = len(start)
    assert found.bias.numpy() == pytest.approx(mean[:size], rel=1e-4, abs=1e-4)
    assert float(found.bias.abs().max()) > 0.1
    assert found.covariance.numpy() == pytest.approx(covariance[:size, :size], rel=1e-4, abs=1e-4)
    assert [found.n_mse, found.n_kl] == pytest.approx(mean[size:], rel=1e-4)
    assert not found.well_specified
    assert found.expected("kl", 100) == pytest.approx(found.kl + mean[size + 1] / 100, rel=1e-4)


@settings(max_examples=15)
@given(finite_mixtures(), losses("proper"))
def test_a_constant_class_estimates_the_frequencies_of_the_classes(mixture: FiniteMixture, loss: Loss) -> None:
    r"""Every strictly proper loss has their frequencies f as its estimate, and theta_k = log f_k - log f_K.

    With class probabilities m, N Cov f = diag m - m m' and E log f_k = log m_k - (1 - m_k) / (2 N m_k) + ...; the
    expected squared distance is D(m) + E|f - m|^2 exactly, and KL has the curvature sum_k m_k / m_k^2 Var f_k / 2.
    """
    m = mixture.priors
    assume(float(m.min()) > 0.02)
    found = asymptotics(mixture, constant_design, loss)
    assert found.theta.tolist() == pytest.approx((m[:-1] / m[-1]).log().tolist(), abs=1e-6)
    assert found.rank == len(m) - 1
    covariance = torch.diag(1 / m[:-1]) + 1 / m[-1]
    assert found.covariance.numpy() == pytest.approx(covariance.numpy(), rel=1e-5)
    assert found.n_mse == pytest.approx(float(1 - m.square().sum()), rel=1e-5, abs=1e-7)
    assert found.n_kl == pytest.approx((len(m) - 1) / 2, rel=1e-5)
    if not found.well_specified:
        bias = -(1 - m) / (2 * m)
        assert found.bias.tolist() == pytest.approx((bias[:-1] - bias[-1]).tolist(), rel=1e-4, abs=1e-5)


# ------------------------------------------------------------------------------------- one parameter, two points

PLACES, SHARES, TRUTH = np.array([1.0, 2.0]), np.array([0.45, 0.55]), np.array([0.3, 0.75])
LINE = FiniteMixture(SHARES, np.stack([TRUTH, 1 - TRUTH], 1), PLACES[:, None])


def slope_estimates(seen: Array, positive: Array, loss: str, start: float) -> Array:
    """Minimisers over theta of tables ``(R, 2)`` of how often each x came, and with y = 0; q = 1 / (1 + e^-theta x)."""
    theta = np.full(len(seen), start)
    for _ in range(60):
        q = expit(theta[:, None] * PLACES)
        spread, miss = q * (1 - q), seen * q - positive
        if loss == "ce":
            first, second = miss * PLACES, seen * spread * PLACES**2
        else:  # of (q - f)^2, up to a factor
            first = miss * spread * PLACES
            second = (seen * spread**2 + miss * spread * (1 - 2 * q)) * PLACES**2
        theta -= np.clip(first.sum(1) / np.abs(second.sum(1)), -0.5, 0.5)
    assert np.abs(first.sum(1) / seen.sum(1)).max() < 1e-10
    return theta


def every_data_set(n: int, loss: str, start: float) -> tuple[Array, Array, Array]:
    """Probabilities, estimates and distances to p* of all data sets of n pairs that have both classes.

    The Brier score of a few, very unlikely ones has its minimum at infinity: they are left out.
    """
    a, b, c = np.meshgrid(*[np.arange(n + 1)] * 3, indexing="ij")
    inside = (a + b + c <= n) & (a + c > 0) & (a + c < n)
    cells = np.stack([a[inside], b[inside], c[inside], n - a[inside] - b[inside] - c[inside]], 1)
    chances = np.stack([SHARES * TRUTH, SHARES * (1 - TRUTH)], 1).reshape(-1)
    share = np.exp(gammaln(n + 1) - gammaln(cells + 1).sum(1) + cells @ np.log(chances))
    theta = slope_estimates(cells[:, ::2] + cells[:, 1::2], cells[:, ::2], loss, start)
    kept = np.abs(theta) < 8
    assert share[~kept].sum() < 1e-3
    share, theta = share[kept], theta[kept]
    q = expit(theta[:, None] * PLACES)
    squared = 2 * (TRUTH - q) ** 2 @ SHARES
    kl = (xlogy(TRUTH, TRUTH / q) + xlogy(1 - TRUTH, (1 - TRUTH) / (1 - q))) @ SHARES
    return share / share.sum(), theta, np.stack([squared, kl])


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_the_coefficients_by_listing_all_data_sets(loss: str) -> None:
    """N (E D - D_limit) at N = 20, 40, 80, extrapolated twice: what is left is of order 1/N^3."""
    found = asymptotics(LINE, slope_design, loss)
    (theta,) = found.theta.tolist()
    terms = []
    for n in (20, 40, 80):
        share, estimates, away = every_data_set(n, loss, theta)
        terms.append(n * np.array([share @ (estimates - theta), *(away @ share - [found.mse, found.kl])]))
    once = [2 * terms[1] - terms[0], 2 * terms[2] - terms[1]]
    limit = (4 * once[1] - once[0]) / 3
    assert [found.bias.item(), found.n_mse, found.n_kl] == pytest.approx(limit, rel=0.01)
    assert abs(found.bias.item()) > 0.05


def test_the_sandwich_of_one_parameter_in_closed_form() -> None:
    """q = 1 / (1 + e^-theta x): CE has score (q - y) x, the Brier score 4 (q - y) s x with s = q (1 - q)."""
    x, w, p = PLACES, SHARES, TRUTH
    ce, mse = (asymptotics(LINE, slope_design, loss) for loss in ("ce", "mse"))
    q = expit(ce.theta.item() * x)
    s = q * (1 - q)
    assert w @ ((q - p) * x) == pytest.approx(0, abs=1e-12)
    noise = (q - p) ** 2 + p * (1 - p)
    curvature = w @ (s * x**2)
    assert ce.covariance.item() == pytest.approx(w @ (noise * x**2) / curvature**2, rel=1e-10)
    # KL is least at theta, so that its coefficient has no bias: B / (2 A), not rank / 2, as the class misses p*
    assert ce.n_kl == pytest.approx(w @ (noise * x**2) / curvature / 2, rel=1e-10)
    assert abs(ce.n_kl - 0.5) > 0.04
    q = expit(mse.theta.item() * x)
    s = q * (1 - q)
    assert w @ ((q - p) * s * x) == pytest.approx(0, abs=1e-12)
    noise = (q - p) ** 2 + p * (1 - p)
    curvature = w @ ((4 * s**2 + 4 * (q - p) * s * (1 - 2 * q)) * x**2)
    covariance = w @ (noise * (4 * s * x) ** 2) / curvature**2
    assert mse.covariance.item() == pytest.approx(covariance, rel=1e-10)
    # the squared distance is the Brier risk less a constant: its gradient vanishes as well
    assert mse.n_mse == pytest.approx(curvature * covariance / 2, rel=1e-10)


# -------------------------------------------------------------------------------------------------------- efficiency


@settings(max_examples=30)
@given(st.lists(st.floats(0.1, 3), min_size=2, max_size=5, unique=True), st.floats(-1.5, 1.5))
def test_the_efficiency_of_one_parameter_in_closed_form(places: list[float], theta: float) -> None:
    """E[s^3 x^2] E[s x^2] / E[s^2 x^2]^2 with s = p* (1 - p*): at least 1 by Cauchy and Schwarz."""
    x = np.array(places)
    p = expit(theta * x)
    s, w = p * (1 - p), np.full(len(x), 1 / len(x))
    expected = (w @ (s**3 * x**2)) * (w @ (s * x**2)) / (w @ (s**2 * x**2)) ** 2
    mixture = FiniteMixture(w, np.stack([p, 1 - p], 1), x[:, None])
    assert efficiency_ratio(mixture, slope_design) == pytest.approx(expected, rel=1e-7)
    assert expected >= 1 - 1e-12


@settings(max_examples=15)
@given(worlds(contains=True), losses("proper"))
def test_no_proper_loss_is_more_efficient_than_the_cross_entropy(mixture: FiniteMixture, loss: Loss) -> None:
    ratio = efficiency_ratio(mixture, loss=loss)
    assert ratio >= 1 - 1e-8
    if loss.name != "ce" and float(mixture.rows.std(0).max()) > 0.1 and mixture.num_classes == 2 < len(mixture.rows):
        assert ratio > 1


def test_the_ratio_of_two_gaussians_by_integration() -> None:
    """Means 3 apart, unit variances: p* = 1 / (1 + e^-3x), and the three matrices are integrals over the line."""

    def mean(power: int) -> Array:
        def moment(degree: int) -> float:
            def integrand(x: float) -> float:
                density = (norm.pdf(x, -1.5) + norm.pdf(x, 1.5)) / 2
                return float(density * (expit(3 * x) * expit(-3 * x)) ** power * x**degree)

            return float(quad(integrand, -12, 12, points=[0], epsabs=1e-13, limit=200)[0])

        return np.array([[moment(2), moment(1)], [moment(1), moment(0)]])

    fisher, gram, noise = (mean(power) for power in (1, 2, 3))
    inverse = np.linalg.inv(gram)
    expected = np.trace(gram @ inverse @ noise @ inverse) / np.trace(gram @ np.linalg.inv(fisher))
    assert expected > 1.4
    assert efficiency_ratio(two_gaussians(3.0)) == pytest.approx(expected, rel=1e-5)
    assert efficiency_ratio(two_gaussians_on_nodes(3.0, 100)) == pytest.approx(expected, rel=1e-4)


def test_the_brier_score_loses_nothing_where_p_star_is_constant_or_the_table_is_free() -> None:
    """Both losses then estimate frequencies."""
    assert efficiency_ratio(two_gaussians(0.0)) == pytest.approx(1, abs=1e-10)
    assert efficiency_ratio(BENT, table_design) == pytest.approx(1, abs=1e-10)
    assert efficiency_ratio(two_gaussians(2.0), loss="ce") == 1
    assert efficiency_ratio(two_gaussians(2.0), loss="mse_mean") == pytest.approx(efficiency_ratio(two_gaussians(2.0)))


# -------------------------------------------------------------------------------------------------- ranks and networks


def network(weights: list[list[float]], biases: list[float], head: list[list[float]], shifts: list[float]) -> MLP:
    """A network with one tanh layer on the line and given parameters."""
    net = MLP(num_classes=len(shifts), input_shape=(1,), hidden=(len(biases),), activation="tanh").double()
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), (weights, biases, head, shifts), strict=True):
            parameter.copy_(torch.tensor(value, dtype=torch.float64))
    return net


def steep_table(seed: int) -> FiniteMixture:
    """Nine points in the plane, three classes, log-odds bent by a saddle with coefficients 3 and -3."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.cartesian_prod(*(torch.linspace(-1, 1, 3, dtype=torch.float64),) * 2)
    theta = 0.8 * (torch.rand(3, 3, generator=draw, dtype=torch.float64) - 0.5)
    saddle = x[:, :1].square() - x[:, 1:].square() + x.prod(1, keepdim=True)
    bend = torch.tensor([3.0, -3.0, 0.0], dtype=torch.float64) * saddle
    return FiniteMixture([1 / 9] * 9, (linear_design(x) @ theta + bend).softmax(1), x)


EVEN = FiniteMixture(
    [1 / 12] * 12,
    torch.stack([torch.linspace(0.2, 0.8, 12), torch.linspace(0.8, 0.2, 12)], 1).double(),
    torch.linspace(-3, 3, 12).double()[:, None],
)
REGULAR = network([[1.2, -0.7]], [0.3, 0.9], [[1.0, -0.5], [0.4, 1.1]], [0.1, -0.2])


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_redundant_parameters_leave_the_rank_alone(classes: int) -> None:
    """(K - 1)(d + 1): neither a logit for every class nor a repeated column adds a direction."""
    draw = torch.Generator().manual_seed(classes)
    x = torch.randn(9, 2, generator=draw, dtype=torch.float64)
    mixture = FiniteMixture([1 / 9] * 9, torch.rand(9, classes, generator=draw).double().softmax(1), x)
    law = law_of(mixture)

    def repeated(points: Tensor) -> Tensor:
        return torch.cat([linear_design(points), points[:, :1] + points[:, 1:]], 1)

    for model, size in (
        (LinearModel(3, classes), 3 * (classes - 1)),
        (LinearModel(3, classes, redundant=True), 3 * classes),
        (LinearModel(4, classes, repeated), 4 * (classes - 1)),
        (NetModel(MLP(num_classes=classes, input_shape=(2,), hidden=(), activation="tanh")), 3 * classes),
    ):
        assert model.size == size
        theta = torch.randn(size, generator=draw, dtype=torch.float64)
        assert fisher_rank(law, model, theta) == 3 * (classes - 1)


def test_a_network_has_the_rank_of_its_identifiable_parameters() -> None:
    """Ten parameters; a shift of both logits, constant or along either of the two units, changes nothing."""
    model = NetModel(REGULAR)
    assert model.size == 10
    assert fisher_rank(law_of(EVEN), model, model.theta) == 7


@settings(max_examples=8)
@given(
    st.tuples(st.floats(0.4, 0.9), st.floats(1.2, 2)),
    st.tuples(*[st.floats(-0.7, 0.7)] * 2),
    st.tuples(*[st.floats(0.5, 1.5)] * 2),
    st.integers(0, 3),
)
def test_no_regular_network_is_refused(
    slopes: tuple[float, float], biases: tuple[float, float], effects: tuple[float, float], seed: int
) -> None:
    """Two units with slopes apart: the slope, bias and effect on the log-odds of each, and a shift of the log-odds."""
    head = [[effects[0], -effects[0]], [effects[1], 0.0]]
    model = NetModel(network([list(slopes)], list(biases), head, [0.1, -0.2]))
    assert fisher_rank(law_of(EVEN), model, model.theta, seed=seed) == 7


@pytest.mark.parametrize(
    ("net", "rank"),
    [
        (network([[1.2, -0.7]], [0.3, 0.9], [[1.0, -0.5], [0.4, 0.4]], [0.1, -0.2]), 5),
        (network([[1.2, 1.2]], [0.3, 0.3], [[1.0, -0.5], [0.4, 1.1]], [0.1, -0.2]), 4),
        (network([[1.2, 0.0]], [0.3, 0.9], [[1.0, -0.5], [0.4, 1.1]], [0.1, -0.2]), 5),
    ],
    ids=["dead", "duplicate", "blind"],
)
def test_a_unit_that_is_dead_blind_or_a_copy_has_no_normal_limit(net: MLP, rank: int) -> None:
    """Ranks by counting: the first unit's weight, bias and effect on the log-odds, their shift, and what is left.

    Of a dead unit (equal weights to both logits) its effect; of a copy nothing; of a unit that does not see x a slope,
    and what is new nearby is of second order, so that it shows only further away.
    """
    model = NetModel(net)
    message = rf"not regular here: Fisher's information has rank {rank} of 10 .* and [67] at a distance of 0.[01]"
    with pytest.raises(ValueError, match=message):
        fisher_rank(law_of(EVEN), model, model.theta)


@pytest.mark.parametrize("loss", ["ce", "mse", "spherical"])
@pytest.mark.parametrize("mixture", [BENT, two_gaussians_on_nodes(2.0, 10)], ids=["misses p*", "contains p*"])
def test_a_network_without_hidden_units_is_the_linear_softmax(loss: str, mixture: FiniteMixture) -> None:
    """By derivatives through the network and by those of linear logits, with and without the redundant column."""
    linear = asymptotics(mixture, loss=loss)
    classes = mixture.num_classes
    net = NetModel(MLP(num_classes=classes, input_shape=(1,), hidden=(), activation="tanh"))
    rows = linear.theta.reshape(2, classes - 1)
    shifted = torch.cat([rows, torch.zeros_like(rows[:, :1])], 1) + torch.tensor([[0.3], [-0.7]])
    redundant = LinearModel(2, classes, redundant=True)
    for model in (net, redundant):
        found = asymptotics(mixture, model, loss, theta=shifted.reshape(-1))
        assert found.rank == linear.rank < model.size
        for name in ("mse", "kl", "n_mse", "n_kl"):
            assert getattr(found, name) == pytest.approx(getattr(linear, name), rel=1e-7, abs=1e-12), name


def test_derivatives_of_linear_logits_are_those_of_autograd() -> None:
    """Shared features and own ones, three classes: values, gradients, Hessians."""
    draw = torch.Generator().manual_seed(0)
    theta = torch.randn(4, 6, generator=draw, dtype=torch.float64)
    model = LinearModel(3, 3)
    target = torch.rand(5, 3, generator=draw, dtype=torch.float64).softmax(-1)

    def risk(z: Tensor) -> Tensor:
        return LOSSES["mse"].function(z, target.expand(len(z), -1, -1)).sum(-1)

    for features in (torch.randn(5, 3, generator=draw).double(), torch.randn(4, 5, 3, generator=draw).double()):
        quick, slow = (
            model.derivatives(theta, features, risk),
            super(LinearModel, model).derivatives(theta, features, risk),
        )
        for one, other in zip(quick, slow, strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-12)


def tanh_logit(theta: Array, x: Array) -> Array:
    """The log-odds a tanh(w x + c) + d."""
    w, c, a, d = theta
    odds: Array = a * np.tanh(w * x + c) + d
    return odds


def tanh_slope(theta: Array, table: Array, x: Array, loss: str) -> Array:
    q = expit(tanh_logit(theta, x))
    miss = table.sum(1) * q - table[:, 0]
    jacobian = derivative(lambda t: tanh_logit(t, x), theta)
    slope: Array = (miss * (1.0 if loss == "ce" else 4 * q * (1 - q))) @ jacobian
    return slope


@pytest.mark.parametrize("loss", ["ce", "mse"])
@pytest.mark.parametrize("contains", [True, False])
def test_the_coefficients_of_a_network_by_the_delta_method(loss: str, contains: bool) -> None:
    """One tanh unit and two classes: six parameters, of which the log-odds have four."""
    x = np.linspace(-2.5, 2.5, 7)
    start = np.array([0.8, 0.2, 1.5, 0.3])
    odds = tanh_logit(start, x) + (0 if contains else 0.4 * np.array([1, -1, 0.5, 1, -0.5, -1, 1]))
    p = expit(odds)
    table = np.stack([p, 1 - p], 1) / 7
    slope = partial(tanh_slope, x=x, loss=loss)
    optimum = estimate(slope, table, start)

    def away(frequencies: Array) -> Array:
        q = expit(tanh_logit(estimate(slope, frequencies, optimum), x))
        return distances(np.stack([q, 1 - q], 1), table)

    mean, _ = expansion(away, table)
    w, c, a, d = optimum.tolist()
    net = NetModel(network([[w]], [c], [[a, 0.0]], [d, 0.0]))
    found = asymptotics(FiniteMixture([1 / 7] * 7, np.stack([p, 1 - p], 1), x[:, None]), net, loss, theta=net.theta)
    assert found.rank == 4
    assert found.well_specified == contains
    assert [found.n_mse, found.n_kl] == pytest.approx(mean, rel=1e-3)
    assert [found.mse, found.kl] == pytest.approx(away(table), abs=1e-9)


# ------------------------------------------------------------------------------------------- places with known limits


def test_places_contain_p_star_and_have_the_rank_that_was_counted() -> None:
    for place in places(settings_at(0)):
        q = place.model.logits(place.theta[None], place.model.features(place.law.x))[0].softmax(-1)
        assert torch.allclose(q, place.law.bayes, rtol=0, atol=1e-10)
        assert fisher_rank(place.law, place.model, place.theta) == place.rank < place.parameters
        assert prediction(place, "ce").n_kl == pytest.approx(place.rank / 2, rel=1e-7)


def test_the_design_that_contains_p_star_is_the_smallest() -> None:
    """Equal covariances: linear; own covariances: quadratic; a bent table: only the table itself; else none."""
    own = GaussianMixture([[-1.0], [1.0]], [[[1.0]], [[2.0]]])
    two = GaussianMixture([[[-1.0], [1.0]], [[0.0], [2.0]]], 1.0)
    for mixture, design in (
        (two_gaussians(1.0), linear_design),
        (own, quadratic_design),
        (BENT, table_design),
        (two, None),
    ):
        assert containing_design(law_of(mixture)) is design
    with pytest.raises(ValueError, match="the design must contain p\\* of mixture"):
        linear_place(law_of(own))


def test_at_the_settled_size_n_kl_is_near_its_limit() -> None:
    """One point, two classes: N has (1 - 2 p q) / (p q) / N = 0.05, and N KL is a sum over binomial counts.

    KL(p, f) of frequencies f has the expansion 1 / (2 N) + (1 - 2 p q) / (p q) * 5 / 12 / N^2 + ..., to be taken off.
    """
    p = 0.2
    place = linear_place(law_of(FiniteMixture([1.0], [[p, 1 - p]], [[0.0]])), table_design)
    size = settled_size(place)
    assert size == pytest.approx((1 - 2 * p * (1 - p)) / (p * (1 - p)) / 0.05, rel=1e-9)
    n = round(size)
    counts = np.arange(1, n)
    f, chance = counts / n, binom.pmf(counts, n, p)
    kl = p * np.log(p / f) + (1 - p) * np.log((1 - p) / (1 - f))
    found = n * float(chance @ kl / chance.sum())
    assert 0.5 < found < 0.5 * 1.08
    assert math.isclose(prediction(place, "ce").n_kl, 0.5, rel_tol=1e-9)


# ----------------------------------------------------------------------------------------------------------- mistakes


def test_losses_that_are_not_strictly_proper_are_refused() -> None:
    assert proper_loss("mse") is LOSSES["mse"]
    for name in ("mae", "no such loss"):
        with pytest.raises(ValueError, match=rf"loss must be strictly proper, one of \['ce', .*received '{name}'"):
            asymptotics(LIGHT, loss=name)
    with pytest.raises(ValueError, match="loss must be strictly proper"):
        efficiency_ratio(LIGHT, loss=LOSSES["focal"])


def test_no_finite_minimum_is_named() -> None:
    separated = FiniteMixture([0.5, 0.5], [[1.0, 0.0], [0.0, 1.0]], [[-1.0], [1.0]])
    with pytest.raises(ValueError, match="ce has no finite minimum in this class on mixture from 8 starts"):
        asymptotics(separated)


def test_parameters_that_are_no_minimum_are_refused() -> None:
    """At theta = 0 the gradient of the cross-entropy is E (1/2 - p*) [x, 1]; away from 0 the Brier score bends down."""
    ((x,), w, p) = LIGHT.points.T, LIGHT.weights, LIGHT.rows[:, 0]
    largest = max(abs(float(w @ ((0.5 - p) * x))), abs(float(w @ (0.5 - p))))
    with pytest.raises(ValueError, match=r"theta must be a minimum of the ce risk, where its gradient is 0") as caught:
        asymptotics(LIGHT, theta=torch.zeros(2).double())
    named = float(str(caught.value).split("received a gradient whose largest entry is ")[1].split()[0])
    assert named == pytest.approx(largest, rel=0.05)
    with pytest.raises(ValueError, match=r"theta must be a minimum of the mse risk.*a least curvature of -"):
        asymptotics(LIGHT, loss="mse", theta=torch.tensor([-6.0, 0.0]).double())


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        (torch.zeros(3).double(), r"a float64 tensor \(2,\) of this class's parameters, received torch.float64 \(3,\)"),
        (torch.zeros(1, 2).double(), r"received torch.float64 \(1, 2\)"),
        (torch.zeros(2), r"received torch.float32 \(2,\)"),
        ([0.0, 0.0], "received list"),
        (torch.tensor([math.nan, 0.0]).double(), r"theta must be finite, received \[nan, 0.0\]"),
    ],
)
def test_parameters_of_another_shape_or_type_are_refused(theta: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asymptotics(LIGHT, theta=theta)


@pytest.mark.parametrize("metric", ["tv", "rank", "n_mse"])
def test_only_the_two_distances_are_expected(metric: str) -> None:
    with pytest.raises(ValueError, match=f"metric must be 'mse' or 'kl', received '{metric}'"):
        asymptotics(LIGHT).expected(metric, 100)


@pytest.mark.parametrize("n", [0, -5, math.nan])
def test_distances_are_expected_of_some_samples(n: float) -> None:
    found = asymptotics(LIGHT)
    assert found.expected("mse", math.inf) == found.mse
    with pytest.raises(ValueError, match=f"n must be a positive number of samples, received {n}"):
        found.expected("mse", n)


@settings(max_examples=5)
@given(row_tables(5, 2, floor=0.1), st.sampled_from(["ce", "mse"]))
def test_images_are_read_as_rows_of_pixels(rows: Tensor, loss: str) -> None:
    pixels = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[:, :2].repeat(1, 2)
    flat, images = (FiniteMixture([0.2] * 5, rows, pixels.reshape(5, *shape)) for shape in ((4,), (2, 2)))
    if loss == "mse":  # its optimum may lie at infinity
        assume(projection(law_of(flat), model_of(linear_design, law_of(flat)), "mse", 0, rank=3).attained)
    expected, found = (asymptotics(mixture, loss=loss) for mixture in (flat, images))
    assert found.rank == expected.rank == 3
    assert (found.mse, found.n_mse, found.n_kl) == pytest.approx((expected.mse, expected.n_mse, expected.n_kl))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_lower_risk_at_infinity_is_named(seed: int) -> None:
    """Bent so much that the Brier score does better to give up some points for good than at its best finite minimum."""
    mixture = steep_table(seed)
    expected = projection(law_of(mixture), LinearModel(3, 3), "mse", 0)
    assert not expected.attained
    message = r"mse has no least risk at finite parameters in this class on mixture: its lowest minimum found .* is 0\."
    with pytest.raises(ValueError, match=message) as caught:
        asymptotics(mixture, loss="mse")
    assert float(str(caught.value).rsplit(maxsplit=1)[1]) == pytest.approx(expected.value, abs=0.05)
    assert asymptotics(mixture).kl > 0


def test_a_network_needs_its_parameters_and_a_smooth_activation() -> None:
    with pytest.raises(ValueError, match="theta must be given for a network"):
        asymptotics(EVEN, REGULAR)
    for options in ({"activation": "relu"}, {"activation": "tanh", "seed": [0, 1]}):
        with pytest.raises(ValueError, match=r"one network with a smooth activation, one of .* received mlp with"):
            NetModel(MLP(num_classes=2, input_shape=(1,), **options))


def test_no_efficiency_is_claimed_of_a_class_that_misses_p_star() -> None:
    mse = asymptotics(LIGHT, loss="ce").mse
    with pytest.raises(ValueError, match=rf"the class must contain p\* .* is {mse:.3g} from it in MSE"):
        efficiency_ratio(LIGHT)


def test_too_many_derivatives_are_refused() -> None:
    """20,000 points x 2 classes x 1,001 parameters."""

    def wide(x: Tensor) -> Tensor:
        return x[:, :1] ** torch.arange(1001)

    law = law_of(GaussianMixture([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], 1.0))
    with pytest.raises(ValueError, match=r"20000 points x 2 classes x 1001 parameters exceed the 2e\+07"):
        asymptotics(law, wide, theta=torch.zeros(1001).double())


def test_a_rank_that_eigenvalues_leave_open_is_refused() -> None:
    """Columns whose scales fall by factors of 10: each eigenvalue of the information is a hundredth of the last."""

    def graded(x: Tensor) -> Tensor:
        return torch.diag(10.0 ** -torch.arange(8, dtype=torch.float64))

    law = law_of(FiniteMixture([1 / 8] * 8, [[0.5, 0.5]] * 8))
    model = LinearModel(8, 2, graded)
    with pytest.raises(ValueError, match="the rank of Fisher's information is not clear: its eigenvalues"):
        fisher_rank(law, model, torch.zeros(8).double())


def test_models_are_taken_as_designs_networks_or_themselves() -> None:
    law = law_of(LIGHT)
    model = LinearModel(2, 2)
    assert model_of(model, law) is model
    assert isinstance(model_of(REGULAR, law), NetModel)
    assert model_of(quadratic_design, law).size == 3
