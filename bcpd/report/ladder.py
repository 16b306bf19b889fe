"""The ladder from toy to real: its tables and its figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bcpd.report.gallery import gallery_figure
from bcpd.report.illustration import Illustration, illustration
from bcpd.report.numbers import as_float, interval
from bcpd.report.style import INK, arm_style, new_figure, styled
from bcpd.report.tables import Table

__all__ = ["LADDER_ARMS", "ladder_figure", "ladder_illustrations", "ladder_tables"]

LADDER_ARMS: Mapping[str, str] = {
    "ce": "CE",
    "mse": "MSE",
    "ce_t": "CE + T",
    "mse_t": "MSE + T",
    "label_smoothing": "label smoothing",
}
OTHERS = tuple(arm for arm in LADDER_ARMS if arm != "ce")
TRUTHS: Mapping[str, str] = {"exact": "exact", "people": "people's votes", "unknown": "unknown"}
SCORES: Mapping[tuple[str, str], str] = {("unknown", "mse"): "brier", ("unknown", "kl"): "nll", ("people", "kl"): "ce"}
"""What stands in a column of values where the distance itself is unknown."""
PANELS: Sequence[tuple[str, str, str, float]] = (
    ("teacher", "mse", "teacher's MSE to p*, minus CE's", 1.0),
    ("student", "accuracy", "student's accuracy, minus CE's (points)", 100.0),
    ("student", "mse", "student's MSE to p*, minus CE's", 1.0),
)


def _chosen(
    rows: Sequence[Mapping[str, Any]], rung: str, role: str, quantity: str, arm: str, checkpoint: str = "last"
) -> Mapping[str, Any] | None:
    wanted = {"rung": rung, "role": role, "quantity": quantity, "arm": arm, "checkpoint": checkpoint}
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    against = [row for row in found if row.get("against", "ce") == "ce"]
    return against[0] if against else None


def _cell(row: Mapping[str, Any] | None, scale: float = 1.0) -> str:
    if row is None:
        return "–"
    return interval(row["mean"], row["low"], row["high"], scale)


def ladder_tables(results: Mapping[str, Any]) -> list[Table]:
    """A table a quantity: rungs in rows, the CE arm's value and the others' differences from it in columns.

    Args:
        results: of kind ``ladder``.
    """
    tables = [
        _table(results, "teacher", "mse", "Teacher's distance to p* in MSE", "closer_mse", "the MSE teacher is closer"),
        _table(results, "student", "accuracy", "Student's accuracy under KD, %", "student", "its student is better"),
        _table(results, "student", "mse", "Student's distance to p* in MSE", "student_closer_mse", "it is closer"),
        _table(results, "teacher", "accuracy", "Teacher's accuracy, %"),
        _table(results, "teacher", "kl", "Teacher's distance to p* in KL (nats)", "closer_kl", "it is closer"),
        _table(results, "student", "kl", "Student's distance to p* in KL (nats)", default=False),
    ]
    best = "at its best validation score"
    for quantity in ("mse", "kl", "accuracy"):
        title = f"Teacher {best}: {quantity}"
        tables.append(_table(results, "teacher", quantity, title, default=False, checkpoint="best_score"))
    transfer = _table(
        results, "teacher", "transfer_mse", "Teacher's distance to p* in MSE at its training inputs", default=False
    )
    tables.append(transfer)
    tables.append(_temperatures(results))
    near = _without_near(results)
    if near.rows:
        tables.append(near)
    tables.append(_rates(results))
    return tables


def _table(
    results: Mapping[str, Any],
    role: str,
    quantity: str,
    title: str,
    verdict: str | None = None,
    question: str = "",
    default: bool = True,
    checkpoint: str = "last",
) -> Table:
    scale = 100.0 if quantity == "accuracy" else 1.0
    judged = {entry["rung"]: entry for entry in results["verdicts"]}
    columns = ["rung", "p*", "CE", *(f"{LADDER_ARMS[arm]} minus CE" for arm in OTHERS)]
    rows = []
    for rung in results["rungs"]:
        name, truth = rung["name"], rung["truth"]
        shown = SCORES.get((truth, quantity), quantity)
        value = _chosen(results["values"], name, role, shown, "ce", checkpoint)
        unit = {"brier": " (Brier)", "nll": " (log score)", "ce": " (cross-entropy)"}.get(shown, "")
        cells = [rung["title"], TRUTHS[truth], _cell(value, scale) + unit]
        cells += [
            _cell(_chosen(results["differences"], name, role, quantity, arm, checkpoint), scale) for arm in OTHERS
        ]
        rows.append((*cells, judged[name][verdict]) if verdict else tuple(cells))
    if verdict:
        columns.append(question)
    note = (
        "95 % intervals: over draws where p* is exact, else crossed over draws and test images; differences are paired."
    )
    if verdict:
        note += " yes, no: the interval lies wholly on that side (no: the opposite is shown)."
    return Table(title, note, tuple(columns), tuple(rows), default)


def _temperatures(results: Mapping[str, Any]) -> Table:
    """Both with a temperature: what is left of the difference."""
    rows = []
    for rung in results["rungs"]:
        cells = [rung["title"]]
        for role, quantity, scale in (("teacher", "mse", 1.0), ("teacher", "kl", 1.0), ("student", "accuracy", 100.0)):
            wanted = {"rung": rung["name"], "role": role, "quantity": quantity, "arm": "mse_t", "against": "ce_t"}
            found = [row for row in results["differences"] if all(row[key] == value for key, value in wanted.items())]
            cells.append(_cell(found[0] if found else None, scale))
        rows.append(tuple(cells))
    columns = ("rung", "teacher's MSE to p*", "teacher's KL to p*", "student's accuracy, points")
    return Table("MSE + T minus CE + T: what a temperature leaves of the difference", "", columns, tuple(rows))


def _without_near(results: Mapping[str, Any]) -> Table:
    rows = []
    titles = {rung["name"]: rung["title"] for rung in results["rungs"]}
    for row in results["differences"]:
        headline = row["arm"] == "mse" and row["against"] == "ce" and row["checkpoint"] == "last"
        if headline and "without_near" in row:
            scale = 100.0 if row["quantity"] == "accuracy" else 1.0
            what = (titles[row["rung"]], row["role"], row["quantity"])
            rows.append((*what, _cell(row, scale), _cell(row["without_near"], scale)))
    columns = ("rung", "network", "quantity", "all test images", "without near-duplicates of training images")
    return Table("MSE minus CE without near-duplicates", "", columns, tuple(rows), default=False)


def _rates(results: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = []
    marked = set()
    for trial in results["tuning"]:
        if trial["chosen"]:
            marked.add(len(rows))
        rows.append(
            (
                str(trial["ground"]),
                LADDER_ARMS.get(trial["arm"], trial["arm"]),
                f"{as_float(trial['learning_rate']):g}",
                f"{as_float(trial['mean']):.4g}",
                "yes" if trial["edge"] else "",
            )
        )
    columns = ("ground", "arm", "rate", "validation score", "chosen on the edge of its grid")
    return Table("Learning rates tried", "", columns, tuple(rows), False, frozenset(marked))


# -------------------------------------------------------------------------------------------------------------- figures


def ladder_illustrations(results: Mapping[str, Any]) -> list[Illustration]:
    """The ladder, and the galleries of its worlds."""
    found = [
        illustration(
            "ladder",
            "The ladder: every arm against CE, from a known p* to an unknown one",
            "A line a rung; points are differences from the CE arm with 95 % intervals. Left and right, less is closer "
            "to p*; in the middle, more is better. If the claim held, MSE (vermilion squares) would lie left of the "
            "line on the left and right of it in the middle, on every rung.",
            partial(ladder_figure, results),
        )
    ]
    for entry in [*(results.get("gallery") or []), *(results.get("own_gallery") or [])]:
        name = f"ladder-gallery-{entry['name']}"
        found.append(illustration(name, entry["title"], entry["caption"], partial(gallery_figure, entry)))
    return found


def ladder_figure(results: Mapping[str, Any]) -> Figure:
    """Differences from the CE arm: a line a rung, a panel a quantity, a colour an arm.

    Args:
        results: of kind ``ladder``.
    Raises:
        ValueError: no differences.
    """
    if not results["differences"]:
        raise ValueError("the ladder's figure needs differences, received none")
    rungs = results["rungs"]
    with styled():
        figure = new_figure(12.0, 1.3 + 0.62 * len(rungs))
        panels = figure.subplots(1, len(PANELS), sharey=True, squeeze=False)[0]
        for axes, (role, quantity, title, scale) in zip(panels, PANELS, strict=True):
            for height, rung in enumerate(rungs):
                for place, arm in enumerate(OTHERS):
                    row = _chosen(results["differences"], rung["name"], role, quantity, arm)
                    if row is not None:
                        _point(axes, row, scale, height + 0.17 * (place - (len(OTHERS) - 1) / 2), arm)
            axes.axvline(0, color=INK, linewidth=1)
            axes.set_title(title, fontsize=9)
            axes.set_yticks(range(len(rungs)), [_name(rung) for rung in rungs], fontsize=8.5)
            axes.set_ylim(len(rungs) - 0.45, -0.55)
            axes.locator_params(axis="x", nbins=5)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
            axes.spines["left"].set_visible(False)
            for edge in range(1, len(rungs)):
                axes.axhline(edge - 0.5, color="#e4e4e4", linewidth=0.7)
        handles = [panels[0].plot([], [], linestyle="none", label=LADDER_ARMS[arm], **_style(arm))[0] for arm in OTHERS]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(OTHERS))
    return figure


def _name(rung: Mapping[str, Any]) -> str:
    title: str = rung["title"]
    return title.replace(": ", ":\n").replace(", ", ",\n", 1)


def _style(arm: str) -> dict[str, Any]:
    return dict(arm_style(arm, OTHERS))


def _point(axes: Axes, row: Mapping[str, Any], scale: float, height: float, arm: str) -> None:
    mean, low, high = (scale * as_float(row[name]) for name in ("mean", "low", "high"))
    if not all(map(math.isfinite, (mean, low, high))):
        return
    style = _style(arm)
    axes.plot([low, high], [height, height], color=style["color"], linewidth=1.6, solid_capstyle="butt")
    axes.plot([mean], [height], markersize=5.5, mew=0.5, mec="white", linestyle="none", **style)
