"""Bounds on the excess risk: they hold, they are attained, and their standard errors mean what they say."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, find, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from bcpd import simplex
from bcpd.measure import excess_risk_bounds, excess_risk_bounds_of_probabilities
from bcpd.measure.bounds import BOUNDS, excess_risk_of_kl, kl_of_excess_risk, risk_bounds, tipped, worst_excess
from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.testing import (
    Distortion,
    distortions,
    finite_mixtures,
    pairs,
    row_tables,
    simplex_rows,
    simplex_rows_with_zeros,
)
from bcpd.theory.bounds.excess_risk import linear_rule_risk

COUNTS = st.integers(2, 4).flatmap(lambda k: st.lists(st.integers(0, 12), min_size=k, max_size=k).filter(any))


def rows_of(counts: list[int]) -> Tensor:
    row = torch.tensor(counts, dtype=torch.float64)
    return row / row.sum()


def shares(p: Tensor, q: Tensor) -> dict[str, float]:
    """Of every bound, at one point; 0 where the bound is 0."""
    excess, l1, sup, l2, squared, nats = risk_bounds(p[None].log(), q[None].log())[0].tolist()
    sharp = float(excess_risk_of_kl(nats))
    bounds = (l1, sup, l2, math.sqrt(2 * squared), math.sqrt(2 * nats), sharp)
    return {name: excess / bound if bound > 0 else 0.0 for name, bound in zip(BOUNDS, bounds, strict=True)}


# -------------------------------------------------------------------------------------------------------------- pieces


@settings(max_examples=60)
@given(st.one_of(pairs(), COUNTS.map(rows_of).map(lambda p: (p, p.roll(1)))))
def test_worst_excess_is_that_of_the_worst_of_the_tied_classes(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    tied = [k for k in range(len(q)) if q[k] == q.max()]
    assert float(worst_excess(p, q)) == pytest.approx(max(float(p.max() - p[k]) for k in tied), abs=1e-15)
    assert worst_excess(p, q.log()) >= worst_excess(p, q) - 1e-15  # rounding of the logarithm can only tie more


def test_worst_excess_takes_scores_of_any_scale_and_refuses_other_shapes() -> None:
    assert worst_excess([0.2, 0.8], [3.0, -1.0]) == pytest.approx(0.6)
    assert worst_excess([[0.2, 0.8], [0.5, 0.5]], [3.0, -1.0]).tolist() == pytest.approx([0.6, 0.0])
    with pytest.raises(ValueError, match=r"q must have 2 columns as p has, received shape \(3,\)"):
        worst_excess([0.2, 0.8], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"p must be rows of probabilities"):
        worst_excess([2.0, 8.0], [1.0, 2.0])


@given(st.floats(0, 1))
def test_psi_against_mpmath(gap: float) -> None:
    assume(gap == 0 or gap > 1e-150)  # the square of anything smaller is no number any more
    with mpmath.workdps(330):
        d = mpmath.mpf(gap)
        exact = ((1 + d) * mpmath.log(1 + d) + ((1 - d) * mpmath.log(1 - d) if gap < 1 else 0)) / 2
    assert float(kl_of_excess_risk(gap)) == pytest.approx(float(exact), rel=1e-13, abs=1e-300)


@given(st.floats(0, 0.999999))
def test_psi_inverts(gap: float) -> None:
    assume(gap == 0 or gap > 1e-150)
    assert float(excess_risk_of_kl(kl_of_excess_risk(gap))) == pytest.approx(gap, rel=1e-9)


def test_psi_inverse_ends_at_one_and_lies_below_pinsker() -> None:
    nats = torch.tensor([0.0, 1e-12, 0.1, 0.5, math.log(2), 1.0, math.inf], dtype=torch.float64)
    gaps = excess_risk_of_kl(nats)
    assert gaps[0] == 0
    assert gaps[-3:].tolist() == [1.0, 1.0, 1.0]
    assert bool((gaps <= (2 * nats).sqrt()).all())
    for wrong in (-0.1, math.nan):
        with pytest.raises(ValueError, match="divergence must be >= 0"):
            excess_risk_of_kl(wrong)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"excess must lie in \[0, 1\]"):
            kl_of_excess_risk(wrong)


@settings(max_examples=30)
@given(simplex_rows(3, floor=0.02))
def test_the_least_kl_of_a_mistake_is_the_perspective_of_psi(p: Tensor) -> None:
    """By constrained minimisation over q that prefers the second class to the first."""
    p = p.sort(descending=True).values
    mass, gap = float(p[0] + p[1]), float(p[0] - p[1])

    def divergence(q: np.ndarray) -> float:
        return float(np.sum(p.numpy() * np.log(p.numpy() / q)))

    constraints = [{"type": "eq", "fun": lambda q: q.sum() - 1}, {"type": "ineq", "fun": lambda q: q[1] - q[0]}]
    found = minimize(
        divergence, np.full(3, 1 / 3), bounds=[(1e-6, 1)] * 3, constraints=constraints, options={"ftol": 1e-14}
    )
    least = mass * float(kl_of_excess_risk(gap / mass))
    assert divergence(found.x) == pytest.approx(least, abs=1e-6)
    assert least >= float(kl_of_excess_risk(gap)) - 1e-15


# -------------------------------------------------------------------------------------------------------------- bounds


@settings(max_examples=30)
@given(finite_mixtures(zeros=True, max_points=5), st.data())
def test_every_bound_holds_for_any_teacher(mixture: FiniteMixture, data: st.DataObject) -> None:
    points, weights = mixture.support()
    bayes = mixture.posterior(points)
    q = data.draw(row_tables(len(bayes), bayes.shape[1], zeros=True))
    measured = excess_risk_bounds_of_probabilities(q, bayes.log(), weights=weights)
    assert measured.within
    for each in measured.bounds.values():
        assert math.isnan(each.share.value) or -1e-12 <= each.share.value <= 1 + 1e-9
    by_hand = math.fsum(float(w * worst_excess(p, r)) for w, p, r in zip(weights, bayes, q, strict=True))
    assert measured.excess_risk.value == pytest.approx(by_hand, abs=1e-12)


@settings(max_examples=40)
@given(pairs(2))
def test_for_two_classes_three_bounds_are_one(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    measured = excess_risk_bounds_of_probabilities(q[None], p[None].log(), weights=[1.0])
    expected = 2 * abs(float(p[1] - q[1]))
    for name in ("l1", "sup", "l2", "mse"):
        assert measured.bounds[name].bound.value == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30)
@given(simplex_rows(floor=1e-4), st.floats(1e-9, 1e-5))
def test_the_tipped_teacher_attains_every_bound_by_distance(p: Tensor, tip: float) -> None:
    top = p.topk(2).values
    assume(top[0] - top[1] > 1e-3)
    q = tipped(p, tip)
    assert float(q.sum()) == pytest.approx(1, abs=1e-12)
    assert p[q.argmax()] == top[1]
    used = shares(p, q)
    for name in ("l1", "sup", "l2", "mse"):
        assert 0.999 <= used[name] <= 1 + 1e-9
    # the bound in common use is looser by sqrt(K / 2)
    common = math.sqrt(len(p) * float(simplex.squared_distance(p, q)))
    assert float(worst_excess(p, q)) / common == pytest.approx(math.sqrt(2 / len(p)), rel=1e-3)


def test_tipped_refuses_what_it_cannot_tip() -> None:
    assert tipped([0.7, 0.2, 0.1], 0.0).tolist() == pytest.approx([0.45, 0.45, 0.1])
    assert tipped([0.7, 0.2, 0.1], 0.5).tolist() == pytest.approx([0.2, 0.7, 0.1])
    with pytest.raises(ValueError, match="at least 2 classes"):
        tipped([1.0])
    with pytest.raises(ValueError, match=r"tip must lie in \[0, 1/2\], received 0.6"):
        tipped([0.7, 0.3], 0.6)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("name", ["l1", "sup", "l2", "mse"])
def test_a_search_finds_where_a_bound_is_attained(name: str, num_classes: int) -> None:
    """So that any smaller constant is refuted by the pair it finds."""
    counts = st.lists(st.integers(0, 4), min_size=num_classes, max_size=num_classes).filter(any).map(rows_of)
    p, q = find(st.tuples(counts, counts), lambda pair: shares(*pair)[name] >= 0.999)
    assert float(worst_excess(p, q)) > 0
    assert shares(p, q)[name] == pytest.approx(1, abs=1e-9)


def test_a_search_finds_a_pair_that_attains_the_sharp_bound_by_kl_but_not_pinskers() -> None:
    def good(pair: tuple[Tensor, Tensor]) -> bool:
        used = shares(*pair)
        return used["kl"] >= 0.999 and used["pinsker"] < 0.98

    counts = st.lists(st.integers(1, 12), min_size=2, max_size=2).map(rows_of)
    p, q = find(st.tuples(counts, counts), good)
    assert float(q[0]) == pytest.approx(0.5)
    assert float(worst_excess(p, q)) == pytest.approx(abs(float(p[0] - p[1])))


@settings(max_examples=50)
@given(simplex_rows(), distortions().filter(lambda distort: distort.keeps_argmax))
def test_what_keeps_the_mode_costs_nothing_however_far_it_moves(p: Tensor, distort: Distortion) -> None:
    assert float(worst_excess(p, distort(p))) <= 1e-12


@settings(max_examples=40)
@given(simplex_rows_with_zeros())
def test_at_p_itself_everything_is_zero_and_shares_are_undefined(p: Tensor) -> None:
    measured = excess_risk_bounds_of_probabilities(p[None], p[None].log(), weights=[1.0])
    assert measured.excess_risk.value == 0
    for each in measured.bounds.values():
        assert each.bound.value == pytest.approx(0, abs=1e-7)
        assert math.isnan(each.share.value) or each.share.value == 0


def test_an_infinite_kl_is_said_and_its_sharp_bound_is_one() -> None:
    measured = excess_risk_bounds_of_probabilities(
        [[1.0, 0.0], [0.6, 0.4]], torch.tensor([[0.4, 0.6], [0.6, 0.4]]).double().log()
    )
    assert measured.excess_risk.value == pytest.approx(0.1)
    pinsker, sharp = measured.bounds["pinsker"], measured.bounds["kl"]
    assert math.isinf(pinsker.bound.value)
    assert math.isnan(pinsker.bound.stderr)
    assert (pinsker.share.value, pinsker.share.stderr) == (0.0, 0.0)
    assert (sharp.bound.value, sharp.bound.stderr) == (1.0, 0.0)
    assert sharp.share.value == pytest.approx(0.1)
    assert sharp.share.stderr == pytest.approx(measured.excess_risk.stderr)
    assert measured.within


# ------------------------------------------------------------------------------------------------------------- sampled


def tilted(x: Tensor) -> Tensor:
    """A linear teacher at 45 degrees to the best one."""
    z = x[:, 0] + x[:, 1] + 0.5
    return torch.stack([-z, z], -1).softmax(-1)


def mixture() -> GaussianMixture:
    return GaussianMixture([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], 1.0, priors=[0.6, 0.4])


def test_a_sampled_excess_risk_against_normal_cdfs_and_the_bounds_in_words() -> None:
    world = mixture()
    risk = linear_rule_risk(world, torch.tensor([1.0, 1.0, 0.0]).double(), 0.5)
    best = linear_rule_risk(world, torch.tensor([2.0, 0.0, 0.0]).double(), math.log(0.4 / 0.6))
    measured = excess_risk_bounds(tilted, world, 40_000, seed=3)
    # 5 standard errors: false alarm 6e-7
    assert abs(measured.excess_risk.value - (risk - best)) < 5 * measured.excess_risk.stderr
    assert measured.excess_risk.method == measured.bounds["l2"].share.method == "monte_carlo"
    assert measured.within
    # two classes: three bounds are one, up to rounding; with the Jensen step, the MSE's is larger
    assert measured.tightest in ("l1", "l2", "sup")
    assert measured.bounds["mse"].bound.value > measured.bounds["l2"].bound.value
    text = str(measured)
    assert len(text.splitlines()) == 1 + len(BOUNDS)
    share = f"{100 * measured.bounds['mse'].share.value:.1f} %"
    assert f"sqrt(2 MSE), of which it uses {share}" in text
    again = excess_risk_bounds(tilted, world, 40_000, seed=3)
    assert again == measured


def test_standard_errors_of_bounds_and_shares_are_the_spread_over_samples() -> None:
    """Of 120 samples the standard deviation is known to 6 percent; the seeds are fixed."""
    runs = [excess_risk_bounds(tilted, mixture(), 400, seed) for seed in range(120)]
    for name in BOUNDS:
        for part in ("bound", "share"):
            estimates = [getattr(run.bounds[name], part) for run in runs]
            spread = float(np.std([estimate.value for estimate in estimates], ddof=1))
            claimed = float(np.mean([estimate.stderr for estimate in estimates]))
            assert claimed == pytest.approx(spread, rel=0.25), (name, part)


def test_shares_covary_with_the_excess() -> None:
    """Taking excess and bound as independent would overstate the share's error: they come from the same points."""
    measured = excess_risk_bounds(tilted, mixture(), 20_000, seed=0)
    share, bound = measured.bounds["l1"].share, measured.bounds["l1"].bound
    independent = math.hypot(measured.excess_risk.stderr, share.value * bound.stderr) / bound.value
    assert share.stderr < 0.98 * independent
