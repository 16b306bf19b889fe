"""The benchmark of real networks times equal trainings, counts their work and judges its goals by the numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bcpd.bench import launches, real, real_cell, real_check, real_text
from bcpd.bench.launches import Launches
from bcpd.bench.programme import Programme, project
from bcpd.bench.real import PROGRAMME, SCALES, Scale, product_rate, run
from bcpd.bench.real_cell import Measured
from bcpd.bench.real_check import TOLERANCE, Checks, gap
from bcpd.bench.real_goals import GOALS, judged
from bcpd.bench.real_text import goal_line, markdown
from bcpd.bench.real_work import Cell, Variant, Work, synthetic, variants_of
from bcpd.bench.repdistiller_loop import NAME as BASELINE
from bcpd.bench.stepping import stepwise
from bcpd.cli import main
from bcpd.files import read_json, write_json
from bcpd.train import Execution, Progress

TAUGHT, DISTILLED = Cell("resnet8x0.5"), Cell("resnet8x0.5", "resnet8x0.5")


def work(batch: int = 4) -> Work:
    return Work(synthetic(40), "cpu", batch, 1)


@pytest.mark.parametrize(
    ("cell", "variant"),
    [
        (DISTILLED, Variant(table=True)),
        (TAUGHT, Variant(runs=2)),
        pytest.param(TAUGHT, Variant(), marks=pytest.mark.slow),
        pytest.param(DISTILLED, Variant(), marks=pytest.mark.slow),
        pytest.param(TAUGHT, Variant(Execution("bfloat16")), marks=pytest.mark.slow),
    ],
)
def test_fit_does_the_work_of_the_baselines_steps(cell: Cell, variant: Variant) -> None:
    assert Checks(work()).check(cell, variant) < TOLERANCE[variant.execution.precision]


def test_a_training_on_other_views_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_check, "view_numbers", lambda seed, epoch, index: torch.full_like(index, 80))
    with pytest.raises(ValueError, match=r"weights of resnet8x0\.5 \(fit, seed 0, cpu\) differ after 1 epoch"):
        Checks(work()).check(TAUGHT, Variant())


def test_a_training_without_weight_decay_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Work.recipe
    monkeypatch.setattr(Work, "recipe", lambda self, *given: replace(original(self, *given), weight_decay=0.0))
    where = work()
    trained = torch.optim.SGD(where.network("resnet8x0.5").parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)
    monkeypatch.setattr(Work, "optimizer", lambda self, cell, net, rate: _over(trained, net))
    with pytest.raises(ValueError, match="it does other work, and no time is taken of it"):
        Checks(where).check(TAUGHT, Variant())


def _over(like: torch.optim.Optimizer, net: nn.Module) -> torch.optim.Optimizer:
    settings = like.defaults
    return torch.optim.SGD(
        net.parameters(), settings["lr"], momentum=settings["momentum"], weight_decay=settings["weight_decay"]
    )


def test_the_gap_is_relative_to_the_way_and_sees_what_is_not_finite() -> None:
    start = {"w": torch.zeros(4), "b": torch.zeros(2), "mean": torch.zeros(3)}
    end = {"w": torch.ones(4), "b": torch.full((2,), 3.0), "mean": torch.ones(3)}
    assert gap(end, end, start, ["w", "b"]) == 0
    assert gap({**end, "w": end["w"] * 1.1}, end, start, ["w", "b"]) == pytest.approx(0.05, rel=1e-5)
    assert gap({**end, "mean": end["mean"] * 1.5}, end, start, ["w", "b"]) == pytest.approx(0.5)
    assert not gap({**end, "b": end["b"] * torch.nan}, end, start, ["w", "b"]) <= TOLERANCE["bfloat16"]


def test_operators_are_counted_without_views_and_with_the_backward_pass() -> None:
    x = torch.ones(3, 3, requires_grad=True)
    with Launches("cpu") as counting:
        y = x.mm(x.detach().T)
    assert counting.counts() == {"operators": 1}
    with Launches("cpu") as counting:
        y.sum().backward()
    assert counting.counts()["operators"] >= 3  # the sum, a one to start from, a product


@pytest.mark.slow
def test_a_step_counts_the_same_however_large_its_batch() -> None:
    assert launches.of_baseline(work(2), TAUGHT) == launches.of_baseline(work(4), TAUGHT)


@pytest.mark.slow
def test_a_step_of_fit_has_more_operators_with_a_table_and_most_with_a_live_teacher() -> None:
    variants = ((TAUGHT, Variant()), (DISTILLED, Variant(table=True)), (DISTILLED, Variant()))
    counts = [launches.of_fit(work(), cell, variant)["operators"] for cell, variant in variants]
    assert counts == sorted(set(counts))
    assert counts == [round(count) for count in counts]


def test_flops_are_three_forward_passes_and_one_of_a_live_teacher() -> None:
    assert Cell("resnet8").flop() == 3 * 2 * (12_501_632 + 64 * 90)  # of 100 classes
    pair = Cell("resnet8", "resnet20")
    assert pair.flop() - pair.flop(live=False) == Cell("resnet20").flop() // 3
    assert pair.flop(live=False) == Cell("resnet8").flop()


def test_no_fewer_images_than_asked_for_are_trained_on() -> None:
    assert len(work().source(40)) == len(work().pictures(40)) == 40
    for images in (work().source, work().pictures):
        with pytest.raises(ValueError, match="41 images are needed, received 40"):
            images(41)


def test_variants_have_names_of_their_own_and_graphs_are_for_cuda() -> None:
    for cell in SCALES["full"].cells:
        found = variants_of(cell, "cuda")
        assert len({variant.name for variant in found}) == len(found)
        assert {variant.runs for variant in found} == {None, *cell.runs}
        assert 1 not in cell.runs  # graphs alone are that
        assert {variant.table for variant in found} == {False, cell.teacher is not None}
        assert any(variant.execution.compile for variant in found) == cell.compiled
    names = [variant.name for variant in variants_of(SCALES["full"].cells[1], "cuda")]
    assert "fit, bfloat16, graphs, compile, table" in names
    assert "fit, bfloat16, graphs, table, 4 runs" in names
    assert [variant.name for variant in variants_of(DISTILLED, "cpu")] == [
        *("fit", "fit, bfloat16", "fit, table", "fit, bfloat16, table")
    ]


def test_runs_side_by_side_stop_together_after_an_epoch_of_all() -> None:
    where, seen = work(2), list[int]()

    def train(progress: Callable[[Progress], None]) -> Any:
        def both(reported: Progress) -> None:
            seen.append(reported.epoch)
            progress(reported)

        source, two = where.source(4), Variant(runs=2)
        return where.train_in_step(TAUGHT, two, where.nets(TAUGHT, two), source, None, ("ce", "mse"), both)

    with stepwise(train) as advance:
        assert seen == [1]
        advance()
    assert seen == [1, 2]


def test_the_programme_is_the_sum_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[Any, ...]] = []

    def train(
        self: Work, cell: Cell, variant: Variant, own: Any, source: Any, teacher: Any, losses: Any, progress: Any
    ) -> None:
        trained.append((cell.name, variant.name, len(own), losses, teacher is not None and teacher.full))
        for epoch in range(1, 100):
            time.sleep(0.001 * len(own))
            progress(Progress("main", epoch, 100, {}))

    monkeypatch.setattr(Work, "train_in_step", train)
    monkeypatch.setattr(Work, "fill_seconds", lambda self, teacher, count: 3.0 * count)
    programme = Programme("resnet8", "resnet8x0.5", Execution(), images=12, students=1, epochs=10, measured=3)
    told: list[tuple[str, int, int]] = []
    found = project(programme, work(8), 10, lambda *given: told.append(given))
    assert [done for _, done, _ in told] == list(range(6))
    pair = "resnet8:resnet8x0.5"
    assert trained == [
        ("resnet8", "fit", 1, ("ce",), False),
        ("resnet8", "fit", 1, ("mse",), False),
        (pair, "fit, table", 1, ("ce",), True),
        ("resnet8", "fit, 2 runs", 2, ("ce", "mse"), False),
        (pair, "fit, table, 2 runs", 2, ("ce",), True),
    ]
    assert all(len(seconds) == 3 for seconds in found["parts"].values())
    ce, mse, student, teachers, students = (sorted(seconds)[1] for seconds in found["parts"].values())
    assert found["minutes"]["alone"] == pytest.approx((10 * (ce + mse + 2 * student) + 60) / 60)
    assert found["minutes"]["side_by_side"] == pytest.approx((10 * (teachers + students) + 60) / 60)
    assert students > 0.002
    json.dumps(found, allow_nan=False)
    (sentence,) = real_text._programme(found)
    assert "1 students each, 10 epochs of 12 images (float32): " in sentence
    assert f"{found['minutes']['side_by_side']:.1f} side by side. Projected from the medians of 3 epochs" in sentence


def result(device: str, ratios: dict[tuple[str, str], float], minutes: float | None = None) -> dict[str, Any]:
    rows = [
        {
            "cell": cell,
            "variant": variant,
            "table": "table" in variant,
            "runs": 4 if "4 runs" in variant else 1,
            "ratio": ratio,
        }
        for (cell, variant), ratio in ratios.items()
    ]
    programme = {"name": "resnet56:resnet20", "minutes": {"alone": 50.0, "side_by_side": minutes}}
    return {"device": device, "rows": rows, "programme": programme if minutes else None}


def test_goals_are_judged_by_the_fastest_row_of_their_kind() -> None:
    pair = "resnet32x4:resnet8x4"
    found = judged(
        result(
            "cuda",
            {
                ("resnet20", BASELINE): 1.0,
                ("resnet20", "fit"): 2.0,
                ("resnet20", "fit, 4 runs"): 11.0,
                (pair, "fit"): 3.9,
                (pair, "fit, table"): 5.0,
                (pair, "fit, table, 4 runs"): 6.0,
            },
            minutes=46.0,
        )
    )
    assert [(row["value"], row["by"], row["reached"]) for row in found] == [
        (11.0, "fit, 4 runs; one run alone 2.00, fit", True),
        (3.9, "fit", False),
        (6.0, "fit, table, 4 runs; one run alone 5.00, fit, table", True),
        (46.0, "projected, side by side", False),
    ]
    lines = [goal_line(row) for row in found]
    assert (
        lines[0]
        == "Goal: resnet20, at least 10 times the baseline: reached, 11.00 (fit, 4 runs; one run alone 2.00, fit)."
    )
    assert "at most 45 minutes: not reached, 46.00 (projected, side by side)" in lines[3]


def test_a_mean_over_nets_of_which_one_is_missing_is_no_result() -> None:
    nets_of_goal = ("resnet8", "resnet20", "resnet8x4")
    ratios = {(net, "fit"): ratio for net, ratio in zip(nets_of_goal, (1.0, 1.2, 1.44), strict=True)}
    float32, bfloat16 = judged(result("cpu", {**ratios, ("resnet8", "fit, bfloat16"): 3.0}))
    assert float32["value"] == pytest.approx(1.2)
    assert (bfloat16["value"], bfloat16["reached"]) == (None, None)
    assert goal_line(bfloat16).endswith("at least 1.8 times the baseline: not measured.")
    assert {goal.device for goal in GOALS} == {"cpu", "cuda"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Scale:
    """A run of a second: few variants, no workers, no products, nothing checked or counted, no table filled."""
    rates = {"float32": 1e11, "bfloat16": 2e11}
    monkeypatch.setattr(real, "product_rate", lambda precision, device, size: rates[precision])
    monkeypatch.setattr(real, "workers_here", lambda device: 0)
    monkeypatch.setattr(launches, "of_fit", lambda *given: {"operators": 275.0})
    monkeypatch.setattr(launches, "of_baseline", lambda *given: {"operators": 222.0})
    monkeypatch.setattr(Checks, "check", lambda self, cell, variant: 3e-6)
    monkeypatch.setattr(Work, "fill_seconds", lambda self, teacher, count: 3.0 * count)
    monkeypatch.setattr(
        real_cell, "variants_of", lambda cell, device: [Variant(table=True) if cell.teacher else Variant()]
    )
    return Scale((TAUGHT, DISTILLED), 10, batch=4, turn=0.0, filled=1)


def test_what_is_reported_fits_together(quick: Scale) -> None:
    stages: list[tuple[str, int, int]] = []
    found = run(1, quick, progress=lambda *told: stages.append(told))
    json.dumps(found, allow_nan=False)
    # each variant is made ready, warmed up and timed
    assert [done for stage, done, _ in stages if stage.startswith("resnet8x0.5 (1 of 2), ")] == list(range(6))
    assert stages[-3:] == [
        ("resnet8x0.5:resnet8x0.5 (2 of 2), fit, table", 5, 6),
        ("resnet8x0.5, launches", 0, 1),
        ("resnet8x0.5:resnet8x0.5, launches", 0, 1),
    ]
    rows = {(row["cell"], row["variant"]): row for row in found["rows"]}
    assert [variant for _, variant in rows] == [BASELINE, "fit", BASELINE, "fit, table"]
    for (cell, _), row in rows.items():
        assert row["images_per_second"] == pytest.approx(10 * row["epochs"] / row["seconds"])
        assert row["ratio"] == pytest.approx(row["images_per_second"] / rows[cell, BASELINE]["images_per_second"])
        assert row["gflops"] == pytest.approx(row["flop_an_image"] * row["images_per_second"] / 1e9)
        assert row["share_of_peak"] == pytest.approx(row["gflops"] / 100)
        assert row["operators"] == (222 if row["variant"] == BASELINE else 275)
        assert row["gap"] == (None if row["variant"] == BASELINE else 3e-6)
        assert row["memory_bytes"] is None
        assert row["best"] <= row["seconds"] <= row["slowest"]
    assert rows["resnet8x0.5:resnet8x0.5", "fit, table"]["flop_an_image"] == TAUGHT.flop()
    assert found["geometric_means"]["fit"] == pytest.approx(rows["resnet8x0.5", "fit"]["ratio"])
    assert found["cells"][1]["table_bytes"] == 50_000 * 162 * 100 * 4
    assert (found["left_out"], found["failed"]) == ([], [])
    text = markdown(found)
    assert f"| resnet8x0.5 | fit | {rows['resnet8x0.5', 'fit']['images_per_second']:,.0f} | 0% |" in text
    assert "resnet8x0.5 -> resnet8x0.5: the table of 50,000 images, 3.0 GiB, takes 3 s" in text
    assert text.count("not measured") == 2


def test_a_variant_that_cannot_be_trained_is_named_and_the_others_are_measured(
    quick: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turn(self: Any, *given: Any) -> Any:
        if Variant() in given:
            raise ValueError("the weights differ\nby much")
        name = "fit, table" if Variant(table=True) in given else BASELINE
        known = {"cell": DISTILLED.name, "variant": name, "teacher": "", "runs": 1, "precision": "float32"}
        return real_cell._Turn({**known, "flop_an_image": 1, "memory_bytes": None}, lambda: None, 1)

    monkeypatch.setattr(real_cell, "variants_of", lambda cell, device: [Variant(), Variant(table=True)])
    monkeypatch.setattr(real_cell.CellBench, "_baseline", turn)
    monkeypatch.setattr(real_cell.CellBench, "_ours", turn)
    found = run(1, replace(quick, cells=(DISTILLED,)))
    assert [row["variant"] for row in found["rows"]] == [BASELINE, "fit, table"]
    assert found["failed"] == [{"cell": DISTILLED.name, "variant": "fit", "error": "the weights differ\nby much"}]
    assert "Not measured: resnet8x0.5 -> resnet8x0.5, fit: the weights differ\n\n" in markdown(found)


@pytest.fixture
def measured(quick: Scale, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that are measured, each in no time."""
    names: list[str] = []

    def measure(self: Any, cell: Cell, report: Any) -> Measured:
        names.append(cell.name)
        row = {"cell": cell.name, "variant": BASELINE, "teacher": cell.teacher, "busy": False, "ratio": 1.0, "runs": 1}
        return Measured([row], [], {"cell": cell.name, "fill_seconds": None, "measured": len(names)})

    monkeypatch.setattr(real_cell.CellBench, "measure", measure)
    return names


