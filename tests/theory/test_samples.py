"""How many samples: expectations, fits, data sets and crossings against scipy, all data sets, and numbers by hand."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import linprog, minimize
from scipy.stats import chi2, multinomial, norm
from torch import Tensor

from bcpd.estimate import Estimate
from bcpd.losses import LOSSES
from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.testing import row_tables
from bcpd.theory import Asymptotics, Crossover, asymptotics, samples_until
from bcpd.theory.asymptotic.estimators import Law, Sample, Simulation, fit, law_of, limit, minimiser_of, simulate
from bcpd.theory.asymptotic.models import LinearModel
from bcpd.theory.asymptotic.samples import SizePoint, _closer, _crossing, _first_order_crossing, _sizes
from bcpd.theory.linear import linear_design

Array = NDArray[Any]

TINY = FiniteMixture([0.5, 0.3, 0.2], [[0.7, 0.3], [0.35, 0.65], [0.5, 0.5]], [[-1.0], [0.5], [2.0]])
LAW, MODEL = law_of(TINY), LinearModel(2, 2)
WIDE = GaussianMixture([[-1.0], [1.0]], [[[1.0]], [[1.5]]])


def probabilities(theta: Array, x: Array) -> Array:
    """Of the first of two classes under the linear softmax."""
    odds: Array = 1 / (1 + np.exp(-(theta[..., :1] * x + theta[..., 1:])))
    return odds


# ------------------------------------------------------------------------------------------------------- expectations


def test_expectations_on_a_line_by_integration() -> None:
    """Own variances, two components in one class, unequal priors."""
    mixture = GaussianMixture(
        [[[-1.0], [3.0]], [[0.5], [0.5]]],
        [[[[1.0]], [[0.5]]], [[[2.0]], [[2.0]]]],
        weights=[[0.8, 0.2], [0.5, 0.5]],
        priors=[0.4, 0.6],
    )
    law = law_of(mixture)
    assert law.kind == "quadrature"

    def joint(x: float) -> tuple[float, float]:
        first = 0.8 * norm.pdf(x, -1, 1) + 0.2 * norm.pdf(x, 3, math.sqrt(0.5))
        return 0.4 * float(first), 0.6 * float(norm.pdf(x, 0.5, math.sqrt(2)))

    def entropy(x: float) -> float:
        a, b = joint(x)
        return -a * math.log(a / (a + b)) - b * math.log(b / (a + b))

    def wave(x: float) -> float:
        return sum(joint(x)) * math.sin(2 * x)

    points = law.x[:, 0]
    # p* has poles off the real line, which slow the convergence in the number of nodes; the sine has none
    for function, value, error in (
        (entropy, law.mean(-(law.bayes * law.log_bayes).sum(-1)), 1e-6),
        (wave, law.mean((2 * points).sin()), 1e-11),
    ):
        exact = quad(function, -15, 15, limit=200, epsabs=1e-13)[0]
        assert float(value) == pytest.approx(exact, abs=error)
    few = law_of(mixture, nodes=16)
    assert len(few.x) == 4 * 16
    assert abs(float(few.mean(-(few.bayes * few.log_bayes).sum(-1))) - quad(entropy, -15, 15, limit=200)[0]) > 1e-6


def test_expectations_on_a_plane_by_a_sum_over_a_lattice() -> None:
    """The trapezoidal rule on the whole plane, accurate beyond all powers of its step."""
    covariance = np.array([[1.0, 0.4], [0.4, 1.5]])
    means = np.array([[-0.5, 0.0], [0.7, 0.6]])
    law = law_of(GaussianMixture(means, covariance, priors=[0.3, 0.7]))
    axis = np.linspace(-10, 10, 401)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    inverse = np.linalg.inv(covariance)
    joint = np.stack(
        [
            prior * np.exp(-np.einsum("ni,ij,nj->n", x - mean, inverse, x - mean) / 2)
            for prior, mean in zip((0.3, 0.7), means, strict=True)
        ]
    ) / (2 * math.pi * math.sqrt(np.linalg.det(covariance)))
    gini = float((joint.prod(0) / joint.sum(0)).sum() * (axis[1] - axis[0]) ** 2)
    assert law.kind == "quadrature"
    assert float(law.mean(law.bayes.prod(-1))) == pytest.approx(gini, abs=1e-9)


def test_other_mixtures_are_replaced_by_a_sample_and_finite_ones_by_themselves() -> None:
    space = GaussianMixture([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], 1.0)
    law = law_of(space, "space", 3, points=500)
    assert (law.name, law.kind, len(law.x)) == ("space", "monte_carlo", 500)
    assert torch.equal(law.x, space.sample(500, 3)[0])
    assert torch.allclose(law.weights, torch.full((500,), 1 / 500).double())
    assert not law.tabular
    assert LAW.kind == "exact"
    assert LAW.tabular
    assert torch.equal(LAW.weights, TINY.weights)
    assert torch.allclose(LAW.bayes, TINY.rows, rtol=0, atol=1e-15)


def test_distances_of_parameters_by_loops() -> None:
    theta = torch.tensor([[0.3, -0.2], [-1.0, 0.5]], dtype=torch.float64)
    mse, kl = LAW.distances(MODEL, theta)
    for row, squared, nats in zip(theta.tolist(), mse.tolist(), kl.tolist(), strict=True):
        expected = [0.0, 0.0]
        for (x,), w, p in zip(TINY.points.tolist(), TINY.weights.tolist(), TINY.rows.tolist(), strict=True):
            q = 1 / (1 + math.exp(-row[0] * x - row[1]))
            expected[0] += w * ((p[0] - q) ** 2 + (p[1] - 1 + q) ** 2)
            expected[1] += w * (p[0] * math.log(p[0] / q) + p[1] * math.log(p[1] / (1 - q)))
        assert [squared, nats] == pytest.approx(expected, abs=1e-13)


# --------------------------------------------------------------------------------------------------------------- fits


@settings(max_examples=15)
@given(row_tables(4, 3, floor=0.02), row_tables(1, 4, floor=0.05), st.sampled_from(["ce", "mse"]))
def test_a_fit_is_a_minimum_that_scipy_does_not_improve(rows: Tensor, weights: Tensor, loss: str) -> None:
    """Three classes on four points: risk written in numpy, descended by BFGS from the fit and, for CE, from 0."""
    x = torch.tensor([[-1.0], [-0.3], [0.4], [1.1]], dtype=torch.float64)
    w, p, design = weights[0].numpy(), rows.numpy(), np.stack([x[:, 0].numpy(), np.ones(4)], 1)

    def risk(theta: Array) -> float:
        z = np.concatenate([design @ theta.reshape(2, 2), np.zeros((4, 1))], 1)
        log_q = z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)
        if loss == "ce":
            return float(-(w[:, None] * p * log_q).sum())
        return float(w @ ((p - np.exp(log_q)) ** 2).sum(1))

    model = LinearModel(2, 3)
    sample = Sample(linear_design(x), weights[0], rows)
    found = fit(model, sample, LOSSES[loss], torch.zeros(1, 4).double())
    theta = found.theta[0].numpy()
    if loss == "ce":
        assert bool(found.finite[0])
    if bool(found.finite[0]):
        assert float(found.value[0]) == pytest.approx(risk(theta), abs=1e-10)
        start = np.zeros(4) if loss == "ce" else theta + 0.01
        scipy = minimize(risk, start, method="BFGS", options={"gtol": 1e-8})
        assert risk(theta) <= scipy.fun + 1e-12
        assert risk(theta) == pytest.approx(scipy.fun, abs=1e-7)
        if loss == "ce":
            assert theta == pytest.approx(scipy.x, abs=1e-2 * (1 + float(np.abs(theta).max())))


@lru_cache(maxsize=4)
def tables(n: int) -> tuple[Array, Array]:
    """All tables of how often each of three x came with each of two labels, ``(R, 3, 2)``, and their probabilities."""
    bars = np.array(list(combinations(range(n + 5), 5)))  # n stars and 5 bars
    ends = np.concatenate([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), n + 5)], 1)
    counts = np.diff(ends, axis=1) - 1
    chances = (TINY.weights[:, None] * TINY.rows).numpy().reshape(-1)
    return counts.reshape(-1, 3, 2), multinomial.pmf(counts, n, chances)


@lru_cache(maxsize=4)
def with_optimum(n: int) -> Array:
    """Which of them the cross-entropy has an optimum on."""
    return np.array([overlaps(table) for table in tables(n)[0]])


def as_sample(counts: Array) -> Sample:
    """Tables of counts as data sets."""
    seen = torch.tensor(counts.sum(-1)).double()
    target = torch.tensor(counts) / seen.clamp(min=1)[..., None]
    return Sample(linear_design(TINY.points), seen / seen.sum(-1, keepdim=True), target)


def overlaps(counts: Array) -> bool:
    """Whether no direction of slope and intercept is weakly right for all pairs and strictly right for one.

    Then, and only then, the cross-entropy has a finite and unique minimum (Albert & Anderson 1984); by linear
    programming over directions within a box.
    """
    design = np.stack([TINY.points[:, 0].numpy(), np.ones(3)], 1)
    rows = np.concatenate([design[counts[:, 0] > 0], -design[counts[:, 1] > 0]])
    best = linprog(-rows.sum(0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=(-1, 1), method="highs")
    return bool(-best.fun < 1e-9) and int(np.linalg.matrix_rank(rows)) == 2


@pytest.mark.parametrize("n", [3, 5])
def test_data_sets_that_a_linear_rule_separates_are_the_ones_without_an_optimum(n: int) -> None:
    counts, _ = tables(n)
    expected = with_optimum(n).tolist()
    found = fit(MODEL, as_sample(counts), LOSSES["ce"], torch.zeros(len(counts), 2).double())
    assert found.finite.tolist() == expected
    assert n == 3 or 0.05 < np.mean(expected) < 0.95


@pytest.mark.slow
def test_a_simulation_by_listing_all_data_sets() -> None:
    """N = 5: the cross-entropy's distances given a finite optimum, and how often there is none, at 5 standard errors.

    Two-sided normal tails at 5: 6e-7 each, three comparisons.
    """
    n, replicas = 5, 10_000
    counts, share = tables(n)
    kept = with_optimum(n)
    theta = np.array([_newton(table) for table in counts[kept]])
    x, w, p = TINY.points[:, 0].numpy(), TINY.weights.numpy(), TINY.rows[:, 0].numpy()
    q = probabilities(theta, x)
    squared = 2 * (p - q) ** 2 @ w
    kl = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))) @ w
    chance = share[kept] / share[kept].sum()
    missing = 1 - share[kept].sum()
    run = simulate(LAW, MODEL, [(LOSSES["ce"], torch.zeros(2).double())], n, replicas, 0)
    assert run.replicas == replicas
    assert len(run.mse["ce"]) == replicas - run.excluded
    assert run.excluded / replicas == pytest.approx(missing, abs=5 * math.sqrt(missing * (1 - missing) / replicas))
    assert 0.1 < missing < 0.9
    for metric, values in (("mse", squared), ("kl", kl)):
        found, mean = run.mean(metric, "ce"), float(chance @ values)
        stderr = math.sqrt(float(chance @ (values - mean) ** 2) / len(run.mse["ce"]))
        assert found.stderr == pytest.approx(stderr, rel=0.1)
        assert abs(found.value - mean) < 5 * stderr


def _newton(table: Array) -> Array:
    """The cross-entropy's optimum on a table of counts that has one, by Newton's method with halved steps."""
    design = np.stack([TINY.points[:, 0].numpy(), np.ones(3)], 1)
    seen, theta = table.sum(1), np.zeros(2)

    def risk(at: Array) -> float:
        return float(seen @ np.logaddexp(0, design @ at) - table[:, 0] @ design @ at)

    for _ in range(50):
        q = probabilities(theta, design[:, 0])
        step = np.linalg.solve(design.T @ (design * (seen * q * (1 - q))[:, None]), design.T @ (seen * q - table[:, 0]))
        while risk(theta - step) > risk(theta) + 1e-12:
            step = step / 2
        theta = theta - step
    assert np.abs(step).max() < 1e-8
    return theta


def test_too_few_data_sets_with_an_optimum_are_an_error() -> None:
    """Two pairs are always separated, or at one x."""
    with pytest.raises(ValueError, match="40 of 40 data sets of size 2 have no finite optimum"):
        simulate(LAW, MODEL, [(LOSSES["ce"], torch.zeros(2).double())], 2, 40, 0)
    with pytest.raises(ValueError, match="40 of 40 data sets of size 2 have no finite optimum"):
        samples_until(TINY, sizes=[2], replicas=40)


def test_no_start_with_a_minimum_is_an_error() -> None:
    apart = law_of(FiniteMixture([0.5, 0.5], [[1.0, 0.0], [0.0, 1.0]], [[-1.0], [1.0]]), "apart")
    with pytest.raises(ValueError, match="mse has no finite minimum in this class on apart from 5 starts"):
        minimiser_of(apart, MODEL, LOSSES["mse"], 0, starts=5)


# ---------------------------------------------------------------------------------------------------------- data sets


def test_tables_of_counts_are_multinomial() -> None:
    """Pearson's statistic of 5,000 data sets of four pairs over all tables that are expected 5 times; one alarm in 1e6.

    A chain of binomials with a wrong share, or labels drawn from a neighbour's p*, moves it by hundreds.
    """
    n, replicas = 4, 5000
    counts, share = tables(n)
    parts = list(LAW.data_sets(MODEL, n, replicas, 0))
    drawn = torch.cat([part.target * (n * part.weights)[..., None] for part in parts]).round().numpy().astype(int)
    assert len(drawn) == replicas
    assert (drawn.sum((1, 2)) == n).all()
    place = {tuple(table.reshape(-1)): number for number, table in enumerate(counts)}
    seen = np.bincount([place[tuple(table.reshape(-1))] for table in drawn], minlength=len(counts))
    common = replicas * share >= 5
    seen = np.append(seen[common], seen[~common].sum())
    expected = replicas * np.append(share[common], share[~common].sum())
    assert ((seen - expected) ** 2 / expected).sum() < chi2.isf(1e-6, len(expected) - 1)


@pytest.mark.parametrize("kind", ["quadrature", "monte_carlo"])
def test_pairs_are_drawn_from_the_law(kind: str) -> None:
    """Means of x, y and x y over 200,000 pairs, within 5 standard errors of the law's; and again from the same seed."""
    law = law_of(WIDE)
    if kind == "monte_carlo":
        x, _ = WIDE.sample(50, 0)
        law = Law("points", "monte_carlo", x, torch.rand(50).double().softmax(0), WIDE.log_posterior(x), WIDE)
    model = LinearModel(2, 2)
    parts = list(law.data_sets(model, 100, 2000, 7))
    x = torch.cat([part.features.reshape(-1, 2)[:, 0] for part in parts])
    y = torch.cat([part.target.reshape(-1) for part in parts]).double()
    assert len(x) == 200_000
    for drawn, mean in (
        (x, law.mean(law.x[:, 0])),
        (y, law.mean(law.bayes[:, 1])),
        (x * y, law.mean(law.x[:, 0] * law.bayes[:, 1])),
    ):
        assert abs(float(drawn.mean() - mean)) < 5 * float(drawn.std()) / math.sqrt(len(drawn))
    again = next(iter(law.data_sets(model, 100, 2000, 7)))
    assert torch.equal(again.features, parts[0].features)
    assert torch.equal(again.target, parts[0].target)


