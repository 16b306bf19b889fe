"""The risk identity from a convex function alone, where it holds and what it rejects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from trying import settings_at, tried

from bcpd.losses import LOSSES
from bcpd.mixtures import FAMILIES
from bcpd.theory.scores.bregman import SCORES, Score
from bcpd.theory.scores.own_loss import loss_from_callable
from bcpd.theory.scores.savage import CLAIMS, identity_of_score
from bcpd.theory.worlds import rational_world


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(z, y, reduction="none")


def floored(z: Tensor, y: Tensor) -> Tensor:
    return -(z.softmax(-1).gather(1, y[:, None]).squeeze(1) + 0.02).log()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_identity_holds_for_every_score_and_its_wrong_versions_fail(seed: int) -> None:
    checks = tried(CLAIMS[:1], settings_at(seed))
    assert {check.loss for check in checks} == set(SCORES)
    assert {check.world for check in checks} == {"finite X", "quadrature 1-D", "Monte Carlo 30-D"}
    # a swap changes nothing where the divergence is symmetric, and only there
    harmless = {check.loss for check in checks if check.control == "swapped_arguments" and check.role == "claim"}
    assert harmless == {"brier", "ranked_probability"}


def test_every_improper_loss_has_a_witness_and_no_proper_one() -> None:
    checks = tried(CLAIMS[1:], settings_at(0))
    assert {check.claim for check in checks} == {"improper-witness"}
    for check in checks:
        assert (check.value < -1e-4) == (not LOSSES[check.loss].proper), check
        assert check.role == ("control" if LOSSES[check.loss].proper else "claim")


def test_it_holds_in_a_users_mixture() -> None:
    checks = tried(CLAIMS, settings_at(0, "finite"))
    assert {check.world for check in checks} == {"finite"}


def test_any_convex_function_will_do_and_its_gradient_belongs_to_it() -> None:
    world = rational_world(0)
    for exponent in (1.2, 4.0):
        own = Score("mine", lambda q, b=exponent: (q**b).sum(-1) + (q[..., 0] - q[..., 1]).exp())
        assert identity_of_score(own, own.divergence, world, 0).value < 1e-12
        other = Score("other", lambda q, b=exponent: (q**b).sum(-1))
        assert identity_of_score(own, other.divergence, world, 0).value > 1e-2


def test_a_loss_of_ones_own_has_the_score_of_its_entropy_only_if_it_is_proper() -> None:
    for loss, right in (
        (loss_from_callable(cross_entropy, "mine"), True),
        (LOSSES["spherical"], True),
        (loss_from_callable(floored, "mine"), False),
        (LOSSES["focal"], False),
    ):
        settings = replace(settings_at(0), loss=loss)
        claim = CLAIMS[0]
        trials = claim.trials(settings)
        assert {trial.loss for trial in trials} == {loss.name}
        for trial in trials:
            outcome = trial.run()
            assert (outcome.value <= outcome.bound) == right, trial
        on_finite = replace(settings, mixture=("mine", FAMILIES["finite"]()))
        (trial,) = claim.trials(on_finite)
        assert (trial.run().value <= 1e-12) == right


def test_the_picture_shows_tangents_that_touch_the_entropy_from_above() -> None:
    picture: Any = CLAIMS[0].picture
    for settings in (settings_at(0), replace(settings_at(0), loss=LOSSES["mse"])):
        data = picture(settings)
        entropy, *risks = data["series"]
        least = dict(zip(entropy["x"], entropy["y"], strict=True))
        assert len(risks) == 3
        for risk in risks:
            gaps = torch.tensor([y - least[x] for x, y in zip(risk["x"], risk["y"], strict=True)])
            assert -1e-4 < float(gaps.min()) < 1e-3
            slopes = torch.tensor(risk["y"]).diff() / torch.tensor(risk["x"]).diff()
            assert float(slopes.std()) < 1e-2
