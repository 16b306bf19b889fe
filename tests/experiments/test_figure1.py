"""Figure 1 at toy size: what is trained on what, resuming, verdicts that can fall either way."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcpd import simplex
from bcpd.distill import Supervised
from bcpd.files import finite
from bcpd.targets import TARGETS
from bcpd.train import Recipe, fit
from bcpd.train.split import split
from experiments.figure1 import SCALES, Figure1, plan, run
from experiments.figure1.analysis import PREDICTIONS, correlations, verdicts
from experiments.figure1.spec import chunks, irreducible, world_name
from experiments.figure1.stages import TEACHERS, target_cells, work
from experiments.figure1.training import draw_of, log_probabilities, network, source_of, training_seed

TINY = Figure1(
    worlds=((3, 1.0), (3, 20.0)),
    points=200,
    share=0.3,
    grey=(3, 1),
    teachers=2,
    released_epochs=2,
    draws=3,
    seeds=2,
    train=60,
    validation=30,
    test=80,
    held_out=40,
    epochs=2,
    teacher_epochs=3,
    snapshots=(1, 3),
    mse_goals=(0.02, 0.1),
    kl_goals=(0.1,),
    rates=(0.01, 0.1),
    tuning_draws=1,
    contaminated_train=60,
    num_classes=4,
    dimension=6,
    hidden=(8,),
    group=40,
    teacher_draws=3,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("figure1")
    return run(TINY, folder), folder


def rows_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(results["table"]["columns"], row, strict=True)) for row in results["table"]["rows"]]


# ------------------------------------------------------------------------------------------------------ what is trained


def test_every_target_has_its_student_on_every_draw_and_seed(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    rows = rows_of(results)
    assert [row["id"] for row in rows] == list(range(len(rows)))
    families = [row for row in rows if row["stage"] == "separating" and row["checkpoint"] is None]
    found = {(r["family"], r["matched"], r["goal"], r["draw"], r["seed"]) for r in families}
    assert len(found) == len(families)
    missing = {(r["family"], r["matched"], r["goal"], r["draw"], r["seed"]) for r in results["unreachable"]}
    wanted = {
        (family, matched or None, goal or None, draw, seed)
        for family, matched, goal in target_cells(TINY)
        for draw in range(3)
        for seed in range(2)
    }
    assert found | missing == wanted
    assert not found & missing
    assert all("reaches a" in row["reason"] for row in results["unreachable"])
    states = {(r["family"], r["checkpoint"], r["draw"]) for r in rows if r["checkpoint"] is not None}
    assert states == {(arm, state, draw) for arm in TEACHERS for state in ("1", "3", "best_score") for draw in range(3)}
    released = [row for row in rows if row["stage"] == "released"]
    assert {row["world"] for row in released} == {"3 classes, separation 1"}
    counts = [sum(row["family"] == family for row in released) for family in ("label_mixture", "ce", "mse")]
    assert counts == [4, 2, 2]


def test_matched_levels_are_matched_and_the_other_distance_is_not(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    rows = [row for row in rows_of(results) if row["matched"]]
    for row in rows:
        tolerance = 2 / TINY.train if row["family"] == "swap" else 1e-5
        assert row[row["matched"]] == pytest.approx(row["goal"], abs=tolerance), row["family"]
    kls = [row["kl"] for row in rows if (row["matched"], row["goal"]) == ("mse", 0.1)]
    assert max(kls) > 3 * min(kls)
    for row in rows:
        kind = TARGETS[row["family"]]
        assert (row["squared_bias"] == 0) == kind.unbiased, row["family"]


def test_the_split_of_fit_gives_the_draws_own_points_back() -> None:
    draws = [draw_of(TINY, "toy", "separating", number) for number in (0, 1, 1)]
    seeds = [training_seed(TINY, "families", number) for number in (5, 6, 7)]
    targets = torch.stack([draw.log_bayes.exp() for draw in draws]).float()
    source, share = source_of(draws, seeds, targets)
    train, validation = split(source, share, seeds, 3)
    assert validation is not None
    assert source.targets is not None
    for replica, draw in enumerate(draws):
        assert torch.equal(source.x[replica, train[replica]], draw.train.x)
        assert torch.equal(source.y[replica, validation[replica]], draw.validation.y)
        assert torch.equal(source.targets[replica, train[replica]], targets[replica])
    assert not torch.equal(train[1], train[2])  # the seeds walk the same points in orders of their own


def test_a_student_is_trained_on_the_rows_it_was_given() -> None:
    """After many steps on few points a student is near its rows, and far from those of another replica."""
    spec = dataclasses.replace(TINY, hidden=(64,))
    draw = draw_of(spec, "toy", "separating", 0)
    rows = torch.stack([draw.log_bayes, TARGETS["leak"](draw.log_bayes, draw.train.y, 0.9)])
    seeds = [training_seed(spec, "families", 0)] * 2
    source, share = source_of([draw, draw], seeds, rows.exp().float())
    recipe = Recipe(80, 0.3, batch_size=16, validation=share)
    fitted = fit(network(spec, draw, seeds), source, Supervised("ce", target="given"), recipe, seed=seeds)
    q = log_probabilities(fitted.net, draw.train.x.expand(2, -1, -1)).exp()
    own = simplex.squared_distance(q, rows.exp()).mean(-1)
    other = simplex.squared_distance(q, rows.flip(0).exp()).mean(-1)
    assert bool((own < 0.1 * other).all())


def test_snapshots_of_teachers_are_the_states_on_the_path(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    students = {(r["family"], r["checkpoint"], r["draw"]): r for r in rows_of(results) if r["checkpoint"] is not None}
    for teacher in results["teachers"]:
        assert len(teacher["fresh_mse"]) == len(teacher["label_probability"]) == TINY.teacher_epochs
        if teacher["world"] != "toy":
            continue
        best = students[teacher["arm"], "best_score", teacher["draw"]]
        assert best["epoch"] == teacher["best_score"]["epoch"]
        last = students[teacher["arm"], "3", teacher["draw"]]
        if best["epoch"] == 3:
            assert best["mse"] == last["mse"]
        # the probability of the label exceeds what p* would give it by what was memorised
        p_t = last["label_fit"] - teacher["label_probability"][-1]
        assert -1 < p_t < 0


def test_arms_of_one_rate_differ_in_the_loss_alone(tiny: tuple[dict[str, Any], Path]) -> None:
    """mse_mean is mse with a K-th of the gradient: slower by every epoch, from the same initial network."""
    results, _ = tiny
    by = {(r["arm"], r["draw"]): r for r in results["teachers"] if r["world"] == "toy"}
    for draw in range(3):
        slow, fast = by["mse_mean", draw], by["mse, rate of ce", draw]
        assert slow["label_probability"][-1] < fast["label_probability"][-1]


def test_released_conventions_are_those_of_the_release(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    for row in rows_of(results):
        if row["stage"] == "released":
            assert row["released_distance"] == pytest.approx(math.sqrt(60 * row["mse"]), rel=1e-4)
            assert row["ce"] - row["entropy"] == pytest.approx(row["kl"], abs=1e-4)
            assert row["released_reverse_ce"] <= row["reverse_ce"] + 1e-5
    grey = sorted(
        (r["level"], r["mse"], r["kl"])
        for r in rows_of(results)
        if r["stage"] == "released" and r["family"] == "label_mixture"
    )
    assert [mse for _, mse, _ in grey] == sorted(mse for _, mse, _ in grey)
    assert [kl for _, _, kl in grey] == sorted(kl for _, _, kl in grey)


def test_a_one_hot_world_is_refused_and_said(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    ordinary, refused = results["worlds"]
    assert ordinary["refused"] == ""
    assert "E[1 - |p*|^2]" in refused["refused"]
    assert "p* is one-hot" in refused["refused"]
    assert refused["irreducible"] < 1e-3 < ordinary["irreducible"]
    assert irreducible(Figure1(), world_name(3, 4.0))["refused"]
    assert not irreducible(Figure1(), world_name(10, 1.0))["refused"]


# ---------------------------------------------------------------------------------------------------------------- sweep


def test_run_again_reads_the_finished_tasks_and_gives_the_same_results(
    tiny: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, folder = tiny

    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("a finished task was done again")

    monkeypatch.setattr("experiments.figure1.training.fit", no_training)
    monkeypatch.setattr("experiments.figure1.stages.fit", no_training)
    again = run(TINY, folder)
    for key in results.keys() - {"seconds"}:
        assert json.dumps(finite(again[key])) == json.dumps(finite(results[key])), key


def test_groups_decide_what_trains_side_by_side_and_not_what_comes_out() -> None:
    """Up to float32 rounding: the sixth student alone, and among six others."""
    common = {"stage": "families", "spec": dataclasses.asdict(TINY), "draw": 0, "rates": {"student": 0.03}}
    alone = work({**common, "cells": [6]})[0]
    among = work({**common, "cells": list(range(3, 10))})
    twin = among[3]
    assert (twin["family"], twin["seed"]) == (alone["family"], alone["seed"])
    assert alone["mse"] == twin["mse"]
    assert alone["student_mse_last"] == pytest.approx(twin["student_mse_last"], rel=1e-4)
    assert len({row["student_mse_last"] for row in among}) == len(among)


def test_plan_counts_what_is_trained(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    models = {stage["stage"]: stage["models"] for stage in plan(TINY)}
    rows = rows_of(results)
    families = sum(row["stage"] == "separating" and row["checkpoint"] is None for row in rows)
    assert models["families"] == families + len(results["unreachable"])
    assert models["grey"] == 4
    assert models["released teachers"] == 8
    assert models["teachers"] == len(TEACHERS) * 3 * (1 + 3)
    assert max(stage["group"] for stage in plan(SCALES["full"])) <= SCALES["full"].group


def test_chunks_cover_everything_once() -> None:
    for count, size in ((1, 5), (5, 5), (11, 5), (24, 7)):
        parts = chunks(count, size)
        assert [number for part in parts for number in part] == list(range(count))
        assert max(map(len, parts)) <= size


def test_results_fit_into_json(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    json.dumps(finite(results), allow_nan=False)
    assert results["kind"] == "figure1"
    assert SCALES["laptop"].draws >= 12
    assert len(TARGETS) >= 6


# ------------------------------------------------------------------------------------------------------------- verdicts


def world_of(
    accuracy: Any, draws: int = 8, noise: float = 1e-4, reverse: float = 0.0, permuted: float = 0.1
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Students whose accuracy is a given function of the family, its MSE and its KL, up to noise by draw."""
    rng = np.random.default_rng(0)
    students: list[dict[str, Any]] = []

    def add(family: str, draw: int, matched: str | None, goal: float | None, mse: float, kl: float) -> None:
        value = accuracy(family, mse, kl) + noise * rng.normal()
        students.append(
            {
                "id": len(students),
                "stage": "separating",
                "world": "toy",
                "draw": draw,
                "seed": 0,
                "family": family,
                "matched": matched,
                "goal": goal,
                "checkpoint": None,
                "mse": mse,
                "kl": kl,
                "reverse_ce": 1.0
                + noise * rng.normal()
                + (reverse if family in TARGETS and TARGETS[family].unbiased else 0.3),
                "entropy": 1.0,
                "student_accuracy_best_score": value,
                "student_accuracy_last": value,
            }
        )

    ratio = {family: 1.0 + 2 * number for number, family in enumerate(TARGETS)}
    for draw in range(draws):
        add("bayes", draw, None, None, 0.0, 0.0)
        add("one_hot", draw, None, None, 2.0, math.inf)
        add("permuted", draw, None, None, 0.7, 2.0)
        students[-1]["student_accuracy_best_score"] = students[-1]["student_accuracy_last"] = permuted
        for goal in (0.02, 0.06, 0.2):
            for family in TARGETS:
                add(family, draw, "mse", goal, goal, ratio[family] * goal)
                add(family, draw, "kl", 5 * goal, 5 * goal / ratio[family], 5 * goal)
    teachers = []
    for draw in range(draws):
        luck = 0.01 * rng.normal()
        epochs = np.arange(1, 21)
        for world, net, arm, speed, offset in (
            ("toy", "mlp", "ce", 1.0, 0.0),
            ("toy", "mlp", "mse", 0.6, 0.001),
            ("toy", "mlp", "mse, rate of ce", 0.5, 0.001),
            ("toy", "mlp", "mse_mean", 0.1, 0.001),
            ("contaminated", "linear", "ce", 1.0, 0.01),
            ("contaminated", "linear", "mse", 1.0, 0.0),
        ):
            length = 1 - np.exp(-0.2 * speed * epochs)
            mse = 0.1 + (length - 0.5) ** 2 + offset + luck
            teachers.append(
                {
                    "world": world,
                    "net": net,
                    "draw": draw,
                    "arm": arm,
                    "fresh_mse": mse.tolist(),
                    "label_probability": length.tolist(),
                    "path_minimum_mse": {"fresh_mse": 0.1 + offset + luck + 1e-5 * rng.normal()},
                }
            )
    worlds = [
        {"world": "good", "num_classes": 10, "irreducible": 0.5, "refused": ""},
        {"world": "one-hot", "num_classes": 3, "irreducible": 1e-5, "refused": "refused"},
    ]
    for number in range(6):
        mse = 0.05 * number + 0.01
        value = 0.6 - mse + 0.001 * rng.normal()
        students.append(
            {
                **students[0],
                "stage": "released",
                "world": "good",
                "family": "label_mixture",
                "seed": number,
                "mse": mse,
                "kl": mse**2,
                "student_accuracy_best_accuracy": value,
            }
        )
    return students, teachers, worlds


