"""The ladder: its specification, its intervals against brute force, its verdicts, and a run at toy size."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcpd import cli
from bcpd.cli.studies import finish
from bcpd.data import InMemory
from bcpd.files import read_json
from bcpd.report import build_report
from bcpd.stats import crossed_mean_interval, mean_interval
from experiments.ladder import SCALES, Ladder, plan, run
from experiments.ladder.analysis import COMPARED, differences, reading, values, verdicts
from experiments.ladder.spec import ARMS, GROUNDS, LOSSES, RUNGS
from experiments.ladder.stages import Draw, Places, shares_path, work
from experiments.ladder.worlds import Measured, restored

EXACT = Ladder("test", ("templates",), draws=3)
UNKNOWN = Ladder("test", ("digits",), draws=3)
NETWORKS = (("teacher", "last"), ("student", "last"))


def exact_rows(gap: float) -> list[dict[str, Any]]:
    """MSE teachers ``gap`` farther than CE teachers in every draw, up to a little luck; their students the same."""
    rows = []
    for draw, luck in enumerate((-0.001, 0.0, 0.001)):
        for role, checkpoint in NETWORKS:
            for arm in ARMS:
                far = 0.05 + (gap + luck if arm.startswith("mse") else 0.0)
                about = {"ground": "templates", "role": role, "arm": arm, "checkpoint": checkpoint, "draw": draw}
                rows.append(about | {"mse": far, "kl": 3 * far, "accuracy": 0.6 - far, "excess_risk": far})
    return rows


@pytest.mark.parametrize(
    ("gap", "closer", "better"), [(0.02, "no", "no"), (-0.02, "yes", "yes"), (0.0, *["undecided"] * 2)]
)
def test_verdicts_are_the_sides_of_the_intervals(gap: float, closer: str, better: str, tmp_path: Path) -> None:
    rows = exact_rows(gap)
    found = differences(EXACT, rows, tmp_path, {}, {})
    (judged,) = verdicts(EXACT, found)
    assert (judged["closer_mse"], judged["closer_kl"], judged["student"]) == (closer, closer, better)
    (entry,) = [
        r for r in found if (r["role"], r["quantity"], r["arm"], r["against"]) == ("teacher", "mse", "mse", "ce")
    ]
    expected = mean_interval([gap - 0.001, gap, gap + 0.001])
    assert entry["mean"] == pytest.approx(expected.mean, abs=1e-8)
    assert (entry["low"], entry["high"]) == pytest.approx((expected.low, expected.high), rel=1e-4)
    sentences = " ".join(sentence["text"] for sentence in reading(EXACT, found, [judged]))
    assert {"no": "farther from p*", "yes": "the MSE teacher is closer", "undecided": "neither surely"}[
        closer
    ] in sentences


def test_a_control_with_a_temperature_is_compared_with_ce_with_one(tmp_path: Path) -> None:
    rows = exact_rows(0.02)
    for row in rows:
        if row["arm"] == "ce_t":
            row["mse"] = 0.5
    (judged,) = verdicts(EXACT, differences(EXACT, rows, tmp_path, {}, {}))
    assert judged["closer_mse"] == "no"
    assert judged["closer_mse_with_temperature"] == "yes"


def unknown_world(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Measured], torch.Tensor]:
    """Networks of a made-up ground with their log-probabilities kept, as the stages leave them."""
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(0, 10, (60,), generator=draw)
    source = InMemory(torch.zeros(60, 1, 8, 8), y, num_classes=10)
    rows = []
    for number in range(3):
        for role, checkpoint in NETWORKS:
            for arm in ARMS:
                row = {"ground": "digits", "role": role, "arm": arm, "checkpoint": checkpoint, "draw": number}
                rows.append(row | {"test_brier": 0.5, "test_nll": 1.0, "test_accuracy": 0.7})
                path = shares_path(folder, row)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, torch.randn(60, 10, generator=draw).log_softmax(-1).numpy())
    return rows, {"digits": Measured(source)}, y


def test_where_p_is_unknown_the_interval_is_crossed_over_draws_and_images(tmp_path: Path) -> None:
    rows, measured, y = unknown_world(tmp_path)
    found = differences(UNKNOWN, rows, tmp_path, measured, {"digits": [0, 7]})
    (entry,) = [
        r for r in found if (r["role"], r["quantity"], r["arm"], r["against"]) == ("teacher", "mse", "mse", "ce")
    ]

    def brier(arm: str, number: int) -> torch.Tensor:
        (row,) = [r for r in rows if (r["role"], r["arm"], r["draw"]) == ("teacher", arm, number)]
        q = torch.from_numpy(np.load(shares_path(tmp_path, row))).double().exp()
        return (q / q.sum(-1, keepdim=True) - torch.eye(10, dtype=torch.float64)[y]).square().sum(-1)

    table = torch.stack([brier("mse", number) - brier("ce", number) for number in range(3)])
    expected = crossed_mean_interval(table)
    assert entry["mean"] == pytest.approx(expected.mean, rel=1e-4)
    assert (entry["low"], entry["high"]) == pytest.approx((expected.low, expected.high), rel=1e-4)
    kept = [number for number in range(60) if number not in (0, 7)]
    assert entry["without_near"]["mean"] == pytest.approx(float(table[:, kept].mean()), rel=1e-4)
    assert entry["without_near"]["mean"] != entry["mean"]
    # an interval over all pairs of draw and image as if they were independent is another, narrower one
    pooled = mean_interval(table.flatten())
    assert pooled.high - pooled.low < entry["high"] - entry["low"]


def test_values_are_means_over_draws(tmp_path: Path) -> None:
    (entry,) = [
        r
        for r in values(EXACT, exact_rows(0.02), tmp_path, {})
        if (r["role"], r["arm"], r["quantity"]) == ("teacher", "mse", "mse")
    ]
    assert entry["mean"] == pytest.approx(0.07)
    assert entry["n"] == 3


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"grounds": ("moon",)}, "moon"),
        ({"grounds": ()}, "grounds"),
        ({"draws": 1}, "draws"),
        ({"validation": 0.0}, "validation"),
        ({"rates": {"ce": (0.1,)}}, "label_smoothing"),
    ],
)
def test_a_wrong_specification_is_refused(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(SCALES["smoke"], **changed)


def test_every_rung_has_its_ground_and_the_order_is_from_the_known_to_the_unknown() -> None:
    assert {rung.ground for rung in RUNGS} == set(GROUNDS)
    truths = [rung.truth for rung in RUNGS]
    assert truths == sorted(truths, key=["exact", "people", "unknown"].index)
    assert {loss for loss, _ in ARMS.values()} == set(LOSSES)
    assert SCALES["laptop"].needs == ["cifar10", "cifar100"]
    assert SCALES["smoke"].needs == []


def test_data_that_are_needed_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cifar10 and cifar100"):
        run(SCALES["laptop"], tmp_path)


def test_the_plan_counts_trainings(capsys: pytest.CaptureFixture[str]) -> None:
    stages = {row["stage"]: row for row in plan(SCALES["laptop"])}
    assert stages["trainings"]["trainings"] == 5 * 3 * (3 + 5)
    assert stages["tuning of teachers"]["trainings"] == 5 * 13
    assert stages["trainings"]["thousand_images"] == 5 * 3 * 8 * 27
    assert cli.main(["compare", "--scale", "full"]) == 0
    assert "Nothing was started" in capsys.readouterr().out


TINY = Ladder(
    "test",
    ("digit-frozen", "digits"),
    draws=2,
    train=60,
    measured=60,
    size=8,
    channels=1,
    teacher="resnet8x0.5",
    student="resnet8x0.5",
    epochs=1,
    batch_size=30,
    rates={"ce": (0.1,), "mse": (0.3,), "label_smoothing": (0.1,)},
    student_rates=(0.1,),
    frozen_train=60,
    frozen_epochs=1,
)


@pytest.mark.slow
def test_a_tiny_ladder_from_its_worlds_to_its_page(tmp_path: Path) -> None:
    results = run(TINY, tmp_path / "rows", processes=1)
    assert {row["ground"] for row in results["rows"]} == {"digit-frozen", "digits"}
    frozen = next(rung for rung in results["rungs"] if rung["name"] == "digit-frozen")
    assert frozen["bayes_error"]["value"] == pytest.approx(0.2, abs=1e-6)
    again = run(TINY, tmp_path / "rows", processes=1)
    assert again["rows"] == results["rows"]
    page = build_report([results])
    assert "labels from a frozen network" in page
    # pictures of the user's data are on the page, and in nothing that is passed on
    own = {f"ladder-gallery-{entry['name']}" for entry in results["own_gallery"]}
    assert own
    finish(results, tmp_path / "out")
    assert "own_gallery" not in read_json(tmp_path / "out" / "results.json")
    assert not own & {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert own == {path.stem for path in (tmp_path / "out" / "own-figures").iterdir()}
    # labels alone find what p* says, and would not if they were others'
    entries = results["by_labels"]
    assert {(entry["role"], entry["quantity"]) for entry in entries} == {
        (role, quantity) for role in ("teacher", "student") for quantity in ("mse", "kl")
    }
    assert max(abs(entry["z"]) for entry in entries) < 4


@pytest.mark.slow
def test_a_temperature_is_fitted_to_what_the_teacher_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def spy(log_q: torch.Tensor, y: torch.Tensor, score: str) -> float:
        seen[score] = float(-log_q.gather(1, y[:, None]).mean())
        return 1.0

    monkeypatch.setattr("experiments.ladder.stages.fit_temperature", spy)
    draw = Draw(replace(TINY, grounds=("digits",)), Places(tmp_path, None), "digits", 0)
    fitted = draw.teacher("ce", 0.1)
    draw.temperature(fitted)
    assert seen["nll"] == pytest.approx(fitted.at("last")[0]["validation_nll"], rel=1e-5)


@pytest.mark.slow
def test_a_training_that_diverges_leaves_rows_that_say_so(tmp_path: Path) -> None:
    spec = replace(TINY, grounds=("digits",))
    rates = {"ce": 0.1, "mse": 1e30, "label_smoothing": 0.1, "student": 0.1}
    about = {"stage": "main", "spec": spec.describe(), "ground": "digits", "rates": rates}
    rows = [row for draw in range(2) for row in work({**about, "draw": draw, "folder": str(tmp_path), "data": None})]
    lost = {(row["role"], row["arm"], row["checkpoint"]) for row in rows if row.get("lost")}
    of_mse = {("teacher", "mse", "last"), ("teacher", "mse", "best_score"), ("student", "mse", "last")}
    assert lost == of_mse | {("teacher", "mse_t", "last"), ("student", "mse_t", "last")}
    measured = {"digits": restored(spec.describe(), "digits", tmp_path, None).measured(0)}
    kept = {"ce", "ce_t", "label_smoothing"}
    assert {entry["arm"] for entry in values(spec, rows, tmp_path, measured)} == kept
    assert {entry["arm"] for entry in differences(spec, rows, tmp_path, measured, {})} == kept - {"ce"}


def test_a_network_that_diverged_is_not_compared_and_stops_nothing(tmp_path: Path) -> None:
    rows = exact_rows(0.02)
    for row in rows:
        if row["arm"] == "mse" and row["draw"] == 1:
            row |= {"lost": True, "mse": math.nan, "kl": math.nan, "accuracy": math.nan}
    found = differences(EXACT, rows, tmp_path, {}, {})
    assert {(entry["arm"], entry["against"]) for entry in found} == set(COMPARED) - {("mse", "ce")}
    (judged,) = verdicts(EXACT, found)
    assert judged["closer_mse"] == "undecided"
    assert "nothing is compared" in reading(EXACT, found, [judged])[0]["text"]
    assert "mse" not in {entry["arm"] for entry in values(EXACT, rows, tmp_path, {})}


def test_values_where_p_is_unknown_are_crossed_too(tmp_path: Path) -> None:
    rows, measured, y = unknown_world(tmp_path)
    wanted = {"role": "teacher", "arm": "ce", "quantity": "accuracy"}
    (entry,) = [r for r in values(UNKNOWN, rows, tmp_path, measured) if wanted.items() <= r.items()]
    own = [r for r in rows if (r["role"], r["arm"]) == ("teacher", "ce")]
    right = torch.stack([torch.from_numpy(np.load(shares_path(tmp_path, r))).argmax(-1) == y for r in own]).double()
    expected = crossed_mean_interval(right)
    assert (entry["low"], entry["high"]) == pytest.approx((expected.low, expected.high), rel=1e-4)
    # the same image is easy or hard for every network: an interval over draws alone is too short
    shared = torch.rand(60, generator=torch.Generator().manual_seed(1)).log()
    for row in own:
        q = torch.full((60, 10), 1.0).scatter(1, y[:, None], 20 * shared.exp()[:, None])
        np.save(shares_path(tmp_path, row), (q + 0.01 * int(row["draw"])).log().log_softmax(-1).numpy())
    wanted["quantity"] = "brier"
    (entry,) = [r for r in values(UNKNOWN, rows, tmp_path, measured) if wanted.items() <= r.items()]
    q = torch.stack([torch.from_numpy(np.load(shares_path(tmp_path, r))).double().exp() for r in own])
    over_draws = mean_interval((q - torch.eye(10)[y]).square().sum(-1).mean(1))
    assert entry["mean"] == pytest.approx(over_draws.mean, rel=1e-4)
    assert entry["high"] - entry["low"] > 5 * (over_draws.high - over_draws.low)


@pytest.mark.slow
def test_real_images_with_people(tmp_path: Path) -> None:
    data = Path(os.environ.get("BCPD_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (data / "cifar-10-batches-bin").is_dir() or not (data / "cifar-10h").is_dir():
        pytest.skip(f"CIFAR-10 and CIFAR-10H in their official layouts are not in {data}")
    spec = replace(TINY, grounds=("cifar10",), channels=3)
    results = run(spec, tmp_path / "rows", data, processes=1)
    assert [rung["truth"] for rung in results["rungs"]] == ["people", "unknown"]
    both = {(r["rung"], r["quantity"]) for r in results["differences"] if r["arm"] == "mse" and r["role"] == "teacher"}
    assert {("people", "mse"), ("cifar10", "mse")} <= both
