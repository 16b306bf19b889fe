"""What the benchmark of real networks trains: networks, images, teachers; by fit, and by several fits side by side."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bcpd.bench.repdistiller_loop import Pictures
from bcpd.bench.stepping import EPOCHS
from bcpd.data import NORMALISATION, Images, InMemory
from bcpd.distill import KD, Supervised
from bcpd.nets import Views, build
from bcpd.seeds import generator
from bcpd.train import Fitted, PathMetrics, Progress, TeacherTable, fit, fit_side_by_side
from bcpd.train.execution import EAGER, Execution
from bcpd.train.recipe import Constant, Recipe
from bcpd.train.recipes import cifar100_published

__all__ = ["CAPTURED", "WHOLE", "Cell", "Glance", "Variant", "Work", "synthetic", "variants_of"]

WHOLE = 50_000
"""Images of CIFAR-100's training part."""

BFLOAT16 = Execution("bfloat16")
CAPTURED = Execution("bfloat16", graphs=True)
COMPILED = Execution("bfloat16", compile=True, graphs=True)

NORMALISE = NORMALISATION["cifar100"]
NOTHING_MEASURED = functools.partial(PathMetrics, only=())


def synthetic(count: int) -> Images:
    """Random images of CIFAR-100's size in bytes, with random labels."""
    stream = generator(0, "bench real", count)
    x = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=stream)
    return Images(x, torch.randint(0, 100, (count,), generator=stream), num_classes=100)


@dataclass(frozen=True)
class Cell:
    """A network that is trained, on labels or with a teacher.

    Attributes:
        student, teacher: names in :data:`bcpd.nets.NETS`; no teacher: cross-entropy, else KD.
        runs: numbers of trainings side by side that are measured, on CUDA.
        compiled: whether compiled variants are measured, on CUDA.
    """

    student: str
    teacher: str | None = None
    runs: tuple[int, ...] = ()
    compiled: bool = False

    @property
    def name(self) -> str:
        """Such as ``resnet56:resnet20``."""
        return self.student if self.teacher is None else f"{self.teacher}:{self.student}"

    def flop(self, live: bool = True) -> int:
        """Of an image and a step: three forward passes of the student, one of a live teacher."""
        taught = _forward_flop(self.teacher) if live and self.teacher is not None else 0
        return 3 * _forward_flop(self.student) + taught


@functools.cache
def _forward_flop(name: str) -> int:
    net = build(name, num_classes=100, input_shape=(3, 32, 32)).eval().to("meta")
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, 32, 32, device="meta"))
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Variant:
    """A way to train by fit.

    Attributes:
        execution: of the steps.
        table: whether the teacher is a table of its logits.
        runs: trainings side by side, at least 2; None: one, by :func:`bcpd.fit`.
    """

    execution: Execution = EAGER
    table: bool = False
    runs: int | None = None

    @property
    def name(self) -> str:
        """Such as ``fit, bfloat16, graphs, table, 4 runs``."""
        execution = self.execution
        parts = [
            "fit",
            "" if execution.precision == "float32" else {"tf32": "TF32"}.get(execution.precision, execution.precision),
            "graphs" * execution.graphs,
            "compile" * execution.compile,
            "table" * self.table,
            "" if self.runs is None else f"{self.runs} runs",
        ]
        return ", ".join(part for part in parts if part)


def variants_of(cell: Cell, device: str) -> list[Variant]:
    """The ways in which fit trains a cell, in the order of the table."""
    executions = [EAGER, BFLOAT16]
    if device == "cuda":
        executions += [Execution(graphs=True), Execution("tf32", graphs=True), CAPTURED]
        executions += [Execution(compile=True), COMPILED] * cell.compiled
    live = [Variant(execution) for execution in executions]
    table = [
        Variant(execution, table=True)
        for execution in executions
        if cell.teacher is not None and (device == "cpu" or execution in (EAGER, CAPTURED, COMPILED))
    ]
    several = [Variant(CAPTURED, cell.teacher is not None, runs) for runs in cell.runs if device == "cuda"]
    return [*live, *table, *several]


