"""The map at toy size: complete, paired, resumable; its verdicts, sentences and controls say what the rows say."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bcpd.measure.pointwise import pointwise
from bcpd.mixtures import LabelNoise
from bcpd.power import draws_needed
from bcpd.stats import holm, paired_difference
from experiments import when_mse_wins as wmw
from experiments.when_mse_wins import Cell, Map, Protocol, analysis, predictions, spec, stages, tasks, training
from experiments.when_mse_wins.quantities import BY_ID, METRICS, QUANTITIES, values

BASE = Cell(train=40, epochs=2, width=4, num_classes=3, bayes_error=0.3)
LINEAR = replace(BASE, depth=0)
TINY = Map(
    scale="tiny",
    protocol=Protocol(
        teacher_rates=(0.001, 0.003),
        student_rates=(0.01, 0.03),
        tuning_draws=2,
        tuning_points=10,
        select=20,
        fresh=60,
        block=2,
        ensemble=2,
        folds=3,
        dimension=3,
    ),
    base=BASE,
    draws=2,
    base_draws=3,
    lines=(spec.line("label_noise", (0.0, 0.4), BASE), spec.line("outliers", (0.0, 0.2), LINEAR)),
    pairs=(spec.pair(spec.line("train", (40, 60), BASE), spec.line("epochs", (2, 3), BASE), "points and epochs"),),
    settings=(spec._semi_supervised(60, (0.5,), BASE), spec._binary(BASE, (40,))),
    controls=(BASE,),
)
KEYS = ("summary", "tables", "controls", "rates", "planner", "predictions", "reading", "equality")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("map")
    return wmw.run(TINY, folder, processes=1), folder


def _rows(results: dict[str, Any], cell: str) -> list[dict[str, Any]]:
    table = next(table for table in results["tables"] if table["cell"] == cell)
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


# ----------------------------------------------------------------------------------------------------------------- run


def test_every_cell_has_every_arm_on_every_draw(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    json.dumps(results)
    assert [cell["name"] for cell in results["cells"]] == [cell.name for cell in TINY.cells]
    assert len(TINY.cells) == 9
    for cell in TINY.cells:
        draws = range(TINY.draws_of(cell))
        rows = _rows(results, cell.name)
        found = [
            (r["role"], r["arm"], r["tuned_by"], r["teacher_checkpoint"], r["checkpoint"], r["draw"]) for r in rows
        ]
        assert len(set(found)) == len(found)
        expected: set[tuple[Any, ...]] = set()
        for arm in ("ce", "mse"):
            expected |= {("teacher", arm, by, None, state) for by, kept in stages.KEPT.items() for state in kept}
            expected |= {("student", arm, by, state, "best_score") for by, state in stages.TAUGHT}
        tempered = {f"{arm}_t_{score}" for arm in ("ce", "mse") for score in ("nll", "brier")}
        others = {"label_smoothing", "logit_projection", "logit_softmax", "ensemble", "crossfit"}
        both = ("best_score", "last")
        shown = tempered | others if cell in TINY.controls else tempered
        expected |= {("teacher", arm, "score", None, state) for arm in shown for state in both}
        expected |= {("student", "bayes", "score", None, "best_score")}
        if cell in TINY.controls:
            expected |= {("teacher", "ce_early", "score", None, "last")}
            expected |= {("student", "ce_early", "score", "last", "best_score")}
            expected |= {("student", arm, "score", state, "best_score") for arm in shown for state in both}
        assert set(found) == {(*key, draw) for key in expected for draw in draws}, cell.name


def test_a_finished_map_is_read_back_and_a_killed_one_goes_on(
    tiny: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, folder = tiny
    for store in ("worlds", "tuning", "rows"):
        (tmp_path / f"{store}.jsonl").write_bytes((folder / f"{store}.jsonl").read_bytes())
    lines = (tmp_path / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines[:-2]))
    trained: list[int] = []
    original = training.fit

    def counting(*arguments: Any, **options: Any) -> Any:
        trained.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(training, "fit", counting)
    again = wmw.run(TINY, tmp_path, processes=1)
    assert trained
    trained.clear()
    third = wmw.run(TINY, tmp_path, processes=1)
    assert not trained
    for key in KEYS:
        assert again[key] == results[key] == third[key], key


def test_the_plan_counts_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[int] = []
    original = training.fit

    def counting(net: Any, *arguments: Any, **options: Any) -> Any:
        models.append(net.replicas)
        return original(net, *arguments, **options)

    monkeypatch.setattr(training, "fit", counting)
    small = replace(TINY, lines=(), pairs=(), settings=())
    wmw.run(small, tmp_path, processes=1)
    rates = {(r["arm"], r["tuned_by"]): r["rate"] for r in wmw.run(small, tmp_path)["rates"]}
    same = sum(rates[arm, "score"] == rates[arm, "accuracy"] for arm in ("ce", "mse"))
    planned = wmw.plan(small, seconds_per_unit=2.0)
    assert planned["models"] == sum(models) + 3 * same  # the plan counts two tuned rates where there may be one
    assert planned["seconds"] > 0
    assert wmw.plan(small)["seconds"] is None


def test_every_scale_names_its_cells_once_and_has_its_controls() -> None:
    for scale, size in wmw.SCALES.items():
        names = [cell.name for cell in size.cells]
        assert len(set(names)) == len(names), scale
        for record in (line.record(size.base) for line in size.lines):
            assert len(record["levels"]) == len(record["cells"]) >= 3
            assert set(record["cells"]) <= set(names)
        for record in (pair.record() for pair in size.pairs):
            assert [len(row) for row in record["cells"]] == [len(record["x"]["levels"])] * len(record["y"]["levels"])
    laptop = wmw.SCALES["laptop"]
    assert laptop.draws >= 8
    assert laptop.base_draws >= 12


def test_both_losses_have_one_grid_which_moves_with_the_steps_only() -> None:
    protocol = Protocol()
    base = protocol.rates(Cell(), "teacher")
    assert base == (0.000316, 0.001, 0.00316, 0.01, 0.0316, 0.1)
    assert protocol.rates(Cell(bayes_error=0.1, width=16), "teacher") == base
    assert protocol.rates(Cell(epochs=100), "teacher")[1:] == base[:-1]
    assert protocol.rates(Cell(train=250), "teacher")[:-1] == base[1:]
    assert protocol.rates(Cell(train=250), "student") == protocol.rates(Cell(), "student")


# ------------------------------------------------------------------------------------------------------------- pairing


def _draw(cell: Cell, number: int = 0) -> training.Draw:
    mixture = cell.mixture(3, 6.0, 0)
    return training.draw_of(mixture, TINY.protocol, cell, "main", number)


def test_a_job_trains_on_its_points_and_validates_on_those_of_its_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = replace(BASE, epochs=1)
    draws = [_draw(cell, number) for number in range(2)]
    seen: list[torch.Tensor] = []
    original = training.InMemory.batch

    def spy(self: Any, index: torch.Tensor, **options: Any) -> Any:
        batch = original(self, index, **options)
        if options.get("epoch") is not None:
            seen.append(batch.x)
        return batch

    monkeypatch.setattr(training.InMemory, "batch", spy)
    jobs = [
        training.Job(draw, draw.train, stages._method(TINY.protocol, arm), 0.01, 7)
        for draw in draws
        for arm in ("ce", "mse")
    ]
    training.train(TINY.protocol, cell, jobs)
    points = torch.cat(seen, 1)
    assert torch.equal(points[0], points[1])  # a CE and an MSE teacher see the same examples in the same order
    for replica, job in enumerate(jobs):
        assert sorted(points[replica].tolist()) == sorted(job.points.x.tolist())
    assert not torch.equal(points[0], points[2])


def test_the_state_of_a_job_is_its_own_network_on_its_own_draw() -> None:
    draws = [_draw(BASE, number) for number in range(2)]
    jobs = [training.Job(draw, draw.train, stages._method(TINY.protocol, "mse"), 0.01, draw.root) for draw in draws]
    together = training.train(TINY.protocol, BASE, jobs, ("last",))
    for job, kept in zip(jobs, together, strict=True):
        alone = training.train(TINY.protocol, BASE, [job], ("last",))[0]
        torch.testing.assert_close(kept.states["last"].fresh, alone.states["last"].fresh, atol=1e-5, rtol=0)
        assert kept.states["last"].transfer.shape == (32, 3)
    assert (together[0].states["last"].fresh - together[1].states["last"].fresh).abs().max() > 0.01


def test_cross_fitting_never_labels_a_point_with_a_teacher_that_saw_it() -> None:
    draw = _draw(BASE)
    folds = stages._folds(draw, 3)
    assert sorted(torch.cat([outside for _, outside in folds]).tolist()) == list(range(32))
    assert len({len(inside) for inside, _ in folds}) == 1
    for inside, outside in folds:
        assert not set(inside.tolist()) & set(outside.tolist())
    tables = [torch.full((32, 3), float(number)).log_softmax(-1) + number for number in range(3)]
    states = [training.State(1, table, table, table) for table in tables]
    state = stages._out_of_fold(states, folds)
    for number, (_, outside) in enumerate(folds):
        assert torch.equal(state.transfer[outside], tables[number][outside])


def test_students_see_the_unlabelled_points_and_labels_only_where_there_are_any() -> None:
    cell = replace(BASE, unlabelled=20, label_weight=0.25)
    draw = _draw(cell)
    assert draw.transfer.log_bayes is not None
    job = stages._student_job(cell, draw, draw.transfer.log_bayes, 0.1)
    assert job.points.targets is not None
    assert len(job.points) == 52
    bayes = draw.transfer.log_bayes.exp()
    torch.testing.assert_close(job.points.targets[32:], bayes[32:].float())
    hot = torch.nn.functional.one_hot(draw.train.y, 3)
    torch.testing.assert_close(job.points.targets[:32], (0.25 * hot + 0.75 * bayes[:32]).float())
    assert job.points.log_bayes is None


def test_clean_columns_are_those_of_the_mixture_before_the_noise() -> None:
    cell = replace(BASE, label_noise=0.4)
    mixture = cell.mixture(3, 6.0, 0)
    assert isinstance(mixture, LabelNoise)
    draw = training.draw_of(mixture, TINY.protocol, cell, "main", 0)
    assert draw.fresh.log_bayes is not None
    assert draw.transfer.log_bayes is not None
    noise = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_q = (draw.fresh.log_bayes + 0.1 * noise).log_softmax(-1)
    state = training.State(1, draw.transfer.log_bayes, log_q, log_q)
    row = stages._measured(cell, draw, state, with_transfer=True)
    x = mixture.sample(60, training.derive(draw.root, "fresh points"))[0]
    clean = pointwise(mixture.mixture.log_posterior(x), log_q).mean(0)
    assert row["clean_mse"] == pytest.approx(float(clean[0]), rel=1e-4)
    assert row["clean_accuracy"] == pytest.approx(float(clean[5]), rel=1e-4)
    assert row["clean_accuracy"] > row["fresh_accuracy"] + 0.01
    assert row["transfer_mse"] == 0


def test_a_teacher_that_diverged_leaves_nan_and_no_student(monkeypatch: pytest.MonkeyPatch) -> None:
    original = stages.train

    def broken(*arguments: Any) -> Any:
        found = original(*arguments)
        for kept in found[:1]:
            for name, state in kept.states.items():
                lost = (torch.full_like(t, torch.nan) for t in (state.transfer, state.validation, state.fresh))
                kept.states[name] = training.State(1, *lost)
        return found

    monkeypatch.setattr(stages, "train", broken)
    mixture = BASE.mixture(3, 6.0, 0)
    one = {"score": 0.01, "accuracy": 0.01}
    rates = dict.fromkeys(("ce", "mse", "student"), one)
    payload = {"draws": [0], "mixture": mixture.spec(), "controls": False, "rates": rates}
    rows = list(stages._main(TINY.protocol, BASE, payload))
    lost = [row for row in rows if math.isnan(row["fresh_mse"])]
    assert {row["arm"] for row in lost} >= {"ce", "ce_t_nll"}
    assert {(row["role"], row["arm"]) for row in lost} >= {("teacher", "ce"), ("student", "ce")}
    assert all(math.isfinite(row["fresh_mse"]) for row in rows if (row["role"], row["arm"]) == ("teacher", "mse"))


# ------------------------------------------------------------------------------------------------------------ analysis


def test_differences_are_paired_and_corrected_over_the_cells(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    for quantity in QUANTITIES:
        own = [entry for entry in results["summary"] if entry["quantity"] == quantity.id]
        assert [entry["cell"] for entry in own] == [cell.name for cell in TINY.cells]
        for entry in own:
            rows = _rows(results, entry["cell"])
            ce, mse = (values(rows, quantity, arm) for arm in ("ce", "mse"))
            found = paired_difference(list(mse.values()), list(ce.values()))
            assert entry["mean"] == pytest.approx(found.mean, rel=1e-4, abs=1e-12)
            assert entry["sd"] == pytest.approx(found.stderr * math.sqrt(found.n), rel=1e-4, abs=1e-12)
        adjusted = holm([entry["p"] for entry in own])
        assert [entry["p_holm"] for entry in own] == pytest.approx(adjusted, rel=1e-4)


def _summary(differences: dict[str, list[float]], quantity: str) -> list[dict[str, Any]]:
    """Cells whose MSE rows lie these differences above their CE rows."""
    own = BY_ID[quantity]
    rows = {}
    for cell, gaps in differences.items():
        rows[cell] = [
            {
                "role": own.role,
                "arm": arm,
                "tuned_by": own.tuned_by,
                "checkpoint": own.checkpoint,
                "teacher_checkpoint": own.teacher_checkpoint,
                "draw": draw,
                **dict.fromkeys(METRICS, 0.5 + (gap if arm == "mse" else 0)),
            }
            for draw, gap in enumerate(gaps)
            for arm in ("ce", "mse")
        ]
    return [entry for entry in analysis.summarise(rows) if entry["quantity"] == quantity]


def test_verdicts_know_which_sign_is_the_better_one() -> None:
    gaps = {"a": [0.1, 0.11, 0.12, 0.1], "b": [-0.1, -0.11, -0.12, -0.1], "c": [0.1, -0.1, 0.05, -0.06]}
    distance = [e["verdict"] for e in _summary(gaps, "teacher fresh_mse score/best_score")]
    accuracy = [e["verdict"] for e in _summary(gaps, "student fresh_accuracy score/best_score")]
    assert distance == ["ce closer", "mse closer", "no difference seen"]
    assert accuracy == ["mse better", "ce better", "no difference seen"]


def test_a_lost_draw_is_left_out_and_a_lost_cell_is_no_verdict() -> None:
    entries = _summary({"a": [0.1, math.nan, 0.1, 0.12], "b": [math.inf, 0.1]}, "teacher fresh_kl score/last")
    assert entries[0]["n"] == 3
    assert entries[1]["mean"] is None
    assert entries[1]["verdict"] == "none"


def test_the_reading_turns_round_with_the_numbers(tiny: tuple[dict[str, Any], Path]) -> None:
    results = copy.deepcopy(tiny[0])
    gain, harm = "Train the teacher with MSE", "Training the teacher with MSE harms"
    for sign, words, other in ((1, f"{gain}, by", f"{harm}: in no"), (-1, f"{harm}, by", f"{gain}: in no")):
        for entry in results["summary"]:
            if entry["quantity"] == "student fresh_accuracy score/best_score":
                entry |= {"mean": 0.03 * sign, "low": 0.02 * sign, "high": 0.04 * sign, "sd": 0.01}
                entry["verdict"] = "mse better" if sign > 0 else "ce better"
        texts = [sentence["text"] for sentence in wmw.reading(results)]
        advice = next(text for text in texts if words in text)
        assert f"{3 * sign:+.2f} points" in advice
        assert any(other in text for text in texts)
    for sentence in wmw.reading(results):
        assert sentence["figure"].startswith("map-")
        assert any(character.isdigit() for character in sentence["text"]) or "in no cell" in sentence["text"]


def test_control_arms_are_differences_of_their_rows(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    rows = _rows(results, BASE.name)
    entry = next(
        e
        for e in results["controls"]
        if (e["arm"], e["teacher_checkpoint"], e["role"], e["metric"], e["against"])
        == ("ce_early", "last", "teacher", "fresh_mse", "ce")
    )
    best, last = (
        {r["draw"]: r["fresh_mse"] for r in rows if (r["role"], r["arm"], r["tuned_by"], r["checkpoint"]) == key}
        for key in (("teacher", "ce", "score", "best_score"), ("teacher", "ce", "score", "last"))
    )
    assert entry["mean"] == pytest.approx(sum(best[d] - last[d] for d in best) / 3, rel=1e-3, abs=1e-9)
    exact = [e for e in results["controls"] if e["arm"] == "bayes"]
    assert {e["role"] for e in exact} == {"student"}


def test_a_temperature_leaves_the_prediction_alone_and_is_the_one_recorded(tiny: tuple[dict[str, Any], Path]) -> None:
    rows = _rows(tiny[0], BASE.name)
    for row in rows:
        if row["role"] == "teacher" and "_t_" in row["arm"]:
            plain = next(
                r
                for r in rows
                if (r["role"], r["arm"], r["tuned_by"], r["checkpoint"], r["draw"])
                == ("teacher", row["arm"].split("_")[0], "score", row["checkpoint"], row["draw"])
            )
            assert row["fresh_accuracy"] == pytest.approx(plain["fresh_accuracy"], abs=1e-9)
            assert (row["temperature"] == 1) == (row["fresh_kl"] == plain["fresh_kl"])


def test_mse_over_k_at_k_times_the_rate_is_mse_and_at_the_same_rate_is_not(tiny: tuple[dict[str, Any], Path]) -> None:
    equality = tiny[0]["equality"]
    assert equality["largest_difference"] < 1e-9
    assert abs(equality["released_scale"]["mean"]) > 1e-4


def test_the_planner_asks_for_the_draws_of_the_spread_that_was_seen(tiny: tuple[dict[str, Any], Path]) -> None:
    for entry in tiny[0]["planner"]["quantities"]:
        for effect in entry["effects"]:
            assert effect["draws_median"] == draws_needed(entry["sd_median"], effect["effect"])
            assert effect["draws_largest"] >= effect["draws_median"]


def test_predictions_hold_fail_or_stay_open_by_their_interval() -> None:
    part = predictions._part
    assert part("x", [1.0, 1.1, 0.9], True)["verdict"] == "holds"
    assert part("x", [1.0, 1.1, 0.9], False)["verdict"] == "fails"
    assert part("x", [1.0, -1.1, 0.2], True)["verdict"] == "undecided"
    assert part("x", [1.0, math.nan], True)["verdict"] == "undecided"
    assert list(predictions._largest_linear(wmw.SCALES["laptop"], False)) == ["train=4000, depth=0"]
    assert len(list(predictions._largest_linear(wmw.SCALES["laptop"], True))) == 3


# --------------------------------------------------------------------------------------------------------------- worlds


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (Cell(bayes_error=0.2, num_classes=4), 0.2),
        (Cell(bayes_error=0.2, num_classes=4, outliers=0.1), 0.2),
        (Cell(bayes_error=0.2, num_classes=4, degrees=3.0), 0.2),
        (Cell(bayes_error=0.2, num_classes=4, label_noise=0.4), 1 - 0.6 * 0.8 - 0.1),
    ],
)
def test_worlds_have_the_bayes_error_that_was_asked_for(cell: Cell, expected: float) -> None:
    mixture = cell.mixture(4, 6.0, 0)
    assert mixture.bayes_error(n=60_000, seed=3).value == pytest.approx(expected, abs=0.012)
    assert mixture.spec() == cell.mixture(4, 6.0, 0).spec()


def test_merged_classes_are_easier() -> None:
    cell = Cell(bayes_error=0.3, num_classes=4, superclasses=2)
    mixture = cell.mixture(4, 6.0, 0)
    assert cell.labels == mixture.num_classes == 2
    assert mixture.bayes_error(n=20_000, seed=3).value < 0.28


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"train": 5}, "train must be at least 20, received 5"),
        ({"label_noise": 1.0}, "label_noise must lie in"),
        ({"bayes_error": 0.0}, "bayes_error must lie in"),
        ({"superclasses": 1}, "superclasses must be 0, or 2 to 10"),
        ({"degrees": 3.0, "outliers": 0.1}, "one of them must be 0"),
        ({"superclasses": 2, "label_noise": 0.1}, "must not be combined"),
    ],
)
def test_impossible_cells_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Cell(**arguments)


def test_a_map_refuses_controls_it_does_not_have_and_single_draws() -> None:
    with pytest.raises(ValueError, match="not in the map"):
        replace(TINY, controls=(Cell(train=999),))
    with pytest.raises(ValueError, match="draws must be at least 2"):
        replace(TINY, draws=1)


def test_calibration_gives_seconds_and_leaves_the_threads_alone() -> None:
    threads = torch.get_num_threads()
    assert 0 < tasks.calibrate(TINY) < 1000
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_smoke_takes_less_than_a_minute(tmp_path: Path) -> None:
    results = wmw.run(wmw.SCALES["smoke"], tmp_path)
    assert results["seconds"] < 60