# ---------------------------------------------------------------------------------------------------------- summaries


def test_means_differences_ratios_and_limits_by_hand() -> None:
    """Distances (1, 2, 3) and (2, 2, 5): means 2 and 3, variances 1 and 3; differences -1, 0, -2."""
    one, two = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 2.0, 5.0]).double()
    near = Simulation(100, 3, {"ce": one, "mse": two}, {}, 0)
    assert near.mean("mse", "ce") == Estimate(2.0, 1 / math.sqrt(3), "monte_carlo")
    difference = near.mean("mse", "ce", minus="mse")
    assert (difference.value, difference.stderr) == pytest.approx((-1, 1 / math.sqrt(3)))
    ratio = near.ratio("mse", "mse", "ce")
    # residuals two - 1.5 one = 0.5, -1, 0.5 with variance 0.75, over a mean of 2
    assert (ratio.value, ratio.stderr) == pytest.approx((1.5, math.sqrt(0.75 / 3) / 2))
    # E D = 6 / N + 30 / N^2 at N = 100 and 400, exactly
    near = replace(near, mse={"ce": one - 2 + 6 / 100 + 30 / 100**2})
    far = Simulation(400, 3, {"ce": one - 2 + 6 / 400 + 30 / 400**2}, {}, 0)
    found = limit(near, far, "mse", "ce")
    assert found.value == pytest.approx(6)
    # both standard errors are 1 / sqrt 3
    assert found.stderr == pytest.approx(math.hypot(400**2, 100**2) / 300 / math.sqrt(3))


