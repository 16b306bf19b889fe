"""A summary at a glance: paired differences with the zero line, and every arm with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bcpd.report.numbers import as_float
from bcpd.report.quantities import Metric, arm_name, group_of, metric_of, network_name, where_of
from bcpd.report.style import INK, arm_style, new_figure, styled
from bcpd.report.tables import arms_of

__all__ = ["arms_figure", "differences_figure"]

SPACE = 0.27  # inches a line


def differences_figure(summary: Sequence[Mapping[str, Any]]) -> Figure:
    """Paired differences, MSE arm minus CE arm, with 95 % t-intervals: one panel a metric, the zero line in each.

    A point takes the colour of the arm that it favours, grey where the interval contains zero.

    Args:
        summary: rows with a ``difference``; others are left out.
    Raises:
        ValueError: none has one.
    """
    rows = [row for row in summary if row.get("difference") is not None]
    if not rows:
        raise ValueError("a figure of differences needs a summary row with a difference, received none")

    def draw(axes: Axes, metric: Metric, row: Mapping[str, Any], height: int) -> None:
        mean, low, high = (metric.scale * as_float(row["difference"][key]) for key in ("mean", "low", "high"))
        colour, marker = "#8a8a8a", "D"
        if metric.direction and (low > 0 or high < 0):
            style = arm_style("mse" if (low > 0) == (metric.direction > 0) else "ce")
            colour, marker = style["color"], style["marker"]
        _interval(axes, mean, low, high, height, colour, marker)

    def finish(axes: Axes, metric: Metric) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_title(metric.difference_axis)
        note = {-1: "← MSE arm better", 1: "MSE arm better →", 0: ""}[metric.direction]
        axes.set_title(note, loc="right", size=8.5, weight="normal", color="#555555")

    return _panels(rows, draw, finish)


def arms_figure(summary: Sequence[Mapping[str, Any]]) -> Figure:
    """Every arm's mean with its 95 % t-interval: one panel a metric.

    Args:
        summary: rows with ``arms``.
    Raises:
        ValueError: no rows.
    """
    if not summary:
        raise ValueError("a figure of a summary needs at least one row, received none")
    arms = arms_of(summary)

    def draw(axes: Axes, metric: Metric, row: Mapping[str, Any], height: int) -> None:
        for place, arm in enumerate(arms):
            value = row["arms"].get(arm)
            if value is None:
                continue
            style = arm_style(arm, arms)
            mean, low, high = (metric.scale * as_float(value[key]) for key in ("mean", "low", "high"))
            offset = (place - (len(arms) - 1) / 2) * 0.22
            _interval(axes, mean, low, high, height + offset, style["color"], style["marker"])

    def finish(axes: Axes, metric: Metric) -> None:
        axes.set_title(metric.axis)

    figure = _panels(summary, draw, finish, SPACE * (1 + 0.2 * len(arms)))
    with styled():
        handles = [
            figure.axes[0].plot([], [], linestyle="none", label=arm_name(arm), **arm_style(arm, arms))[0]
            for arm in arms
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(arms))
    return figure


def _panels(rows: Sequence[Mapping[str, Any]], draw: Any, finish: Any, space: float = SPACE) -> Figure:
    """A panel for every metric, a line for every row, top to bottom in the order of the summary."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(metric_of(row["quantity"]).name, []).append(row)
    heights = [len(members) + 1.6 for members in groups.values()]
    with styled():
        figure = new_figure(8.4, space * sum(heights) + 0.4)
        panels = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes, members in zip(panels, groups.values(), strict=True):
            metric = metric_of(members[0]["quantity"])
            for height, row in enumerate(members):
                draw(axes, metric, row, height)
            axes.set_yticks(range(len(members)), [_line_name(row) for row in members], fontsize=8.5)
            axes.set_ylim(len(members) - 0.4, -0.6)
            axes.locator_params(axis="x", nbins=7)
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
            finish(axes, metric)
    return figure


def _line_name(row: Mapping[str, Any]) -> str:
    """``teacher (last epoch), fresh points``."""
    where = where_of(row["quantity"])
    return f"{network_name(group_of(row))}{', ' + where if where else ''}"


def _interval(axes: Axes, mean: float, low: float, high: float, height: float, colour: str, marker: str) -> None:
    """A point with its interval, drawn as far as it is finite."""
    if not math.isfinite(mean):
        return
    if math.isfinite(low) and math.isfinite(high):
        axes.plot([low, high], [height, height], color=colour, linewidth=1.8, solid_capstyle="butt")
    size = {"*": 10.0, "D": 5.0}.get(marker, 6.0)
    axes.plot([mean], [height], color=colour, marker=marker, markersize=size, mew=0.5, mec="white", linestyle="none")
