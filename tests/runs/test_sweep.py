"""A sweep gives the same rows whatever stops it, however many processes work, and whatever order they finish in."""

from __future__ import annotations

import errno
import importlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import bcpd
from bcpd.runs import Progress, Store, StoreError, SweepError, Task, sweep

module = importlib.import_module("bcpd.runs.sweep")

Rows = list[dict[str, Any]]


def numbers(payload: dict[str, Any]) -> Rows:
    """A deterministic task of ``payload["seconds"]``."""
    generator = Random(payload["seed"])
    time.sleep(payload.get("seconds", 0.0))
    return [{"seed": payload["seed"], "row": i, "x": generator.random()} for i in range(generator.randrange(4))]


def product(payload: dict[str, Any]) -> Rows:
    """A sum whose last bits depend on how it is made, and where it was made."""
    generator = torch.Generator().manual_seed(payload["seed"])
    one, other = (torch.randn(300, 300, generator=generator) for _ in range(2))
    return [{"sum": float((one @ other).sum()), **place(payload)[0]}]


def place(payload: dict[str, Any]) -> Rows:
    """Threads, environment and process of a task."""
    return [
        {
            "threads": torch.get_num_threads(),
            "environment": [os.environ.get(name) for name in module.THREADS_OF_LIBRARIES],
            "here": os.getpid() == payload["parent"],
        }
    ]


