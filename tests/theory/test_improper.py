"""Improper losses end where their closed forms say, numerically and by the trainer, and corrections lead back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trying import settings_at, tried

from bcpd import simplex
from bcpd.losses import LOSSES, focal, label_smoothing, tempered_ce
from bcpd.mixtures import FAMILIES, FiniteMixture
from bcpd.testing import pairs
from bcpd.theory.scores.improper import CLAIMS
from bcpd.theory.scores.improper_cases import CASES, MORE, SEPARATION, numeric_minimiser, plain_rows
from bcpd.theory.scores.own_loss import loss_from_callable

MINIMISER, CORRECTION, *RELATED = CLAIMS


@pytest.mark.slow
@pytest.mark.slow
def test_minimisers_are_reached_and_lie_apart_from_p_star() -> None:
    checks = tried([MINIMISER], settings_at(0))
    assert {check.loss for check in checks} == {name for name in LOSSES if not LOSSES[name].proper}
    for case in CASES:
        details = {check.detail for check in checks if check.loss == case.loss.name and check.control is None}
        assert len([detail for detail in details if "each x" in detail]) == 2
        assert len([detail for detail in details if "trained" in detail]) == 1
        assert len([detail for detail in details if "separation" in detail]) == 1
    claims = [check for check in checks if check.control == "is_bayes"]
    assert min(check.value for check in claims) > 1e-2


@pytest.mark.slow
def test_corrections_lead_back_and_neither_none_nor_the_wrong_one_does() -> None:
    checks = tried([CORRECTION], settings_at(0))
    assert {check.loss for check in checks} == {case.loss.name for case in CASES} - {"mae", "crammer_singer"}
    assert {check.control for check in checks} == {None, "no_map", "wrong_constant"}


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_read_out_and_ties(seed: int) -> None:
    checks = tried(RELATED, settings_at(seed))
    assert {check.claim for check in checks} == {"label-noise-is-smoothing", "temperature-at-read-out", "mae-ties"}


def test_the_bounds_are_those_of_the_conditions() -> None:
    trials = CORRECTION.trials(replace(settings_at(0), level="full"))
    for case in (*CASES, *MORE):
        assert case.recovered == (1e-4 if case.loss.parameters.get("exponent") == 0.7 else 1e-6)
        assert case.reached == (1e-2 if case.loss.name in ("mae", "crammer_singer") else 1e-6)
    assert {trial.loss for trial in trials} == {case.loss.name for case in CASES if case.corrected}


@given(pairs(), st.floats(0, 0.99))
def test_noise_and_smoothing_at_any_logits(pair: tuple[Tensor, Tensor], rate: float) -> None:
    """By listing all noisy labels."""
    p, z = pair[0], pair[1].log()
    k = len(p)
    by_hand = 0.0
    for y in range(k):
        for drawn in range(k):
            chance = float(p[y]) * ((1 - rate) * (y == drawn) + rate / k)
            by_hand -= chance * float(z.log_softmax(-1)[drawn])
    assert float(label_smoothing(rate).function(z[None], p[None])) == pytest.approx(by_hand, rel=1e-9, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_other_seeds_and_constants_have_the_same_verdict(seed: int) -> None:
    tried(CLAIMS, replace(settings_at(seed), level="full"))


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [3, 5])
def test_plain_rows_are_far_from_where_the_statements_fall_together(num_classes: int) -> None:
    rows = plain_rows(0, num_classes, count=400)
    assert rows.shape == (400, num_classes)
    share = simplex.entropy(rows) / torch.tensor(float(num_classes)).log()
    assert bool(((share > 0.2) & (share < 0.9)).all())
    if num_classes == 3:
        for case in (*CASES, *MORE):
            apart = simplex.squared_distance(case.loss.minimiser(rows, case.readout), rows)
            assert float(apart.min()) > 1.5 * case.separation, case.loss.name
            gamma = case.loss.parameters.get("gamma", 0.0)
            assert case.separation == {0.5: 1e-4, 1.0: 5e-4}.get(gamma, SEPARATION)


@given(seed=st.integers(0, 2**62), num_classes=st.sampled_from([3, 5]))
@settings(max_examples=20)
def test_there_are_plain_rows_at_every_seed(seed: int, num_classes: int) -> None:
    assert plain_rows(seed, num_classes).shape == (4, num_classes)


def test_the_numeric_minimiser_knows_nothing_of_the_closed_form() -> None:
    rows = plain_rows(3, 3)
    loss = replace(focal(2.0), population_minimiser=LOSSES["ce"].population_minimiser)
    z = numeric_minimiser(loss, rows, 0)
    torch.testing.assert_close(z.softmax(-1), focal(2.0).minimiser(rows), rtol=0, atol=1e-6)


def test_a_users_finite_mixture_gives_the_rows() -> None:
    checks = tried(CLAIMS, settings_at(0, "finite"))
    assert {check.world for check in checks} == {"finite"}
    assert {check.control for check in checks} == {None}
    assert {check.claim for check in checks} == {claim.id for claim in CLAIMS} - {"mae-ties"}
    certain = ("certain", FiniteMixture([0.5, 0.5], [[1.0, 0.0], [0.0, 1.0]]))
    for mixture in (certain, ("plane", FAMILIES["gaussian-2d-shared"]())):
        assert [trial for claim in CLAIMS for trial in claim.trials(replace(settings_at(0), mixture=mixture))] == []


def test_a_users_loss_is_held_to_the_minimiser_it_states() -> None:
    for loss, right in (
        (tempered_ce(3.0), True),
        (LOSSES["spherical"], True),
        (loss_from_callable(focal(1.0).function, "mine"), False),
    ):
        trials = MINIMISER.trials(replace(settings_at(0), loss=loss))
        assert {trial.loss for trial in trials} == {loss.name}
        for trial in trials:
            outcome = trial.run()
            assert (outcome.value <= outcome.bound) == right
    assert CORRECTION.trials(replace(settings_at(0), loss=LOSSES["spherical"])) == []
    for trial in CORRECTION.trials(replace(settings_at(0), loss=tempered_ce(3.0))):
        outcome = trial.run()
        assert outcome.value <= outcome.bound


def test_pictures_show_every_loss_and_the_way_back() -> None:
    draw: Any = MINIMISER.picture
    data = draw(settings_at(0))
    diagonal, *curves = data["series"]
    assert diagonal["x"] == diagonal["y"]
    assert len(curves) == 8
    for curve in curves:
        reached = torch.tensor(curve["y"], dtype=torch.float64)
        assert bool((reached.diff() >= -1e-6).all())
        assert float((reached - torch.tensor(curve["x"]).double()).abs().max()) > 0.03
    draw = CORRECTION.picture
    data = draw(settings_at(0))
    for curve in data["series"][1:]:
        gap = float((torch.tensor(curve["y"]) - torch.tensor(curve["x"])).abs().max())
        assert gap < 1e-6 if curve["style"] == "points" else gap > 0.01
