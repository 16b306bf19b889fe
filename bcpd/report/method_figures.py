"""Students by distillation method, of CE and of MSE teachers: differences, and accuracy by what the student has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bcpd.report.illustration import Illustration, illustration
from bcpd.report.method_tables import (
    ARM_NAMES,
    METHOD_NAMES,
    OTHERS,
    Place,
    difference_of,
    place_name,
    places,
    student_value,
)
from bcpd.report.numbers import as_float
from bcpd.report.rows import Row, find
from bcpd.report.style import FAINT, arm_style, beside_names, draw_interval, log_ticks, new_figure, styled

__all__ = ["difference_figure", "method_illustrations", "share_figure"]

PANELS_IN_A_ROW = 4


def method_illustrations(results: Row) -> list[Illustration]:
    """Differences by method; with several shares, accuracy by share."""
    name = results["experiment"]
    found = [
        illustration(
            f"{name}-differences",
            "Does the MSE teacher's student do better? Method by method",
            "The student's test accuracy with an MSE teacher (vermilion squares) minus that with a CE teacher, in "
            "points, last epoch: mean over seeds with a 95 % t-interval; faint dots are the seeds, where no other arm "
            "is shown. Right of the black line the MSE teacher is better. Dashed lines are the differences that others "
            "report, at full size and for cells that could not be told apart.",
            partial(difference_figure, results),
        )
    ]
    if len(results["spec"]["shares"]) > 1:
        found.append(
            illustration(
                f"{name}-shares",
                "Accuracy by what the student has",
                "Test accuracy of students of the CE (blue circles) and of the MSE teacher (vermilion squares), a "
                "panel a method, mean over seeds with 95 % t-intervals; grey: no teacher. Arms share their seeds: "
                "whether a gap is sure is in the figure of differences.",
                partial(share_figure, results),
            )
        )
    return found


def difference_figure(results: Row) -> Figure:
    """Every arm minus CE: a panel a pair and share, a line a method, a colour an arm.

    Args:
        results: of kind ``tables``.
    Raises:
        ValueError: no differences.
    """
    if not results["differences"]:
        raise ValueError("the figure needs differences of two teachers' students, received none")
    shown = places(results)
    methods = [*results["spec"]["methods"], "all"]
    methods = [
        m for m in methods if any(difference_of(results, place, m, arm=arm) for place in shown for arm in OTHERS)
    ]
    there = {row["arm"] for row in results["differences"] if row["against"] == "ce"}
    arms = [arm for arm in OTHERS if arm in there]
    down, across = _grid(len(shown))
    spacing = 0.34 if len(arms) == 1 else 0.15 * (1 + len(arms))
    with styled():
        figure = new_figure(2.6 + (5.6 if across == 1 else 3.0 * across), down * (0.9 + spacing * len(methods)) + 1.0)
        panels = _panels(figure, len(shown))
        for axes, place in zip(panels, shown, strict=True):
            _draw_differences(axes, results, place, methods, arms)
            if len(shown) > 1:
                axes.set_title(place_name(results, place), fontsize=8.5)
        panels[0].set_yticks(range(len(methods)), [METHOD_NAMES.get(m, m) for m in methods])
        panels[0].set_ylim(len(methods) - 0.4, -0.6)
        for axes in panels[-across:]:
            axes.set_xlabel("student's accuracy, minus CE's (points)", fontsize=9)
            axes.xaxis.set_tick_params(labelbottom=True)
        handles = [panels[0].plot([], [], linestyle="none", label=ARM_NAMES[arm], **_style(arm))[0] for arm in arms]
        for line in panels[0].get_lines():
            if str(line.get_label()).startswith(("+", "−")):
                handles.append(line)
        figure.legend(handles=handles, loc="outside lower left", ncols=1, fontsize=8.5)
    return figure


def _grid(count: int) -> tuple[int, int]:
    """Panels below each other, and side by side."""
    across = min(PANELS_IN_A_ROW, max(1, count))
    return max(1, math.ceil(count / across)), across


def _panels(figure: Figure, count: int) -> list[Axes]:
    """So many, in the reading order, with common axes."""
    panels = list(figure.subplots(*_grid(count), sharex=True, sharey=True, squeeze=False).ravel())
    for axes in panels[count:]:
        axes.set_visible(False)
    return panels[:count]


def _draw_differences(axes: Axes, results: Row, place: Place, methods: Sequence[str], arms: Sequence[str]) -> None:
    beside_names(axes)
    for number_of, claim in enumerate(results["reference"]["claims"]):
        points = as_float(claim["difference"])
        label = f"{points:+.2f}: {claim['what']} ({_who(claim['source'])})".replace("-", "−", 1)
        axes.axvline(points, color="#777777", linewidth=1.1, linestyle=("--", ":", "-.")[number_of % 3], label=label)
    for height, method in enumerate(methods):
        for place_of, arm in enumerate(arms):
            row = difference_of(results, place, method, arm=arm)
            level = height + 0.17 * (place_of - (len(arms) - 1) / 2)
            if row is not None:
                if arm == "mse" and len(arms) == 1:
                    seeds = _by_seed(results, place, method, methods)
                    axes.plot(seeds, [level + 0.22] * len(seeds), ".", color=FAINT, markersize=4)
                _point(axes, row, level, arm)
    if methods and methods[-1] == "all":
        axes.axhline(len(methods) - 1.5, color="#bbbbbb", linewidth=0.8)


def _who(source: str) -> str:
    return source.split(",")[0]


def _by_seed(results: Row, place: Place, method: str, methods: Sequence[str]) -> list[float]:
    """MSE minus CE of each seed, points; of the mean over methods, where all are there."""
    wanted = [m for m in methods if m != "all"] if method == "all" else [method]
    sums: dict[int, list[float]] = {}
    for one in wanted:
        found: dict[str, dict[int, float]] = {}
        for row in results["rows"]:
            if (
                row["role"] == "student"
                and "refused" not in row
                and (row["method"], row["checkpoint"], row["share"]) == (one, "last", place[1])
                and tuple(row["pair"]) == place[0]
            ):
                found.setdefault(row["arm"], {})[row["seed"]] = 100 * as_float(row["test_accuracy"])
        ce, mse = found.get("ce", {}), found.get("mse", {})
        for seed in sorted(ce.keys() & mse.keys()):
            sums.setdefault(seed, []).append(mse[seed] - ce[seed])
    return [sum(gaps) / len(gaps) for gaps in sums.values() if len(gaps) == len(wanted)]


def _style(arm: str) -> dict[str, Any]:
    return dict(arm_style(arm, OTHERS))


def _point(axes: Axes, row: Row, level: float, arm: str) -> None:
    mean, low, high = (100 * as_float(row[name]) for name in ("mean", "low", "high"))
    style = _style(arm)
    draw_interval(axes, low, high, level, style["color"])
    axes.plot([mean], [level], markersize=5.5, mew=0.5, mec="white", linestyle="none", **style)


def share_figure(results: Row) -> Figure:
    """Test accuracy by share of labels or images: a panel a method and pair, a line a teacher.

    Args:
        results: of kind ``tables``.
    Raises:
        ValueError: one share only.
    """
    shares = sorted(map(float, results["spec"]["shares"]))
    if len(shares) < 2:
        raise ValueError("accuracy by share needs two shares or more, received one")
    what = "labels" if results["spec"]["protocol"]["partial"] == "labels" else "images"
    cells = [
        (tuple(pair), method)
        for pair in results["spec"]["pairs"]
        for method in results["spec"]["methods"]
        if any(student_value(results, (tuple(pair), share), method, "ce", "last") for share in shares)
    ]
    down, across = _grid(len(cells))
    with styled():
        figure = new_figure(1.2 + 2.8 * across, 0.9 + 2.3 * down)
        for axes, (pair, method) in zip(_panels(figure, len(cells)), cells, strict=True):
            for arm, apart in (("ce", 0.97), ("mse", 1.03)):
                rows = [student_value(results, (pair, share), method, arm, "last") for share in shares]
                _line(axes, [apart * share for share in shares], rows, _style(arm))
            alone = [
                find(results["values"], method="scratch", pair=["", pair[1]], share=share, checkpoint="last")
                for share in shares
            ]
            _line(axes, shares, alone, {"color": FAINT, "marker": "."})
            axes.set_title(METHOD_NAMES.get(method, method), fontsize=9)
            log_ticks(axes, shares, ".0%")
            axes.margins(x=0.12)
        figure.supxlabel(f"share of the {what} that the student has", fontsize=9.5)
        figure.supylabel("test accuracy, %", fontsize=9.5)
    return figure


def _line(axes: Axes, shares: Sequence[float], rows: Sequence[Row | None], style: Mapping[str, Any]) -> None:
    there = [(share, row) for share, row in zip(shares, rows, strict=True) if row is not None]
    axes.plot(
        [share for share, _ in there],
        [100 * as_float(row["mean"]) for _, row in there],
        markersize=5,
        mew=0.5,
        mec="white",
        linewidth=1.3,
        **style,
    )
    for share, row in there:
        low, high = (100 * as_float(row[name]) for name in ("low", "high"))
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([share, share], [low, high], color=style["color"], linewidth=1.2)
