"""Figures of trainings: the way to p* and away from it, students against their teachers, and what a summary says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bcpd.report.numbers import as_float
from bcpd.report.quantities import DEFAULT_CHECKPOINT, arm_name, checkpoint_name, metric_of, where_of
from bcpd.report.style import INK, arm_style, new_figure, styled
from bcpd.stats import mean_interval

__all__ = ["distance_path_figure", "path_figure", "student_figure"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

PAIR = ("ce", "mse")
FEW_UNITS = 5  # so few are drawn one by one


def distance_path_figure(results: Mapping[str, Any]) -> Figure:
    """Teachers' distance to p* at every epoch: mean over draws with a 95 % t band, on transfer inputs and fresh points.

    The marker stands at the mean epoch of the best own validation score.

    Args:
        results: of kind ``quickstart``, with teachers' ``paths``.
    Raises:
        ValueError: no path of a teacher's distance.
    """
    paths = role_paths(results, "teacher", ("fresh_mse", "fresh_kl"))
    with styled():
        figure = new_figure(9.6, 4.3)
        for axes, metric in zip(figure.subplots(1, 2), ("mse", "kl"), strict=True):
            late: list[Array] = []
            for path in paths:
                colour = arm_style(path["arm"])["color"]
                for place, line in (("transfer", "--"), ("fresh", "-")):
                    name = f"{place}_{metric}"
                    if name not in path["metrics"]:
                        continue
                    label = f"{arm_name(path['arm'])}, {where_of(name)}"
                    mean = band(axes, path["metrics"][name], color=colour, linestyle=line, label=label)
                    style = dict(arm_style(path["arm"]))
                    if place == "transfer":
                        style |= {"markerfacecolor": "white", "markersize": 5.5}
                    _mark_epoch(axes, mean, _mean_epoch(results["rows"], path["arm"]), style)
                    late.append(mean[len(mean) // 2 :])
            axes.set(xlabel="epoch", title=metric_of(metric).axis, ylim=(0, _top(late)))
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.axes[0].set_ylabel("distance to p*")
    return figure


def path_figure(results: Mapping[str, Any], metrics: Sequence[str], role: str = "teacher") -> Figure:
    """Validation metrics at every epoch, one panel each: mean over seeds with a 95 % t band, CE and MSE.

    Args:
        results: with ``paths``.
        metrics: which, e.g. ``("validation_accuracy", "validation_nll")``.
        role: ``teacher`` or ``student``; students of teachers at several checkpoints: those of the default one.
    Raises:
        ValueError: no path with any of the metrics.
    """
    paths = role_paths(results, role, metrics)
    shown = [name for name in metrics if any(name in path["metrics"] for path in paths)]
    with styled():
        figure = new_figure(min(9.6, 3.3 * len(shown)), 3.5)
        for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            metric = metric_of(name)
            for path in paths:
                if name not in path["metrics"]:
                    continue
                style = arm_style(path["arm"], [other["arm"] for other in paths])
                mean = band(
                    axes, path["metrics"][name], metric.scale, color=style["color"], label=arm_name(path["arm"])
                )
                if role == "teacher":
                    _mark_epoch(axes, mean, _mean_epoch(results["rows"], path["arm"]), style)
            axes.set(xlabel="epoch", title=f"{where_of(name)} {metric.axis}".strip())
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def student_figure(results: Mapping[str, Any], distance: str = "mse", unit: str = "draw") -> Figure:
    """A student's accuracy against its teacher's distance to p*: one point a draw and arm, lines join a draw's two.

    Teachers and students at the best own validation score. Crosses are means with 95 % t-intervals; the band is the
    student of the exact p*.

    Args:
        results: of kind ``quickstart``.
        distance: ``mse`` or ``kl``.
        unit: the column that pairs a CE and an MSE run.
    Raises:
        ValueError: no student of both arms at that checkpoint.
    """
    teachers = {
        (row["arm"], row[unit]): row
        for row in results["rows"]
        if row["role"] == "teacher" and row["checkpoint"] == DEFAULT_CHECKPOINT
    }
    students = {
        (row["arm"], row[unit]): row
        for row in results["rows"]
        if row["role"] == "student"
        and row["checkpoint"] == DEFAULT_CHECKPOINT
        and row["teacher_checkpoint"] in (None, DEFAULT_CHECKPOINT)
    }
    both = sorted(key for key in students if key[0] in PAIR and key in teachers)
    if {arm for arm, _ in both} != set(PAIR):
        raise ValueError(f"students at {DEFAULT_CHECKPOINT} must be of both arms {PAIR}, received {both[:4]}")
    scale = metric_of("fresh_accuracy").scale
    with styled():
        figure = new_figure(9.6, 4.5)
        for axes, place in zip(figure.subplots(1, 2, sharey=True), ("transfer", "fresh"), strict=True):
            column = f"{place}_{distance}"
            at = {
                key: (as_float(teachers[key][column]), scale * as_float(students[key]["fresh_accuracy"]))
                for key in both
            }
            for number in sorted({draw for _, draw in both}):
                ends = [at[arm, number] for arm in PAIR if (arm, number) in at]
                axes.plot(*zip(*ends, strict=True), color="#cccccc", linewidth=0.8, zorder=1)
            for arm in PAIR:
                points = [point for key, point in at.items() if key[0] == arm]
                axes.scatter(
                    *zip(*points, strict=True), s=26, alpha=0.75, linewidths=0, zorder=2, label=None, **arm_style(arm)
                )
                _cross(axes, points, arm)
            exact = [scale * as_float(row["fresh_accuracy"]) for key, row in students.items() if key[0] == "bayes"]
            _reference(axes, exact)
            axes.locator_params(axis="x", nbins=6)
            axes.set(xlabel=metric_of(distance).axis, title=f"teacher's distance, {where_of(column)}")
        figure.axes[0].set_ylabel("student's accuracy on fresh points (%)")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.suptitle(
            f"Teachers and students at the {checkpoint_name(DEFAULT_CHECKPOINT)}",
            x=0.01,
            ha="left",
            size=10,
            color="#555555",
        )
    return figure


def role_paths(results: Mapping[str, Any], role: str, metrics: Sequence[str]) -> list[Mapping[str, Any]]:
    """The stored paths of a role that hold any of the metrics, in the order CE, MSE, others.

    Raises:
        ValueError: there is none.
    """
    found = [
        path
        for path in results.get("paths", ())
        if path["role"] == role
        and path.get("teacher_checkpoint") in (None, DEFAULT_CHECKPOINT)
        and any(path["metrics"].get(name) for name in metrics)
    ]
    if not found:
        raise ValueError(f"paths must hold one of {', '.join(metrics)} for a {role}; none do")
    order = {"ce": 0, "mse": 1}
    return sorted(found, key=lambda path: order.get(path["arm"], 2))


def band(axes: Axes, values: Sequence[Sequence[Any]], scale: float = 1.0, **style: Any) -> Array:
    """Draw the mean of ``values[epoch][unit]`` with its 95 % t band; returns the means.

    An epoch at which some unit is undefined is left open; few units are drawn one by one as well.
    """
    rows = [[scale * as_float(value) for value in epoch] for epoch in values]
    intervals = [mean_interval(row) if row and all(map(math.isfinite, row)) else None for row in rows]
    nan = math.nan
    mean = np.array([nan if entry is None else entry.mean for entry in intervals])
    low, high = (
        np.array([nan if e is None or not math.isfinite(getattr(e, end)) else getattr(e, end) for e in intervals])
        for end in ("low", "high")
    )
    epochs = np.arange(1, len(rows) + 1)
    limits = axes.dataLim.frozen()
    axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.dataLim.set(limits)  # with two or three units a t band is wider than the picture
    if len(rows[0]) <= FEW_UNITS:
        axes.plot(epochs, rows, color=style["color"], linewidth=0.6, alpha=0.5)
    axes.plot(epochs, mean, **style)
    axes.autoscale_view()
    return mean


def _mark_epoch(axes: Axes, mean: Array, epoch: float, style: Mapping[str, Any]) -> None:
    """A marker on the curve at a (fractional) epoch, where it is defined."""
    if math.isfinite(epoch) and 1 <= epoch <= len(mean):
        height = np.interp(epoch, np.arange(1, len(mean) + 1), mean)
        look = {"markersize": 8.0, "markeredgecolor": style["color"] if "markerfacecolor" in style else "white"}
        axes.plot([epoch], [height], linestyle="none", zorder=4, **{**look, **style})


def _mean_epoch(rows: Sequence[Mapping[str, Any]], arm: str) -> float:
    """Mean epoch at which an arm's teachers had their best own validation score."""
    epochs = [
        as_float(row["epoch"])
        for row in rows
        if row["role"] == "teacher" and row["arm"] == arm and row["checkpoint"] == DEFAULT_CHECKPOINT
    ]
    return sum(epochs) / len(epochs) if epochs else math.nan


