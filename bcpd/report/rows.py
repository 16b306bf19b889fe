"""Rows of stored results on teachers: how one is found, and the cells that several tables show of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bcpd.report.numbers import as_float, number
from bcpd.report.tables import Table

__all__ = ["NONE", "Row", "chosen", "find", "score_cells", "seeds_table"]

NONE = "–"

Row = Mapping[str, Any]


def find(rows: Sequence[Row], **wanted: Any) -> Row | None:
    """The first row that has these values, or None."""
    return next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)


def chosen(trials: Sequence[Row]) -> frozenset[int]:
    """Which were chosen, by number, as :class:`Table` marks them."""
    return frozenset(place for place, trial in enumerate(trials) if trial["chosen"])


def score_cells(teacher: Row, decimals: int) -> tuple[str, ...]:
    """Of a teacher of one seed, for :func:`seeds_table`.

    Args:
        teacher: its stored row.
        decimals: of the percentage of the training loss that is left.
    """
    scores = (number(teacher[name]) for name in ("test_nll", "test_brier", "temperature"))
    left, late = as_float(teacher["left"]), as_float(teacher["late_gain"])
    return number(100 * as_float(teacher["test_accuracy"]), 2), *scores, f"{left:.{decimals}%}", f"{late:.1%}"


def seeds_table(rows: Sequence[tuple[str, ...]], kind: str, temperature: str, flag: str) -> Table:
    """Teachers, a row each: net, kind and seed, :func:`score_cells`, a flag; with the headings that differ."""
    columns = (
        "net",
        kind,
        "seed",
        "test accuracy, %",
        "test NLL",
        "test Brier",
        temperature,
        "training loss left",
        "of the gain, late",
        flag,
    )
    return Table("Teachers, seed by seed", "", columns, tuple(rows), default=False)