# ------------------------------------------------------------------------------------------------------- first order


def hand(loss: str, mse: float, n_mse: float, kl: float = 0.1, n_kl: float = 1.0, inside: bool = False) -> Asymptotics:
    """Limits by hand."""
    return replace(TEMPLATE, loss=loss, mse=mse, n_mse=n_mse, kl=kl, n_kl=n_kl, well_specified=inside)


TEMPLATE = asymptotics(TINY)


def test_the_predicted_crossing_by_hand() -> None:
    """0.02 + 1 / N = 0.01 + 3 / N at N = 200; in KL 0.1 + 4 / N = 0.15 + 1 / N at N = 60."""
    ce, mse = hand("ce", 0.02, 1.0, 0.1, 4.0), hand("mse", 0.01, 3.0, 0.15, 1.0)
    assert _first_order_crossing(ce, mse, "mse") == pytest.approx(200)
    assert _first_order_crossing(mse, ce, "mse") == pytest.approx(200)
    assert _first_order_crossing(ce, mse, "kl") == pytest.approx(60)
    assert ce.expected("mse", 200) == pytest.approx(mse.expected("mse", 200))
    # ahead in the limit and in the 1/N term: no crossing; nor where p* is reached
    assert _first_order_crossing(hand("ce", 0.02, 3.0), hand("mse", 0.01, 1.0), "mse") is None
    assert _first_order_crossing(hand("ce", 0.01, 1.0), hand("mse", 0.01, 3.0), "mse") is None
    assert _first_order_crossing(hand("ce", 0, 1.0, inside=True), hand("mse", 0, 3.0, inside=True), "mse") is None


