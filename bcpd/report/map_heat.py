"""The map over two factors: coloured, hatched where the interval contains zero, with a line where the sign changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from bcpd.report.map_marks import BLUE, RED, is_shown, level_text, mean_and_interval, summary_by_cell
from bcpd.report.numbers import number
from bcpd.report.style import FAINT, INK, new_figure, styled

__all__ = ["heat_figure"]

TEACHER = "teacher fresh_mse score/best_score"

STUDENT = "student fresh_accuracy score/best_score"

# the light middle means no difference; blue favours CE, vermilion MSE, as in every figure here
FAVOUR = LinearSegmentedColormap.from_list("favour", [BLUE, "#f7f7f7", RED])


def heat_figure(results: Mapping[str, Any], pair: Mapping[str, Any]) -> Figure:
    summary = summary_by_cell(results)
    columns, rows = pair["x"]["levels"], pair["y"]["levels"]
    with styled():
        figure = new_figure(1.5 + 2.0 * (0.85 * len(columns) + 0.6), 1.5 + 0.62 * len(rows))
        panels = figure.subplots(1, 2, squeeze=False)[0]
        for axes, quantity, title, scale, sign in (
            (panels[0], TEACHER, "teacher: MSE to p*, fresh points", 1.0, -1.0),
            (panels[1], STUDENT, "student: accuracy (points)", 100.0, 1.0),
        ):
            rows_of = [
                [None if cell is None else summary.get((cell, quantity)) for cell in line] for line in pair["cells"]
            ]
            grid = [[mean_and_interval(row, scale) for row in line] for line in rows_of]
            _field(axes, grid, sign, [[is_shown(row) for row in line] for line in rows_of])
            axes.set_title(title)
            axes.set_xticks(np.arange(len(columns)), [level_text(level) for level in columns])
            axes.set_yticks(np.arange(len(rows)), [level_text(level) for level in rows])
            axes.set_xlabel(pair["x"]["label"])
        panels[0].set_ylabel(fill(pair["y"]["label"], 26))
        handles = [
            Patch(color=RED, label="MSE teacher favoured"),
            Patch(color=BLUE, label="CE teacher favoured"),
            Patch(facecolor="#f7f7f7", edgecolor="#777777", hatch="////", label="interval contains zero"),
            Patch(alpha=0, label="* shown after Holm's correction"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _field(
    axes: Axes,
    grid: Sequence[Sequence[tuple[float, float, float]]],
    sign: float,
    shown: Sequence[Sequence[bool]],
) -> None:
    """Coloured fields with their numbers, a star where a difference is shown, hatched where the interval contains zero,
    a line where the sign changes between fields of which one at least is not hatched."""
    means = np.array([[mean for mean, _, _ in line] for line in grid])
    finite = np.abs(means[np.isfinite(means)])
    reach = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    axes.imshow(
        np.ma.masked_invalid(sign * means),
        cmap=FAVOUR,
        norm=TwoSlopeNorm(0, -reach, reach),
        aspect="auto",
        origin="lower",
    )
    axes.grid(False)
    for y, line in enumerate(grid):
        for x, (mean, low, high) in enumerate(line):
            if not math.isfinite(mean):
                axes.text(x, y, "not run", ha="center", va="center", fontsize=8, color=FAINT)
                continue
            if not (low > 0 or high < 0):
                axes.add_patch(
                    Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="////", edgecolor="#9a9a9a", linewidth=0)
                )
            seen = low > 0 or high < 0
            dark = seen and abs(mean) > 0.65 * reach
            axes.text(
                x,
                y,
                number(mean, _decimals(reach)) + ("*" if shown[y][x] else ""),
                ha="center",
                va="center",
                fontsize=8.5,
                color="white" if dark else INK,
                bbox={"facecolor": "white", "alpha": 0.0 if dark else 0.75, "edgecolor": "none", "pad": 1.0},
            )
    clear = np.array([[low > 0 or high < 0 for _, low, high in line] for line in grid])
    for y, x in np.ndindex(means.shape):
        for other, edge in (
            ((y, x + 1), ((x + 0.5, x + 0.5), (y - 0.5, y + 0.5))),
            ((y + 1, x), ((x - 0.5, x + 0.5), (y + 0.5, y + 0.5))),
        ):
            inside = other[0] < means.shape[0] and other[1] < means.shape[1]
            if inside and means[y, x] * means[other] < 0 and (clear[y, x] or clear[other]):
                axes.plot(*edge, color=INK, linewidth=2.6, solid_capstyle="projecting")
    axes.set_xlim(-0.5, means.shape[1] - 0.5)
    axes.set_ylim(-0.5, means.shape[0] - 0.5)


def _decimals(reach: float) -> int:
    """Two significant digits of the largest number of a panel."""
    return max(0, 1 - math.floor(math.log10(reach)))
