"""Conditional mutual information: three formulas, its zeros, its temperature, and what maximising it does."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from torch import Tensor
from trying import SEEDS, settings_at, tried

from bcpd import simplex
from bcpd.mixtures import FiniteMixture
from bcpd.testing import finite_mixtures, row_tables
from bcpd.theory.finite_tables import random_table
from bcpd.theory.parts import teacher_information
from bcpd.theory.parts.information import (
    centroids,
    cmi,
    cmi_by_definition,
    cmi_by_entropies,
    cmi_temperature_bound,
    joint,
    mcmi_minimiser,
    mutual_information,
)


@pytest.mark.parametrize("seed", SEEDS)
def test_claims_hold_and_controls_fail(seed: int) -> None:
    tried(teacher_information.CLAIMS, settings_at(seed))


def test_a_users_finite_mixture_is_tried_and_a_continuous_one_has_none() -> None:
    checks = tried(teacher_information.CLAIMS, settings_at(0, "finite"))
    assert {"cmi-three-ways", "cmi-zero", "cmi-temperature"} <= {check.claim for check in checks}
    assert tried(teacher_information.CLAIMS, settings_at(0, "gaussian-1d")) == []


def by_loops(weights: Tensor, bayes: Tensor, q: Tensor) -> float:
    """Mean KL to the centroid, class by class, with SciPy's x log (x / y)."""
    w, p, r = weights.numpy(), bayes.numpy(), q.numpy()
    total = 0.0
    for y in range(p.shape[1]):
        prior = float(w @ p[:, y])
        if prior > 0:
            given_y = w * p[:, y] / prior
            centre = given_y @ r
            # an entry that underflows in the centroid is worth less than 1e-300, but its ratio to 0 would be infinite
            there = given_y[:, None] * r > 0
            terms = [given_y[x] * rel_entr(r[x], centre)[there[x]] for x in range(len(w))]
            total += prior * math.fsum(term for row in terms for term in row)
    return total


@settings(max_examples=30)
@given(finite_mixtures(zeros=True), st.data())
def test_three_formulas_and_a_loop_agree(mixture: FiniteMixture, data: st.DataObject) -> None:
    weights, bayes = mixture.weights, mixture.rows
    q = data.draw(row_tables(len(bayes), bayes.shape[1], zeros=True))
    expected = by_loops(weights, bayes, q)
    for formula in (cmi, cmi_by_definition, cmi_by_entropies):
        assert formula(weights, bayes, q) == pytest.approx(expected, abs=1e-12)
    assert -1e-12 <= expected <= math.log(q.shape[1]) + 1e-12


@settings(max_examples=30)
@given(finite_mixtures(), st.data())
def test_information_is_at_least_the_spread_and_forgetting_y_adds_the_information_about_y(
    mixture: FiniteMixture, data: st.DataObject
) -> None:
    weights, bayes = mixture.weights, mixture.rows
    q = data.draw(row_tables(len(bayes), bayes.shape[1]))
    spread = simplex.squared_distance(q[:, None], centroids(weights, bayes, q))
    information = cmi(weights, bayes, q)
    assert float((weights[:, None] * bayes * spread).sum()) <= information + 1e-12
    # chain rule: I(X; Y^) = I(X; Y^ | Y) + I(Y; Y^) by the Markov property
    table = joint(weights, bayes, q).sum(0)
    independent = table.sum(1, keepdim=True) * table.sum(0, keepdim=True)
    about_y = float(torch.special.xlogy(table, table / independent).sum())
    assert mutual_information(weights, bayes, q) == pytest.approx(information + about_y, abs=1e-12)


@settings(max_examples=25)
@given(finite_mixtures(), st.data(), st.floats(0.3, 300))
def test_the_temperature_bound_holds(mixture: FiniteMixture, data: st.DataObject, temperature: float) -> None:
    weights, bayes = mixture.weights, mixture.rows
    logits = data.draw(row_tables(len(bayes), bayes.shape[1])).log()
    bound = cmi_temperature_bound(weights, bayes, logits, temperature)
    assert cmi(weights, bayes, (logits / temperature).softmax(-1)) <= bound + 1e-12


