"""One cell of ``bcpd bench real``: its variants are checked, warmed up and timed in turns; then what they launch."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from bcpd.bench import launches
from bcpd.bench.launches import CAPTURED_IN
from bcpd.bench.real_check import Checks
from bcpd.bench.real_work import WHOLE, Cell, Variant, Work, variants_of
from bcpd.bench.repdistiller_loop import NAME as BASELINE
from bcpd.bench.repdistiller_loop import released_settings, train_epoch
from bcpd.bench.stepping import Advance, stepwise
from bcpd.bench.timing import Timing, interleaved
from bcpd.data import InMemory
from bcpd.train.execution import Precision

__all__ = ["BASELINE", "CellBench", "Measured", "Report", "count"]

MOST_EPOCHS = 100
"""Of a turn."""

Report = Callable[[str, int, int], None]
Row = dict[str, Any]


@dataclass
class Measured:
    """What was found of a cell.

    Attributes:
        rows: of the baseline and of each variant.
        failed: variants that could not be trained, or that do other work than the baseline's steps, and why.
        about: what is true of the whole cell.
    """

    rows: list[Row]
    failed: list[Row]
    about: Row


@dataclass
class CellBench:
    """Measures one cell after another.

    Attributes:
        work: trainings on a device.
        batches: of the baseline's loader.
        images: of an epoch.
        turn: seconds that a turn of a variant lasts at least: in it go as many whole epochs as that takes.
        filled: images from whose views the time of filling a table is told.
        rounds: turns of each variant.
        peaks: FLOP/s, by precision.
    """

    work: Work
    batches: DataLoader[Any]
    images: int
    turn: float
    filled: int
    rounds: int
    peaks: Mapping[Precision, float]

    def __post_init__(self) -> None:
        self.checks = Checks(self.work)

    def measure(self, cell: Cell, report: Report) -> Measured:
        """Its rows.

        Args:
            report: told ``(variant, done, total)`` before each of them is made ready and at each of its turns.
        """
        started, work = time.perf_counter(), self.work
        source, teacher = work.source(self.images), work.teacher(cell, torch.channels_last)
        table = None if teacher is None else work.table(source)
        variants, failed = variants_of(cell, work.device), list[Row]()
        done, total = itertools.count(), (1 + len(variants)) * (2 + self.rounds)

        def tell(variant: str) -> None:
            report(variant, next(done), total)

        with contextlib.ExitStack() as stack:
            tell(BASELINE)
            turns = {BASELINE: self._baseline(cell)}
            for variant in variants:
                tell(variant.name)
                try:
                    turns[variant.name] = self._ours(stack, cell, variant, source, table if variant.table else teacher)
                except (RuntimeError, ValueError) as error:
                    failed.append({"cell": cell.name, "variant": variant.name, "error": str(error)})
            timings = interleaved({name: partial(turn.take, tell) for name, turn in turns.items()}, self.rounds)
        rows = [self._row(turn, timings[name]) for name, turn in turns.items()]
        for row in rows:
            row["ratio"] = row["images_per_second"] / rows[0]["images_per_second"]
        about = {
            "cell": cell.name,
            "flop_an_image": cell.flop(),
            "table_bytes": None if table is None else round(table.nbytes * WHOLE / self.images),
            "fill_seconds": None if teacher is None else work.fill_seconds(teacher, self.filled),
            "seconds": time.perf_counter() - started,
        }
        return Measured(rows, failed, about)

    def _baseline(self, cell: Cell) -> _Turn:
        work = self.work
        teacher = work.teacher(cell)
        peak, net = _Peak(work.device), work.network(cell.student)
        optimizer = work.optimizer(cell, net)

        def epoch() -> None:
            with released_settings(work.device):
                train_epoch(net, teacher, optimizer, self.batches)

        epoch()
        peak.reset()
        epochs = self._epochs(epoch)
        return _Turn(_about(cell, None, peak, "tf32" if work.device == "cuda" else "float32"), epoch, epochs)

    def _ours(
        self, stack: contextlib.ExitStack, cell: Cell, variant: Variant, source: InMemory, teacher: nn.Module | None
    ) -> _Turn:
        gap = self.checks.check(cell, variant)
        peak, nets = _Peak(self.work.device), self.work.nets(cell, variant)
        train = partial(self.work.train_in_step, cell, variant, nets, source, teacher, ("ce",))
        advance = stack.enter_context(stepwise(train))
        if variant.execution.graphs:
            for _ in range(CAPTURED_IN - 1):
                advance()
        else:
            # a graph allocates nothing when it is replayed: its peak is that of its capture
            peak.reset()
        epochs = self._epochs(advance)
        return _Turn(_about(cell, variant, peak, variant.execution.precision) | {"gap": gap}, advance, epochs)

    def _epochs(self, epoch: Advance) -> int:
        """How many of them a turn has."""
        return min(MOST_EPOCHS, max(1, math.ceil(self.turn / self.work.seconds(epoch))))

    def _row(self, turn: _Turn, timing: Timing) -> Row:
        row = turn.row
        speed = row["runs"] * turn.epochs * self.images / timing.median
        # several threads' CPU times add up, and those of workers and of a GPU are not seen
        alone = self.work.device == "cpu" and self.work.threads == 1 and row["variant"] != BASELINE
        flops = row["flop_an_image"] * speed
        return row | {
            **timing.record(),
            "slowest": max(timing.wall),
            "busy": alone and timing.busy,
            "epochs": turn.epochs,
            "images_per_second": speed,
            "gflops": flops / 1e9,
            "share_of_peak": flops / self.peaks[row["precision"]],
        }


def count(work: Work, cell: Cell, rows: Iterable[Row]) -> None:
    """Complete a cell's rows by what a step of each asks of the device; not those of several runs.

    On CUDA this is for the end: see :mod:`bcpd.bench.launches`.

    Raises:
        RuntimeError: the device cannot be looked at.
    """
    variants = {variant.name: variant for variant in variants_of(cell, work.device)}
    for row in rows:
        if row["variant"] == BASELINE:
            row |= launches.of_baseline(work, cell)
        elif row["runs"] == 1:
            row |= launches.of_fit(work, cell, variants[row["variant"]])


@dataclass
class _Turn:
    """What a variant does when it is its turn, and what is known of it besides its time."""

    row: Row
    advance: Advance
    epochs: int

    def take(self, tell: Callable[[str], None]) -> None:
        tell(self.row["variant"])
        for _ in range(self.epochs):
            self.advance()


class _Peak:
    """The most bytes of tensors on the device since the last reset, beyond those that were there at first."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if self.cuda:
            gc.collect()
            self.before = torch.cuda.memory_allocated()
        self.reset()

    def reset(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() - self.before if self.cuda else None


def _about(cell: Cell, variant: Variant | None, peak: _Peak, precision: Precision) -> Row:
    """Of the baseline (None) or a variant."""
    table = variant is not None and variant.table
    return {
        "cell": cell.name,
        "student": cell.student,
        "teacher": cell.teacher,
        "variant": BASELINE if variant is None else variant.name,
        "runs": 1 if variant is None or variant.runs is None else variant.runs,
        "table": table,
        "precision": precision,
        "memory_bytes": peak.bytes(),
        **dict.fromkeys(("operators", "launches", "kernels", "gap")),
        "flop_an_image": cell.flop(live=not table),
    }