def test_a_cell_for_which_there_is_no_time_is_left_to_the_next_piece(quick: Scale, measured: list[str]) -> None:
    found = run(1, replace(quick, seconds=0.0))
    assert found["left_out"] == [TAUGHT.name, DISTILLED.name]
    assert (found["rows"], found["cells"]) == ([], [])
    assert f"Left out for want of time: {TAUGHT.name}, {DISTILLED.name} (" in markdown(found)
    last = run(1, quick, earlier=found)
    assert measured == [row["cell"] for row in last["rows"]] == [TAUGHT.name, DISTILLED.name]
    assert last["left_out"] == []


def test_pieces_make_up_one_result(quick: Scale, measured: list[str], tmp_path: Path) -> None:
    kept: list[Any] = []
    first = run(1, quick, cells=[DISTILLED.name], keep=kept.append)
    assert [len(found["rows"]) for found in kept] == [0, 1, 1]
    write_json(tmp_path / "real.json", first)
    earlier = read_json(tmp_path / "real.json")
    both = run(1, quick, earlier=earlier)
    assert measured == [DISTILLED.name, TAUGHT.name]
    assert [(about["cell"], about["measured"]) for about in both["cells"]] == [(TAUGHT.name, 2), (DISTILLED.name, 1)]
    assert [row["cell"] for row in both["rows"]] == [TAUGHT.name, DISTILLED.name]
    assert [piece["cells"] for piece in both["pieces"]] == [[DISTILLED.name], [TAUGHT.name]]
    assert run(1, quick, earlier=both) == both
    anew = run(1, quick, earlier=both, cells=[DISTILLED.name])
    assert [about["measured"] for about in anew["cells"]] == [2, 3]