class Glance(nn.Module):
    """Stands in for a teacher that is tabulated: its logits are linear in an image's mean colour.

    A table is looked up in the same time whoever filled it.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, num_classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator(0, "glance")))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Views:
        colour = x.mean((2, 3))
        return Views(self.head(colour), colour, (), ())


class Work:
    """Images on a device, and the trainings on them.

    Args:
        images: 32 x 32 x 3.
        device: ``cpu`` or ``cuda``.
        batch: images a step.
        threads: of torch, in every training.
    """

    def __init__(self, images: Images, device: str, batch: int, threads: int) -> None:
        self.images, self.device, self.batch, self.threads = images, device, batch, threads

    def source(self, count: int) -> InMemory:
        """The first images, cropped, mirrored and normalised on the device."""
        x, y = (tensor.to(self.device) for tensor in self._first(count))
        classes = self.images.num_classes
        return InMemory(x, y, num_classes=classes, augment="crop-flip", normalise=NORMALISE)

    def pictures(self, count: int) -> Pictures:
        """The same for the baseline."""
        return Pictures(*self._first(count), NORMALISE)

    def _first(self, count: int) -> tuple[Tensor, Tensor]:
        if count > len(self.images):
            raise ValueError(f"{count} images are needed, received {len(self.images)}")
        return self.images.x[:count], self.images.y[:count]

    def network(self, name: str, layout: torch.memory_format = torch.contiguous_format, seed: int = 0) -> nn.Module:
        """Freshly initialised on the device; fit's own are channels last."""
        net = build(name, num_classes=self.images.num_classes, input_shape=(3, 32, 32), seed=seed)
        return net.to(device=self.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def teacher(self, cell: Cell, layout: torch.memory_format = torch.contiguous_format) -> nn.Module | None:
        """The cell's teacher, initialised by another seed than the student."""
        return None if cell.teacher is None else self.network(cell.teacher, layout, seed=1).eval().requires_grad_(False)

    def nets(self, cell: Cell, variant: Variant) -> list[nn.Module]:
        """Students for the runs of a variant."""
        return [self.network(cell.student, torch.channels_last) for _ in range(variant.runs or 1)]

    def table(self, source: InMemory) -> TeacherTable:
        """Full, by a stand-in (:class:`Glance`)."""
        table = TeacherTable(Glance(source.num_classes).to(self.device), source)
        table.fill()
        return table

    def fill_seconds(self, teacher: nn.Module, count: int) -> float:
        """Of the table of :data:`WHOLE` images, from all views of ``count``; on CUDA it is filled in bfloat16."""
        source = self.source(count)
        execution = BFLOAT16 if self.device == "cuda" else EAGER
        warm_up, timed = (TeacherTable(teacher, source, execution=execution) for _ in range(2))
        # not view by view, but in passes as large as those of many images
        image = torch.arange(count, device=self.device).repeat_interleave(source.num_views)
        view = torch.arange(source.num_views, device=self.device).repeat(count)
        warm_up.at(image, view)
        return self.seconds(functools.partial(timed.at, image, view)) * WHOLE / count

    def recipe(self, cell: Cell, epochs: int) -> Recipe:
        """The published one, in batches of this work and at the base rate throughout."""
        return replace(cifar100_published(cell.student, epochs), batch_size=self.batch, schedule=Constant())

    def optimizer(self, cell: Cell, net: nn.Module, rate: float | None = None) -> torch.optim.Optimizer:
        """The baseline's: torch's own SGD by that recipe."""
        (base,), (decay,) = self.recipe(cell, 1).rates(None), self.recipe(cell, 1).decays(None)
        return torch.optim.SGD(net.parameters(), lr=rate or base, momentum=0.9, weight_decay=decay)

    def seconds(self, call: Callable[[], object]) -> float:
        """Of a call, and of what it starts on the device."""
        self._wait()
        started = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def train(
        self,
        cell: Cell,
        variant: Variant,
        nets: Sequence[nn.Module],
        source: InMemory,
        teacher: nn.Module | None,
        epochs: int,
        progress: Callable[[int, Progress], None],
        *,
        rate: float | None = None,
        losses: Sequence[str] = ("ce",),
    ) -> list[Fitted]:
        """Train the networks of a variant by fit; nothing is measured after an epoch.

        Args:
            nets: of the variant's runs; run r has seed r.
            progress: told ``(run, progress)`` after every epoch of a run.
            rate: in place of the recipe's.
            losses: of runs without a teacher, in circles.
        """
        torch.set_num_threads(self.threads)
        recipe = self.recipe(cell, epochs)
        trainings: list[dict[str, Any]] = [
            {
                "net": net,
                "source": source,
                "method": Supervised(losses[run % len(losses)]) if teacher is None else KD(),
                "recipe": recipe if rate is None else replace(recipe, learning_rate=rate),
                "seed": run,
                "teacher": teacher,
                "device": self.device,
                "progress": functools.partial(progress, run),
                "metrics": NOTHING_MEASURED,
                "execution": variant.execution,
            }
            for run, net in enumerate(nets)
        ]
        return [fit(**trainings[0])] if variant.runs is None else fit_side_by_side(trainings)

    def train_in_step(
        self,
        cell: Cell,
        variant: Variant,
        nets: Sequence[nn.Module],
        source: InMemory,
        teacher: nn.Module | None,
        losses: Sequence[str],
        progress: Callable[[Progress], None],
    ) -> Fitted:
        """Train until it is stopped; of R runs, ``progress`` is told of every R epochs that are done.

        They take turns in one thread: while one of them reports, all wait.
        """
        told = 0

        def one(run: int, reported: Progress) -> None:
            nonlocal told
            told += 1
            if told % len(nets) == 0:
                progress(reported)

        return self.train(cell, variant, nets, source, teacher, EPOCHS, one, losses=losses)[0]