def test_sizes_lie_around_the_prediction_where_that_can_be_simulated() -> None:
    assert list(_sizes(800.0, 20, 16_000)) == [100, 200, 400, 800, 1600, 3200, 6400]
    assert list(_sizes(80.0, 20, 16_000)) == [20, 40, 80, 160, 320, 640]
    usual = [100, 200, 400, 800, 1600, 3200, 6400]
    for predicted in (None, 30.0, 9000.0):
        assert list(_sizes(predicted, 20, 16_000)) == usual
    assert list(_sizes(None, 300, 16_000)) == usual[2:]
    assert list(_sizes(None, 10_000, 16_000)) == [10_000]


def points_of(differences: Sequence[tuple[int, float]], stderr: float, excluded: int = 0) -> tuple[SizePoint, ...]:
    """Sizes with differences and one standard error."""

    def estimate(value: float) -> Estimate:
        return Estimate(value, stderr, "monte_carlo")

    return tuple(SizePoint(n, estimate(1 + d), estimate(1.0), estimate(d), 100, excluded) for n, d in differences)


def test_a_difference_counts_from_two_standard_errors_on() -> None:
    assert [point.sign for point in points_of([(9, -0.21), (9, -0.2), (9, 0), (9, 0.2), (9, 0.21)], 0.1)] == [
        -1, 0, 0, 0, 1,
    ]  # fmt: skip