def troubled(payload: dict[str, Any]) -> Rows:
    """Does what its payload says."""
    time.sleep(payload.get("seconds", 0.0))
    if "mark" in payload and not Path(payload["mark"]).exists():
        Path(payload["mark"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    match payload["does"]:
        case "raise":
            raise ZeroDivisionError("no such world")
        case "raise what cannot travel":
            raise type("Local", (Exception,), {})("far away")
        case "tensor":
            return [{"x": torch.zeros(1)}]
        case "nothing":
            return None  # type: ignore[return-value]
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "change":
            payload["does"] = payload.pop("shared").append(1)
    return [{"pid": os.getpid()}]


def plan(n: int, seconds: float = 0.0) -> list[Task]:
    return [Task(f"draw={seed}", {"seed": seed, "seconds": seconds}) for seed in range(n)]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers begin as copies of this process: in milliseconds, not in the seconds that importing torch takes."""
    monkeypatch.setattr(module, "START_METHOD", "fork")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
        yield


def undisturbed(folder: Path, tasks: list[Task]) -> Rows:
    with Store(folder / "undisturbed") as store:
        return sweep(store, tasks, numbers, processes=1)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("processes", [1, 2, 3, 50, None])
def test_rows_are_those_of_the_plan_whatever_the_number_of_processes(tmp_path: Path, processes: int | None) -> None:
    tasks = plan(20)
    expected = [row for task in tasks for row in numbers(task.payload)]
    with Store(tmp_path / "rows") as store:
        assert sweep(store, tasks, numbers, processes=processes) == expected
        assert sweep(store, tasks[::-1], numbers, processes=processes) == [
            row for task in tasks[::-1] for row in numbers(task.payload)
        ]
        store.write_rows(tmp_path / "export", [task.key for task in tasks])
    with Store(tmp_path / "alone") as store:
        sweep(store, tasks, numbers, processes=1)
        store.write_rows(tmp_path / "alone.jsonl", [task.key for task in tasks])
    assert (tmp_path / "export").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert sweep(Store(tmp_path / "empty"), [], numbers, processes=processes) == []


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_sweep_goes_on_with_the_tasks_that_are_missing_alone(tmp_path: Path, processes: int) -> None:
    tasks = plan(12)
    with Store(tmp_path / "rows") as store:
        for task in tasks[3:7]:
            store.append(task.key, [{"kept": task.key}], task.payload)
        rows = sweep(store, tasks, numbers, processes=processes)
    assert [row["kept"] for row in rows if "kept" in row] == [task.key for task in tasks[3:7]]
    assert [row for row in rows if "kept" not in row] == [
        row for task in tasks[:3] + tasks[7:] for row in numbers(task.payload)
    ]


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("processes", [1, 2])
def test_progress_counts_tasks_and_costs_and_the_costly_begin(tmp_path: Path, processes: int) -> None:
    tasks = [Task(str(i), {"seed": i, "seconds": 0.01 * i}, cost=i) for i in range(1, 7)]
    seen: list[Progress] = []
    with Store(tmp_path / "rows") as store:
        store.append("5", [], tasks[4].payload)
        sweep(store, tasks, numbers, processes=processes, progress=seen.append)
    assert [step.done for step in seen] == [1, 2, 3, 4, 5, 6]
    assert {(step.total, step.total_cost, step.resumed_cost) for step in seen} == {(6, 21.0, 5.0)}
    assert (seen[0].key, seen[0].done_cost, seen[0].remaining_seconds) == (None, 5.0, None)
    for before, after in itertools.pairwise(seen):
        assert after.key is not None
        assert after.done_cost == before.done_cost + float(after.key)
        assert after.remaining_seconds == pytest.approx(after.seconds * (21 - after.done_cost) / (after.done_cost - 5))
        assert after.seconds >= before.seconds
    order = [step.key for step in seen[1:]]
    assert order == ["6", "4", "3", "2", "1"] if processes == 1 else order[0] in ("6", "4")


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_threads_are_as_asked_and_restored(tmp_path: Path, processes: int, threads: int) -> None:
    before, environment = torch.get_num_threads(), dict(os.environ)
    tasks = [Task(str(seed), {"parent": os.getpid()}) for seed in range(2)]
    with Store(tmp_path / "rows") as store:
        rows = sweep(store, tasks, place, processes=processes, threads=threads)
    assert {row["threads"] for row in rows} == {threads}
    assert {row["here"] for row in rows} == {processes == 1}
    if processes == 2:
        assert [row["environment"] for row in rows] == [[str(threads)] * 3] * 2
    assert torch.get_num_threads() == before
    assert dict(os.environ) == environment


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([Task("a", 1), Task("b", 1), Task("a", 2)], r"keys of tasks must differ, received \['a'\] more than once"),
        ([Task("a", {"x": {1: 2}})], r"payload of task 'a'\['x'\] has the key 1; keys must be str"),
        ([Task("a", [torch.zeros(1)])], r"payload of task 'a'\[0\] is a Tensor; accepted are"),
        ([Task("a", 1, cost=float("nan"))], "cost of task 'a' must be finite and >= 0, received nan"),
        ([Task("a", 1, cost=-1)], "received -1"),
        ([Task("old", {"epochs": 20})], "holds task 'old' with another payload: its settings were changed"),
    ],
)
def test_a_plan_that_cannot_be_kept_is_refused_before_any_work(tmp_path: Path, tasks: list[Task], message: str) -> None:
    with Store(tmp_path / "rows") as store:
        store.append("old", [], {"epochs": 10})
        with pytest.raises(ValueError, match=message):
            sweep(store, [Task("first", {"seed": 0}), *tasks], numbers, processes=1)
        assert list(store.done) == ["old"]


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "rows") as store:
        for work in (lambda payload: [], Random(0).random, Store.append):
            with pytest.raises(ValueError, match="with 2 processes work must be a function at the top of a module"):
                sweep(store, plan(2), work, processes=2)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="processes must be at least 1, received 0"):
            sweep(store, plan(2), numbers, processes=0)
        with pytest.raises(ValueError, match="threads must be at least 1, received 0"):
            sweep(store, plan(2), numbers, threads=0)
        rows = sweep(store, plan(2), numbers, processes=1)
    with Store(tmp_path / "rows", read_only=True) as store:
        assert sweep(store, plan(2), numbers) == rows
        with pytest.raises(ValueError, match="read only, and 1 of 3 tasks are missing"):
            sweep(store, plan(3), numbers)


def test_work_may_change_what_it_was_given(tmp_path: Path) -> None:
    shared: list[int] = []
    tasks = [Task(key, {"does": "change", "shared": shared}) for key in "abc"]
    with Store(tmp_path / "rows") as store:
        sweep(store, tasks, troubled, processes=1)
        assert shared == []
        assert tasks[0].payload == {"does": "change", "shared": []}


# Tasks that fail, workers that die


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("does", "message", "cause"),
    [
        ("raise", "failed: ZeroDivisionError: no such world", ZeroDivisionError),
        ("raise what cannot travel", "far away", Exception),
        ("tensor", "is a Tensor; accepted are", ValueError),
        ("nothing", "must be a list of dicts, received NoneType", ValueError),
    ],
)
def test_a_task_that_fails_stops_the_sweep_with_its_name_and_what_is_finished_stays(
    tmp_path: Path, processes: int, does: str, message: str, cause: type[Exception]
) -> None:
    tasks = [Task(f"good {i}", {"does": "well"}, cost=9.0) for i in range(3)]
    tasks += [Task("bad", {"does": does, "seconds": 0.05}, cost=5.0), Task("slow", {"does": "well", "seconds": 30.0})]
    began = time.monotonic()
    with Store(tmp_path / "rows") as store:
        with pytest.raises(SweepError, match=rf"task 'bad' .*{message}.*\. 3 of 5 tasks are kept in") as caught:
            sweep(store, tasks, troubled, processes=processes)
        assert isinstance(caught.value.__cause__, cause)
        assert store.done == {"good 0", "good 1", "good 2"}
    assert time.monotonic() - began < 4, "work in progress is not waited for"
    if processes == 2:
        assert re.search(
            r"test_sweep.py.* in troubled|bcpd.runs.store.*in check_", caught.value.__cause__.__notes__[0], re.S
        )


@pytest.mark.usefixtures("forked")
def test_what_is_finished_while_another_task_fails_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = module.wait

    def late(connections: list[Any], seconds: float) -> Any:
        time.sleep(0.5)  # all three are ready at once
        return look(connections, seconds)

    monkeypatch.setattr(module, "wait", late)
    tasks = [Task("bad", {"does": "raise"}), Task("a", {"does": "well"}), Task("b", {"does": "well"})]
    with Store(tmp_path / "rows") as store:
        with pytest.raises(SweepError, match="2 of 3 tasks are kept"):
            sweep(store, tasks, troubled, processes=3)
        assert store.done == {"a", "b"}


@pytest.mark.usefixtures("forked")
def test_a_worker_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    tasks = [Task(str(i), {"does": "well", "mark": str(tmp_path / f"mark {i}")}) for i in range(5)]
    with Store(tmp_path / "rows") as store:
        rows = sweep(store, tasks, troubled, processes=2)
        assert len(rows) == 5
        assert len(store.done) == 5
    assert all((tmp_path / f"mark {i}").exists() for i in range(5))


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(("does", "reason"), [("die", "killed by SIGKILL, lack of memory?"), ("exit", "exit status 3")])
def test_a_task_whose_worker_dies_twice_is_named(tmp_path: Path, does: str, reason: str) -> None:
    tasks = [Task(str(i), {"does": "well"}, cost=2.0) for i in range(4)] + [Task("heavy", {"does": does})]
    with Store(tmp_path / "rows") as store:
        with pytest.raises(
            SweepError, match=rf"task 'heavy' lost its worker process twice \({re.escape(reason)}\)\. 4 of 5"
        ):
            sweep(store, tasks, troubled, processes=2)
        assert len(store.done) == 4


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_stops_at_once_and_keeps_what_is_finished(
    tmp_path: Path, processes: int, request: pytest.FixtureRequest
) -> None:
    tasks = plan(80, seconds=0.01)
    stop = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT))
    # a test run in the background may have been told to ignore the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with Store(tmp_path / "rows") as store:
        stop.start()
        with pytest.raises(KeyboardInterrupt):
            sweep(store, tasks, numbers, processes=processes)
        assert 0 < len(store.done) < 80
        assert list(store.rows(store.done)) == [
            row for key in store.done for row in numbers({"seed": int(key.removeprefix("draw="))})
        ]
        assert sweep(store, tasks, numbers, processes=processes) == undisturbed(tmp_path, plan(80))


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_disk_that_is_full_stops_the_sweep_with_a_sentence_and_no_part_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    write = os.write
    full: set[int] = set()

    def almost_full(handle: int, data: bytes) -> int:
        if handle in full:
            full.remove(handle)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not data.startswith(b'{"task":"draw=7"'):
            return write(handle, data)
        full.add(handle)
        return write(handle, data[:40])

    tasks = plan(20)
    with Store(tmp_path / "rows") as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", almost_full)
            with pytest.raises(StoreError, match=r"add task 'draw=7' .*No space left"):
                sweep(store, tasks, numbers, processes=processes)
        assert store.path.read_bytes().count(b"\n") == 1 + len(store.done) >= 4
        assert store.path.read_bytes().endswith(b"\n")
        assert "draw=7" not in store.done
        assert sweep(store, tasks, numbers, processes=processes) == undisturbed(tmp_path, tasks)


# SIGKILL


def fork(run: Callable[[], object]) -> int:
    """A child process that runs a function; its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(0)
    return child


@pytest.mark.usefixtures("forked")
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_twenty_times_at_random_moments_the_rows_are_those_of_an_undisturbed_sweep(
    tmp_path: Path, processes: int
) -> None:
    path, tasks, rng = tmp_path / "rows", plan(150 * processes, seconds=0.003), Random(processes)

    def run() -> None:
        warnings.simplefilter("ignore")
        with Store(path) as store:
            sweep(store, tasks, numbers, processes=processes)

    kept = 0
    for kill in range(20):
        child = fork(run)
        if kill % 2:  # surely while it works
            while lines(path) == kept:
                time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert lines(path) >= kept, "a finished task was lost"
        kept = lines(path)
    assert 10 <= kept < len(tasks), "the kills came in the middle of the work"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = Store(path)
    with store:
        rows = sweep(store, tasks, numbers, processes=processes)
        assert len(store.done) == len(tasks)
        store.write_rows(tmp_path / "rows.jsonl")
    assert lines(path) == 1 + len(tasks), "no task is there twice"
    assert rows == undisturbed(tmp_path, plan(len(tasks)))
    with Store(tmp_path / "undisturbed") as store:
        store.write_rows(tmp_path / "undisturbed.jsonl")
    assert (tmp_path / "rows.jsonl").read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


@pytest.mark.parametrize("kernel_helps", [True, False])
def test_a_worker_whose_parent_is_killed_ends(monkeypatch: pytest.MonkeyPatch, kernel_helps: bool) -> None:
    if not kernel_helps:
        monkeypatch.setattr(module, "PR_SET_PDEATHSIG", 2)  # asks, sets nothing
    reading, writing = os.pipe()

    def worker(parent: int) -> None:
        module._die_with(parent)
        os.write(writing, b"ready")
        time.sleep(60)

    def parent() -> None:
        here = os.getpid()
        fork(lambda: worker(here))
        time.sleep(60)

    child = fork(parent)
    os.close(writing)
    assert os.read(reading, 5) == b"ready"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    began = time.monotonic()
    assert os.read(reading, 5) == b"", "the last writer is gone"
    assert time.monotonic() - began < 1.5
    os.close(reading)


SCRIPT = """
import os, sys
from random import Random
import time
from pathlib import Path
from bcpd.runs import Store, Task, sweep

def work(payload):
    Path(payload["pids"], str(os.getpid())).touch()
    time.sleep(0.03)
    generator = Random(payload["seed"])
    return [{"seed": payload["seed"], "x": generator.random()} for _ in range(generator.randrange(4))]

if __name__ == "__main__":
    path, pids, processes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    tasks = [Task(f"draw={seed}", {"seed": seed, "pids": pids}) for seed in range(120)]
    with Store(path, identity="script") as store:
        sweep(store, tasks, work, processes=processes)
        store.write_rows(path + ".export", [task.key for task in tasks])
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> int:
    try:
        return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except FileNotFoundError:
        return 0


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


class Script:
    """The sweep above as a program of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pids = folder, folder / "pids"
        (folder / "script.py").write_text(SCRIPT)
        self.pids.mkdir()

    def start(self, name: str, processes: int) -> subprocess.Popen[str]:
        package = str(Path(bcpd.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "script.py", name, str(self.pids), str(processes)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, name: str, processes: int) -> bytes:
        """Run to the end; the rows."""
        process = self.start(name, processes)
        said = process.communicate()[1]
        assert process.returncode == 0, said
        return (self.folder / f"{name}.export").read_bytes()

    def workers_alive(self) -> list[str]:
        return [file.name for file in self.pids.iterdir() if alive(int(file.name))]


@pytest.mark.slow
def test_a_script_with_two_worker_processes_is_killed_twenty_times(tmp_path: Path) -> None:
    script, path, rng, kept = Script(tmp_path), tmp_path / "rows", Random(0), 0
    for kill in range(20):
        process = script.start("rows", 2)
        if kill % 4 == 0:  # at any moment, the imports included
            time.sleep(rng.uniform(0.0, 6.0))
        else:  # while it works
            while process.poll() is None and lines(path) <= max(kept, 1):
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.05))
        process.kill()
        said = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, said
        assert kill % 4 == 0 or said == ""
        assert lines(path) >= kept, "a finished task was lost"
        kept = lines(path)
        time.sleep(1.0)
        assert script.workers_alive() == [], "a worker outlived its parent"
    assert 15 < kept < 121, "the kills came in the middle of the work"
    assert script.finish("rows", 2) == script.finish("undisturbed", 1)
    assert lines(path) == lines(tmp_path / "undisturbed") == 121, "no task is there twice"


@pytest.mark.slow
def test_processes_that_import_everything_anew_give_the_bits_of_this_one(tmp_path: Path) -> None:
    tasks = [Task(str(seed), {"seed": seed, "parent": os.getpid()}) for seed in range(4)]
    with Store(tmp_path / "apart") as store:
        apart = sweep(store, tasks, product, processes=2)
    with Store(tmp_path / "here") as store:
        here = sweep(store, tasks, product, processes=1)
    assert [row["sum"] for row in apart] == [row["sum"] for row in here]
    assert all(row["environment"] == ["1", "1", "1"] and row["threads"] == 1 and not row["here"] for row in apart)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["while workers import", "while they work"])
def test_ctrl_c_of_a_script_is_one_traceback_and_no_word_of_its_workers(tmp_path: Path, moment: str) -> None:
    script = Script(tmp_path)
    process = script.start("rows", 2)
    while lines(tmp_path / "rows") < 4 if moment == "while they work" else children(process.pid) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    said = process.communicate(timeout=20)[1]
    assert time.monotonic() - began < 5
    assert said.count("Traceback") == said.count("KeyboardInterrupt\n") == 1, said
    assert "spawn_main" not in said
    assert script.workers_alive() == []
    assert lines(tmp_path / "rows") >= (4 if moment == "while they work" else 1)


@pytest.mark.slow
def test_a_script_whose_workers_cannot_begin_is_told_so(tmp_path: Path) -> None:
    script = Script(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT.replace('if __name__ == "__main__"', "if True"))
    process = script.start("rows", 2)
    said = process.communicate()[1]
    assert process.returncode == 1
    assert re.search(r"SweepError: task 'draw=.' lost its worker process twice \(exit status 1\)", said), said