def theory(family: str, mse: float, kl: float) -> float:
    """Unbiased noise costs by its MSE, kept argmaxes cost little, sharpening wins, leak costs most."""
    if family == "sharpen":
        return 0.605
    if family in ("smoothing", "flatten"):
        return 0.6 - 0.01 * mse
    return 0.6 - mse * (0.4 if family == "leak" else 0.2)


def said(*world: Any) -> dict[str, str]:
    return {entry["id"]: entry["verdict"] for entry in verdicts(*world)}


def test_all_predictions_hold_in_the_world_of_the_theory() -> None:
    found = said(*world_of(theory))
    assert found == dict.fromkeys((prediction.id for prediction in PREDICTIONS), "holds")
    assert all(entry["verdict_last"] == "holds" for entry in verdicts(*world_of(theory)) if "verdict_last" in entry)


@pytest.mark.parametrize(
    ("id", "accuracy"),
    [
        ("a", lambda family, mse, kl: theory(family, mse, kl) - (0.05 if family == "dirichlet" else 0.0)),
        ("d1", lambda family, mse, kl: 0.6 - 0.2 * mse),
        ("d2", lambda family, mse, kl: 0.6 - 0.2 * mse),
        ("e", lambda family, mse, kl: theory(family, mse, kl) - (0.1 if family == "swap" else 0.0)),
    ],
)
def test_a_prediction_fails_where_accuracy_goes_against_it(id: str, accuracy: Any) -> None:
    assert said(*world_of(accuracy))[id] == "fails"


