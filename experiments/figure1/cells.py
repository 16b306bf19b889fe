"""Rows of students and teachers read by target and draw, and what is said of one number a draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bcpd.stats import mean_interval

__all__ = ["Row", "cell", "goals", "paired", "pairs_of_teachers", "summary"]

Row = Mapping[str, Any]


def goals(students: Sequence[Row], distance: str) -> list[float]:
    """The levels matched in a distance, ascending."""
    return sorted({row["goal"] for row in students if row["matched"] == distance})


def cell(
    students: Sequence[Row],
    column: str,
    family: str,
    distance: str | None = None,
    goal: float | None = None,
    step: int = 0,
) -> dict[int, float]:
    """A column of one target by draw, averaged over nested seeds; ``nan`` where one of them diverged.

    Args:
        step: of the students' learning rate: 0 is the tuned one.
    """
    stage = "rate check" if step else "separating"
    by_draw: dict[int, list[float]] = {}
    for row in students:
        here = (row["stage"], row["family"], row["matched"], row["goal"])
        if here == (stage, family, distance, goal) and row["rate_step"] == step:
            by_draw.setdefault(row["draw"], []).append(float(row[column]))
    return {draw: math.fsum(values) / len(values) for draw, values in sorted(by_draw.items())}


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """Differences a - b on the draws that have both."""
    return [a[draw] - b[draw] for draw in sorted(a.keys() & b.keys())]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % t-interval of the finite values; ``lost`` counts the others, of training that diverged."""
    kept = [value for value in values if math.isfinite(value)]
    lost = len(values) - len(kept)
    if not kept:
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "n": 0, "lost": lost}
    interval = mean_interval(kept)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n, "lost": lost}


def pairs_of_teachers(
    teachers: Sequence[Row], world: str, net: str, first: str, second: str, alias: Mapping[str, str]
) -> list[tuple[Row, Row]]:
    """Teachers of two arms, draw by draw; none where the two arms are one training.

    Args:
        alias: arm -> the training that stands for it; an arm that is not in it stands for itself.
    """
    one, two = alias.get(first, first), alias.get(second, second)
    if one == two:
        return []
    own = {(row["arm"], row["draw"]): row for row in teachers if (row["world"], row["net"]) == (world, net)}
    draws = sorted({draw for arm, draw in own if arm == one} & {draw for arm, draw in own if arm == two})
    return [(own[one, draw], own[two, draw]) for draw in draws]