def test_the_stretches_of_n_by_hand() -> None:
    """Signs of the sizes, undecided ones and repetitions left out, and the sign of the limit."""
    ce, mse = hand("ce", 0.02, 1.0), hand("mse", 0.01, 3.0)
    for differences, expected in (
        ([-1, -1, 0, 1], ("ce", "mse")),
        ([-1, 0], ("ce", "mse")),
        ([1, 1], ("mse",)),
        ([1, -1], ("mse", "ce", "mse")),
        ([0, 0], ("mse",)),
    ):
        assert _closer(ce, mse, "mse", points_of(list(enumerate(differences)), 0.1)) == expected
    # both reach p*: the smaller 1/N term decides; equal ones decide nothing
    ce, mse = hand("ce", 0, 1.0, inside=True), hand("mse", 0, 3.0, inside=True)
    assert _closer(ce, mse, "mse", points_of([(100, 0.0)], 0.1)) == ("ce",)
    assert _closer(ce, replace(mse, n_mse=1.0), "mse", points_of([(100, 0.0)], 0.1)) == ()


# ----------------------------------------------------------------------------------------------------------- the root

USUAL = (100, 200, 400, 800, 1600)


@settings(max_examples=25)
@given(st.floats(0.2, 5), st.floats(-20, 20), st.sampled_from([-1, 1]))
def test_the_crossing_is_the_larger_root_of_the_expansion(slope: float, curve: float, sign: int) -> None:
    """D = L + c / N + e / N^2 without noise: roots of L N^2 + c N + e, by numpy; then L = 0, where it is -e / c."""
    gap = -slope / 500
    expected = max(np.roots([gap, slope, curve]).real)
    values = [(n, sign * (gap + slope / n + curve / n**2)) for n in USUAL]
    crossing, low, high = _crossing(points_of(values, 1e-9), sign * gap, 0)
    assert crossing == pytest.approx(expected, rel=1e-4)
    assert low is not None
    assert high is not None
    assert low <= expected * (1 + 1e-4)
    assert high >= expected * (1 - 1e-4)
    curve = abs(curve) + 50
    values = [(n, sign * (-slope / n + curve / n**2)) for n in USUAL]
    assert _crossing(points_of(values, 1e-9), 0.0, 0)[0] == pytest.approx(curve / slope, rel=1e-4)


def test_no_crossing_is_claimed_where_there_is_no_positive_root() -> None:
    """1 + 1 / N + 1 / N^2 has no root, and 1 / N + 30 / N^2 only a negative one."""
    for gap, slope, curve in ((1.0, 1.0, 1.0), (0.0, 1.0, 30.0)):
        values = [(n, gap + slope / n + curve / n**2) for n in USUAL]
        assert _crossing(points_of(values, 1e-9), gap, 0) == (None, None, None)


