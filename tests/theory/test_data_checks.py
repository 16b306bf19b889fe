"""Calibration of p* and known distances in the suite: they hold, controls are as far off as they are planned to be."""

from __future__ import annotations

import json

import pytest
import torch
from trying import settings_at, tried

from bcpd.mixtures import FAMILIES, GaussianMixture
from bcpd.theory import Settings
from bcpd.theory.instruments.data_checks import CLAIMS, GOAL, QUICK_FAMILIES

CALIBRATION, DISTANCE = CLAIMS


def test_known_distances() -> None:
    checks = tried([DISTANCE], settings_at(0))
    assert {check.control for check in checks} == {None, *DISTANCE.controls}


@pytest.mark.slow
def test_calibration_holds_and_every_control_fails() -> None:
    checks = tried([CALIBRATION], settings_at(0))
    assert {check.world for check in checks} == set(QUICK_FAMILIES)
    assert {check.control for check in checks} == {None, *CALIBRATION.controls}
    planned = [check.value for check in checks if check.control == "sampler_off_by_2_percent"]
    assert abs(sum(planned) / len(planned) - GOAL) < 3  # a mean of five, each with a standard error of 1


def test_the_false_alarm_budget_counts_every_score_that_is_looked_at() -> None:
    full = Settings("full", 0, settings_at(0).trainer)
    claims = [trial for trial in CALIBRATION.trials(full) if trial.control is None]
    assert {trial.world for trial in claims} == set(FAMILIES)
    counted = {
        trial.world: CALIBRATION.check(trial).comparisons for trial in claims if trial.world in ("finite", "banana")
    }
    assert counted == {name: 1 + FAMILIES[name]().num_classes for name in counted}
    assert sum(1 + make().num_classes for make in FAMILIES.values()) < 150
    assert not CALIBRATION.repeat


@pytest.mark.parametrize("name", ["categorical", "student-1d"])
def test_a_users_mixture_takes_their_place(name: str) -> None:
    checks = tried([CALIBRATION], settings_at(3, name))
    assert [check.control for check in checks] == [None, "sampler_off_by_2_percent", "shuffled_rows"]


def test_controls_that_could_not_show_are_left_out() -> None:
    """Classes that hardly differ: no number of points that is to be had shows a wrong scale, or rows exchanged."""
    hopeless = GaussianMixture([[0.0], [0.01]], 1.0)
    settings = Settings("quick", 0, settings_at(0).trainer, ("hopeless", hopeless))
    assert [trial.control for trial in CALIBRATION.trials(settings)] == [None]


def test_the_picture_is_data_and_shows_what_it_says() -> None:
    assert CALIBRATION.picture is not None
    picture = CALIBRATION.picture(settings_at(0))
    assert json.loads(json.dumps(picture)) == picture
    last = {series["name"]: series["y"][-1] for series in picture["series"]}
    peak = {series["name"]: max(series["y"]) for series in picture["series"]}
    assert last["Gaussian"] == 1
    assert 0.5 < last["Laplace"] < 1
    assert last["Laplace"] == pytest.approx(peak["Laplace"], abs=1e-4)
    for name in ("Student, 3 degrees", "Cauchy"):
        assert 0.5 < last[name] < peak[name] - 0.1
    assert all(torch.tensor(series["y"]).isfinite().all() for series in picture["series"])
