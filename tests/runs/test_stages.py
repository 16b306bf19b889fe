"""Stages sweep into one folder, go on after a stop, refuse what other code has left, and train several together."""

import os
from pathlib import Path
from typing import Any

import pytest

from bcpd.runs import Stages, StoreError, SweepError, Task, landed

CODE = ("bcpd.seeds",)

Given = dict[str, Any]


def double(given: Given) -> list[Given]:
    """Half done already where it was prepared."""
    prepared = Path(given["folder"], f"{given['number']}")
    return [{"twice": 2 * given["number"], "prepared": prepared.exists()}]


def prepare(several: list[Given]) -> list[Given]:
    """Leaves a file for every task, that holds how many there were and where."""
    for given in several:
        Path(given["folder"], f"{given['number']}").write_text(f"{len(several)} {os.getpid()}")
    return []


def tasks(folder: Path, *numbers: int) -> list[Task]:
    return [Task(f"task {number}", {"number": number}, 1.0, {"folder": str(folder)}) for number in numbers]


def stages(folder: Path, **options: Any) -> Stages:
    return Stages(folder, double, CODE, **{"processes": 1, **options})


def twice(rows: list[Given]) -> list[int]:
    return [row["twice"] for row in rows]


def test_stages_land_apart_and_are_read_by_task(tmp_path: Path) -> None:
    run = stages(tmp_path)
    assert twice(run.sweep("first", tasks(tmp_path, 3, 1))) == [6, 2]
    assert twice(run.sweep("the second", tasks(tmp_path, 3))) == [6]
    assert {key: twice(rows) for key, rows in landed(tmp_path, "first").items()} == {"task 3": [6], "task 1": [2]}
    assert list(landed(tmp_path, "the second")) == ["task 3"]
    assert landed(tmp_path, "third") == {}
    assert 0 <= run.seconds() < 600


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def stop(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages(tmp_path, progress=stop).sweep("first", tasks(tmp_path, 1, 2, 3), "the first")
    assert told == [("the first", 0, 3), ("the first", 1, 3), ("the first", 2, 3)]
    assert list(landed(tmp_path, "first")) == ["task 1", "task 2"]
    again = stages(tmp_path, progress=lambda *state: told.append(state))
    assert twice(again.sweep("first", tasks(tmp_path, 1, 2, 3))) == [2, 4, 6]
    assert told[3:] == [("first", 2, 3), ("first", 3, 3)]


def test_rows_of_other_code_or_settings_are_refused(tmp_path: Path) -> None:
    stages(tmp_path).sweep("first", tasks(tmp_path, 1))
    for other in (Stages(tmp_path, double, ("bcpd.simplex",)), stages(tmp_path, settings={"size": 2})):
        with pytest.raises(StoreError):
            other.sweep("first", tasks(tmp_path, 1))
    with_settings = stages(tmp_path, settings={"size": 2, "kind": 1})
    with_settings.sweep("own", tasks(tmp_path, 1))
    assert stages(tmp_path, settings={"kind": 1, "size": 2}).identity == with_settings.identity
    assert twice(stages(tmp_path).sweep("first", tasks(tmp_path, 1))) == [2]


def test_several_are_trained_together_and_then_read(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    run = stages(tmp_path, train_together=prepare, together=2, progress=lambda *state: told.append(state))
    stages(tmp_path).sweep("first", tasks(tmp_path, 2))
    rows = run.sweep("first", tasks(tmp_path, 1, 2, 3, 4))
    assert twice(rows) == [2, 4, 6, 8]
    assert [row["prepared"] for row in rows] == [True, False, True, True]
    # what had landed is in no group; the last group has what is left
    assert [(tmp_path / f"{number}").read_text().split()[0] for number in (1, 3, 4)] == ["2", "2", "1"]
    assert told[0] == ("first", 1, 4)  # before the first group is trained
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1] == ("first", 4, 4)
    run.sweep("alone", tasks(tmp_path, 5, 6), alone=True)
    assert not (tmp_path / "5").exists()


def fail(several: list[Given]) -> list[Given]:
    """Where one of them is the third."""
    if any(given["number"] == 3 for given in several):
        raise ArithmeticError("three")
    return prepare(several)


def double_but_three(given: Given) -> list[Given]:
    if given["number"] == 3:
        raise ArithmeticError("three")
    return double(given)


def test_where_a_group_fails_its_tasks_are_done_one_by_one(tmp_path: Path) -> None:
    run = Stages(tmp_path, double_but_three, CODE, processes=1, train_together=fail, together=2)
    with (
        pytest.warns(RuntimeWarning, match="three; going on one by one"),
        pytest.raises(SweepError, match="task 'task 3' failed"),
    ):
        run.sweep("first", tasks(tmp_path, 1, 2, 4, 3, 5))
    assert list(landed(tmp_path, "first")) == ["task 1", "task 2", "task 4"]
    assert not (tmp_path / "4").exists()


def test_a_task_with_other_settings_is_refused_before_any_is_trained(tmp_path: Path) -> None:
    stages(tmp_path).sweep("first", tasks(tmp_path, 1))
    changed = [*tasks(tmp_path, 2, 3), Task("task 1", {"number": 9}, 1.0, {"folder": str(tmp_path)})]
    with pytest.raises(ValueError, match="holds task 'task 1' with another payload"):
        stages(tmp_path, train_together=prepare, together=2).sweep("first", changed)
    assert not (tmp_path / "2").exists()


@pytest.mark.slow
def test_groups_are_trained_in_processes_of_their_own(tmp_path: Path) -> None:
    run = stages(tmp_path, train_together=prepare, together=2, processes=2)
    assert twice(run.sweep("first", tasks(tmp_path, *range(7)))) == [2 * number for number in range(7)]
    sizes, processes = zip(*((tmp_path / f"{number}").read_text().split() for number in range(7)), strict=True)
    assert sizes == ("2", "2", "2", "2", "2", "2", "1")
    assert processes[0] == processes[1] != processes[2] == processes[3]  # by twos, two groups at once
    assert f"{os.getpid()}" not in processes[:4]


@pytest.mark.parametrize("options", [{"together": 0}, {"together": 2}])
def test_nothing_together_is_refused(tmp_path: Path, options: Given) -> None:
    with pytest.raises(ValueError, match=f"together must be at least 1.*received {options['together']}"):
        stages(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_little_is_done_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bcpd.runs.stages as module

    asked: list[int | None] = []
    right = module.sweep

    def spy(*given: Any, processes: int | None, **options: Any) -> Any:
        asked.append(processes)
        return right(*given, processes=1, **options)

    monkeypatch.setattr(module, "sweep", spy)
    for number, (small, count) in enumerate(((0.0, 2), (2.5, 2), (2.0, 2), (0.0, 1))):
        stages(tmp_path, processes=None, small=small).sweep(f"{number}", tasks(tmp_path, *range(count)))
    stages(tmp_path, processes=3, small=9.0).sweep("asked for", tasks(tmp_path, 1, 2))
    assert asked == [None, 1, None, 1, 3]