def test_two_classes_attain_the_temperature_bound_in_the_limit() -> None:
    weights, bayes = torch.tensor([0.3, 0.7]).double(), torch.tensor([[0.2, 0.8], [0.6, 0.4]]).double()
    logits = torch.tensor([[3.0, -1.0], [0.0, 2.0]]).double()
    shares = [
        cmi(weights, bayes, (logits / t).softmax(-1)) / cmi_temperature_bound(weights, bayes, logits, t)
        for t in (1.0, 10.0, 100.0)
    ]
    assert shares[0] < shares[1] < shares[2] <= 1 + 1e-9
    assert shares[2] > 0.999


def test_the_minimiser_without_information_is_p_star_from_anywhere() -> None:
    table = random_table(3, 6, 3)
    uniform = torch.full_like(table.rows, 1 / 3)
    reached = mcmi_minimiser(table.weights, table.rows, 0.0, uniform)
    assert float((reached - table.rows).abs().max()) < 1e-6


def test_the_derivative_at_p_star_is_the_one_that_is_stated() -> None:
    """Against finite differences of the objective in the logits of one x."""
    table, strength, step = random_table(4, 5, 3), 0.4, 1e-5
    weights, bayes = table.weights, table.rows

    def objective(z: Tensor) -> float:
        q = z.softmax(-1)
        return float(weights @ simplex.cross_entropy(bayes, q)) - strength * cmi(weights, bayes, q)

    log_ratio = bayes.log()[:, None, :] - centroids(weights, bayes, bayes).log()
    by_q = -weights[:, None] * (1 + strength * (bayes[:, :, None] * log_ratio).sum(1))
    by_logit = bayes * (by_q - (bayes * by_q).sum(-1, keepdim=True))
    for x in range(2):
        for k in range(3):
            moved = torch.zeros_like(bayes)
            moved[x, k] = step
            slope = (objective(bayes.log() + moved) - objective(bayes.log() - moved)) / (2 * step)
            assert slope == pytest.approx(float(by_logit[x, k]), abs=1e-8)


def test_raising_the_strength_raises_the_information_and_the_price() -> None:
    """Each minimiser is optimal for its own strength, so CMI and KL both rise with it (a general fact)."""
    table = random_table(5, 5, 3)
    rows = [mcmi_minimiser(table.weights, table.rows, strength) for strength in (-0.4, 0.0, 0.2, 0.4, 0.6)]
    information = [cmi(table.weights, table.rows, q) for q in rows]
    price = [float(table.weights @ simplex.kl(table.rows, q)) for q in rows]
    assert information == sorted(information)
    assert price[1:] == sorted(price[1:])
    assert price[0] > price[1]


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"weights must have shape \(n,\), bayes and q \(n, K\)"):
        cmi([0.5, 0.5], [[0.5, 0.5]], [[0.5, 0.5]])
    with pytest.raises(ValueError, match="temperature must be > 0, received 0"):
        cmi_temperature_bound([1.0], [[0.5, 0.5]], torch.zeros(1, 2).double(), 0)
    with pytest.raises(ValueError, match="must be positive"):
        mcmi_minimiser([1.0], [[1.0, 0.0]], 0.1)


def test_the_picture_passes_through_p_star() -> None:
    (claim,) = [claim for claim in teacher_information.CLAIMS if claim.picture is not None]
    assert claim.picture is not None
    ratio, miss = (panel["series"][0] for panel in claim.picture(settings_at(0))["panels"])
    zero = ratio["x"].index(0.0)
    assert ratio["y"][zero] == pytest.approx(1)
    assert miss["y"][zero] == pytest.approx(0, abs=1e-12)
    assert np.all(np.diff(ratio["y"]) > 0)
