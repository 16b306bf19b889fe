"""The toy benchmark compares trainings that are equal, counts their work rightly and says all that was asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from bcpd.bench import lean, released, toy
from bcpd.bench.released import LEARNING_RATE, Order, plain_mlp
from bcpd.bench.stepping import apart, stepwise
from bcpd.bench.timing import matmul_rate
from bcpd.bench.toy import SCALES, Scale, check_fit, check_loop, run
from bcpd.bench.toy_text import markdown
from bcpd.bench.whole_figure import Figure, figure_by_fit, groups, train_group
from bcpd.bench.workload import INCLUDES, Includes, Students, Workload, World
from bcpd.cli import main
from bcpd.train import Progress

TINY = Workload(training=64, validation=40, path=20)
FIGURE = Figure(greys=5, epochs=2, test=50, workload=TINY)
PAYLOAD = {"workload": vars(TINY), "epochs": 2, "test": 50, "device": "cpu"}


def students(count: int = 3) -> Students:
    return Students(World(TINY), range(count))


def test_the_work_of_the_released_sizes() -> None:
    workload = SCALES["laptop"].workload
    assert workload.flops("train") == 4992 * 121_344
    assert workload.flops("released") - workload.flops("train") == 9992 * 43_008
    assert workload.flops("path") - workload.flops("train") == 3000 * 43_008
    assert SCALES["laptop"].figure.models == 125
    assert SCALES["laptop"].figure.flops == pytest.approx(13.4e12, rel=0.01)
    assert replace(workload, hidden=512).flops() / workload.flops() == pytest.approx(13.7, abs=0.05)
    with pytest.raises(ValueError, match="whole batches of 32 points, received 100"):
        Workload(training=100)


@pytest.mark.parametrize("gradients", ["auto", "autograd"])
@pytest.mark.parametrize("includes", INCLUDES)
def test_fit_does_the_work_of_the_lean_loop_whatever_is_measured(includes: Includes, gradients: str) -> None:
    check_fit(students(), includes, "autograd" if gradients == "autograd" else "auto")


def test_the_released_loop_does_the_work_of_the_lean_loop() -> None:
    check_loop(students(1), released)


def test_a_training_that_is_another_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = students()

    def reversed_order(self: Students, student: int, includes: Includes) -> Order:
        return lambda epoch: self.parts(student)[0].flip(0)

    with monkeypatch.context() as patch:
        patch.setattr(Students, "order", reversed_order)
        with pytest.raises(ValueError, match=r"student 0 of 3 in fit \(train\) differ from the lean loop's by"):
            check_fit(ours, "train")
    with monkeypatch.context() as patch:
        patch.setattr(lean, "evaluate", lambda net, points, index: dict.fromkeys(("accuracy", "ece"), 0.5))
        with pytest.raises(ValueError, match=r"train_accuracy of student 0 of 3 in fit \(released\) differ"):
            check_fit(ours, "released")
    monkeypatch.setattr(released, "LEARNING_RATE", 1.1 * LEARNING_RATE)
    with pytest.raises(ValueError, match="released differ from the lean loop's"):
        check_loop(ours, released)


def test_a_student_is_the_same_however_many_train_beside_it() -> None:
    few, many = students(2), students(5)
    assert torch.equal(few.rows, many.rows[:2])
    assert not torch.equal(many.rows[0], many.rows[1])
    assert all(torch.equal(a, b) for a, b in zip(few.parts(1), many.parts(1), strict=True))
    plain = [plain_mlp(group.network(), 1) for group in (few, many)]
    assert all(torch.equal(a, b) for a, b in zip(plain[0].parameters(), plain[1].parameters(), strict=True))


def test_a_stepwise_training_goes_on_by_one_epoch_at_a_call_and_is_the_training() -> None:
    ours = students(2)
    seen: list[int] = []
    states = []

    def train(progress):  # type: ignore[no-untyped-def]
        def both(done: Progress) -> None:
            seen.append(done.epoch)
            progress(done)

        return ours.fit("train", 9, progress=both)

    with stepwise(train) as advance:
        states.append(list(seen))
        for _ in range(2):
            advance()
            states.append(list(seen))
    assert states == [[1], [1, 2], [1, 2, 3]]
    assert seen == [1, 2, 3]


def test_what_a_stepwise_training_raises_is_raised_by_the_call() -> None:
    def fails(progress):  # type: ignore[no-untyped-def]
        progress(Progress("main", 1, 2, {}))
        raise ValueError("no more points")

    with stepwise(fails) as advance, pytest.raises(ValueError, match="no more points"):
        advance()


@given(st.integers(1, 140), st.integers(1, 40), st.integers(1, 4))
@example(123, 16, 2)
def test_groups_cover_all_students_and_none_is_too_large(count: int, largest: int, processes: int) -> None:
    found = groups(count, largest, processes)
    assert [first for first, _ in found] == [sum(size for _, size in found[:place]) for place in range(len(found))]
    assert sum(size for _, size in found) == count
    sizes = [size for _, size in found]
    assert min(sizes) >= 1
    assert max(sizes) <= largest
    assert len(found) == count or len(found) % processes == 0
    assert max(sizes[1:], default=0) - min(sizes[1:], default=0) <= 1


def test_the_figure_by_fit_is_its_students_however_they_are_grouped() -> None:
    one, several = (figure_by_fit(FIGURE, largest, 1) for largest in (12, 3))
    assert one["groups"] == [8]
    assert len(several["groups"]) > 1
    assert [row["name"] for row in one["rows"]] == [
        *("one-hot", "smoothed", "ground truth"),
        *["grey"] * 5,
        *("distilled", "distilled early-stopped"),
    ]
    key = [sorted(run["rows"], key=lambda row: (row["name"], row.get("label_weight", 0.0))) for run in (one, several)]
    for row, other in zip(*key, strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    assert one["models"] == FIGURE.models == 10


def test_the_figure_tests_a_student_as_the_released_loop_does() -> None:
    row = train_group({**PAYLOAD, "first": 3, "count": 1})[0]
    world = World(TINY, test=50)
    one = Students(world, [3])
    net = plain_mlp(one.network(), 0)
    best, _ = lean.train(net, one.points(0), *one.parts(0), epochs=2, order=one.order(0, "released"))
    tested = released.evaluate(best, world.test_points(), torch.arange(50))
    assert row == pytest.approx(
        {"name": "grey", "label_weight": row["label_weight"]} | {f"test_{name}": v for name, v in tested.items()},
        abs=1e-5,
    )


def test_a_tiny_run_says_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "matmul_rate", partial(matmul_rate, size=128))
    scale = Scale(
        TINY, group=2, replicas=(1, 3), cell_replicas=1, memory_replicas=(), figure=FIGURE, baseline_students=1
    )
    stages: list[str] = []
    result = run(rounds=1, scale=scale, processes=1, progress=lambda stage, done, total: stages.append(stage))
    assert list(dict.fromkeys(stages)) == [
        *("matrix products", "main table", "replicas", "sizes", "figure 1", "figure 1, groups", "memory")
    ]
    json.dumps(result, allow_nan=False)
    main = {(row["variant"], row["includes"]): row for row in result["rows"]}
    assert {variant for variant, _ in main} == {*("released loop", "lean loop", "fit, R = 2", "fit, R = 2, autograd")}
    assert ("fit, R = 2", "path") in main
    clock = result["clock"]
    slow, fast = main["released loop", "released"][clock], main["fit, R = 2", "released"][clock]
    assert result["per_core_ratio"] == slow / fast
    assert result["figure1_ratio"] == result["figure1"]["released_seconds"] / result["figure1"]["seconds"]
    assert [row["models"] for row in result["replicas"]] == [1, 1, 3, 3]
    assert [row["variant"] for row in result["cells"]][:4] == ["base", "N x 2", "N x 4", "K = 100"]
    assert result["cells"][2]["flop_ratio"] == 4
    text = markdown(result)
    assert f"{result['per_core_ratio']:.1f} times the work" in text
    assert text.count("\n| fit, R = 2") == 5
    assert all(row["ms"] > 0 and row["share_of_matmul"] > 0 for row in main.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "huge"}, r"scale must be one of \['laptop', 'smoke'\], received 'huge'"),
        ({"rounds": 0}, "must be at least 1, received 0 and 2"),
        ({"processes": 0}, "must be at least 1, received 7 and 0"),
    ],
)
def test_a_benchmark_that_cannot_be_run_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**arguments)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_command_writes_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "toy.json"
    assert main(["bench", "toy", "--scale", "smoke", "--rounds", "1", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert f"{result['per_core_ratio']:.1f} times the work" in capsys.readouterr().out
    assert {"figure1_ratio", "general_ratio", "processes_ratio"} <= result.keys()


@pytest.mark.slow
def test_processes_apart_go_on_together() -> None:
    with apart(TINY, [[0, 1], [2, 3]], "released") as advance:
        advance()
        advance()


@pytest.mark.slow
def test_the_figure_over_two_processes_is_that_of_one() -> None:
    one, two = (figure_by_fit(FIGURE, 4, processes) for processes in (1, 2))
    assert two["processes"] == 2
    assert two["spearman"] == pytest.approx(one["spearman"], abs=1e-12)