def test_small_sizes_are_left_out_while_a_third_term_shows() -> None:
    """-0.002 + 1 / N has its root at 500; a term 2e5 / N^3 is 0.2 at N = 100, and 5e-5 at N = 1600."""
    sizes = (100, 200, 400, 800, 1600, 3200, 6400)
    values = [(n, -0.002 + 1 / n + 2e5 / n**3) for n in sizes]
    (n, mean) = np.array(values).T
    everything = np.polyfit(1 / n, n * (mean + 0.002), 1, w=1 / n)
    naive = max(np.roots([-0.002, everything[1], everything[0]]).real)
    crossing, _, _ = _crossing(points_of(values, 2e-5), -0.002, 0)
    exact = max(np.roots([-0.002, 1, 0, 2e5]).real)
    assert crossing == pytest.approx(exact, rel=0.1)
    assert abs(naive / exact - 1) > 0.25


def test_the_interval_of_the_crossing_covers_as_often_as_it_says() -> None:
    """200 noisy expansions: 95 % up to 5 binomial standard errors, 0.0154 each."""
    draw, covered, trials = np.random.default_rng(0), 0, 200
    for seed in range(trials):
        values = [(n, -0.002 + 1 / n + 10 / n**2 + 2e-4 * draw.standard_normal()) for n in USUAL]
        _, low, high = _crossing(points_of(values, 2e-4), -0.002, seed)
        expected = max(np.roots([-0.002, 1, 10]).real)
        covered += low is not None and high is not None and low <= expected <= high
    assert abs(covered / trials - 0.95) < 5 * math.sqrt(0.95 * 0.05 / trials)
    assert covered < trials


# ----------------------------------------------------------------------------------------------------------- verdicts


def crossover(closer: tuple[str, ...], losses: tuple[str, str] = ("ce", "mse"), **changes: Any) -> Crossover:
    """By hand, with sizes 100 (the first is closer) and 1,000 (the second is)."""
    limits = {"ce": hand("ce", 0.02, 1.0), "mse": hand("mse", 0.01, 3.0)}
    points = points_of([(100, -0.5), (1000, 0.5)], 0.1, excluded=3)
    unknown = Crossover("mse", limits[losses[0]], limits[losses[1]], points, None, None, None, None, closer)
    return replace(unknown, **changes)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            crossover(()),
            "ce and mse tie in the limit, and no size tried (N = 100 and 1,000) tells which is closer to p*.",
        ),
        (
            crossover(("mse",)),
            "ce beats mse never: mse is closer to p* at every size tried (N >= 100) and in the limit, there by 0.01.",
        ),
        (
            crossover(("mse",), ("mse", "ce")),
            "mse beats ce from the start: it is closer to p* at every size tried (N >= 100) and in the limit, there by "
            "0.01.",
        ),
        (
            crossover(("ce", "mse"), predicted=200.0, crossing=211.7, low=180.2, high=1234.5),
            "ce beats mse only at smaller sizes: mse is closer from N = 212 on (95 %: 180 to 1,230; first-order "
            "theory: 200) and in the limit, there by 0.01.",
        ),
        (
            crossover(("ce", "mse"), ("mse", "ce"), crossing=211.7, low=180.2, high=1234.5),
            "mse beats ce from N = 212 on (95 %: 180 to 1,230) and in the limit, there by 0.01.",
        ),
        (
            crossover(("mse", "ce", "mse"), ("mse", "ce"), crossing=211.7, low=180.2, high=1234.5),
            "mse beats ce from N = 212 on for the last time (95 %: 180 to 1,230) and in the limit, there by 0.01.",
        ),
        (
            crossover(("ce", "mse"), predicted=200.0),
            "ce beats mse only at smaller sizes: mse is closer from some N above 100 on; first-order theory: 200 and "
            "in the limit, there by 0.01.",
        ),
    ],
    ids=["tie", "never", "start", "smaller", "from", "last time", "somewhere"],
)
def test_the_verdict_in_one_sentence(found: Crossover, sentence: str) -> None:
    assert found.verdict == sentence
    lines = str(found).splitlines()
    assert lines[-1] == f"Answer: {sentence}"
    assert "misses p*" in lines[0]
    assert "ce: 0.02 + 1 / N" in lines[1] + lines[2]
    assert lines[4].endswith(f"{found.first.loss}  (3 of 100 data sets without an optimum)")


