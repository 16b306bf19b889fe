"""Faults seeded into the package's formulas: each turns its check red, and leaves nothing behind."""

from dataclasses import replace

import pytest
import torch

from bcpd import simplex
from bcpd.losses import LOSSES
from bcpd.theory import CLAIMS, Trainer
from bcpd.theory.mutants import MUTANTS, Fate, Mutant, mutated, try_mutants
from bcpd.train import Recipe, fit, followed_gradient

TRAINER = Trainer(followed_gradient, fit, Recipe)
CHECK = "known-distance/finite/mse"
HALVED = replace(next(mutant for mutant in MUTANTS if mutant.name == "squared-distance-halved"), check=CHECK)
SLOW = {
    *("risk-identity", "gradient-identity", "minimiser-is-bayes", "improper-minimiser", "savage-identity"),
    *("standard-errors", "interval-coverage", "posterior-calibration", "sandwich-mse"),
}
SLOWLY_KILLED = {
    *("ranked-last-class", "ranked-by-classes", "batch-sum", "tangent-forgotten", "detached-gradient"),
    "spherical-by-the-truth",
}
QUICK = [mutant for mutant in MUTANTS if mutant.claim not in SLOW and mutant.name not in SLOWLY_KILLED]


def fate(mutant: Mutant) -> Fate:
    (found,) = try_mutants([mutant], CLAIMS, 0, TRAINER)
    return found


@pytest.mark.parametrize("mutant", QUICK, ids=lambda mutant: mutant.name)
def test_a_fault_in_a_formula_turns_its_check_red(mutant: Mutant) -> None:
    assert fate(mutant).killed


@pytest.mark.slow
def test_every_fault_turns_its_check_red() -> None:
    assert len(MUTANTS) >= 40
    fates = list(try_mutants(MUTANTS, CLAIMS, 1, TRAINER))
    assert [fate.mutant.name for fate in fates if not fate.killed] == []


def test_mutants_are_told_apart_and_name_checks_of_registered_claims() -> None:
    assert len(QUICK) >= 8
    assert {mutant.name for mutant in MUTANTS} >= SLOWLY_KILLED
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.target, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)
    assert {mutant.claim for mutant in MUTANTS} <= {claim.id for claim in CLAIMS}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_applies_to_the_source_as_it_is(mutant: Mutant) -> None:
    with mutated(mutant):
        pass


def test_the_fault_reaches_every_reference_and_is_gone_afterwards() -> None:
    p, q = torch.tensor([0.7, 0.3]).double(), torch.tensor([0.4, 0.6]).double()
    divergence = LOSSES["mse"].divergence
    assert divergence is not None
    with mutated(HALVED):
        assert float(divergence(p, q)) == pytest.approx(0.09)
        assert float(simplex.squared_distance(p, q)) == pytest.approx(0.09)
    assert float(divergence(p, q)) == pytest.approx(0.18)


def test_the_formula_comes_back_after_an_error() -> None:
    code = simplex.squared_distance.__code__
    with pytest.raises(RuntimeError, match="on purpose"), mutated(HALVED):
        raise RuntimeError("on purpose")
    assert simplex.squared_distance.__code__ is code


def test_a_change_without_effect_survives() -> None:
    same = replace(HALVED, name="same", new=".square().sum(-1) * 1.0")
    assert not fate(same).killed
    assert fate(same).record()["killed"] is False


def test_a_fault_that_raises_turns_its_check_red() -> None:
    assert fate(replace(HALVED, name="raises", new=".square().sum(-7)")).killed


def test_a_mutant_that_does_not_apply_is_an_error() -> None:
    with (
        pytest.raises(ValueError, match=r"must occur exactly once .* occurs 0 times"),
        mutated(replace(HALVED, old="?")),
    ):
        pass
    with pytest.raises(ValueError, match="module:function"), mutated(replace(HALVED, target="bcpd.simplex:none")):
        pass
    with pytest.raises(ValueError, match="function of the package"), mutated(replace(HALVED, target="torch:Tensor")):
        pass
    with pytest.raises(ValueError, match=r"has the checks .*received 'known-distance/finite/nowhere'"):
        fate(replace(HALVED, check="known-distance/finite/nowhere"))
    with pytest.raises(ValueError, match="must belong to a claim"):
        fate(replace(HALVED, check="no-such-claim/mse"))


def test_a_check_that_is_red_without_a_fault_is_an_error() -> None:
    with pytest.raises(ValueError, match="is red without any fault"), mutated(HALVED):
        fate(replace(HALVED, old=".square().sum(-1) / 2", new=".square().sum(-1)"))