def test_predictions_about_distances_and_teachers_can_fail() -> None:
    students, teachers, worlds = world_of(theory, reverse=0.2)
    assert said(students, teachers, worlds)["c"] == "fails"
    students, teachers, worlds = world_of(theory)
    swapped = [{**t, "arm": {"ce": "mse", "mse": "ce"}.get(t["arm"], t["arm"])} for t in teachers]
    assert said(students, swapped, worlds)["f2"] == "fails"
    assert said(students, swapped, worlds)["f3"] == "fails"
    apart = [{**t, "fresh_mse": [value + 0.5 * (t["arm"] != "ce") for value in t["fresh_mse"]]} for t in teachers]
    assert said(students, apart, worlds)["f1"] == "fails"
    tied = [{**s, "kl": 1 - s["mse"]} if s["stage"] == "released" else s for s in students]
    assert said(tied, teachers, worlds)["b"] == "fails"


def test_controls_can_fail() -> None:
    assert said(*world_of(theory, permuted=0.4))["g"] == "fails"
    students, teachers, worlds = world_of(theory)
    assert said(students, teachers, [worlds[0], {**worlds[1], "refused": ""}])["g"] == "fails"
    assert said(students, teachers, [{**worlds[0], "refused": "refused"}, worlds[1]])["g"] == "fails"


