"""What ``bcpd bench real`` is meant to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any, Literal

from bcpd.bench.repdistiller_loop import NAME

__all__ = ["GOALS", "Goal", "judged"]

Result = Mapping[str, Any]
Found = tuple[float, str] | None
"""A value and the row, or rows, it is from; None: not measured."""


@dataclass(frozen=True)
class Goal:
    """A bound on one number of a result.

    Attributes:
        what: it is of.
        device: that it is about.
        bound: that is to be reached.
        kind: whether the number must be at ``least`` or at ``most`` the bound.
        unit: of the number.
        find: it in a result.
    """

    what: str
    device: Literal["cpu", "cuda"]
    bound: float
    kind: Literal["least", "most"]
    unit: str
    find: Callable[[Result], Found]


def _fastest(cell: str, table: bool = False) -> Callable[[Result], Found]:
    """The highest ratio of fit in a cell, whatever its runs; that of one run is said beside it."""

    def find(result: Result) -> Found:
        rows = [row for row in result["rows"] if row["cell"] == cell and row["table"] == table]
        ours = sorted((row for row in rows if row["variant"] != NAME), key=lambda row: row["ratio"])
        if not ours:
            return None
        best, alone = ours[-1], [row for row in ours if row["runs"] == 1]
        beside = f"; one run alone {alone[-1]['ratio']:.2f}, {alone[-1]['variant']}" if alone else ""
        return best["ratio"], best["variant"] + (beside if best["runs"] > 1 else "")

    return find


def _mean(variant: str, cells: tuple[str, ...]) -> Callable[[Result], Found]:
    """The geometric mean of a variant's ratios over cells."""

    def find(result: Result) -> Found:
        ratios = {row["cell"]: row["ratio"] for row in result["rows"] if row["variant"] == variant}
        if not set(cells) <= ratios.keys():
            return None
        return geometric_mean([ratios[cell] for cell in cells]), variant

    return find


def _minutes(name: str) -> Callable[[Result], Found]:
    def find(result: Result) -> Found:
        programme = result["programme"]
        if programme is None or programme["name"] != name:
            return None
        way, minutes = min(programme["minutes"].items(), key=lambda item: item[1])
        return minutes, f"projected, {way.replace('_', ' ')}"

    return find


_SMALL = ("resnet8", "resnet20", "resnet8x4")

GOALS: tuple[Goal, ...] = (
    Goal("resnet20", "cuda", 10, "least", "times the baseline", _fastest("resnet20")),
    Goal(
        "resnet32x4 -> resnet8x4, live teacher",
        "cuda",
        4,
        "least",
        "times the baseline",
        _fastest("resnet32x4:resnet8x4"),
    ),
    Goal(
        "resnet32x4 -> resnet8x4, table",
        "cuda",
        6,
        "least",
        "times the baseline",
        _fastest("resnet32x4:resnet8x4", table=True),
    ),
    Goal(
        "resnet56 -> resnet20, CE and MSE teachers and 3 students each, 240 epochs",
        "cuda",
        45,
        "most",
        "minutes",
        _minutes("resnet56:resnet20"),
    ),
    Goal(
        f"{', '.join(_SMALL)} in float32, geometric mean",
        "cpu",
        1.2,
        "least",
        "times the baseline",
        _mean("fit", _SMALL),
    ),
    Goal(
        f"{', '.join(_SMALL)} in bfloat16, geometric mean",
        "cpu",
        1.8,
        "least",
        "times the baseline",
        _mean("fit, bfloat16", _SMALL),
    ),
)


def judged(result: Result) -> list[dict[str, Any]]:
    """Each goal of the result's device: what was found, by which row, and whether it ``reached`` the bound.

    ``value``, ``by`` and ``reached`` are None where it was not measured.
    """
    rows = []
    for goal in GOALS:
        if goal.device != result["device"]:
            continue
        found = goal.find(result)
        value, by = found or (None, None)
        reached = None if value is None else (value >= goal.bound if goal.kind == "least" else value <= goal.bound)
        rows.append(
            {
                "goal": goal.what,
                "bound": goal.bound,
                "kind": goal.kind,
                "unit": goal.unit,
                "value": value,
                "by": by,
                "reached": reached,
            }
        )
    return rows
