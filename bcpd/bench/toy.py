"""``bcpd bench toy``: how long a model takes, by the released loop, by a lean one and by fit, in one run.

The variants of a table take turns, in reversed order every other round, on one thread; a variant that does not train
what the lean loop trains is not timed. Times are medians; two are compared only where they include the same work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch

from bcpd.bench import lean, released
from bcpd.bench.released import furthest, plain_mlp
from bcpd.bench.stepping import EPOCHS, apart, stepwise
from bcpd.bench.timing import BUSY, extra_memory, interleaved, machine, matmul_rate
from bcpd.bench.whole_figure import BASELINE_EPOCHS, Figure, figure_by_fit, released_seconds
from bcpd.bench.workload import INCLUDES, Includes, Students, Workload, World
from bcpd.train import Fitted, plan

__all__ = ["SCALES", "Scale", "run"]

TOLERANCE = 1e-6  # of the weights after an epoch in float32
METRIC_TOLERANCE = 1e-3  # relative above 1: a point more or less on the other side of a decision
STAGES = 6
TIMED: tuple[Includes, ...] = ("train", "released")
LOOPS: dict[str, ModuleType] = {"released": released, "lean": lean}
Gradients = Literal["auto", "autograd"]
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        workload: of the main table; its cells vary one size at a time.
        group: replicas that train together in the main table and in the whole figure; by default as many as
            :func:`bcpd.train.plan` says.
        replicas: of the table of R.
        cell_replicas: R of the table of N, K, d and H.
        memory_replicas: R of the table of memory.
        figure: the whole of Figure 1; baseline_students: of it, that the released loop trains before and after.
    """

    workload: Workload = field(default_factory=Workload)
    group: int | None = None
    replicas: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 120)
    cell_replicas: int = 8
    memory_replicas: tuple[int, ...] = (8, 32, 120)
    figure: Figure = field(default_factory=Figure)
    baseline_students: int = 2


_SMALL = Workload(training=640, validation=500, path=300)

SCALES: dict[str, Scale] = {
    "laptop": Scale(),
    "smoke": Scale(
        workload=_SMALL,
        group=4,
        replicas=(1, 4, 8),
        cell_replicas=2,
        memory_replicas=(4,),
        figure=Figure(greys=9, epochs=4, test=2000, workload=_SMALL),
        baseline_students=1,
    ),
}


