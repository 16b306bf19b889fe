"""Cells, the protocol they share, lines and pairs of cells, and the sizes of the map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal

import torch

from bcpd.mixtures import GaussianMixture, LabelNoise, Mixture, StudentMixture, Superclasses, paper_toy

__all__ = ["SCALES", "Cell", "Line", "Map", "Pair", "Protocol"]


@dataclass(frozen=True)
class Cell:
    """One setting of all factors; the defaults are the base cell.

    Attributes:
        train: labelled points of a draw, the validation part included.
        bayes_error: of the clean classes; the mixture is tuned to it.
        num_classes: K.
        width, depth: of the hidden layers, of teacher and student; depth 0 is the linear softmax.
        label_noise: rate of symmetric noise. p* is then that of the noisy labels, which all distances refer to; the
            columns ``clean_*`` refer to the labels before the noise.
        outliers: share of every class that lies at three times the mean of the next class, which a linear softmax
            cannot follow.
        degrees: of freedom of Student's t in place of the Gaussian; 0 for the Gaussian.
        epochs: of teacher and student.
        unlabelled: further points that the student alone sees, with the teacher's rows.
        label_weight: w of the student's target w e_y + (1 - w) q on labelled points.
        superclasses: groups that the classes are merged into; 0 for none.
    """

    train: int = 2000
    bayes_error: float = 0.4
    num_classes: int = 10
    width: int = 128
    depth: int = 2
    label_noise: float = 0.0
    outliers: float = 0.0
    degrees: float = 0.0
    epochs: int = 30
    unlabelled: int = 0
    label_weight: float = 0.0
    superclasses: int = 0

    def __post_init__(self) -> None:
        least: dict[str, float] = {"train": 20, "num_classes": 2, "width": 1, "depth": 0, "epochs": 1, "unlabelled": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, received {getattr(self, name)}")
        for name in ("label_noise", "outliers", "label_weight"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), received {getattr(self, name)}")
        if not 0 < self.bayes_error < 1:
            raise ValueError(f"bayes_error must lie in (0, 1), received {self.bayes_error}")
        if self.superclasses and not 2 <= self.superclasses <= self.num_classes:
            raise ValueError(f"superclasses must be 0, or 2 to {self.num_classes}, received {self.superclasses}")
        if self.degrees and self.outliers:
            raise ValueError("degrees and outliers are two misspecifications; one of them must be 0")
        if self.superclasses and self.label_noise:
            raise ValueError("superclasses and label_noise must not be combined: the clean labels would be lost")

    @property
    def name(self) -> str:
        """How it differs from the base cell: ``train=500, epochs=100``; ``base`` for the base cell."""
        changed = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return ", ".join(f"{name}={value:g}" for name, value in changed) or "base"

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return (self.width,) * self.depth

    @property
    def labels(self) -> int:
        """Classes that the networks see."""
        return self.superclasses or self.num_classes

    @property
    def world(self) -> dict[str, Any]:
        """What the mixture depends on."""
        names = ("bayes_error", "num_classes", "label_noise", "outliers", "degrees", "superclasses")
        return {name: getattr(self, name) for name in names}

    def mixture(self, dimension: int, variance: float, seed: int) -> Mixture:
        """The mixture, tuned to the Bayes error before noise and superclasses.

        Raises:
            ValueError: a Bayes error that the classes cannot have.
        """
        mixture: Mixture = _clean(
            self.num_classes, self.bayes_error, self.outliers, self.degrees, dimension, variance, seed
        )
        if self.label_noise:
            mixture = LabelNoise.symmetric(mixture, self.label_noise)
        if self.superclasses:
            groups = [k * self.superclasses // self.num_classes for k in range(self.num_classes)]
            mixture = Superclasses(mixture, groups)
        return mixture


@lru_cache(maxsize=8)
def _clean(
    classes: int, bayes_error: float, outliers: float, degrees: float, dimension: int, variance: float, seed: int
) -> Mixture:
    means = paper_toy(classes, dimension, 1.0, variance, seed).means[:, 0]
    if outliers:
        both = torch.stack([means, 3 * means.roll(-1, 0)], 1)
        return GaussianMixture(both, variance, weights=[[1 - outliers, outliers]] * classes).tuned(bayes_error)
    if degrees:
        return StudentMixture(means, variance, degrees).tuned(bayes_error)
    return GaussianMixture(means, variance).tuned(bayes_error)


@dataclass(frozen=True)
class Protocol:
    """What all cells share.

    Attributes:
        teacher_rates, student_rates: ends of the grids of learning rates in the base cell, the same for every loss;
            :meth:`rates` says how they move. rates_per_decade: of both.
        tuning_draws: least number of draws that rates are chosen on; small cells take more, until ``tuning_points``
            labelled points are seen, but at most ``most_tuning_draws``.
        validation: share of the labelled points held back.
        select: points with known p* that choose path minima; ``fresh``: those that every number is reported on.
        block: most draws of one task. ensemble, folds: of the control arms. smoothing: epsilon of label smoothing.
        student_noise: u of the rows u e_y + (1 - u) p* that the students' rate is tuned on.
        equality_draws: of the equality control, in float64; ``equality_decay``: its weight decay.
    """

    teacher_rates: tuple[float, float] = (0.000316, 0.0178)
    student_rates: tuple[float, float] = (0.001, 0.0316)
    rates_per_decade: int = 4
    tuning_draws: int = 2
    tuning_points: int = 6000
    most_tuning_draws: int = 8
    validation: float = 0.2
    select: int = 500
    fresh: int = 3000
    batch_size: int = 32
    block: int = 4
    ensemble: int = 5
    folds: int = 5
    smoothing: float = 0.1
    student_noise: float = 0.4
    equality_draws: int = 2
    equality_decay: float = 5e-4
    dimension: int = 30
    variance: float = 6.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("teacher_rates", "student_rates"):  # JSON has lists
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be a range of positive rates, received {getattr(self, name)}")
            object.__setattr__(self, name, (low, high))
        least = {
            "rates_per_decade": 1,
            "tuning_draws": 1,
            "select": 2,
            "fresh": 2,
            "batch_size": 1,
            "block": 1,
            "ensemble": 2,
            "folds": 2,
        }
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, received {getattr(self, name)}")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must be a share in (0, 1), received {self.validation}")

    def sizes(self, cell: Cell) -> tuple[int, int]:
        """Training and validation points among the cell's labelled ones."""
        held = round(self.validation * cell.train)
        return cell.train - held, held

    def rates(self, cell: Cell, role: Literal["teacher", "student"]) -> tuple[float, ...]:
        """The grid of a cell.

        That of the base cell times (steps of the base cell / steps) ** 0.8, in whole steps of the grid: a short
        training wants a large rate, whatever the loss.
        """
        ends = self.teacher_rates if role == "teacher" else self.student_rates
        points = self.sizes(cell)[0] + (cell.unlabelled if role == "student" else 0)
        steps = cell.epochs * math.ceil(points / self.batch_size)
        shift = round(self.rates_per_decade * 0.8 * math.log10(STEPS_OF_BASE / steps))
        low, high = (round(self.rates_per_decade * math.log10(end)) + shift for end in ends)
        return tuple(float(f"{10 ** (place / self.rates_per_decade):.3g}") for place in range(low, high + 1))

    def next_rates(self, rate: float) -> tuple[float, float]:
        """The rates a step of the grid below and above."""
        factor = 10 ** (1 / self.rates_per_decade)
        return float(f"{rate / factor:.3g}"), float(f"{rate * factor:.3g}")

    def draws_to_tune(self, cell: Cell, role: Literal["teacher", "student"] = "teacher") -> int:
        """Tuning draws of a cell; half as many for students, whose scores hang less on the rate."""
        wanted = min(self.most_tuning_draws, math.ceil(self.tuning_points / cell.train))
        return max(self.tuning_draws, wanted if role == "teacher" else math.ceil(wanted / 2))


