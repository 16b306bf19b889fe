"""Bayes errors in the suite: the claims hold, their controls miss, and the named families are those they should be."""

from __future__ import annotations

import json

import pytest
from trying import settings_at, tried

from bcpd.mixtures import FAMILIES
from bcpd.theory.instruments.bayes_errors import ANALYTIC, CLAIMS, QUICK

SAMPLED, CLOSED = CLAIMS


def test_closed_forms_are_returned_and_wrong_ones_are_not() -> None:
    checks = tried([CLOSED], settings_at(0))
    assert {check.control for check in checks} == {None, *CLOSED.controls}
    assert sum(check.comparisons for check in checks if check.role == "claim") == 1


def test_two_integrators_agree_where_there_are_two() -> None:
    assert set(QUICK) <= set(ANALYTIC)
    checks = tried([SAMPLED], settings_at(0))
    assert {check.world for check in checks} == set(QUICK)


def test_the_families_with_an_analytic_error_are_listed() -> None:
    for name, make in FAMILIES.items():
        mixture = make()
        # what decides without computing: a finite X, or components on a line or plane
        analytic = mixture.support() is not None or mixture._component_joint() is not None
        assert analytic == (name in ANALYTIC), name


@pytest.mark.parametrize("name", ["categorical", "laplace-1d"])
def test_a_users_mixture_takes_their_place(name: str) -> None:
    checks = tried([SAMPLED], settings_at(2, name))
    assert [check.control for check in checks] == [None, "wrong_priors"]
    assert CLOSED.trials(settings_at(2, name)) == []


def test_a_mixture_without_an_analytic_error_has_nothing_to_compare() -> None:
    assert SAMPLED.trials(settings_at(0, "laplace")) == []


def test_the_picture_is_data() -> None:
    assert SAMPLED.picture is not None
    picture = SAMPLED.picture(settings_at(0))
    assert json.loads(json.dumps(picture)) == picture
    for series in picture["series"]:
        assert len(series["x"]) == len(series["y"])
        assert series["y"] == sorted(series["y"], reverse=True)  # farther apart is easier