def run(
    rounds: int = 7,
    scale: str | Scale = "laptop",
    device: str = "cpu",
    processes: int = 2,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Measure; see the module.

    Args:
        rounds: of every table, at least 1; each variant is timed once in each.
        scale: a name in :data:`SCALES`, or a scale.
        device: of the networks and of fit's data; the released loop collates on the CPU, whatever it is.
        processes: that train the whole figure at once, and the last rows of the main table; 1 on an accelerator.
        progress: told ``(stage, done, total)``.
    Returns:
        JSON-able: ``rows`` of the main table, ``replicas`` and ``cells`` (how time grows), ``memory``, ``figure1``;
        the ratios ``per_core_ratio`` (released loop over fit, the released metrics included), ``train_ratio``,
        ``general_ratio`` (fit by autograd), ``lean_ratio``, ``processes_ratio`` and ``figure1_ratio``; and where it
        was measured. On a ``busy`` machine the ratios on one core are those of CPU time (``clock``).
    Raises:
        ValueError: an unknown scale, no rounds, no such device, or a training that is not the lean loop's.
    """
    if isinstance(scale, str) and scale not in SCALES:
        raise ValueError(f"scale must be one of {sorted(SCALES)}, received {scale!r}")
    if rounds < 1 or processes < 1:
        raise ValueError(f"rounds and processes must be at least 1, received {rounds} and {processes}")
    if device != "cpu":
        if not torch.cuda.is_available():
            raise ValueError(f"device {device} was asked for, but torch sees no CUDA device; use cpu")
        processes = 1
    settings = SCALES[scale] if isinstance(scale, str) else scale
    bench = _Bench(settings, rounds, device, processes, progress or _silent)
    with _one_thread():
        return bench.run() | {"scale": scale if isinstance(scale, str) else "own"}


class _Bench:
    def __init__(self, scale: Scale, rounds: int, device: str, processes: int, report: Report) -> None:
        self.scale, self.rounds, self.device = scale, rounds, device
        self.processes, self.report = processes, report
        self.group = scale.group or _planned(scale.figure)
        self.rate = 0.0

    def run(self) -> dict[str, Any]:
        before = machine(self.device)
        self._begin("matrix products", 0)
        self.rate = matmul_rate(self.device)
        self._begin("main table", 1)
        rows = self._main_table()
        self._begin("replicas", 2)
        replicas = self._replicas()
        self._begin("sizes", 3)
        cells = self._cells()
        self._begin("figure 1", 4)
        figure = self._figure()
        self._begin("memory", 5)
        memory = self._memory()
        everything = [*rows, *replicas, *cells]
        busy = self.device == "cpu" and any(row["ms"] > BUSY * row["cpu_ms"] for row in everything if row["cores"] == 1)
        clock = "cpu_ms" if busy else "ms"
        for row in everything:
            # the CPU time of other processes is not seen
            row["gflops"] = 1e3 * row["gflop"] / row[clock if row["cores"] == 1 else "ms"]
            row["share_of_matmul"] = 1e9 * row["gflops"] / self.rate / row["cores"]
        return {
            "kind": "bench toy",
            "device": self.device,
            "threads": 1,
            "rounds": self.rounds,
            "busy": busy,
            "clock": clock,
            "includes": INCLUDES,
            "matmul_gflops": self.rate / 1e9,
            "rows": rows,
            "replicas": replicas,
            "cells": cells,
            "slope": _grown(cells, clock),
            "memory": memory,
            "figure1": figure,
            **self._ratios(rows, clock),
            "figure1_ratio": figure["ratio"],
            "machine": before,
        }

    def _begin(self, stage: str, number: int) -> None:
        self.report(stage, number, STAGES)

    def _ratios(self, rows: Sequence[Mapping[str, Any]], clock: str) -> dict[str, float]:
        def time(variant: str, includes: Includes, by: str = clock) -> float:
            return next(float(row[by]) for row in rows if (row["variant"], row["includes"]) == (variant, includes))

        ours = _name(self.group)
        released_time, train_time = time(ours, "released"), time(ours, "train")
        ratios = {
            "per_core_ratio": time("released loop", "released") / released_time,
            "train_ratio": time("released loop", "train") / train_time,
            "lean_ratio": time("lean loop", "released") / released_time,
            "general_ratio": time("released loop", "released") / time(f"{ours}, autograd", "released"),
            "path_share": 1 - train_time / time(ours, "path"),
            "released_metrics_share": 1 - train_time / released_time,
        }
        if self.processes > 1:
            together = time(f"{ours}, {self.processes} processes", "released", "ms")
            ratios["processes_ratio"] = time(ours, "released", "ms") / together
        return ratios

    def _main_table(self) -> list[dict[str, Any]]:
        """Both loops, and fit by its own gradients, by autograd, and in several processes."""
        workload, group = self.scale.workload, self.group
        students = Students(World(workload, device=self.device), range(group))
        with _Table(self) as table:
            check_loop(students, released)
            for name, loop in LOOPS.items():
                for includes in TIMED:
                    table.add_loop(f"{name} loop", students, loop, includes)
            for includes in INCLUDES:
                table.add_fit(_name(group), students, includes)
            for includes in TIMED:
                table.add_fit(f"{_name(group)}, autograd", students, includes, "autograd")
            if self.processes > 1:
                table.add_apart(f"{_name(group)}, {self.processes} processes", workload, group, self.processes)
            return table.rows()

    def _replicas(self) -> list[dict[str, Any]]:
        """How the time of one of R replicas depends on R."""
        world = World(self.scale.workload, device=self.device)
        with _Table(self) as table:
            for count in self.scale.replicas:
                for includes in TIMED:
                    table.add_fit(_name(count), Students(world, range(count)), includes)
            return table.rows()

    def _cells(self) -> list[dict[str, Any]]:
        """How the time grows with N, K, d and H: one of them at a time."""
        base = self.scale.workload
        cells = {
            "base": base,
            **{f"N x {times}": replace(base, training=times * base.training) for times in (2, 4)},
            "K = 100": replace(base, num_classes=100),
            "d = 300": replace(base, dimension=300),
            **{f"H = {hidden}": replace(base, hidden=hidden) for hidden in (256, 512)},
        }
        with _Table(self) as table:
            for name, workload in cells.items():
                students = Students(World(workload, device=self.device), range(self.scale.cell_replicas))
                table.add_fit(name, students, "train")
            return table.rows()

    def _memory(self) -> list[dict[str, Any]]:
        """Bytes that R students need beside the interpreter, the one world and a student trained before."""
        found = []
        for count in self.scale.memory_replicas if self.device == "cpu" else ():
            more = extra_memory(partial(_trained_before, self.scale.workload), partial(_trained, count))
            found.append({"models": count, "bytes": more, "bytes_a_model": None if more is None else more / count})
        return found

    def _figure(self) -> dict[str, Any]:
        """Figure 1 by fit, between trainings of the released loop, of which the whole is computed."""
        figure, count = self.scale.figure, self.scale.baseline_students
        before = released_seconds(figure, range(count), self.device)
        group = self.group if self.device == "cpu" else figure.models
        found = figure_by_fit(
            figure,
            group,
            self.processes,
            self.device,
            lambda sweep: self.report("figure 1, groups", sweep.done, sweep.total),
        )
        after = released_seconds(figure, range(count, 2 * count), self.device)
        epoch, test = (median(before[what] + after[what]) for what in ("epoch", "test"))
        whole = figure.models * (figure.epochs * epoch + test)
        return {
            **{name: value for name, value in found.items() if name != "rows"},
            "epochs": figure.epochs,
            "test_points": figure.test,
            "gflops": figure.flops / found["seconds"] / 1e9,
            "share_of_matmul": figure.flops / found["seconds"] / self.rate / self.processes,
            "released_epoch_seconds": epoch,
            "released_test_seconds": test,
            "released_seconds": whole,
            "released_is": f"computed: {figure.models} models x ({figure.epochs} epochs + a test), from "
            f"{2 * count} models x {BASELINE_EPOCHS} epochs + a test",
            "ratio": whole / found["seconds"],
        }


class _Table(contextlib.ExitStack):
    """Variants of one table, checked as they are added, then timed in turns."""

    def __init__(self, bench: _Bench) -> None:
        super().__init__()
        self.bench = bench
        self.variants: dict[str, Callable[[], object]] = {}
        self.about: list[dict[str, Any]] = []

    def add_loop(self, name: str, students: Students, loop: ModuleType, includes: Includes) -> None:
        """A sequential loop, an epoch at a call."""
        net, points, parts = plain_mlp(students.network(), 0), students.points(0), students.parts(0)
        measured = includes == "released"
        self._add(name, partial(loop.train, net, points, *parts, epochs=1, measured=measured), students, includes, 1)

    def add_fit(self, name: str, students: Students, includes: Includes, gradients: Gradients = "auto") -> None:
        """fit, an epoch of all students at a call."""
        check_fit(students, includes, gradients)
        advance = self.enter_context(
            stepwise(lambda progress: students.fit(includes, EPOCHS, gradients=gradients, progress=progress))
        )
        self._add(name, advance, students, includes, len(students.seeds))

    def add_apart(self, name: str, workload: Workload, group: int, processes: int) -> None:
        """As many groups as processes, an epoch of all at a call."""
        seeds = [range(place * group, (place + 1) * group) for place in range(processes)]
        advance = self.enter_context(apart(workload, seeds, "released"))
        self._add(name, advance, Students(World(workload), range(1)), "released", processes * group, processes)

    def _add(
        self,
        name: str,
        call: Callable[[], object],
        students: Students,
        includes: Includes,
        models: int,
        cores: int = 1,
    ) -> None:
        self.variants[f"{name}, {includes}"] = call
        gflop = students.world.workload.flops(includes) / 1e9
        self.about.append({"variant": name, "includes": includes, "models": models, "cores": cores, "gflop": gflop})

    def rows(self) -> list[dict[str, Any]]:
        """A row each: ``ms`` of a model and epoch (the median), ``min_ms`` and ``cpu_ms``."""
        timings = interleaved(self.variants, self.bench.rounds)
        rows = []
        for about, timing in zip(self.about, timings.values(), strict=True):
            per_model = 1e3 / about["models"]
            times = {"ms": timing.median, "min_ms": timing.best, "cpu_ms": timing.cpu}
            rows.append(about | {name: per_model * seconds for name, seconds in times.items()})
        return rows


def _trained_before(workload: Workload) -> World:
    world = World(workload)
    Students(world, range(1)).fit("released", 1)
    return world


def _trained(count: int, world: World) -> Fitted:
    return Students(world, range(count)).fit("released", 2)


def _planned(figure: Figure) -> int:
    students = Students(World(figure.workload), range(1))
    return plan(students.network(), figure.models, len(students.world.source)).group


def _name(count: int) -> str:
    return f"fit, R = {count}"


def _grown(cells: Sequence[dict[str, Any]], clock: str) -> float:
    """Give each cell its time and operations relative to the first, and return the slope of their logarithms."""
    for cell in cells:
        cell["time_ratio"] = cell[clock] / cells[0][clock]
        cell["flop_ratio"] = cell["gflop"] / cells[0]["gflop"]
    logs = np.log([[cell["flop_ratio"], cell["time_ratio"]] for cell in cells])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def check_loop(students: Students, loop: ModuleType) -> None:
    """See that one epoch of a sequential loop is one of the lean loop.

    Raises:
        ValueError: it is not.
    """
    mine, reference = (plain_mlp(students.network(), 0) for _ in range(2))
    order = students.order(0, "released")
    for net, train in ((mine, loop.train), (reference, lean.train)):
        train(net, students.points(0), *students.parts(0), epochs=1, order=order, measured=False)
    pairs = zip(mine.parameters(), reference.parameters(), strict=True)
    _refuse(f"the weights of {loop.__name__}", max(float((a - b).detach().abs().max()) for a, b in pairs), TOLERANCE)


def check_fit(students: Students, includes: Includes, gradients: Gradients = "auto") -> None:
    """See that one epoch of fit is one of the lean loop, for the first and the last student.

    Raises:
        ValueError: it is not.
    """
    fitted = students.fit(includes, 1, gradients=gradients)
    measured = includes == "released"
    for student in sorted({0, len(students.seeds) - 1}):
        plain = plain_mlp(students.network(), student)
        order = students.order(student, includes)
        _, (row,) = lean.train(
            plain, students.points(student), *students.parts(student), epochs=1, order=order, measured=measured
        )
        name = f"student {student} of {len(students.seeds)} in fit ({includes})"
        _refuse(f"the weights of {name}", furthest(plain, fitted.states["last"], student), TOLERANCE)
        for metric, value in row.items() if measured else ():
            if metric != "train_loss":  # a constant apart: KL there, CE here
                gap = abs(fitted.history[0][metric][student] - value)
                _refuse(f"{metric} of {name}", gap / max(1.0, value), METRIC_TOLERANCE)


def _refuse(what: str, gap: float, tolerance: float) -> None:
    if not gap <= tolerance:
        raise ValueError(
            f"after one epoch {what} differ from the lean loop's by {gap:.2g}, more than {tolerance:g}: "
            f"it does other work, and no time is taken of it"
        )


def _silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