STEPS_OF_BASE = 1500
"""30 epochs over 1600 points in batches of 32."""

Scale = Literal["log", "linear", "category"]


@dataclass(frozen=True)
class Line:
    """Cells along one factor. ``levels`` are numbers, or texts where the scale is ``category``."""

    factor: str
    label: str
    scale: Scale
    levels: tuple[float | str, ...]
    cells: tuple[Cell, ...]

    def record(self, base_cell: Cell) -> dict[str, Any]:
        """For the results."""
        names = [cell.name for cell in self.cells]
        base = self.cells.index(base_cell) if base_cell in self.cells else None
        plain = {"factor": self.factor, "label": self.label, "scale": self.scale, "levels": list(self.levels)}
        return {**plain, "cells": names, "base": base}


@dataclass(frozen=True)
class Pair:
    """Cells over two factors; ``cells[j][i]`` at level i of x and j of y."""

    x: Line
    y: Line
    title: str
    cells: tuple[tuple[Cell, ...], ...]

    @property
    def id(self) -> str:
        return f"{self.x.factor}-{self.y.factor}"

    def record(self) -> dict[str, Any]:
        """For the results."""
        axes = {
            axis: {"factor": line.factor, "label": line.label, "scale": line.scale, "levels": list(line.levels)}
            for axis, line in (("x", self.x), ("y", self.y))
        }
        names = [[cell.name for cell in row] for row in self.cells]
        return {"id": self.id, "title": self.title, **axes, "cells": names}


