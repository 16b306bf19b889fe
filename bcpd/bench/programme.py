"""How long a whole pair takes: CE and MSE teachers and the students of each, projected from epochs that were measured.

One run after another, and side by side: the two teachers together, then all students together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

from bcpd.bench.real_work import Cell, Variant, Work
from bcpd.bench.stepping import stepwise
from bcpd.train import Execution
from bcpd.train.recipes import CIFAR_EPOCHS

__all__ = ["Programme", "project"]

LOSSES = ("ce", "mse")
WARM_UP = 2
"""Epochs before those that count, after the first."""


@dataclass(frozen=True)
class Programme:
    """What is projected.

    Attributes:
        teacher, student: names in :data:`bcpd.nets.NETS`.
        execution: of all steps.
        images: of an epoch.
        students: of each of the two teachers.
        epochs: of every training.
        measured: epochs of each part, of which the median counts.
    """

    teacher: str
    student: str
    execution: Execution
    images: int
    students: int = 3
    epochs: int = CIFAR_EPOCHS
    measured: int = 5

    @property
    def name(self) -> str:
        """Such as ``resnet56:resnet20``."""
        return f"{self.teacher}:{self.student}"


def project(programme: Programme, work: Work, filled: int, report: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Measure epochs of each part and add them up; students look their teachers up in tables.

    Args:
        programme: what.
        work: with at least the programme's images.
        filled: images from whose views the time of filling a table is told.
        report: told ``(part, done, parts)`` before each of them.
    Returns:
        JSON-able: ``parts``, the seconds of each measured epoch; ``minutes``, of the programme one run after another
        (``alone``) and ``side_by_side``; and what it consists of. What is measured after epochs is not in it.
    """
    source = work.source(programme.images)
    table = work.table(source)
    teacher, student = Cell(programme.teacher), Cell(programme.student, programme.teacher)
    several = 2 * programme.students
    plan: dict[str, tuple[Cell, Sequence[str], int | None]] = {
        "ce_teacher": (teacher, ("ce",), None),
        "mse_teacher": (teacher, ("mse",), None),
        "student": (student, ("ce",), None),
        "two_teachers": (teacher, LOSSES, 2),
        "all_students": (student, ("ce",), several),
    }
    parts: dict[str, list[float]] = {}
    for number, (part, (cell, losses, runs)) in enumerate(plan.items()):
        report(part.replace("_", " "), number, len(plan) + 1)
        taught = table if cell.teacher else None
        variant = Variant(programme.execution, cell.teacher is not None, runs)
        train = partial(work.train_in_step, cell, variant, work.nets(cell, variant), source, taught, losses)
        with stepwise(train) as advance:
            seconds = [work.seconds(advance) for _ in range(WARM_UP + programme.measured)]
        parts[part] = seconds[WARM_UP:]
    report("table", len(plan), len(plan) + 1)
    asked = work.teacher(student, torch.channels_last)
    assert asked is not None
    fill_seconds = work.fill_seconds(asked, filled)
    ce, mse, one, two, together = (median(seconds) for seconds in parts.values())
    return {
        "name": programme.name,
        "epochs": programme.epochs,
        "images": programme.images,
        "students": several,
        "execution": programme.execution.describe(),
        "parts": parts,
        "fill_seconds": fill_seconds,
        "minutes": {
            "alone": (programme.epochs * (ce + mse + several * one) + 2 * fill_seconds) / 60,
            "side_by_side": (programme.epochs * (two + together) + 2 * fill_seconds) / 60,
        },
    }
