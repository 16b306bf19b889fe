"""The map of when an MSE teacher wins: differences along every factor, over pairs of factors, and of control arms."""

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

from bcpd.report.illustration import Illustration, illustration
from bcpd.report.numbers import as_float, number
from bcpd.report.quantities import arm_name
from bcpd.report.sentences import sentence
from bcpd.report.style import ARM_STYLES, FAINT, INK, arm_style, new_figure, styled

__all__ = ["map_illustrations"]

BLUE, RED = ARM_STYLES["ce"]["color"], ARM_STYLES["mse"]["color"]
TEACHER = "teacher fresh_mse score/best_score"
STUDENT = "student fresh_accuracy score/best_score"
CHECKPOINTS: Sequence[tuple[str, str, str]] = (
    ("score/best_score", "best validation score", "o"),
    ("last/last", "last epoch (rate tuned for it)", "s"),
    ("score/path_minimum_mse", "path minimum", "^"),
    ("accuracy/best_accuracy", "best validation accuracy (rate tuned by it)", "D"),
)
LEVEL = 0.05
SHADES = ("#222222", "#8c6bb1", "#4d9221", "#b8860b")
# the light middle means no difference; blue favours CE, vermilion MSE, as in every figure here
FAVOUR = LinearSegmentedColormap.from_list("favour", [BLUE, "#f7f7f7", RED])


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
            lambda: _lines(results, "teacher fresh_mse {}", "MSE to p*: MSE minus CE teacher"),
        ),
        illustration(
            "map-lines-kl",
            "The same in KL to p*",
            f"{axis_note} Below the line (vermilion side) the MSE teacher is closer on fresh points. The path minimum "
            "is that of the KL.",
            lambda: _lines(results, "teacher fresh_kl {}", "KL to p* (nats): MSE minus CE teacher"),
        ),
        illustration(
            "map-lines-transfer",
            "The same on the inputs that students see",
            f"{axis_note} Below the line (vermilion side) the MSE teacher is closer on the transfer inputs, which it "
            "was trained on.",
            lambda: _lines(results, "teacher transfer_mse {}", "MSE to p*, transfer inputs: MSE minus CE teacher"),
        ),
        illustration(
            "map-students",
            "Is its student better? One factor at a time",
            f"{axis_note} Above the line (vermilion side) the MSE teacher's student predicts better. Accuracy is the "
            f"mean of p* at the prediction, without the noise of test labels. {students}",
            lambda: _lines(
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
            lambda: _lines(results, "student fresh_mse {}", "student's MSE to p*: MSE teacher's minus CE teacher's"),
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
                lambda pair=pair: _heat(results, pair),  # type: ignore[misc]
            )
        )
    found += [
        illustration(
            "map-settings",
            "The paper's other settings, as toys",
            f"{_setting_titles(results)} {axis_note.replace(' The dotted line marks the base cell.', '')}",
            lambda: _settings(results),
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


def _shown(row: Mapping[str, Any] | None) -> bool:
    """Whether a difference is shown after Holm's correction."""
    return row is not None and as_float(row.get("p_holm")) < LEVEL


def _point(axes: Axes, x: float, y: float, row: Mapping[str, Any] | None, shade: str, marker: str, size: float) -> None:
    """Filled where the difference is shown, hollow where it is not."""
    filled = _shown(row)
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


def _table(results: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The summary by cell and quantity."""
    return {(row["cell"], row["quantity"]): row for row in results["summary"]}


def _values(row: Mapping[str, Any] | None, scale: float = 1.0) -> tuple[float, float, float]:
    """Mean and interval; nan where there is none."""
    if row is None:
        return math.nan, math.nan, math.nan
    mean, low, high = (scale * as_float(row[key]) for key in ("mean", "low", "high"))
    return mean, low, high


def _lines(results: Mapping[str, Any], pattern: str, label: str, scale: float = 1.0) -> Figure:
    lines = results["lines"]
    if not lines:
        raise ValueError("the results hold no factor that was varied")
    summary = _table(results)
    lower_is_better = "accuracy" not in pattern
    with styled():
        columns = min(4, len(lines))
        rows = math.ceil(len(lines) / columns)
        figure = new_figure(3.0 * columns, 2.7 * rows + 0.7)
        panels = figure.subplots(rows, columns, squeeze=False, sharey=False).ravel()
        for axes, line in zip(panels, lines, strict=False):
            _line(axes, line, summary, pattern, scale)
            _favoured(axes, lower_is_better)
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


def _line(
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
        found = [_values(row, scale) for row in rows]
        if all(math.isnan(mean) for mean, _, _ in found):
            continue
        at = places + 0.11 * (number_of - 1.5)
        means = [mean for mean, _, _ in found]
        axes.plot(at, means, color=shade, linewidth=1.1, alpha=0.8, zorder=3)
        for x, row, (mean, low, high) in zip(at, rows, found, strict=True):
            axes.plot([x, x], [low, high], color=shade, linewidth=1.3, zorder=3)
            _point(axes, x, mean, row, shade, marker, 4.5)
    axes.axhline(0, color=INK, linewidth=1)
    if line.get("base") is not None:
        axes.axvline(line["base"], color=FAINT, linewidth=1, linestyle=":")
    slanted: dict[str, Any] = {} if _short(levels) else {"rotation": 25, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, [_level(level) for level in levels], fontsize=8, **slanted)
    axes.set_xlim(-0.5, len(levels) - 0.5)
    axes.set_title(fill(line["label"], 30))
    axes.grid(axis="x", visible=False)
    axes.locator_params(axis="y", nbins=5)
    axes.tick_params(axis="y", labelsize=8)


def _short(levels: Sequence[Any]) -> bool:
    return sum(len(_level(level)) for level in levels) <= 24


def _level(level: Any) -> str:
    return f"{level:,g}".replace(",", "\N{THIN SPACE}") if isinstance(level, int | float) else str(level)


def _favoured(axes: Axes, lower_is_better: bool) -> None:
    """Tint the half of the panel that favours each loss, without moving the axis."""
    low, high = axes.get_ylim()
    reach = max(abs(low), abs(high))
    below, above = (RED, BLUE) if lower_is_better else (BLUE, RED)
    axes.axhspan(-2 * reach, 0, color=below, alpha=0.07, linewidth=0, zorder=0)
    axes.axhspan(0, 2 * reach, color=above, alpha=0.07, linewidth=0, zorder=0)
    axes.set_ylim(low, high)


def _heat(results: Mapping[str, Any], pair: Mapping[str, Any]) -> Figure:
    summary = _table(results)
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
            grid = [[_values(row, scale) for row in line] for line in rows_of]
            _field(axes, grid, sign, [[_shown(row) for row in line] for line in rows_of])
            axes.set_title(title)
            axes.set_xticks(np.arange(len(columns)), [_level(level) for level in columns])
            axes.set_yticks(np.arange(len(rows)), [_level(level) for level in rows])
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


def _setting_titles(results: Mapping[str, Any]) -> str:
    return " ".join(f"{sentence(str(setting['title']))}" for setting in results.get("settings") or [])


def _settings(results: Mapping[str, Any]) -> Figure:
    settings = results["settings"]
    if not settings:
        raise ValueError("the results hold no further setting")
    summary = _table(results)
    with styled():
        figure = new_figure(4.4 * len(settings), 5.4)
        panels = figure.subplots(2, len(settings), squeeze=False)
        for column, setting in enumerate(settings):
            line = {**setting, "base": None}
            for axes, pattern, scale, label in (
                (panels[0, column], "teacher fresh_mse {}", 1.0, "teacher's MSE to p*"),
                (panels[1, column], "student fresh_accuracy {}", 100.0, "student's accuracy (points)"),
            ):
                _line(axes, line, summary, pattern, scale)
                _favoured(axes, "accuracy" not in pattern)
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
                    mean, low, high = _values(row, scale)
                    at = height + 0.3 * (offset - 0.5)
                    axes.plot([low, high], [at, at], color=shade, linewidth=1.5)
                    _point(axes, mean, at, row, shade, marker, 5)
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