def test_noise_and_diverged_students_are_undecided() -> None:
    found = said(*world_of(theory, draws=3, noise=0.1))
    assert found["a"] == found["d2"] == "undecided"
    students, teachers, worlds = world_of(theory)
    broken = next(s for s in students if s["family"] == "leak" and s["matched"] == "mse")
    broken["student_accuracy_best_score"] = math.nan
    assert said(students, teachers, worlds)["e"] == "undecided"


def test_correlations_tell_the_distance_that_decides_from_the_one_that_does_not() -> None:
    students, _, _ = world_of(lambda family, mse, kl: 0.6 - 0.2 * mse)
    found = {(c["set"], c["distance"], c["given"]): c for c in correlations(students) if c["outcome"] == "best_score"}
    assert found["all families", "mse", "kl"]["mean"] < -0.95
    assert abs(found["all families", "kl", "mse"]["mean"]) < 0.2
    assert found["label_mixture alone", "mse", None]["mean"] == pytest.approx(-1, abs=0.02)
    assert "nothing is left" in found["label_mixture alone", "mse", "kl"]["reason"]
    assert found["real teachers", "mse", None].keys() >= {"reason"}
    students, _, _ = world_of(lambda family, mse, kl: 0.6 - 0.02 * kl)
    found = {(c["set"], c["distance"], c["given"]): c for c in correlations(students) if c["outcome"] == "best_score"}
    assert found["all families", "kl", "mse"]["mean"] < -0.95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 1}, "draws must be at least 2, received 1"),
        ({"share": 0.5}, r"share must lie in \(0, 0.5\), received 0.5"),
        ({"snapshots": (99,)}, "snapshots must be at most 60 epochs"),
    ],
)
def test_specifications_that_cannot_be_run_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Figure1(**change)


def test_a_specification_survives_json() -> None:
    for spec in SCALES.values():
        assert Figure1(**json.loads(json.dumps(dataclasses.asdict(spec)))) == spec