def test_launches_for_which_there_was_no_time_are_counted_by_the_next_piece(
    quick: Scale, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = iter((True, False))
    with monkeypatch.context() as hurried:
        hurried.setattr(real._Bench, "_allowed", lambda self, seconds: next(allowed))
        first = run(1, quick, cells=[TAUGHT.name])
    assert "operators" not in first["rows"][0]
    second = run(1, quick, cells=[], earlier=first)
    assert (second["rows"][0]["operators"], measured) == (222, [TAUGHT.name])

    def blind(*given: Any) -> None:
        raise RuntimeError("no access")

    monkeypatch.setattr(launches, "of_baseline", blind)
    assert run(1, quick, cells=[], earlier=second) == second
    third = run(1, quick, cells=[TAUGHT.name], earlier=second)
    assert third["failed"] == [{"cell": TAUGHT.name, "variant": "launches a step", "error": "no access"}]


def test_a_piece_of_another_benchmark_is_not_continued(quick: Scale, measured: list[str]) -> None:
    found = run(1, quick, cells=[TAUGHT.name])
    with pytest.raises(ValueError, match="its rounds, batch are not the same; write this one elsewhere"):
        run(2, replace(quick, batch=8), earlier=found)
    other = {**found, "machine": {**found["machine"], "device_name": "another"}}
    with pytest.raises(ValueError, match="its machine is not the same"):
        run(1, quick, earlier=other)
    for foreign in ([1], {"kind": "bench toy"}):
        with pytest.raises(ValueError, match=r"must be a result of bcpd bench real, received (list|bench toy)"):
            run(1, quick, earlier=foreign)  # type: ignore[arg-type]


def test_the_programme_is_a_piece_of_its_own(
    quick: Scale, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def projected(programme: Programme, work: Work, filled: int, report: Any) -> dict[str, Any]:
        return {"name": programme.name, "images": len(work.images), "minutes": {"alone": 50.0, "side_by_side": 40.0}}

    monkeypatch.setattr(real, "project", projected)
    whole = replace(quick, programme=Programme("resnet56", "resnet20", Execution(), images=30))
    assert run(1, whole, cells=[TAUGHT.name])["programme"] is None
    found = run(1, whole, cells=[PROGRAMME])
    assert (found["programme"]["images"], found["rows"]) == (30, [])
    assert run(1, whole, earlier=found)["programme"] == found["programme"]
    assert measured == [TAUGHT.name, TAUGHT.name, DISTILLED.name]


def test_real_images_are_those_of_the_folder(quick: Scale, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def measure(self: Any, cell: Cell, report: Any) -> Measured:
        seen.append(self.batches.dataset.arrays[-1, 0, 0].tolist())
        return Measured([], [], {"cell": cell.name, "fill_seconds": None})

    monkeypatch.setattr(real_cell.CellBench, "measure", measure)
    record = torch.zeros(50, 2 + 3072, dtype=torch.uint8)
    record[:, 2] = torch.arange(50)
    (tmp_path / "train.bin").write_bytes(record.numpy().tobytes())
    assert run(1, quick, data=tmp_path, cells=[TAUGHT.name])["data"] == "cifar100"
    assert seen == [[9, 0, 0]]
    with pytest.raises(ValueError, match="needs 51 images, received a folder with 50"):
        run(1, replace(quick, images=51), data=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "huge"}, r"scale must be one of \['full', 'laptop', 'smoke'\], received 'huge'"),
        ({"rounds": 0}, "rounds must be at least 1, received 0"),
        ({"device": "tpu"}, "device must be cpu or cuda, received 'tpu'"),
        ({"scale": "full"}, "scale full is for one CUDA device, received device cpu; use laptop"),
        ({"cells": ["resnet21"]}, "cells must be some of resnet8, resnet20, .*; received resnet21"),
    ],
)
def test_a_benchmark_that_cannot_be_run_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**arguments)