@pytest.mark.parametrize(
    ("differences", "closer", "predicted", "sentence"),
    [
        (
            [(100, 0.0), (1000, 0.1)], ("mse",), 200.0,
            "The sizes tried (N = 100 and 1,000) do not tell whether ce or mse is closer to p*; mse is in the limit, "
            "by 0.01; first-order theory: ce is closer up to N = 200.",
        ),
        (
            [(100, 0.0), (300, -0.1), (1000, 0.5)], ("mse",), 200.0,
            "mse is closer to p* than ce at the sizes that tell (N = 1,000) and in the limit, there by 0.01; N = 100 "
            "and 300 do not tell; first-order theory: ce is closer up to N = 200.",
        ),
        (
            [(500, 0.1), (1000, 0.5)], ("mse",), None,
            "mse is closer to p* than ce at the sizes that tell (N = 1,000) and in the limit, there by 0.01; N = 500 "
            "does not tell.",
        ),
        (
            [(500, 0.5), (1000, 0.5)], ("mse",), 200.0,
            "ce beats mse never: mse is closer to p* at every size tried (N >= 500) and in the limit, there by 0.01; "
            "first-order theory: ce is closer up to N = 200.",
        ),
    ],
    ids=["none tells", "one tells", "one does not", "all tell"],
)  # fmt: skip
def test_the_verdict_rests_on_the_sizes_that_tell(
    differences: list[tuple[int, float]], closer: tuple[str, ...], predicted: float | None, sentence: str
) -> None:
    points = points_of(differences, 0.1)
    found = replace(crossover(closer, predicted=predicted), points=points)
    assert _closer(found.first, found.second, "mse", points) == closer
    assert found.verdict == sentence


def test_where_neither_sizes_nor_limits_of_distances_tell_the_1_over_n_term_does() -> None:
    ce, mse = hand("ce", 0, 1.5, inside=True), hand("mse", 0, 2.0, inside=True)
    found = Crossover("mse", ce, mse, points_of([(100, 0.0)], 0.1), None, None, None, None, ("ce",))
    assert found.verdict == (
        "The sizes tried (N = 100) do not tell whether ce or mse is closer to p*; ce is as N grows; both reach p* in "
        "the limit, for which mse needs 1.33 times as many samples."
    )
    tied = replace(found, second=replace(mse, n_mse=1.5), points=points_of([(100, -1.0)], 0.1))
    assert (
        tied.verdict
        == "ce beats mse from the start: it is closer to p* at every size tried (N >= 100); in the limit they tie."
    )


def test_few_data_sets_near_the_crossing_do_not_tell() -> None:
    found = samples_until(WIDE, sizes=[300], replicas=10)
    assert [point.sign for point in found.points] == [0]
    assert found.verdict.startswith(
        "The sizes tried (N = 300) do not tell whether ce or mse is closer to p*; mse is in"
    )
    assert found.verdict.endswith("; first-order theory: ce is closer up to N = 725.")


@pytest.mark.parametrize(
    "sizes",
    [[50.0, 60], [np.int64(50), np.float64(60)], np.array([60, 50]), torch.tensor([50, 60]), range(50, 61, 10)],
    ids=["float", "numpy", "array", "tensor", "range"],
)
def test_sizes_are_whole_numbers_of_any_type(sizes: Any) -> None:
    found = samples_until(TINY, sizes=sizes, replicas=np.int64(20))
    expected = samples_until(TINY, sizes=[50, 60], replicas=20)
    assert [(point.n, point.replicas) for point in found.points] == [(50, 20), (60, 20)]
    assert [point.difference for point in found.points] == [point.difference for point in expected.points]


def test_where_both_reach_p_star_the_verdict_counts_samples() -> None:
    """1.5 against 2 / N: two thirds as many less."""
    ce, mse = hand("ce", 0, 1.5, inside=True), hand("mse", 0, 2.0, inside=True)
    found = Crossover("mse", ce, mse, points_of([(100, -1.0)], 0.1), None, None, None, None, ("ce",))
    assert found.verdict.endswith(
        "(N >= 100); both reach p* in the limit, for which mse needs 1.33 times as many samples."
    )
    assert "contains p*" in str(found)
    assert "ce: 0 + 1.5 / N" in str(found)


# ------------------------------------------------------------------------------------------------ whole comparisons


@pytest.mark.slow
def test_two_gaussians_of_own_variances_cross_near_700() -> None:
    """Variances 1 and 1.5 bend the log-odds by x^2 / 6: CE leads at few samples, the Brier score at many."""
    found = samples_until(WIDE, sizes=[300, 150, 600, 1200, 2400], replicas=100, seed=1)
    predicted = (found.second.n_mse - found.first.n_mse) / (found.first.mse - found.second.mse)
    assert found.predicted == pytest.approx(predicted, rel=1e-9)
    assert 650 < predicted < 800
    assert found.closer == ("ce", "mse")
    assert found.crossing is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.crossing < found.high
    # the interval has 1.96 standard errors to either side; five of them, and a tenth for the terms beyond 1/N
    assert abs(found.crossing - predicted) < 5 * (found.high - found.low) / 3.92 + 0.1 * predicted
    assert found.high - found.low < predicted
    assert [point.n for point in found.points] == [150, 300, 600, 1200, 2400]
    assert found.points[0].sign == -1
    assert found.points[-1].sign == 1
    assert re.match(r"ce beats mse only at smaller sizes: mse is closer from N = \d+ on \(95 %: \d+ to", found.verdict)
    # the first-order law itself, at the largest size, within 5 standard errors and the next term of about a twentieth
    last = found.points[-1]
    for estimate, of in ((last.first, found.first), (last.second, found.second)):
        assert abs(estimate.value - of.expected("mse", last.n)) < 5 * estimate.stderr + 0.05 * of.n_mse / last.n


