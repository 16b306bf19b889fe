"""Mixtures of a user, of the kinds that have gone wrong: everything that can be tried in them comes out as expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from trying import TRAINER

from bcpd.mixtures import FAMILIES, FiniteMixture, Mixture
from bcpd.seeds import generator
from bcpd.theory import Check, plan
from bcpd.theory.finite_tables import random_rows, random_table
from bcpd.theory.suite import Step

PLACES = [[0.0, 1.0], [1.0, -0.5], [-1.0, 0.3], [0.4, 0.4]]


def inside() -> FiniteMixture:
    """Six points whose p* is a linear softmax."""
    x = torch.randn(6, 2, generator=generator(0, "inside"), dtype=torch.float64)
    slopes = torch.tensor([[1.0, -0.5, 0.2], [0.3, 0.6, -1.0]], dtype=torch.float64)
    return FiniteMixture(torch.full((6,), 1 / 6), (x @ slopes).softmax(-1), x)


MIXTURES: dict[str, Callable[[], Mixture]] = {
    "ties": lambda: FiniteMixture([0.3, 0.3, 0.4], [[0.4, 0.4, 0.2], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], PLACES[:3]),
    "exact zeros": lambda: FiniteMixture(
        [0.2, 0.3, 0.3, 0.2], [[0.7, 0.3, 0.0], [0.0, 0.6, 0.4], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], PLACES
    ),
    "inside": inside,
    "one point": lambda: FiniteMixture([1.0], [[0.5, 0.3, 0.2]], PLACES[:1]),
    "line": lambda: FiniteMixture(
        [0.1, 0.3, 0.2, 0.25, 0.15], random_rows(3, 5, 3), [[-2.0], [-1.0], [0.0], [1.0], [2.0]]
    ),
    "ten classes": lambda: random_table(5, 6, 10),
    "plane": lambda: FAMILIES["gaussian-2d-shared"](),
}
FAST = ("savage-identity", "risk-identity", "excess-risk-identity", "excess-risk-bounds", "excess-risk-kl")


def steps_in(name: str, only: Sequence[str] = ()) -> list[Step]:
    return plan("quick", 0, TRAINER, only=only, mixture=("mine", MIXTURES[name]()))


def judged(steps: Sequence[Step]) -> list[Check]:
    checks = [step.run() for step in steps]
    assert [check for check in checks if not check.as_expected] == []
    return checks


@pytest.mark.parametrize("name", [name for name in MIXTURES if name not in ("plane", "ten classes")])
def test_identities_and_bounds_come_out_as_expected(name: str) -> None:
    checks = judged(steps_in(name, FAST))
    assert {"savage-identity", "risk-identity"} <= {check.claim for check in checks}
    assert {check.role for check in checks} == {"claim", "control"}


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
def test_every_claim_that_takes_it_comes_out_as_expected(name: str) -> None:
    assert judged(steps_in(name))


def test_what_needs_an_interior_p_is_not_tried_where_some_p_is_zero() -> None:
    names = {(step.claim.id, step.trial.loss, step.trial.control) for step in steps_in("exact zeros")}
    assert ("risk-identity", "ce", None) in names
    assert ("minimiser-equality", "ce", None) in names
    assert not any(claim == "minimiser-is-bayes" for claim, _, _ in names)
    assert ("minimiser-equality", "ce", "swapped_arguments") not in names
    assert ("savage-identity", "log", "slope_at_truth") not in names
    assert ("savage-identity", "spherical", "slope_at_truth") in names
    with pytest.raises(ValueError, match="can be tried with this mixture"):
        steps_in("exact zeros", ["minimiser-is-bayes"])


@pytest.mark.parametrize(("name", "harmless"), [("inside", True), ("one point", True), ("line", False)])
def test_a_swap_is_harmless_where_the_class_contains_bayes(name: str, harmless: bool) -> None:
    steps = [step for step in steps_in(name, ["minimiser-equality"]) if step.trial.control == "swapped_arguments"]
    assert {step.trial.harmless for step in steps if step.trial.loss == "ce"} == {harmless}


@pytest.mark.parametrize("seed", range(4))
def test_ties_are_broken_alike_on_both_sides(seed: int) -> None:
    for step in plan("quick", seed, TRAINER, only=["excess-risk-identity"], mixture=("mine", MIXTURES["ties"]())):
        assert step.run().value <= 1e-12


def test_certain_and_uniform_labels_have_the_controls_that_can_show() -> None:
    for rows in ([[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]):
        mixture = FiniteMixture([0.5, 0.5], rows, PLACES[:2])
        steps = plan("quick", 0, TRAINER, only=["risk-identity"], mixture=("mine", mixture))
        judged(steps)
        minimisers = plan("quick", 0, TRAINER, only=["minimiser-equality"], mixture=("mine", mixture))
        assert {step.trial.control for step in minimisers} == {None}