def test_a_product_that_takes_long_is_not_made_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "SMALLEST_PRODUCT", 16)
    monkeypatch.setattr(real, "LONG_PRODUCT", 0.0)
    assert product_rate("bfloat16", "cpu", 1 << 20) > 0
    assert product_rate("float32", "cpu", 64) > product_rate("float32", "cpu", 8)


def test_the_command_continues_its_file_and_says_where_something_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "real.json"
    seen: list[Any] = []

    def measure(*given: Any, earlier: Any, keep: Callable[[Any], None]) -> dict[str, Any]:
        seen.append((given[:5], earlier, path.exists()))
        found = {"pieces": [1], "failed": ["fit"] if given[0] == 2 else []}
        keep(found)
        return found

    monkeypatch.setattr(real, "run", measure)
    monkeypatch.setattr(real_text, "markdown", lambda found: "the tables")
    command = ["bench", "real", "--json", str(path), "--rounds"]
    assert main([*command, "3"]) == 0
    assert seen == [((3, "laptop", "cpu", None, None), None, False)]
    assert capsys.readouterr() == ("the tables\n", "")
    assert main([*command, "2", "--cells", "resnet8", "programme"]) == 1
    assert seen[1][0][4] == ["resnet8", "programme"]
    assert seen[1][1] == {"pieces": [1], "failed": []}
    assert "all of it was in" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_and_prints_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "real.json"
    command = ["bench", "real", "--scale", "smoke", "--rounds", "1", "--json", str(path)]
    assert main([*command, "--cells", "resnet8x0.5"]) == 0
    found = json.loads(path.read_text())
    assert {row["variant"] for row in found["rows"]} == {BASELINE, "fit", "fit, bfloat16"}
    assert found["baseline"]["workers"] >= 1
    printed = capsys.readouterr().out
    assert f"{found['geometric_means']['fit']:.2f}" in printed
    assert "geometric mean, at least 1.2 times the baseline: not measured" in printed