def _top(late: Sequence[Array]) -> float | None:
    """The upper limit of an axis that starts at 0 and shows the second half of training well."""
    values = np.concatenate([[math.nan], *late])
    return 1.6 * float(np.nanmax(values)) if np.isfinite(values).any() else None


def _cross(axes: Axes, points: Sequence[tuple[float, float]], arm: str) -> None:
    """The mean of the points with a 95 % t-interval each way, where they are finite."""
    columns = [[point[axis] for point in points] for axis in (0, 1)]
    if not all(math.isfinite(value) for column in columns for value in column):
        return
    centre = [mean_interval(column) for column in columns]
    half = [entry.high - entry.mean if math.isfinite(entry.high) else 0.0 for entry in centre]
    style = arm_style(arm)
    label = f"student of the {arm_name(arm)} teacher"
    axes.errorbar(
        centre[0].mean,
        centre[1].mean,
        xerr=half[0],
        yerr=half[1],
        fmt=style["marker"],
        markersize=9,
        markeredgecolor=INK,
        color=style["color"],
        ecolor=INK,
        elinewidth=1.6,
        zorder=5,
        label=label,
    )


def _reference(axes: Axes, values: Sequence[float]) -> None:
    """A horizontal band: the student of the exact p*."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return
    entry = mean_interval(finite)
    colour = arm_style("bayes")["color"]
    if math.isfinite(entry.low):
        axes.axhspan(entry.low, entry.high, color=colour, alpha=0.15, linewidth=0, zorder=0)
    axes.axhline(entry.mean, color=colour, linewidth=1.2, zorder=0, label=f"student of the {arm_name('bayes')}")
