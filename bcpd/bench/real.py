"""``bcpd bench real``: images a second that real networks learn from, by fit and by a loop shaped like RepDistiller's.

A **cell** is a network trained on labels, or a student with its teacher (KD). In it take turns, in whole epochs, the
last partial batch kept: the baseline (:mod:`bcpd.bench.repdistiller_loop`), and fit in each way of executing its steps,
with the live teacher and with the table of its logits, and on CUDA several fits side by side. Nothing is measured after
an epoch. Each way is first held equal to the baseline's steps (:mod:`bcpd.bench.real_check`); one that is not, or that
cannot be trained here, is named and left out. Rates and ratios are of wall time: the baseline's workers are processes
of their own, whose CPU time is not seen. Where the time of a command is bounded, cells are measured in several pieces.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import geometric_mean
from typing import Any

import torch

from bcpd.bench.programme import Programme, project
from bcpd.bench.real_cell import CellBench, Report, count
from bcpd.bench.real_check import TOLERANCE
from bcpd.bench.real_goals import judged
from bcpd.bench.real_work import CAPTURED, WHOLE, Cell, Work, synthetic
from bcpd.bench.repdistiller_loop import loader, workers_here
from bcpd.bench.timing import interleaved, machine, matmul_rate
from bcpd.data import Images, read_cifar
from bcpd.train import Execution
from bcpd.train.execution import Precision

__all__ = ["PROGRAMME", "SCALES", "Scale", "product_rate", "run"]

KIND = "bench real"
"""Of result."""

PROGRAMME = "programme"
"""Its name among the cells."""

SMALLEST_PRODUCT, LONG_PRODUCT = 256, 0.01
"""Rows of the first matrices tried, and seconds of a product after which no larger ones are."""

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        cells: in their order.
        images: of an epoch.
        batch: images a step.
        turn: seconds that a turn of a variant lasts at least: in it go as many whole epochs as that takes.
        filled: images of which all views are computed to see how long the filling of a table takes.
        programme: what is projected, on CUDA only.
        seconds: of a piece: no cell is begun that, taking as long as the longest one until then, would not be done by
            then.
        cuda: whether it makes sense on CUDA only.
    """

    cells: tuple[Cell, ...]
    images: int
    batch: int = 64
    turn: float = 0.5
    filled: int = 64
    programme: Programme | None = None
    seconds: float | None = None
    cuda: bool = False

    @property
    def names(self) -> list[str]:
        """What can be measured: the cells, and the programme."""
        return [*(cell.name for cell in self.cells), *([PROGRAMME] if self.programme is not None else [])]


RUNS = (2, 4, 8)

SCALES: dict[str, Scale] = {
    "smoke": Scale((Cell("resnet8x0.5"), Cell("resnet8x0.5", "resnet8x0.5")), 72, batch=16, turn=0.0, filled=1),
    "laptop": Scale((Cell("resnet8"), Cell("resnet20"), Cell("resnet8x4"), Cell("resnet8", "resnet20")), 400, filled=8),
    "full": Scale(
        (
            Cell("resnet20", runs=RUNS, compiled=True),
            Cell("resnet8x4", "resnet32x4", runs=RUNS, compiled=True),
            Cell("resnet20", "resnet56", runs=RUNS),
            Cell("resnet56", runs=RUNS),
            Cell("wrn_40_2", runs=RUNS[:2]),
            Cell("resnet32x4", runs=RUNS[:2]),
        ),
        12_816,  # 200 batches and a last one of 16, as the 50,000 images have it
        programme=Programme("resnet56", "resnet20", CAPTURED, WHOLE),
        seconds=450,
        cuda=True,
    ),
}


