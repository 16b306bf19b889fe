"""Claims about the excess risk and its bounds, with oracles of their own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import norm
from torch import Tensor
from trying import SEEDS, settings_at, tried

from bcpd import simplex
from bcpd.measure import distance
from bcpd.measure.bounds import worst_excess
from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.testing import finite_mixtures, row_tables, simplex_rows
from bcpd.theory.bounds import excess_risk, label_error, low_noise, risk_bounds
from bcpd.theory.bounds.excess_risk import decision_boundaries, linear_rule_risk, teachers
from bcpd.theory.bounds.label_error import argmax_error_bound, sampled_error_bound, sampled_label_error
from bcpd.theory.bounds.low_noise import low_noise_bound, low_noise_constant, undecided_world

CLAIMS = (*excess_risk.CLAIMS, *risk_bounds.CLAIMS, *label_error.CLAIMS, *low_noise.CLAIMS)


@pytest.mark.parametrize("seed", SEEDS)
def test_claims_hold_and_controls_fail(seed: int) -> None:
    checks = tried(CLAIMS, settings_at(seed))
    attained = [check for check in checks if check.claim.endswith("-tight") and check.role == "claim"]
    assert attained
    assert all(check.tightness is not None and check.tightness >= 0.999 for check in attained)


@pytest.mark.parametrize("name", ["finite", "gaussian-components"])
def test_a_users_mixture_is_tried_where_a_statement_takes_any(name: str) -> None:
    checks = tried(CLAIMS, settings_at(0, name))
    assert {check.world for check in checks} == {name}
    ids = {check.claim for check in checks}
    assert {"excess-risk-identity", "excess-risk-bounds", "excess-risk-kl", "label-error-bounds"} <= ids


# ------------------------------------------------------------------------------------------------------ the identity


def test_boundaries_of_two_normal_classes_on_a_line() -> None:
    """Equal variances: one boundary in closed form; a wide class around a narrow one: the roots of a quadratic."""
    mixture = GaussianMixture([[-1.0], [1.0]], 1.0, priors=[0.8, 0.2])
    found = decision_boundaries(lambda x: mixture.log_posterior(x[:, None]), -10, 10)
    assert found.tolist() == pytest.approx([math.log(4) / 2], abs=1e-12)
    wide = GaussianMixture([[0.0], [0.3]], torch.tensor([[[4.0]], [[1.0]]]).double())
    roots = np.roots([1 / 8 - 1 / 2, 0.3, -0.045 + math.log(2)])
    found = decision_boundaries(lambda x: wide.log_posterior(x[:, None]), -20, 20)
    assert found.tolist() == pytest.approx(sorted(roots), abs=1e-12)


def test_the_risk_of_a_linear_rule_by_a_sum_over_the_line() -> None:
    mixture = GaussianMixture([[-1.0, 0.5], [1.0, 0.0]], 2.0, priors=[0.3, 0.7])
    a, b = torch.tensor([1.0, 2.0]).double(), -0.4
    scale = math.sqrt(2.0 * 5.0)
    z = np.linspace(-40, 40, 400_001)
    step = z[1] - z[0]
    wrong = [z > 0, z <= 0]
    places = [float(mean @ a) + b for mean in mixture.means[:, 0]]
    risk = sum(
        prior * float((norm.pdf(z, place, scale) * bad).sum() * step)
        for prior, place, bad in zip([0.3, 0.7], places, wrong, strict=True)
    )
    assert linear_rule_risk(mixture, a, b) == pytest.approx(risk, abs=1e-4)


def test_the_paired_estimate_is_far_more_precise_than_counting_errors() -> None:
    """Most x are decided alike by both rules: the gap is 0 there, an error counted on labels is not."""
    mixture = GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], 1.0)
    x, y = mixture.sample(40_000, 0)
    z = x[:, 0] + 0.2 * x[:, 1]
    gap = worst_excess(mixture.posterior(x), torch.stack([-z, z], -1))
    errors = ((z > 0).long() != y).double()
    assert float(gap.std()) < 0.1 * float(errors.std())
    measured = distance(lambda points: mixture.posterior(points), mixture, 1000, 0, decompose=False)
    assert measured["excess_risk"].value == 0


def test_teachers_are_rows_of_probabilities_near_and_far() -> None:
    bayes = FiniteMixture([0.5, 0.5], [[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]]).rows
    every = dict(teachers(bayes.log(), 0))
    assert len(every) == 10
    for log_q in every.values():
        assert torch.allclose(log_q.exp().sum(-1), torch.ones(2).double())
    assert torch.equal(every["smoothed"].argmax(-1)[:1], bayes.argmax(-1)[:1])
    assert float(worst_excess(bayes, every["uniform"])[0]) == pytest.approx(0.6)


# ------------------------------------------------------------------------------------------------------- label errors


@settings(max_examples=50)
@given(simplex_rows(3), simplex_rows(3))
def test_sampled_labels_err_as_often_as_two_draws_differ(p: Tensor, q: Tensor) -> None:
    differ = math.fsum(float(p[i] * q[j]) for i in range(3) for j in range(3) if i != j)
    assert float(sampled_label_error(p, q)) == pytest.approx(differ, abs=1e-12)
    nats = simplex.cross_entropy(p, q)
    assert float(sampled_label_error(p, q)) <= float(sampled_error_bound(nats)) + 1e-12
    assert float(sampled_error_bound(nats)) <= float(nats)
    assert float(1 - p[q.argmax()]) <= float(argmax_error_bound(nats)) + 1e-12


@given(st.floats(0.01, 0.99))
def test_the_least_cross_entropy_of_an_error_is_a_coins_entropy_up_to_one_half(error: float) -> None:
    """For two classes, over a fine grid of q that predict the first class; its convex hull is the chord e log 2."""
    q = torch.linspace(0.5, 1 - 1e-6, 5001, dtype=torch.float64)
    least = float((-(1 - error) * q.log() - error * (1 - q).log()).min())
    coin = -error * math.log(error) - (1 - error) * math.log(1 - error)
    assert least == pytest.approx(coin if error < 0.5 else math.log(2), abs=1e-4)
    assert least >= error * math.log(2) - 1e-9


# ---------------------------------------------------------------------------------------------------------- low noise


@settings(max_examples=30)
@given(finite_mixtures(), st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.data())
def test_the_low_noise_bound_holds_with_the_worlds_own_constant(
    mixture: FiniteMixture, exponent: float, data: st.DataObject
) -> None:
    points, weights = mixture.support()
    bayes = mixture.posterior(points)
    q = data.draw(row_tables(len(bayes), bayes.shape[1]))
    constant = low_noise_constant(weights, bayes, exponent)
    excess = float(weights @ worst_excess(bayes, q))
    mse = float(weights @ simplex.squared_distance(bayes, q))
    if constant == 0:
        assert excess == 0
    else:
        assert excess <= float(low_noise_bound(mse, exponent, constant)) + 1e-9


def test_without_a_condition_the_bound_is_the_root_of_twice_the_mse() -> None:
    mse = torch.tensor([1e-6, 0.01, 0.5], dtype=torch.float64)
    assert torch.allclose(low_noise_bound(mse, 0.0, 1.0), (2 * mse).sqrt(), rtol=1e-14)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 3.0])
def test_the_sharp_constant_by_linear_programming(exponent: float) -> None:
    """Over all laws F on a grid with F(t) <= t^alpha and second moment 2 MSE: the largest mean."""
    grid = np.linspace(0, 1, 401)[1:]
    mse = 0.01
    below = np.tril(np.ones((len(grid), len(grid))))
    found = linprog(
        -grid,
        A_ub=np.vstack([below, grid[None] ** 2]),
        b_ub=np.concatenate([grid**exponent, [2 * mse]]),
        bounds=(0, None),
        method="highs",
    )
    assert -found.fun == pytest.approx(float(low_noise_bound(mse, exponent, 1.0)), rel=1e-2)


def test_the_undecided_world_meets_its_condition() -> None:
    weights, bayes, q = undecided_world(1.0, 0.4, 50)
    assert float(weights.sum()) == pytest.approx(1)
    assert low_noise_constant(weights, bayes, 1.0) == pytest.approx(1.0)
    assert bool((worst_excess(bayes, q)[:-1] > 0).all())
    assert float(worst_excess(bayes, q)[-1]) == 0


def test_low_noise_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="mse must be >= 0"):
        low_noise_bound(-1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="exponent must be >= 0 and constant > 0"):
        low_noise_bound(1.0, 1.0, 0.0)