@pytest.mark.gpu
def test_on_cuda_every_variant_runs_and_is_counted(tmp_path: Path) -> None:
    cells = tuple(replace(cell, runs=(2,), compiled=True) for cell in (TAUGHT, DISTILLED))
    programme = Programme("resnet8x0.5", "resnet8x0.5", Execution("bfloat16", graphs=True), images=72, measured=2)
    backends = torch.backends

    def settings() -> tuple[bool, str, str]:
        return backends.cudnn.benchmark, backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision

    before = settings()
    found = run(1, Scale(cells, 72, batch=16, turn=0.0, filled=4, programme=programme), "cuda")
    json.dumps(found, allow_nan=False)
    assert settings() == before
    assert found["failed"] == []
    assert len(found["rows"]) == sum(1 + len(variants_of(cell, "cuda")) for cell in cells)
    for row in found["rows"]:
        assert row["memory_bytes"] > 0
        assert row["runs"] > 1 or row["kernels"] > 10
    rows = {(row["cell"], row["variant"]): row for row in found["rows"]}
    assert rows["resnet8x0.5", "fit, bfloat16, graphs"]["launches"] < rows["resnet8x0.5", "fit"]["launches"] / 10
    assert found["programme"]["minutes"]["side_by_side"] > 0
    assert "minutes one after another" in markdown(found)
