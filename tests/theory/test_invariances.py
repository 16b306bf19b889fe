"""Invariances of p*: every formula holds for every family, every wrong version shows, also in a user's mixture."""

from __future__ import annotations

import pytest
import torch
from trying import settings_at, tried

from bcpd.mixtures import FAMILIES, GaussianMixture, Mixture
from bcpd.theory import Settings
from bcpd.theory.instruments.invariances import CLAIMS, QUICK

(CLAIM,) = CLAIMS


def details(settings: Settings) -> dict[str, set[str]]:
    """Which checks are tried in which mixture."""
    found: dict[str, set[str]] = {}
    for trial in CLAIM.trials(settings):
        found.setdefault(trial.world, set()).add(trial.detail)
    return found


def test_the_claim_holds_and_every_control_fails() -> None:
    checks = tried(CLAIMS, settings_at(0))
    assert {check.world for check in checks} == set(QUICK)
    assert {check.control for check in checks} == {None, *CLAIM.controls}


@pytest.mark.slow
def test_in_every_family_at_several_seeds() -> None:
    for seed in (1, 2):
        checks = tried(CLAIMS, Settings("full", seed, settings_at(0).trainer))
        assert {check.world for check in checks} == set(FAMILIES)


@pytest.mark.parametrize("name", ["superclasses", "bernoulli-image", "student-1d", "noisy-shifted-superclasses"])
def test_in_a_users_mixture(name: str) -> None:
    checks = tried(CLAIMS, settings_at(1, name))
    assert {check.world for check in checks} == {name}
    assert sum(check.role == "control" for check in checks) >= 3


def test_only_what_a_mixture_has_is_tried() -> None:
    found = details(settings_at(0, "superclasses"))["superclasses"]
    assert "merged" not in found  # two classes have no smaller partition worth a check
    assert "relabelled" not in found  # a wrapper has no parameters of its own
    assert "bent" in found
    assert "bent" not in details(settings_at(0, "student-1d"))["student-1d"]  # a line cannot be bent
    assert "affine" in details(settings_at(0, "student"))["student"]


def test_one_class_alone_has_nothing_to_try() -> None:
    settings = settings_at(0)
    alone = Settings("quick", 0, settings.trainer, ("alone", GaussianMixture([[0.0]], 1.0)))
    assert CLAIM.trials(alone) == []


class Forgetful(GaussianMixture):
    """Forgets the priors."""

    def _log_posterior_rows(self, x: torch.Tensor) -> torch.Tensor:
        return self._log_classes(x).log_softmax(-1)


def test_a_mixture_with_a_fault_turns_it_red() -> None:
    faulty: Mixture = Forgetful([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]], 1.0, priors=[0.6, 0.3, 0.1])
    settings = Settings("quick", 0, settings_at(0).trainer, ("forgetful", faulty))
    checks = [CLAIM.check(trial) for trial in CLAIM.trials(settings)]
    red = {check.detail for check in checks if check.role == "claim" and not check.holds}
    # against the mixture that its own parameters describe; what it does with any p* is still consistent
    assert red == {"affine", "relabelled", "prior shift"}