_LABELS: Mapping[str, tuple[str, Scale]] = {
    "train": ("labelled points", "log"),
    "bayes_error": ("Bayes error", "linear"),
    "num_classes": ("classes (Bayes error 0.2)", "log"),
    "width": ("width of the hidden layers", "log"),
    "depth": ("hidden layers", "linear"),
    "label_noise": ("rate of symmetric label noise", "linear"),
    "outliers": ("share of outlying points, linear softmax", "linear"),
    "epochs": ("epochs", "log"),
}


def line(factor: str, levels: tuple[float, ...], base: Cell = Cell()) -> Line:
    """Cells that differ from ``base`` in one factor."""
    label, scale = _LABELS[factor]
    return Line(factor, label, scale, levels, tuple(_with(base, factor, level) for level in levels))


def _with(cell: Cell, factor: str, level: float) -> Cell:
    changed: dict[str, Any] = {factor: level}
    return replace(cell, **changed)


def pair(x: Line, y: Line, title: str) -> Pair:
    """All combinations of two lines."""
    rows = [[_with(cell, x.factor, getattr(other, x.factor)) for other in x.cells] for cell in y.cells]
    return Pair(x, y, title, tuple(map(tuple, rows)))


@dataclass(frozen=True)
class Map:
    """A map: lines, pairs and settings around a base cell, and the protocol.

    Attributes:
        base: the cell that the lines go through.
        draws: of every cell; ``base_draws`` of the base cell.
        settings: toy versions of the paper's other settings, as (title, line).
        controls: cells that have the control arms.
    """

    scale: str
    protocol: Protocol
    base: Cell
    draws: int
    base_draws: int
    lines: tuple[Line, ...]
    pairs: tuple[Pair, ...]
    settings: tuple[tuple[str, Line], ...]
    controls: tuple[Cell, ...]

    def __post_init__(self) -> None:
        for name in ("draws", "base_draws"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, received {getattr(self, name)}")
        missing = [cell.name for cell in self.controls if cell not in self.cells]
        if missing:
            raise ValueError(f"control arms were asked for cells that are not in the map: {missing}")

    @property
    def cells(self) -> list[Cell]:
        """Every cell once, the base cell first."""
        return list(dict.fromkeys(self._all()))

    def _all(self) -> Iterator[Cell]:
        yield self.base
        for found in (*self.lines, *(found for _, found in self.settings)):
            yield from found.cells
        for both in self.pairs:
            for row in both.cells:
                yield from row

    def draws_of(self, cell: Cell) -> int:
        """Draws of a cell."""
        return self.base_draws if cell == self.base else self.draws

    def describe(self) -> dict[str, Any]:
        """JSON-able settings; the results list the cells by themselves."""
        return {
            "scale": self.scale,
            "base": self.base.name,
            "draws": self.draws,
            "base_draws": self.base_draws,
            "controls": [cell.name for cell in self.controls],
            "protocol": asdict(self.protocol),
        }


def _misspecification(base: Cell) -> Line:
    """Worlds that the linear softmax can or cannot follow, for it and for the base network."""
    levels, cells = [], []
    for depth, net in ((base.depth, "MLP"), (0, "linear")):
        for world, outliers, degrees in (("Gaussian", 0.0, 0.0), ("outliers", 0.1, 0.0), ("Student t", 0.0, 3.0)):
            levels.append(f"{world}, {net}")
            cells.append(replace(base, depth=depth, outliers=outliers, degrees=degrees))
    return Line("misspecification", "world and network", "category", tuple(levels), tuple(cells))


def _semi_supervised(points: int, shares: tuple[float, ...], base: Cell) -> tuple[str, Line]:
    cells = []
    for share in shares:
        labelled = round(share * points)
        cells.append(replace(base, train=labelled, unlabelled=points - labelled, label_weight=0.1))
    title = f"semi-supervised: {points} points, labels for a share of them, the others distilled only"
    return title, Line("semi-supervised", "labelled share", "log", shares, tuple(cells))


def _binary(base: Cell, sizes: tuple[int, ...]) -> tuple[str, Line]:
    cells = tuple(replace(base, train=size, superclasses=2) for size in sizes)
    title = f"binary: {base.num_classes} classes merged into two"
    return title, Line("binary", "labelled points", "log", sizes, cells)


def _laptop(draws: int = 8, base_draws: int = 12, protocol: Protocol = Protocol(), scale: str = "laptop") -> Map:
    base, linear = Cell(), Cell(depth=0)
    few, shares = (250, 500, 2000), (0.0, 0.1, 0.2)
    lines = (
        line("train", (250, 500, 1000, 2000, 4000)),
        line("bayes_error", (0.1, 0.2, 0.4, 0.6)),
        line("num_classes", (2, 5, 10, 30), Cell(bayes_error=0.2)),
        line("width", (16, 48, 128)),
        line("depth", (0, 1, 2, 3)),
        line("label_noise", (0.0, 0.1, 0.2, 0.4)),
        line("epochs", (5, 10, 30, 100)),
        line("outliers", shares, linear),
        _misspecification(base),
    )
    errors = line("bayes_error", (0.1, 0.2, 0.4, 0.6))
    pairs = (
        pair(line("train", few), errors, "labelled points and Bayes error"),
        pair(line("train", few), line("epochs", (5, 10, 30, 100)), "labelled points and epochs"),
        pair(line("train", few), line("label_noise", (0.0, 0.2, 0.4)), "labelled points and label noise"),
        pair(
            line("train", (250, 1000, 4000), linear),
            line("outliers", shares, linear),
            "labelled points and outlying points, linear softmax",
        ),
    )
    settings = (_semi_supervised(2000, (0.1, 0.3, 1.0), base), _binary(base, (500, 1000, 2000)))
    controls = (
        base,
        Cell(train=250, epochs=100),
        Cell(depth=0, outliers=0.1),
        Cell(train=500, label_noise=0.4),
        Cell(train=500, superclasses=2),
    )
    return Map(scale, protocol, base, draws, base_draws, lines, pairs, settings, controls)


def _smoke() -> Map:
    base = Cell(train=200, epochs=4, width=16, num_classes=5)
    linear = replace(base, depth=0)
    protocol = Protocol(
        teacher_rates=(0.001, 0.01),
        student_rates=(0.01, 0.1),
        rates_per_decade=2,
        tuning_draws=1,
        tuning_points=200,
        select=100,
        fresh=400,
        block=3,
        ensemble=2,
        folds=2,
        equality_draws=2,
    )
    lines = (
        line("train", (100, 200, 400), base),
        line("label_noise", (0.0, 0.2, 0.4), base),
        line("outliers", (0.0, 0.1, 0.2), linear),
    )
    pairs = (pair(line("train", (100, 200), base), line("epochs", (2, 4), base), "labelled points and epochs"),)
    settings = (_semi_supervised(200, (0.25, 0.5), base), _binary(base, (100, 200)))
    return Map("smoke", protocol, base, 3, 3, lines, pairs, settings, (base,))


SCALES: Mapping[str, Map] = {
    "smoke": _smoke(),
    "laptop": _laptop(),
    "full": _laptop(
        40,
        40,
        Protocol(
            teacher_rates=(0.000178, 0.0562),
            student_rates=(0.000562, 0.1),
            tuning_draws=6,
            tuning_points=20_000,
            most_tuning_draws=20,
            select=2000,
            fresh=20_000,
        ),
        "full",
    ),
}
