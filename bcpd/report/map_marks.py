"""What the map's figures share: how a difference is read, marked and tinted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from bcpd.report.numbers import as_float
from bcpd.report.style import ARM_STYLES

__all__ = [
    "BLUE",
    "RED",
    "SHADES",
    "difference_mark",
    "is_shown",
    "level_text",
    "mean_and_interval",
    "summary_by_cell",
    "tint_favoured",
]

BLUE, RED = ARM_STYLES["ce"]["color"], ARM_STYLES["mse"]["color"]
SHADES = ("#222222", "#8c6bb1", "#4d9221", "#b8860b")

LEVEL = 0.05


def is_shown(row: Mapping[str, Any] | None) -> bool:
    """Whether a difference is shown after Holm's correction."""
    return row is not None and as_float(row.get("p_holm")) < LEVEL


def difference_mark(
    axes: Axes, x: float, y: float, row: Mapping[str, Any] | None, shade: str, marker: str, size: float
) -> None:
    """Filled where the difference is shown, hollow where it is not."""
    filled = is_shown(row)
    axes.plot(
        [x],
        [y],
        marker=marker,
        linestyle="none",
        color=shade,
        markersize=size,
        mew=0.5 if filled else 1.1,
        mec="white" if filled else shade,
        mfc=shade if filled else "white",
        zorder=4,
    )


def summary_by_cell(results: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The summary by cell and quantity."""
    return {(row["cell"], row["quantity"]): row for row in results["summary"]}


def mean_and_interval(row: Mapping[str, Any] | None, scale: float = 1.0) -> tuple[float, float, float]:
    """Mean and interval; nan where there is none."""
    if row is None:
        return math.nan, math.nan, math.nan
    mean, low, high = (scale * as_float(row[key]) for key in ("mean", "low", "high"))
    return mean, low, high


def level_text(level: Any) -> str:
    return f"{level:,g}".replace(",", "\N{THIN SPACE}") if isinstance(level, int | float) else str(level)


def tint_favoured(axes: Axes, lower_is_better: bool) -> None:
    """Tint the half of the panel that favours each loss, without moving the axis."""
    low, high = axes.get_ylim()
    reach = max(abs(low), abs(high))
    below, above = (RED, BLUE) if lower_is_better else (BLUE, RED)
    axes.axhspan(-2 * reach, 0, color=below, alpha=0.07, linewidth=0, zorder=0)
    axes.axhspan(0, 2 * reach, color=above, alpha=0.07, linewidth=0, zorder=0)
    axes.set_ylim(low, high)
