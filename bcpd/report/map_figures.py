"""The map of when an MSE teacher wins: differences along every factor, over pairs of factors, and of control arms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from bcpd.report.illustration import Illustration, illustration
from bcpd.report.map_heat import heat_figure
from bcpd.report.map_lines import line_figure, setting_figure
from bcpd.report.map_marks import SHADES, difference_mark, mean_and_interval
from bcpd.report.numbers import as_float
from bcpd.report.quantities import arm_name
from bcpd.report.sentences import sentence
from bcpd.report.style import INK, arm_style, new_figure, styled

__all__ = ["map_illustrations"]


def map_illustrations(results: Mapping[str, Any]) -> list[Illustration]:
    """All figures of results of kind ``when-mse-wins``."""
    axis_note = (
        "Points: mean paired difference, MSE teacher minus CE teacher, over data draws, with unadjusted 95 % "
        "t-intervals; a point is filled where the difference is shown after Holm's correction, and hollow where it is "
        "not. The dotted line marks the base cell."
    )
    students = "Students are taken at their own best validation score."
    found = [
        illustration(
            "map-lines",
            "Is the MSE teacher closer to p*? One factor at a time",
            f"{axis_note} Below the line (vermilion side) the MSE teacher is closer on fresh points. The checkpoints "
            "are kept apart: where they disagree, the stopping rule decides, not the loss.",
            lambda: line_figure(results, "teacher fresh_mse {}", "MSE to p*: MSE minus CE teacher"),
        ),
        illustration(
            "map-lines-kl",
            "The same in KL to p*",
            f"{axis_note} Below the line (vermilion side) the MSE teacher is closer on fresh points. The path minimum "
            "is that of the KL.",
            lambda: line_figure(results, "teacher fresh_kl {}", "KL to p* (nats): MSE minus CE teacher"),
        ),
        illustration(
            "map-lines-transfer",
            "The same on the inputs that students see",
            f"{axis_note} Below the line (vermilion side) the MSE teacher is closer on the transfer inputs, which it "
            "was trained on.",
            lambda: line_figure(results, "teacher transfer_mse {}", "MSE to p*, transfer inputs: MSE minus CE teacher"),
        ),
        illustration(
            "map-students",
            "Is its student better? One factor at a time",
            f"{axis_note} Above the line (vermilion side) the MSE teacher's student predicts better. Accuracy is the "
            f"mean of p* at the prediction, without the noise of test labels. {students}",
            lambda: line_figure(
                results,
                "student fresh_accuracy {}",
                "student's accuracy: MSE teacher's minus CE teacher's (points)",
                100,
            ),
        ),
        illustration(
            "map-students-mse",
            "Is the student itself closer to p*?",
            f"{axis_note} Below the line (vermilion side) the MSE teacher's student is closer on fresh points. "
            f"{students}",
            lambda: line_figure(
                results, "student fresh_mse {}", "student's MSE to p*: MSE teacher's minus CE teacher's"
            ),
        ),
    ]
    for pair in results.get("pairs") or []:
        found.append(
            illustration(
                f"map-{pair['id']}",
                str(pair["title"]),
                "Each field: the mean paired difference, MSE teacher minus CE teacher, left of the teachers' MSE to p* "
                "on fresh points, right of their students' accuracy in points. Vermilion favours MSE, blue CE; hatched "
                "fields have an unadjusted 95 % interval that contains zero; a star marks what is shown after Holm's "
                "correction; the thick line separates opposite signs, unless both fields are hatched.",
                lambda pair=pair: heat_figure(results, pair),  # type: ignore[misc]
            )
        )
    found += [
        illustration(
            "map-settings",
            "The paper's other settings, as toys",
            f"{_setting_titles(results)} {axis_note.replace(' The dotted line marks the base cell.', '')}",
            lambda: setting_figure(results),
        ),
        *_control_illustrations(results),
        illustration(
            "map-rates",
            "How much hangs on the learning rate",
            "The best validation score of the path at every rate tried in the base cell, relative to the best of its "
            "loss; mean over tuning draws. The ring marks the rate that this score chose, the diamond the one that the "
            "score of the last epoch chose, the cross the one that validation accuracy chose.",
            lambda: _rates(results),
        ),
    ]
    return found


def _control_illustrations(results: Mapping[str, Any]) -> list[Illustration]:
    """A figure for every cell that has control arms, the base cell first."""
    cells = [cell for cell in results["cells"] if cell.get("controls")]
    return [
        illustration(
            cell.get("controls_figure") or "map-controls",
            f"Control arms: {cell['name']}",
            "Each arm minus the plain CE teacher (or its student), paired over draws, with unadjusted 95 % "
            "t-intervals; filled where the difference is shown after Holm's correction over the arms. What a "
            "temperature, a stopping rule or an average of teachers buys is to be set against what the MSE loss buys. "
            "Last epochs have the rate tuned for them. Cross-fitted teachers are compared on the transfer inputs only: "
            "there each point is labelled by the teacher that has not seen it.",
            lambda name=cell["name"]: _controls(results, name),  # type: ignore[misc]
        )
        for cell in cells
    ]


def _setting_titles(results: Mapping[str, Any]) -> str:
    return " ".join(f"{sentence(str(setting['title']))}" for setting in results.get("settings") or [])


def _controls(results: Mapping[str, Any], cell: str) -> Figure:
    rows = [row for row in results["controls"] if row["cell"] == cell and row["against"] == "ce"]
    panels_of = (
        ("teacher", "fresh_mse", "teacher's MSE to p*, fresh points, minus CE's", 1.0),
        ("teacher", "transfer_mse", "the same on the transfer inputs", 1.0),
        ("student", "fresh_accuracy", "student's accuracy minus CE's (points)", 100.0),
    )
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    if not arms:
        raise ValueError("the results hold no control arm against CE")
    labels = {row["arm"]: row["label"] for row in rows}
    with styled():
        figure = new_figure(12.0, 0.36 * len(arms) + 1.5)
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (role, metric, label, scale) in zip(panels, panels_of, strict=True):
            for offset, (checkpoint, shade, marker) in enumerate(
                (("best_score", SHADES[0], "o"), ("last", SHADES[1], "s"))
            ):
                for height, arm in enumerate(arms):
                    row = next(
                        (
                            row
                            for row in rows
                            if (row["arm"], row["role"], row["metric"], row["teacher_checkpoint"])
                            == (arm, role, metric, checkpoint)
                        ),
                        None,
                    )
                    mean, low, high = mean_and_interval(row, scale)
                    at = height + 0.3 * (offset - 0.5)
                    axes.plot([low, high], [at, at], color=shade, linewidth=1.5)
                    difference_mark(axes, mean, at, row, shade, marker, 5)
            axes.axvline(0, color=INK, linewidth=1)
            axes.set_xlabel(label)
            axes.grid(axis="y", visible=False)
            axes.locator_params(axis="x", nbins=5)
        panels[0].set_yticks(range(len(arms)), [labels[arm] for arm in arms], fontsize=8.5)
        panels[0].set_ylim(len(arms) - 0.4, -0.6)
        handles = [
            panels[0].plot([], [], color=shade, marker=marker, linestyle="none", label=name)[0]
            for name, shade, marker in (
                ("teacher taken at its best validation score", SHADES[0], "o"),
                ("at the last epoch (rate tuned for it)", SHADES[1], "s"),
            )
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _rates(results: Mapping[str, Any]) -> Figure:
    base = next(cell["name"] for cell in results["cells"] if cell.get("controls"))
    tried = [
        row
        for row in results["sensitivity"]
        if row["cell"] == base and row["tuned_by"] == "score" and row["arm"] != "student"
    ]
    if not tried:
        raise ValueError("the results hold no rates tried at the base cell")
    chosen = {
        (row["arm"], row["tuned_by"]): as_float(row["rate"])
        for row in results["rates"]
        if row["cell"] == base and row["role"] == "teacher"
    }
    arms = list(dict.fromkeys(row["arm"] for row in tried))
    with styled():
        figure = new_figure(6.4, 3.8)
        axes = figure.subplots()
        for arm in arms:
            style = arm_style(arm, arms)
            line = sorted((as_float(row["rate"]), as_float(row["mean"])) for row in tried if row["arm"] == arm)
            best = min((mean for _, mean in line if math.isfinite(mean)), default=math.nan)
            relative = [(rate, mean / best - 1) for rate, mean in line]
            axes.plot(*zip(*relative, strict=True), color=style["color"], label=arm_name(arm), marker=".")
            for rate, value in relative:
                if rate == chosen.get((arm, "score")):
                    axes.plot([rate], [value], "o", color=style["color"], markerfacecolor="none", markersize=11)
                if rate == chosen.get((arm, "last")):
                    axes.plot([rate], [value], "D", color=style["color"], markerfacecolor="none", markersize=7)
                if rate == chosen.get((arm, "accuracy")):
                    axes.plot([rate], [value], "x", color=style["color"], markersize=8, mew=2)
        axes.set(xscale="log", xlabel="learning rate", ylabel="own validation score over its best, minus 1")
        top = min(0.3, axes.get_ylim()[1])
        axes.set_ylim(-0.06 * top, top)
        axes.legend(ncols=2)
    return figure
