"""Figure 1: the student's accuracy against its targets' distance to p*, as released and with the distances told apart.

Every mark carries what it is drawn from: in the SVG, the element ``rows-12-340`` shows the mean of the rows 12 and 340
of the stored table, ``teachers-3-4`` the stored teachers 3 and 4, ``correlation-7`` the stored correlation 7 (counted
from 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

from bcpd.report.figure1_intervals import correlation_figure, matched_figure, teacher_figure
from bcpd.report.figure1_marks import ACCURACY, FAMILY_STYLES, TEACHER_STYLES, Row, element_id
from bcpd.report.figure1_tables import family_name, table_rows
from bcpd.report.numbers import as_float
from bcpd.report.quantities import arm_name
from bcpd.report.style import FAINT, ArmStyle, arm_style, new_figure, styled
from bcpd.stats import mean_interval, partial_spearman

__all__ = [
    "FIGURES",
    "correlation_figure",
    "matched_figure",
    "released_figure",
    "separating_figure",
    "teacher_figure",
]

RELEASED_AXES = (
    ("mse", "MSE to p*", "true MSE: sum over classes, mean over x"),
    ("released_ce", "CE(p*, t) (nats)", "forward; the released axis of the grey dots"),
    ("released_reverse_ce", "CE(t, p*) (nats)", "reverse; the released axis of the teachers"),
)


def released_figure(results: Row) -> Figure:
    """As released, a line of panels a world: accuracy against the true MSE and against both orientations of CE.

    Hollow markers in the forward panel: the teachers where the released figure puts them, at their reverse CE.

    Args:
        results: of kind ``figure1``.
    Raises:
        ValueError: no rows of the released experiment.
    """
    rows = [row for row in table_rows(results) if row["stage"] == "released"]
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    if not worlds:
        raise ValueError("the table holds no rows of the released experiment")
    refused = [world for world in results["worlds"] if world["refused"]]
    with styled():
        figure = new_figure(10.2, 2.9 * len(worlds) + 0.8 + 0.25 * len(refused))
        panels = figure.subplots(len(worlds), len(RELEASED_AXES), sharey="row", squeeze=False)
        for line, world in zip(panels, worlds, strict=True):
            own = [row for row in rows if row["world"] == world]
            for axes, (column, label, title) in zip(line, RELEASED_AXES, strict=True):
                _released_panel(axes, own, column)
                axes.set(xlabel=label)
                if world == worlds[0]:
                    axes.set_title(title, fontsize=9)
                axes.locator_params(axis="x", nbins=6)
            line[0].set_ylabel(f"{world}\nstudent's accuracy (%)")
        handles, labels = panels[0][1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8.5)
        if refused:
            said = "\n".join(f"{world['world']}: {world['refused']}." for world in refused)
            figure.supxlabel(said, fontsize=8.5, color="#555555", x=0.01, ha="left")
    return figure


def _released_panel(axes: Axes, rows: Sequence[Row], column: str) -> None:
    y = "student_accuracy_best_accuracy"
    grey = [row for row in rows if row["family"] == "label_mixture"]
    _scatter(axes, grey, column, y, {"color": FAINT, "marker": "o"}, "label mixtures u e + (1 \u2212 u) p*", 14)
    for loss in ("ce", "mse"):
        own = [row for row in rows if row["family"] == loss]
        name = f"{arm_name(loss)} teachers" + (", MSE / K" if loss == "mse" else "")
        if column == "released_ce":
            hollow = {**arm_style(loss), "facecolor": "none"}
            _scatter(axes, own, "released_reverse_ce", y, hollow, f"{name}, where released", 26)
        _scatter(axes, own, column, y, arm_style(loss), name, 26)
    lost = sum(not math.isfinite(as_float(row[y])) for row in rows)
    if lost:
        axes.text(0.97, 0.88, f"{lost} lost to divergence", transform=axes.transAxes, ha="right", va="top", fontsize=8)
    rho = _rank_correlation(grey, column, y)
    if math.isfinite(rho):
        axes.text(0.97, 0.96, f"grey: Spearman {rho:+.3f}", transform=axes.transAxes, ha="right", va="top", fontsize=8)


def _scatter(axes: Axes, rows: Sequence[Row], x: str, y: str, style: ArmStyle, label: str, size: float) -> None:
    look: dict[str, Any] = {"linewidths": 0.9, "edgecolors": "white", **style}
    if "facecolor" in look:
        look = {"marker": style["marker"], "facecolors": "none", "edgecolors": style["color"], "linewidths": 0.9}
    for row in rows:
        named = label if row is rows[0] else None
        marks = axes.scatter([as_float(row[x])], [100 * as_float(row[y])], s=size, label=named, **look)
        marks.set_gid(element_id([row["id"]]))


def _rank_correlation(rows: Sequence[Row], x: str, y: str) -> float:
    try:
        left, right = ([as_float(row[name]) for row in rows] for name in (x, y))
        return partial_spearman(left, right, [[]] * len(rows), units=[0] * len(rows)).mean
    except ValueError:
        return math.nan


# ----------------------------------------------------------------------------------------------------------- separating


def separating_figure(results: Row) -> Figure:
    """What students lose against the student of p*, over MSE and over KL: a line a family or teacher.

    Points are means over draws of the difference to the student of p* in the same draw, with 95 % t-intervals.

    Args:
        results: of kind ``figure1``.
    Raises:
        ValueError: no rows of the separating experiment.
    """
    rows = [row for row in table_rows(results) if row["stage"] == "separating"]
    if not rows:
        raise ValueError("the table holds no rows of the separating experiment")
    with styled():
        figure = new_figure(10.2, 5.4)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, distance, label in zip(panels, ("mse", "kl"), ("MSE to p*", "KL to p* (nats)"), strict=True):
            for family, style in FAMILY_STYLES.items():
                targets = _targets(rows, family, ("matched", "goal"))
                _line(axes, targets, distance, style, family_name(family), 1.0)
            for arm, style in TEACHER_STYLES.items():
                _line(axes, _targets(rows, arm, ("checkpoint",)), distance, style, family_name(arm), 1.6, "--")
            axes.axhline(0, color=arm_style("bayes")["color"], linewidth=1.2, zorder=0)
            axes.set(xscale="log", xlabel=f"{label}, transfer inputs")
            _plain_logarithms(axes.xaxis)
        panels[0].set_yscale("symlog", linthresh=2.0, linscale=1.2)
        panels[0].yaxis.set_major_locator(FixedLocator([-50, -20, -10, -5, -2, -1, 0, 1, 2]))
        panels[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panels[0].yaxis.set_minor_locator(NullLocator())
        low, high = panels[0].dataLim.intervaly
        panels[0].set_ylim(1.15 * low, max(0.3, 1.15 * high))
        panels[0].set_ylabel("accuracy minus that of the student of p* (points)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=8.5)
        lost = _lost(rows)
        if lost:
            said = f"Hollow: draws were lost to divergence. {lost}."
            figure.supxlabel(said, fontsize=8.5, color="#555555", x=0.01, ha="left")
    return figure


def _lost(rows: Sequence[Row]) -> str:
    """Targets with lost draws, and how many: ``leak 2 of 48``."""
    counts = []
    for family, keys in (
        *((name, ("matched", "goal")) for name in FAMILY_STYLES),
        *((name, ("checkpoint",)) for name in TEACHER_STYLES),
    ):
        targets = _targets(rows, family, keys)
        lost, draws = sum(target["lost"] for target in targets), sum(target["draws"] for target in targets)
        if lost:
            counts.append(f"{family_name(family)} {lost} of {draws}")
    return ", ".join(counts)


def _plain_logarithms(axis: Axis) -> None:
    """0.02, 0.05, 0.1: ticks that can be read."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _targets(rows: Sequence[Row], family: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Every target of a family: mean distances, the accuracy gained on the student of p*, and how many draws were lost.

    A student is paired with the student of p* of the same draw and seed.
    """
    exact = {(row["draw"], row["seed"]): as_float(row[ACCURACY]) for row in rows if row["family"] == "bayes"}
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["family"] == family:
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    found = []
    for own in groups.values():
        by_draw: dict[int, list[float]] = {}
        for row in own:
            by_draw.setdefault(row["draw"], []).append(as_float(row[ACCURACY]) - exact[row["draw"], row["seed"]])
        gains = [100 * sum(values) / len(values) for values in by_draw.values()]
        kept = [gain for gain in gains if math.isfinite(gain)]
        found.append(
            {
                **{name: sum(as_float(row[name]) for row in own) / len(own) for name in ("mse", "kl")},
                "gain": mean_interval(kept) if len(kept) > 1 else None,
                "ids": [row["id"] for row in own],
                "lost": len(gains) - len(kept),
                "draws": len(gains),
            }
        )
    return found


def _line(
    axes: Axes,
    targets: Sequence[Row],
    distance: str,
    style: ArmStyle,
    label: str,
    width: float,
    line: str = "-",
) -> None:
    there = [target for target in targets if target["gain"] is not None and math.isfinite(target[distance])]
    if not there:
        return
    ordered = sorted(there, key=lambda target: float(target[distance]))
    x, y = [t[distance] for t in ordered], [t["gain"].mean for t in ordered]
    axes.plot(x, y, line, color=style["color"], linewidth=width)
    axes.plot([], [], line, color=style["color"], linewidth=width, label=label, marker=style["marker"], markersize=5)
    for target in ordered:
        gain = target["gain"]
        axes.plot([target[distance]] * 2, [gain.low, gain.high], color=style["color"], linewidth=0.9, alpha=0.7)
        mark = axes.plot(
            [target[distance]],
            [gain.mean],
            color=style["color"],
            marker=style["marker"],
            markersize=5.5,
            mfc="none" if target["lost"] else style["color"],
            mec=style["color"] if target["lost"] else "w",
            mew=1.0 if target["lost"] else 0.4,
        )[0]
        mark.set_gid(element_id(target["ids"]))


FIGURES: tuple[tuple[str, str, str, Callable[[Row], Figure]], ...] = (
    (
        "figure1-released",
        "Figure 1 as released",
        "One data draw, released settings; a dot a student (best validation accuracy), on the transfer inputs. All "
        "grey dots are label mixtures, for which MSE and forward CE are rising functions of the one weight u: both "
        "panels show the same order (equal Spearman), so grey dots cannot say which distance matters. The release "
        "puts the teachers at their reverse CE (hollow) on the grey dots' forward axis; reverse CE does not change "
        "with u but by the luck of the draw. No error bar is possible with one draw.",
        released_figure,
    ),
    (
        "figure1-separating",
        "Families of targets and real teachers, MSE and KL apart",
        "Each mark is a target: mean over draws of the student's accuracy minus that of the student of p* of the "
        "same draw and seed (95 % t-interval; axis linear within 2 points, logarithmic beyond). If accuracy followed a "
        "distance, all lines would fall onto one curve over it. Dashed: real teachers, a mark a stopping time. "
        "Greys: unbiased noise; purples: noisy and biased; yellows: biased with the argmax kept; brown: class leak.",
        separating_figure,
    ),
    (
        "figure1-matched",
        "Families at equal distance",
        "In a panel all families have the same MSE (or KL) to p* on the very targets that students saw. What is left "
        "between the lines is what the matched distance does not say. 95 % t-intervals over draws, paired with the "
        "student of p* (green line).",
        matched_figure,
    ),
    (
        "figure1-correlations",
        "Which distance orders the students, given the other",
        "Spearman correlation of the student's accuracy with its targets' MSE (squares) and KL (circles) within a "
        "draw, mean and 95 % interval over draws (Fisher's z). A matched distance counts as its goal. Plain values "
        "reflect the levels that were chosen. Right: the part of it that the other distance does not explain; "
        "near 0, a distance adds nothing. Label mixtures alone leave nothing: there one distance is a function of "
        "the other.",
        correlation_figure,
    ),
    (
        "figure1-teachers",
        "Real teachers: stopping time and loss",
        "Left: at one learning rate, the loss with the smaller gradient is simply younger. Middle: against the mean "
        "probability given to the training label, a measure of how far training has come (markers: last epoch). "
        "Right: paired differences, each loss at its own rate: at each path's minimum, chosen on one half of the "
        "held-out points and reported on the other; and at the last epoch, at the rates tuned by the best score on the "
        "path and at those tuned by the score at the last epoch. Blue favours CE, vermilion MSE, grey neither. Arms of "
        "one loss and rate are one training and drawn once.",
        teacher_figure,
    ),
)
"""File name, title, what to look at, and the function that draws it."""