def test_where_the_class_contains_p_star_the_cross_entropy_leads_from_the_start() -> None:
    gaussians = GaussianMixture([[-1.0], [1.0]], 1.0)
    found = samples_until(gaussians, sizes=[100, 200], replicas=300)
    assert (found.predicted, found.crossing, found.closer) == (None, None, ("ce",))
    assert found.verdict.startswith("ce beats mse from the start: it is closer to p* at every size tried (N >= 100)")
    never = samples_until(gaussians, losses=("mse", "ce"), sizes=[200, 100], replicas=300)
    assert never.verdict.startswith("mse beats ce never: ce is closer to p* at every size tried (N >= 100)")
    # the same data sets: the answer only changes its sign
    assert [point.difference.value for point in never.points] == pytest.approx(
        [-point.difference.value for point in found.points], rel=1e-9
    )


def test_a_loss_and_its_half_tie() -> None:
    """The Brier score divided by K has the same optima on every data set."""
    found = samples_until(TINY, losses=("mse", "mse_mean"), sizes=[50, 400], replicas=100)
    assert found.closer == ()
    assert found.verdict == (
        "mse and mse_mean tie in the limit, and no size tried (N = 50 and 400) tells which is closer to p*."
    )


def test_in_kl_the_cross_entropy_has_the_smaller_limit() -> None:
    found = samples_until(WIDE, metric="kl", sizes=[1000, 4000], replicas=60)
    assert found.metric == "kl"
    assert found.closer[-1] == "ce"
    assert found.first.kl < found.second.kl
    assert found.points[0].first.value == pytest.approx(found.first.expected("kl", 1000), rel=0.5)


def test_data_sets_without_an_optimum_are_counted() -> None:
    """N = 5: by listing all data sets, the cross-entropy alone has none in so many; the Brier score may add more."""
    _, share = tables(5)
    missing = float(share[~with_optimum(5)].sum())
    (point,) = samples_until(TINY, losses=("ce", "power"), sizes=[5], replicas=500).points
    assert point.replicas == 500
    assert point.excluded / 500 > missing - 5 * math.sqrt(missing * (1 - missing) / 500)
    assert 0.1 < missing < 0.9
    assert f"({point.excluded} of 500 data sets without an optimum)" in str(
        Crossover("mse", TEMPLATE, replace(TEMPLATE, loss="power"), (point,), None, None, None, None, ("ce",))
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "tv"}, "metric must be 'mse' or 'kl', received 'tv'"),
        ({"losses": ("ce", "ce")}, "losses must be two different ones, received 'ce' twice"),
        ({"losses": ("ce", "mae")}, r"loss must be strictly proper, one of \[.*\] or your own, received 'mae'"),
        ({"sizes": []}, r"sizes must be whole numbers of samples, at least 2, received \[\]"),
        ({"sizes": [100, 1]}, r"sizes must be whole numbers of samples, at least 2, received \[100, 1\]"),
        ({"sizes": [10.5]}, r"sizes must be whole numbers of samples, at least 2, received \[10\.5\]"),
        ({"sizes": [math.nan]}, r"sizes must be whole numbers of samples, at least 2, received \[nan\]"),
        ({"sizes": [math.inf]}, r"sizes must be whole numbers of samples, at least 2, received \[inf\]"),
        ({"sizes": [True]}, r"sizes must be whole numbers of samples, at least 2, received \[True\]"),
        ({"sizes": ["100"]}, r"sizes must be whole numbers of samples, at least 2, received \['100'\]"),
        ({"sizes": "100"}, r"sizes must be whole numbers of samples, at least 2, received 100"),
        ({"sizes": 100}, r"sizes must be whole numbers of samples, at least 2, received 100"),
        *(
            ({"replicas": replicas}, f"replicas must be a whole number of data sets, at least 2, received {replicas}")
            for replicas in (1, 0, -3, 2.5, math.nan, True)
        ),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        samples_until(TINY, **arguments)
