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
from bcpd.runs import StoreError
from bcpd.stats import holm, paired_difference
from experiments import when_mse_wins as wmw
from experiments.when_mse_wins import Cell, Map, Protocol, analysis, predictions, spec, stages, tasks, training
from experiments.when_mse_wins.quantities import BY_ID, HEADLINES, METRICS, QUANTITIES, SMALL_ACCURACY, values

BASE = Cell(train=40, epochs=2, width=4, num_classes=3, bayes_error=0.3)
LINEAR = replace(BASE, depth=0)
TINY = Map(
    scale="tiny",
    protocol=Protocol(
        teacher_rates=(0.001, 0.003),
        student_rates=(0.01, 0.03),
        rates_per_decade=2,
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
KEYS = (
    "summary",
    "tables",
    "controls",
    "rates",
    "planner",
    "predictions",
    "reading",
    "equality",
    "best_epochs",
    "student_rates",
)


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
            (r["role"], r["arm"], r["tuned_by"], r["teacher_checkpoint"], r["checkpoint"], r["draw"])
            for r in rows
            if r["role"] != "neighbour"
        ]
        assert len(set(found)) == len(found)
        expected: set[tuple[Any, ...]] = set()
        own = ("best_score", "last", "best_accuracy")
        for arm in ("ce", "mse"):
            expected |= {("teacher", arm, by, None, state) for by, kept in stages.KEPT.items() for state in kept}
            expected |= {("student", arm, by, state, mine) for by, state in stages.TAUGHT for mine in own}
        tempered = {f"{arm}_t_{score}" for arm in ("ce", "mse") for score in ("nll", "brier")}
        others = {"label_smoothing", "logit_projection", "logit_softmax", "ensemble", "crossfit"}
        both = (("score", "best_score"), ("last", "last"))
        shown = tempered | others if cell in TINY.controls else tempered
        expected |= {("teacher", arm, by, None, state) for arm in shown for by, state in both}
        if cell in TINY.controls:
            expected |= {("student", "bayes", "score", None, mine) for mine in own}
            expected |= {("teacher", "ce_early", "last", None, "last")}
            expected |= {("student", "ce_early", "last", "last", mine) for mine in own}
            expected |= {("student", arm, by, state, mine) for arm in shown for by, state in both for mine in own}
        assert set(found) == {(*key, draw) for key in expected for draw in draws}, cell.name


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_plan_counts_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[int] = []
    original = training.fit

    def counting(net: Any, *arguments: Any, **options: Any) -> Any:
        models.append(net.replicas)
        return original(net, *arguments, **options)

    monkeypatch.setattr(training, "fit", counting)
    # one rate: every rule chooses the same, and the plan counts a rate for each rule
    one = replace(TINY.protocol, teacher_rates=(0.001, 0.001), student_rates=(0.01, 0.01))
    small = replace(TINY, protocol=one, lines=(), pairs=(), settings=())
    wmw.run(small, tmp_path, processes=1)
    planned = wmw.plan(small, seconds_per_unit=2.0)
    draws, members = 3, one.ensemble - 1 + one.folds
    shared = 2 * 2 + 3 + members  # CE and MSE at two rates less, three other arms and the resampled ones at one less
    assert planned["models"] == sum(models) + draws * shared
    assert planned["seconds"] > 0
    assert wmw.plan(small)["seconds"] is None
    assert planned["stages"][0]["group"] == 4 * 2  # arms, tuning draws
    assert all(0 < stage["group_MiB"] < 1000 for stage in planned["stages"])


def test_tasks_are_small_and_hold_every_draw_once() -> None:
    laptop = wmw.SCALES["laptop"]
    planned = tasks._main_tasks(laptop, *_stand_ins(laptop))
    for cell in laptop.cells:
        own = [t for t in planned if t.payload["cell"] == vars(cell) and t.payload["stage"] == "main"]
        assert sorted(d for t in own for d in t.payload["draws"]) == list(range(laptop.draws_of(cell)))
        assert len({t.key for t in own}) == len(own)
        assert all(t.cost <= tasks.COST_OF_TASK or len(t.payload["draws"]) == 1 for t in own)


def _stand_ins(size: Map) -> tuple[dict[str, Any], dict[str, Any]]:
    """Worlds and rates that have not been computed."""
    rates = dict(zip(stages.TUNED, (0.01, 0.02, 0.03), strict=True))
    arms = (*stages.PAIR, *stages.CONTROL_LOSSES, "student")
    worlds = {tasks._key(cell): {"mixture": {}} for cell in size.cells}
    return worlds, {cell.name: dict.fromkeys(arms, rates) for cell in size.cells}


def test_stores_of_other_training_code_are_refused(
    tiny: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for store in ("worlds", "tuning", "rows"):
        (tmp_path / f"{store}.jsonl").write_bytes((tiny[1] / f"{store}.jsonl").read_bytes())
    monkeypatch.setattr(tasks, "TRAINING_CODE", tasks.TRAINING_CODE[:-1])
    with pytest.raises(StoreError):
        wmw.run(TINY, tmp_path, processes=1)


@pytest.mark.slow
def test_seconds_add_up_over_sessions(tiny: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    for store in ("worlds", "tuning", "rows"):
        (tmp_path / f"{store}.jsonl").write_bytes((tiny[1] / f"{store}.jsonl").read_bytes())
    (tmp_path / "seconds.json").write_text('{"seconds": 1000.0}')
    assert 1000 <= wmw.run(TINY, tmp_path, processes=1)["seconds"] < 1060


# ---------------------------------------------------------------------------------------------------------------- rates


def _tuning_rows(scores: dict[float, list[tuple[float, float, float]]]) -> list[dict[str, Any]]:
    """Of CE: (best, last, error) on every draw, by rate."""
    return [
        {"role": "teacher", "arm": "ce", "rate": rate, "draw": draw, "name": "nll"}
        | dict(zip(("score", "last", "error"), numbers, strict=True))
        for rate, own in scores.items()
        for draw, numbers in enumerate(own)
    ]


def test_every_rule_tunes_its_own_rate_and_says_how_close_the_others_came() -> None:
    rows = _tuning_rows(
        {
            0.001: [(1.30, 1.35, 0.50), (1.40, 1.45, 0.50)],
            0.00178: [(1.25, 1.60, 0.45), (1.37, 1.70, 0.45)],
            0.00316: [(1.26, 1.90, 0.40), (1.37, 1.95, 0.42)],
        }
    )
    tuned = tasks._trials(rows)
    assert tasks._chosen(tuned) == {"ce": {"score": 0.00178, "last": 0.001, "accuracy": 0.00316}}
    records = {by: tasks._rate_record("base", by, tried) for by, tried in tuned}
    best = records["score"]
    gaps = [0.05, 0.03]
    assert best["below"] == {"rate": 0.001, "difference": pytest.approx(0.04), "stderr": pytest.approx(0.01)}
    assert best["above"]["difference"] == pytest.approx(0.005)
    assert sum(gaps) / 2 == pytest.approx(best["below"]["difference"])
    assert best["within_one_stderr"] == 1  # 0.00316: 0.005 worse, standard error 0.005
    assert (best["edge"], records["last"]["edge"], records["accuracy"]["edge"]) == (False, True, True)
    assert records["last"]["below"] is None


def test_the_headline_is_shown_at_the_next_rates_of_the_student(tiny: tuple[dict[str, Any], Path]) -> None:
    results = tiny[0]
    shown = results["student_rates"]
    assert [entry["tuned"] for entry in shown] == [False, True, False]
    factor = 10 ** (1 / TINY.protocol.rates_per_decade)
    assert shown[2]["rate"] / shown[1]["rate"] == pytest.approx(factor, rel=0.01)
    headline = next(e for e in results["summary"] if (e["cell"], e["quantity"]) == (BASE.name, HEADLINES[1]))
    assert shown[1]["mean"] == pytest.approx(headline["mean"], rel=1e-3, abs=1e-9)
    assert shown[1]["rate"] == next(c["student_rate"] for c in results["cells"] if c["name"] == BASE.name)
    assert len({entry["mean"] for entry in shown}) > 1


def test_a_training_that_ended_at_its_best_is_said_to_be_limited_by_its_budget() -> None:
    rows = [
        {"role": "teacher", "arm": arm, "tuned_by": "score", "checkpoint": "best_score", "epoch": epoch, "draw": draw}
        for arm, epochs in (("ce", (3, 5, 10, 4)), ("mse", (10, 10, 7, 8)))
        for draw, epoch in enumerate(epochs)
    ]
    ce, mse = analysis.best_epochs({"a": rows}, {"a": 10})
    assert (ce["at_end"], ce["budget_limited"], ce["median"]) == (1, False, 4.5)
    assert (mse["at_end"], mse["budget_limited"]) == (2, True)


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
    assert base == (0.000316, 0.000562, 0.001, 0.00178, 0.00316, 0.00562, 0.01, 0.0178)
    assert protocol.rates(Cell(bayes_error=0.1, width=16), "teacher") == base
    assert protocol.rates(Cell(epochs=100), "teacher")[2:] == base[:-2]
    assert protocol.rates(Cell(train=250), "teacher")[:-3] == base[3:]
    students = protocol.rates(Cell(), "student")
    assert protocol.rates(Cell(train=250), "student")[:-3] == students[3:]
    assert protocol.rates(Cell(train=200, unlabelled=1840), "student") == students
    assert [protocol.draws_to_tune(Cell(train=750), role) for role in ("teacher", "student")] == [8, 4]
    assert protocol.next_rates(0.01) == (0.00562, 0.0178)


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

    def broken(*arguments: Any, **options: Any) -> Any:
        found = original(*arguments, **options)
        for kept in found[:1]:
            for name, state in kept.states.items():
                lost = (torch.full_like(t, torch.nan) for t in (state.transfer, state.validation, state.fresh))
                kept.states[name] = training.State(1, *lost)
        return found

    monkeypatch.setattr(stages, "train", broken)
    mixture = BASE.mixture(3, 6.0, 0)
    rates = dict.fromkeys(("ce", "mse", "student"), dict.fromkeys(stages.TUNED, 0.01))
    payload = {"draws": [0], "mixture": mixture.spec(), "controls": False, "neighbours": False, "rates": rates}
    rows = list(stages._main(TINY.protocol, BASE, payload))
    lost = [row for row in rows if math.isnan(row["fresh_mse"])]
    assert {row["arm"] for row in lost} >= {"ce", "ce_t_nll"}
    assert {(row["role"], row["arm"]) for row in lost} >= {("teacher", "ce"), ("student", "ce")}
    assert all(math.isfinite(row["fresh_mse"]) for row in rows if (row["role"], row["arm"]) == ("teacher", "mse"))


# ------------------------------------------------------------------------------------------------------------ analysis


def test_differences_are_paired_and_corrected_over_the_cells(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    families: dict[str, list[dict[str, Any]]] = {}
    for quantity in QUANTITIES:
        own = [entry for entry in results["summary"] if entry["quantity"] == quantity.id]
        assert [entry["cell"] for entry in own] == [cell.name for cell in TINY.cells]
        for entry in own:
            rows = _rows(results, entry["cell"])
            ce, mse = (values(rows, quantity, arm) for arm in ("ce", "mse"))
            if not ce:
                assert quantity.metric.startswith("clean"), quantity.id
                assert (entry["n"], entry["lost"], entry["verdict"]) == (0, 0, "none")
                continue
            found = paired_difference(list(mse.values()), list(ce.values()))
            assert entry["mean"] == pytest.approx(found.mean, rel=1e-4, abs=1e-12)
            assert entry["sd"] == pytest.approx(found.stderr * math.sqrt(found.n), rel=1e-4, abs=1e-12)
            families.setdefault("headlines" if quantity.id in HEADLINES else quantity.id, []).append(entry)
    assert len(families["headlines"]) == 2 * len(TINY.cells)
    for family in families.values():
        adjusted = holm([entry["p"] for entry in family])
        assert [entry["p_holm"] for entry in family] == pytest.approx(adjusted, rel=1e-4)


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


def test_a_cell_that_lost_a_draw_has_a_mean_but_no_verdict() -> None:
    gaps = {"a": [0.1, math.nan, 0.1001, 0.1002], "b": [math.inf, 0.1], "c": [0.1, 0.1001, 0.1002, 0.1]}
    lost, gone, kept = _summary(gaps, "teacher fresh_kl last/last")
    assert (lost["n"], lost["lost"], lost["verdict"], lost["p"], lost["p_holm"]) == (3, 1, "none", None, None)
    assert lost["mean"] == pytest.approx(0.1001, rel=1e-3)
    assert (gone["mean"], gone["n"], gone["lost"], gone["verdict"]) == (None, 1, 1, "none")
    assert (kept["lost"], kept["verdict"]) == (0, "ce closer")
    assert kept["p_holm"] == kept["p"]  # the lost cells are not in its family


def _with_accuracy(results: dict[str, Any], mean: float, half: float, verdict: str) -> list[str]:
    """The advice, where every cell's student differs by so much."""
    results = copy.deepcopy(results)
    for entry in results["summary"]:
        if entry["quantity"] in (HEADLINES[1], HEADLINES[1].replace("fresh", "clean")) and entry["mean"] is not None:
            entry |= {"mean": mean, "low": mean - half, "high": mean + half, "sd": 0.01, "verdict": verdict}
    return [sentence["text"] for sentence in wmw.reading(results) if sentence["topic"] == "advice"]


def test_the_advice_turns_round_with_the_numbers(tiny: tuple[dict[str, Any], Path]) -> None:
    none = "no difference seen"
    for mean, half, verdict, words in (
        (0.03, 0.01, "mse better", "train the teacher with MSE at 0, 0.4"),
        (-0.03, 0.01, "ce better", "MSE harms at 0, 0.4"),
        (0.002, 0.001, "mse better", "a difference is shown but below 0.5 points at 0, 0.4"),
        (-0.002, 0.001, "ce better", "a difference is shown but below 0.5 points at 0, 0.4"),
        (0.001, 0.002, none, "the loss does not matter at 0, 0.4"),
        (0.001, 0.02, none, "not shown either way at 0, 0.4"),
    ):
        texts = _with_accuracy(tiny[0], mean, half, verdict)
        line = next(text for text in texts if text.startswith("By rate of symmetric label noise"))
        assert line.endswith(f": {words}."), line
        first, second = (next(t for t in texts if t.startswith(w)) for w in ("Train the teacher", "Training the"))
        gains, harms = (verdict == f"{arm} better" and abs(mean) > SMALL_ACCURACY for arm in ("mse", "ce"))
        assert ("in none of 9 cells" in first) != gains
        assert ("in none of 9 cells" in second) != harms
    texts = _with_accuracy(tiny[0], 0.03, 0.01, "none")
    assert any("no verdict at 0, 0.4, for draws were lost" in text for text in texts)


def test_under_label_noise_it_is_the_clean_accuracy_that_matters(tiny: tuple[dict[str, Any], Path]) -> None:
    results = copy.deepcopy(tiny[0])
    for entry in results["summary"]:
        if entry["quantity"] == HEADLINES[1]:
            entry |= {"mean": 0.003, "low": 0.0021, "high": 0.0039, "verdict": "mse better"}
        if entry["quantity"] == HEADLINES[1].replace("fresh", "clean") and entry["mean"] is not None:
            entry |= {"mean": 0.005, "low": 0.0035, "high": 0.0065, "verdict": "mse better"}
    text = next(s["text"] for s in wmw.reading(results) if s["text"].startswith("By rate of symmetric label noise"))
    assert "train the teacher with MSE at 0.4; a difference is shown but below 0.5 points at 0" in text


def test_sentences_have_numbers_and_cite_a_figure_or_the_table(tiny: tuple[dict[str, Any], Path]) -> None:
    results = tiny[0]
    drawn = {"map-lines", "map-lines-kl", "map-students", "map-settings", "map-controls", "table"}
    for sentence in results["reading"]:
        assert sentence["figure"] in drawn
        if sentence["topic"] != "advice":
            assert any(character.isdigit() for character in sentence["text"])
    assert {s["figure"] for s in results["reading"] if s["topic"] == "controls"} == {"map-controls"}


def test_only_arms_that_are_shown_better_win(tiny: tuple[dict[str, Any], Path]) -> None:
    results = copy.deepcopy(tiny[0])
    for p, said in ((0.2, "none of"), (0.001, "shown better than CE: ")):
        for entry in results["controls"]:
            if entry["against"] == "ce" and entry["p_holm"] is not None:
                entry |= {"mean": 0.01, "low": 0.001, "high": 0.019, "p_holm": p}
        text = next(s["text"] for s in wmw.reading(results) if s["topic"] == "controls")
        assert said in text
        assert "exact p*" not in text


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
        for key in (("teacher", "ce", "last", "best_score"), ("teacher", "ce", "last", "last"))
    )
    assert entry["mean"] == pytest.approx(sum(best[d] - last[d] for d in best) / 3, rel=1e-3, abs=1e-9)
    exact = [e for e in results["controls"] if e["arm"] == "bayes"]
    assert {e["role"] for e in exact} == {"student"}
    crossed = {(e["role"], e["metric"]) for e in results["controls"] if e["arm"] == "crossfit"}
    assert crossed == {("teacher", "transfer_mse"), ("student", "fresh_accuracy"), ("student", "fresh_mse")}
    for place in {(e["teacher_checkpoint"], e["role"], e["metric"], e["against"]) for e in results["controls"]}:
        family = [
            e
            for e in results["controls"]
            if (e["teacher_checkpoint"], e["role"], e["metric"], e["against"]) == place and e["p"] is not None
        ]
        assert [e["p_holm"] for e in family] == pytest.approx(holm([e["p"] for e in family]), rel=1e-3)


def test_a_temperature_leaves_the_prediction_alone_and_is_the_one_recorded(tiny: tuple[dict[str, Any], Path]) -> None:
    rows = _rows(tiny[0], BASE.name)
    for row in rows:
        if row["role"] == "teacher" and "_t_" in row["arm"]:
            plain = next(
                r
                for r in rows
                if (r["role"], r["arm"], r["tuned_by"], r["checkpoint"], r["draw"])
                == ("teacher", row["arm"].split("_")[0], row["tuned_by"], row["checkpoint"], row["draw"])
            )
            assert row["fresh_accuracy"] == pytest.approx(plain["fresh_accuracy"], abs=1e-9)
            assert (row["temperature"] == 1) == (row["fresh_kl"] == plain["fresh_kl"])


def test_mse_over_k_at_k_times_the_rate_is_mse_and_at_the_same_rate_is_not(tiny: tuple[dict[str, Any], Path]) -> None:
    equality = tiny[0]["equality"]
    assert equality["largest_difference"] < 1e-9
    assert abs(equality["released_scale"]["mean"]) > 1e-4
    assert "low" not in equality["released_scale"]  # two draws have no interval worth the name


def test_the_planner_asks_for_the_draws_of_the_spread_that_was_seen(tiny: tuple[dict[str, Any], Path]) -> None:
    planner = tiny[0]["planner"]
    assert planner["level_adjusted"] == pytest.approx(0.05 / len(TINY.cells), rel=1e-4)
    for entry in planner["quantities"]:
        for effect in entry["effects"]:
            needed = draws_needed(entry["sd_median"], effect["effect"], level=0.05 / len(TINY.cells))
            assert effect["draws_median_adjusted"] == needed
            assert effect["draws_median"] == draws_needed(entry["sd_median"], effect["effect"])
            assert effect["draws_largest"] >= effect["draws_median"]


def _judge(sample: list[float], side: Any, bound: float = 0.0, parts: int = 1) -> str:
    verdict: str = predictions._judged(predictions.Part("x", sample, side, bound), parts)["verdict"]
    return verdict


def test_predictions_hold_fail_or_stay_open_by_their_interval() -> None:
    assert _judge([1.0, 1.1, 0.9], "above") == "holds"
    assert _judge([1.0, 1.1, 0.9], "below") == "fails"
    assert _judge([1.0, -1.1, 0.2], "above") == "undecided"
    assert _judge([1.0, math.nan], "above") == "undecided"
    assert _judge([1.0, 1.1, 0.9], "within", 2.0) == "holds"
    assert _judge([1.0, 1.1, 0.9], "within", 0.5) == "fails"
    assert _judge([1.0, 1.1, 0.9], "within", 1.05) == "undecided"
    # equivalence is of the mean: large differences of both signs are no objection, if there are enough of them
    assert _judge([1.0, -1.0] * 200, "within", 0.2) == "holds"


def test_many_parts_make_it_harder_to_fail_and_no_harder_to_hold() -> None:
    sample = [0.3, 1.7, 1.1, 0.4, 0.9]
    interval = paired_difference(sample, [0.0] * 5)
    assert 0.001 < interval.p_value < 0.05
    assert [_judge(sample, "below", parts=parts) for parts in (1, 100)] == ["fails", "undecided"]
    assert [_judge(sample, "above", parts=parts) for parts in (1, 100)] == ["holds", "holds"]


def test_the_predictions_are_the_registered_ones(tiny: tuple[dict[str, Any], Path]) -> None:
    """Whoever changes one after a run has to change this digest too."""
    assert tiny[0]["predictions_digest"] == predictions.digest() == "3838718bbd6b4973"
    laptop = wmw.SCALES["laptop"]
    assert list(predictions._largest_linear(laptop, False)) == ["train=4000, depth=0"]
    assert len(list(predictions._largest_linear(laptop, True))) >= 2


def test_each_loss_is_read_at_the_path_minimum_of_its_own_metric(tiny: tuple[dict[str, Any], Path]) -> None:
    results = tiny[0]
    parts = next(p for p in results["predictions"] if p["id"] == "misspecified")["parts"]
    name = "depth=0, outliers=0.2"
    for part in parts:
        metric = part["what"].split()[-1].lower()
        entry = next(
            e
            for e in results["summary"]
            if e["quantity"] == f"teacher fresh_{metric} score/path_minimum_{metric}" and name in e["cell"]
        )
        assert part["mean"] == pytest.approx(entry["mean"], rel=1e-3, abs=1e-9)


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
