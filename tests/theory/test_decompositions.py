"""Calibration and grouping, bias and variance: for every proper score, with brute-force means."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor
from trying import SEEDS, TRAINER, settings_at, tried

from bcpd.losses import LOSSES
from bcpd.measure import distance_of_probabilities
from bcpd.measure.decomposition import mean_posterior
from bcpd.mixtures import FiniteMixture
from bcpd.testing import finite_mixtures, row_tables, simplex_rows
from bcpd.theory import Settings
from bcpd.theory.parts import decompositions
from bcpd.theory.parts.decompositions import DUAL_MEANS, PROPER, calibration_and_grouping


@pytest.mark.parametrize("seed", SEEDS)
def test_claims_hold_and_controls_fail(seed: int) -> None:
    tried(decompositions.CLAIMS, settings_at(seed))


def test_a_users_mixture_and_a_users_loss() -> None:
    assert {check.world for check in tried(decompositions.CLAIMS, settings_at(0, "finite"))} == {"finite"}
    assert tried(decompositions.CLAIMS, settings_at(0, "gaussian-1d")) == []
    own = Settings("quick", 0, TRAINER, loss=LOSSES["spherical"])
    assert {check.loss for check in tried(decompositions.CLAIMS, own)} == {"spherical"}
    improper = Settings("quick", 0, TRAINER, loss=LOSSES["mae"])
    assert tried(decompositions.CLAIMS, improper) == []


@settings(max_examples=30)
@given(finite_mixtures(), st.data(), st.sampled_from(PROPER))
def test_calibration_and_grouping_add_up_with_a_mean_taken_level_by_level(
    mixture: FiniteMixture, data: st.DataObject, name: str
) -> None:
    weights, bayes = mixture.weights, mixture.rows
    levels = data.draw(row_tables(2, bayes.shape[1], floor=1e-4))
    of = data.draw(st.lists(st.integers(0, 1), min_size=len(bayes), max_size=len(bayes)))
    q = levels[torch.tensor(of)]
    centre = torch.zeros_like(bayes)
    for i in range(len(bayes)):
        same = [j for j in range(len(bayes)) if torch.equal(q[j], q[i])]
        centre[i] = sum(weights[j] * bayes[j] for j in same) / sum(float(weights[j]) for j in same)
    assert torch.allclose(mean_posterior(bayes.log(), q.log(), weights), centre, atol=1e-12)
    divergence = LOSSES[name].divergence
    assert divergence is not None
    parts = calibration_and_grouping(weights, bayes, q, divergence)
    assert sum(parts) == pytest.approx(float(weights @ divergence(bayes, q)), abs=1e-10)
    assert min(parts) >= -1e-12
    if name == "mse":
        measured = distance_of_probabilities(q, bayes.log(), weights=weights)
        assert parts == pytest.approx((measured["calibration"].value, measured["grouping"].value), abs=1e-12)


def test_a_constant_predictor_at_the_prior_is_calibrated_and_far() -> None:
    mixture = FiniteMixture([0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]])
    prior = mixture.priors.expand(2, 2)
    measured = distance_of_probabilities(prior, mixture.rows.log(), weights=mixture.weights)
    assert measured["ece"].value == pytest.approx(0, abs=1e-15)
    assert measured["calibration"].value == pytest.approx(0, abs=1e-15)
    assert measured["mse"].value == pytest.approx(2 * 0.35**2)


@settings(max_examples=30)
@given(st.integers(2, 4).flatmap(lambda k: st.tuples(row_tables(5, k, floor=1e-3), simplex_rows(k, floor=1e-3))))
def test_bias_and_variance_add_up_for_every_score(rows: tuple[Tensor, Tensor]) -> None:
    draws, p = rows
    chances = torch.full((5,), 0.2, dtype=torch.float64)
    for name, mean in DUAL_MEANS.items():
        divergence = LOSSES[name].divergence
        assert divergence is not None
        middle = mean(draws, chances)
        assert float(middle.sum()) == pytest.approx(1, abs=1e-12)
        whole = float(chances @ divergence(p, draws))
        parts = float(divergence(p, middle)) + float(chances @ divergence(middle, draws))
        assert parts == pytest.approx(whole, abs=1e-10), name


@pytest.mark.parametrize("name", PROPER)
def test_the_dual_mean_is_the_row_of_least_expected_divergence_to_the_draws(name: str) -> None:
    """The mean in the first place of D: found by minimising over logits, knowing no formula for it."""
    draws = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.3, 0.4]], dtype=torch.float64)
    chances = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    divergence = LOSSES[name].divergence
    assert divergence is not None

    def variance(z: np.ndarray) -> float:
        q = torch.tensor(z, dtype=torch.float64).softmax(-1)
        return float(chances @ divergence(q.expand(3, 3), draws))

    found = minimize(variance, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15})
    reached = torch.tensor(found.x).softmax(-1)
    assert float((reached - DUAL_MEANS[name](draws, chances)).abs().max()) < 1e-5


def test_the_geometric_mean_is_normalised() -> None:
    draws = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    even = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert DUAL_MEANS["ce"](draws, even).tolist() == pytest.approx([0.5, 0.5])
    skew = DUAL_MEANS["ce"](draws, torch.tensor([0.75, 0.25], dtype=torch.float64))
    ratio = 9 ** (0.75 - 0.25)
    assert float(skew[0]) == pytest.approx(ratio / (1 + ratio))


def test_the_picture_is_flat_in_grouping_and_has_its_minimum_at_the_right_temperature() -> None:
    (claim,) = [claim for claim in decompositions.CLAIMS if claim.picture is not None]
    assert claim.picture is not None
    whole, calibration, grouping = claim.picture(settings_at(0))["series"]
    assert max(grouping["y"]) - min(grouping["y"]) < 1e-6
    best = calibration["x"][int(np.argmin(calibration["y"]))]
    assert abs(math.log2(best / 3)) < 0.2
    assert whole["y"] == pytest.approx([a + b for a, b in zip(calibration["y"], grouping["y"], strict=True)], abs=1e-4)