def run(
    rounds: int = 5,
    scale: str | Scale = "laptop",
    device: str = "cpu",
    data: os.PathLike[str] | str | None = None,
    cells: Sequence[str] | None = None,
    progress: Report | None = None,
    earlier: Result | None = None,
    keep: Callable[[Result], None] | None = None,
) -> dict[str, Any]:
    """Measure; see the module.

    Args:
        rounds: of every cell, at least 1; each variant has a turn in each.
        scale: a name in :data:`SCALES`, or a scale.
        device: ``cpu``, with all of torch's threads, or ``cuda``.
        data: the folder of CIFAR-100, whose first training images are taken; None: random images in its place.
        cells: names of those to measure, such as ``resnet20`` and ``resnet56:resnet20``, and ``programme``; None: all
            of the scale that ``earlier`` has not.
        progress: told ``(stage, done, total)``.
        earlier: what an earlier piece of the same benchmark returned: its cells are kept, but for those named.
        keep: given what is known, at first and after each cell.
    Returns:
        JSON-able: ``rows``, one for each cell and variant (``images_per_second`` of all its runs, ``ratio`` over the
        cell's baseline, ``gflops`` and the ``share_of_peak`` that they are of the matrix rate in the row's precision
        (or in float32, where that is faster),
        ``memory_bytes`` at most beyond images, teacher and table, what a step launches: ``operators`` on the CPU,
        ``launches`` and ``kernels`` on CUDA, and the ``gap`` of the check; None: not known); ``failed``, variants
        without a row and why; ``cells``, with the seconds that the table of 50,000 images takes to fill;
        ``geometric_means`` of the ratios over the networks trained on labels, by variant; ``programme``
        (:func:`bcpd.bench.programme.project`) or None; ``goals`` (:func:`bcpd.bench.real_goals.judged`); ``left_out``,
        the cells that time did not allow; what the baseline is, where it was measured, and in which ``pieces``.
    Raises:
        ValueError: an unknown scale, cell or device, no rounds, too few images, or an earlier piece under other
            conditions.
    """
    if isinstance(scale, str) and scale not in SCALES:
        raise ValueError(f"scale must be one of {sorted(SCALES)}, received {scale!r}")
    settings = SCALES[scale] if isinstance(scale, str) else scale
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, received {rounds}")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, received {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no CUDA device; use cpu")
    if settings.cuda and device != "cuda":
        raise ValueError(f"scale {scale} is for one CUDA device, received device {device}; use laptop")
    unknown = [name for name in cells or () if name not in settings.names]
    if unknown:
        raise ValueError(f"cells must be some of {', '.join(settings.names)}; received {', '.join(unknown)}")
    conditions = {
        "kind": KIND,
        "scale": scale if isinstance(scale, str) else "own",
        "data": "cifar100" if data else "random",
        "device": device,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "images": settings.images,
        "batch": settings.batch,
        "baseline": {
            "workers": workers_here(device),
            "precision": "float32",
            "cudnn_benchmark": device == "cuda",
            "convolutions": "TF32" if device == "cuda" else "float32",
            "memory_format": "channels first",
        },
        "memory_format": "channels last",
        "tolerance": dict(TOLERANCE),
    }
    bench = _Bench(settings, conditions, earlier, progress or _silent, keep or _unkept)
    chosen = [name for name in settings.names if (name in cells if cells is not None else name not in bench.known)]
    if chosen or bench.uncounted:
        work = Work(_images(settings, chosen, data), device, settings.batch, torch.get_num_threads())
        if chosen:
            bench.measure(chosen, work)
        bench.count(work)
    return bench.result()


def _images(settings: Scale, chosen: Sequence[str], data: os.PathLike[str] | str | None) -> Images:
    wanted = settings.images
    if settings.programme is not None and PROGRAMME in chosen:
        wanted = max(wanted, settings.programme.images)
    if data is None:
        return synthetic(wanted)
    images = read_cifar(data, "cifar100", "train")
    if len(images) < wanted:
        raise ValueError(f"the scale needs {wanted} images, received a folder with {len(images)}")
    return replace(images, x=images.x[:wanted], y=images.y[:wanted])


def _silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def _unkept(found: Result) -> None:
    """Keep nothing."""


def product_rate(precision: Precision, device: str, size: int) -> float:
    """FLOP/s of a square product with inputs of a precision: what no network is faster than in it.

    In bfloat16 the product is smaller than ``size`` where it would take long: not every CPU has instructions for it.
    """
    if precision != "bfloat16":
        with Execution(precision).products(torch.device(device)):
            return matmul_rate(device, size)
    rows = SMALLEST_PRODUCT
    while True:
        left, right = (torch.randn(rows, rows, device=device, dtype=torch.bfloat16) for _ in range(2))
        output = torch.empty_like(left)
        timing = interleaved({"product": partial(torch.mm, left, right, out=output)}, 5)["product"]
        if rows >= size or timing.best > LONG_PRODUCT:
            return 2 * rows**3 / timing.best
        rows *= 2


