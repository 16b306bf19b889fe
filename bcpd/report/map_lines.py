"""The map along one factor at a time: a panel a factor, a line a checkpoint; and the paper's other settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bcpd.report.map_marks import (
    BLUE,
    RED,
    SHADES,
    difference_mark,
    level_text,
    mean_and_interval,
    summary_by_cell,
    tint_favoured,
)
from bcpd.report.style import FAINT, INK, new_figure, styled

__all__ = ["line_figure", "setting_figure"]

CHECKPOINTS: Sequence[tuple[str, str, str]] = (
    ("score/best_score", "best validation score", "o"),
    ("last/last", "last epoch (rate tuned for it)", "s"),
    ("score/path_minimum_mse", "path minimum", "^"),
    ("accuracy/best_accuracy", "best validation accuracy (rate tuned by it)", "D"),
)


def line_figure(results: Mapping[str, Any], pattern: str, label: str, scale: float = 1.0) -> Figure:
    lines = results["lines"]
    if not lines:
        raise ValueError("the results hold no factor that was varied")
    summary = summary_by_cell(results)
    lower_is_better = "accuracy" not in pattern
    with styled():
        columns = min(4, len(lines))
        rows = math.ceil(len(lines) / columns)
        figure = new_figure(3.0 * columns, 2.7 * rows + 0.7)
        panels = figure.subplots(rows, columns, squeeze=False, sharey=False).ravel()
        for axes, line in zip(panels, lines, strict=False):
            _factor_panel(axes, line, summary, pattern, scale)
            tint_favoured(axes, lower_is_better)
        for axes in panels[len(lines) :]:
            axes.set_visible(False)
        figure.supylabel(label, fontsize=9)
        present = [
            entry for entry in zip(CHECKPOINTS, SHADES, strict=True) if _has(summary, _quantity(pattern, entry[0][0]))
        ]
        handles = [
            panels[0].plot([], [], color=shade, marker=marker, markersize=5, label=name)[0]
            for (_, name, marker), shade in present
        ]
        handles += [
            Patch(color=RED, alpha=0.13, label="MSE teacher favoured"),
            Patch(color=BLUE, alpha=0.13, label="CE teacher favoured"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _quantity(pattern: str, checkpoint: str) -> str:
    """Its id; a KL has the path minimum of the KL."""
    return pattern.format(checkpoint.replace("_mse", "_kl") if "_kl" in pattern else checkpoint)


def _has(summary: Mapping[tuple[str, str], Any], quantity: str) -> bool:
    return any(name == quantity for _, name in summary)


def _factor_panel(
    axes: Axes,
    line: Mapping[str, Any],
    summary: Mapping[tuple[str, str], Mapping[str, Any]],
    pattern: str,
    scale: float,
) -> None:
    """One factor's panel: a line a checkpoint, side by side where levels are close."""
    levels = line["levels"]
    places = np.arange(len(levels), dtype=float)
    for number_of, ((key, _, marker), shade) in enumerate(zip(CHECKPOINTS, SHADES, strict=True)):
        rows = [summary.get((cell, _quantity(pattern, key))) for cell in line["cells"]]
        found = [mean_and_interval(row, scale) for row in rows]
        if all(math.isnan(mean) for mean, _, _ in found):
            continue
        at = places + 0.11 * (number_of - 1.5)
        means = [mean for mean, _, _ in found]
        axes.plot(at, means, color=shade, linewidth=1.1, alpha=0.8, zorder=3)
        for x, row, (mean, low, high) in zip(at, rows, found, strict=True):
            axes.plot([x, x], [low, high], color=shade, linewidth=1.3, zorder=3)
            difference_mark(axes, x, mean, row, shade, marker, 4.5)
    axes.axhline(0, color=INK, linewidth=1)
    if line.get("base") is not None:
        axes.axvline(line["base"], color=FAINT, linewidth=1, linestyle=":")
    slanted: dict[str, Any] = {} if _short(levels) else {"rotation": 25, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, [level_text(level) for level in levels], fontsize=8, **slanted)
    axes.set_xlim(-0.5, len(levels) - 0.5)
    axes.set_title(fill(line["label"], 30))
    axes.grid(axis="x", visible=False)
    axes.locator_params(axis="y", nbins=5)
    axes.tick_params(axis="y", labelsize=8)


def _short(levels: Sequence[Any]) -> bool:
    return sum(len(level_text(level)) for level in levels) <= 24


def setting_figure(results: Mapping[str, Any]) -> Figure:
    settings = results["settings"]
    if not settings:
        raise ValueError("the results hold no further setting")
    summary = summary_by_cell(results)
    with styled():
        figure = new_figure(4.4 * len(settings), 5.4)
        panels = figure.subplots(2, len(settings), squeeze=False)
        for column, setting in enumerate(settings):
            line = {**setting, "base": None}
            for axes, pattern, scale, label in (
                (panels[0, column], "teacher fresh_mse {}", 1.0, "teacher's MSE to p*"),
                (panels[1, column], "student fresh_accuracy {}", 100.0, "student's accuracy (points)"),
            ):
                _factor_panel(axes, line, summary, pattern, scale)
                tint_favoured(axes, "accuracy" not in pattern)
                axes.set_xlabel(setting["label"])
                axes.set_title(setting["id"] if axes is panels[0, column] else "")
                if not column:
                    axes.set_ylabel(label)
        handles = [
            panels[0, 0].plot([], [], color=shade, marker=marker, markersize=5, label=name)[0]
            for (_, name, marker), shade in zip(CHECKPOINTS, SHADES, strict=True)
        ]
        handles += [
            Patch(color=RED, alpha=0.13, label="MSE teacher favoured"),
            Patch(color=BLUE, alpha=0.13, label="CE teacher favoured"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