class _Bench:
    """What is known until now, from an earlier piece and from this one."""

    def __init__(
        self,
        scale: Scale,
        conditions: Mapping[str, Any],
        earlier: Result | None,
        report: Report,
        keep: Callable[[Result], None],
    ) -> None:
        self.scale, self.conditions, self.report, self.keep = scale, conditions, report, keep
        self.started, self.machine = time.perf_counter(), machine(conditions["device"])
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.failed: dict[str, list[dict[str, Any]]] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.programme: dict[str, Any] | None = None
        self.left_out: list[str] = []
        self.pieces: list[dict[str, Any]] = []
        if earlier is not None:
            self._take(earlier)

    @property
    def known(self) -> list[str]:
        """What has been measured."""
        return [*self.about, *([PROGRAMME] if self.programme is not None else [])]

    @property
    def uncounted(self) -> list[Cell]:
        """Measured cells of which it has not been looked at what a step launches."""
        return [cell for cell in self.scale.cells if not self.about.get(cell.name, {}).get("counted", True)]

    def _take(self, earlier: Any) -> None:
        kind = earlier.get("kind") if isinstance(earlier, Mapping) else type(earlier).__name__
        if kind != KIND:
            raise ValueError(f"the earlier piece must be a result of bcpd bench real, received {kind}")
        wanted = {**self.conditions, "machine": _lasting(self.machine)}
        found = {**earlier, "machine": _lasting(earlier.get("machine", {}))}
        other = [name for name, value in wanted.items() if found.get(name) != value]
        if other:
            raise ValueError(
                f"the earlier piece is of another benchmark, machine or version: its {', '.join(other)} "
                f"{'is' if len(other) == 1 else 'are'} not the same; write this one elsewhere"
            )
        for about in earlier["cells"]:
            name = about["cell"]
            self.about[name] = about
            self.rows[name] = [row for row in earlier["rows"] if row["cell"] == name]
            self.failed[name] = [row for row in earlier["failed"] if row["cell"] == name]
        self.programme, self.pieces = earlier["programme"], list(earlier["pieces"])

    def _allowed(self, seconds: float) -> bool:
        return self.scale.seconds is None or time.perf_counter() - self.started + seconds <= self.scale.seconds

    def measure(self, chosen: Sequence[str], work: Work) -> None:
        """Measure what is named, as far as time allows."""
        self.keep(self.result())  # a place that cannot be written is found now
        self.report("matrix products", 0, 1)
        scale, cuda = self.scale, work.device == "cuda"
        precisions: tuple[Precision, ...] = ("float32", "tf32", "bfloat16") if cuda else ("float32", "bfloat16")
        peaks = {precision: product_rate(precision, work.device, 8192 if cuda else 2048) for precision in precisions}
        batches = loader(work.pictures(scale.images), scale.batch, self.conditions["baseline"]["workers"])
        # a CPU without instructions for bfloat16 is faster in float32
        reached = {**peaks, "bfloat16": max(peaks["float32"], peaks["bfloat16"])}
        bench = CellBench(work, batches, scale.images, scale.turn, scale.filled, self.conditions["rounds"], reached)
        cells = {cell.name: cell for cell in scale.cells}
        done: list[str] = []
        piece: dict[str, Any] = {
            "cells": done,
            "matmul_gflops": {precision: rate / 1e9 for precision, rate in peaks.items()},
            "load": self.machine["load"],
        }
        self.pieces.append(piece)
        longest = 0.0
        for number, name in enumerate(chosen):
            if not self._allowed(longest):
                self.left_out.append(name)
                continue
            begun = time.perf_counter()
            report = partial(self._report, f"{name} ({number + 1} of {len(chosen)})")
            if name == PROGRAMME:
                assert scale.programme is not None
                self.programme = project(scale.programme, work, scale.filled, report)
            else:
                found = bench.measure(cells[name], report)
                self.rows[name], self.failed[name] = found.rows, found.failed
                self.about[name] = {**found.about, "counted": False}
            longest = max(longest, time.perf_counter() - begun)
            done.append(name)
            piece["seconds"] = time.perf_counter() - self.started
            self.keep(self.result())

    def count(self, work: Work) -> None:
        """Look at what steps launch, as far as time allows; a device that cannot be looked at is named."""
        for cell in self.uncounted:
            if not self._allowed(0.0):
                return
            self.report(f"{cell.name}, launches", 0, 1)
            try:
                count(work, cell, self.rows[cell.name])
            except RuntimeError as error:
                self.failed[cell.name].append({"cell": cell.name, "variant": "launches a step", "error": str(error)})
            self.about[cell.name]["counted"] = True
            self.keep(self.result())

    def _report(self, cell: str, what: str, done: int, total: int) -> None:
        self.report(f"{cell}, {what}", done, total)

    def result(self) -> dict[str, Any]:
        """All of it."""
        names = [cell.name for cell in self.scale.cells if cell.name in self.about]
        rows = [row for name in names for row in self.rows[name]]
        result = {
            **self.conditions,
            "busy": any(row["busy"] for row in rows),
            "rows": rows,
            "failed": [row for name in names for row in self.failed[name]],
            "cells": [self.about[name] for name in names],
            "geometric_means": _means(rows),
            "programme": self.programme,
            "left_out": self.left_out,
            "pieces": self.pieces,
            "machine": self.machine,
        }
        return result | {"goals": judged(result)}


def _lasting(machine: Mapping[str, Any]) -> dict[str, Any]:
    """What of a machine is the same in all pieces."""
    return {name: value for name, value in machine.items() if name != "load"}


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the ratios of networks that are trained on labels, for the variants that all of them have."""
    ratios: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["teacher"] is None:
            ratios.setdefault(row["variant"], {})[row["cell"]] = row["ratio"]
    most = max(map(len, ratios.values()), default=0)
    return {variant: geometric_mean(found.values()) for variant, found in ratios.items() if len(found) == most}
