"""Figure 1's intervals: families at equal distance, rank correlations, and real teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bcpd.report.figure1_marks import ACCURACY, FAMILY_STYLES, TEACHER_STYLES, Row, element_id, mark, say_lost
from bcpd.report.figure1_tables import family_name
from bcpd.report.numbers import as_float
from bcpd.report.run_figures import band
from bcpd.report.style import INK, arm_style, new_figure, styled
from bcpd.targets import TARGETS

__all__ = ["correlation_figure", "matched_figure", "teacher_figure"]


def matched_figure(results: Row) -> Figure:
    """Families at equal MSE, and at equal KL: a panel a goal, a line a family, with 95 % t-intervals over draws.

    Args:
        results: of kind ``figure1``, with ``matched``.
    Raises:
        ValueError: no matched level.
    """
    entries = results["matched"]
    goals = sorted({(entry["matched"] != "mse", entry["matched"], entry["goal"]) for entry in entries})
    if not goals:
        raise ValueError("the results hold no matched levels")
    families = list(FAMILY_STYLES)
    with styled():
        figure = new_figure(2.0 * len(goals) + 1.4, 4.1)
        panels = figure.subplots(1, len(goals), sharey=True, squeeze=False)[0]
        for axes, (_, distance, goal) in zip(panels, goals, strict=True):
            there = {
                entry["family"]: entry for entry in entries if (entry["matched"], entry["goal"]) == (distance, goal)
            }
            for height, family in enumerate(families):
                if family not in there:
                    axes.text(
                        0.5,
                        height,
                        "out of reach",
                        fontsize=7.5,
                        color="#888888",
                        ha="center",
                        va="center",
                        transform=axes.get_yaxis_transform(),
                    )
                    continue
                entry = there[family][ACCURACY]
                mark(axes, entry, height, FAMILY_STYLES[family], element_id(there[family]["ids"]), 100)
                say_lost(axes, entry, height)
            axes.axvline(0, color=arm_style("bayes")["color"], linewidth=1.2, zorder=0)
            axes.set_title(f"{distance.upper()} = {goal:g}", fontsize=9.5)
            axes.locator_params(axis="x", nbins=5)
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(families)), [_described(family) for family in families], fontsize=8.5)
        panels[0].set_ylim(len(families) - 0.4, -0.6)
        figure.supxlabel("accuracy minus that of the student of p* (points)", fontsize=9.5)
    return figure


def _described(family: str) -> str:
    kind = TARGETS[family]
    note = "unbiased" if kind.unbiased else "argmax kept" if kind.keeps_argmax else "biased"
    return f"{family_name(family)} ({note})"


def correlation_figure(results: Row) -> Figure:
    """Rank correlation of accuracy with either distance, plain and given the other: means over draws with intervals.

    Args:
        results: of kind ``figure1``, with ``correlations``.
    Raises:
        ValueError: none could be computed.
    """
    entries = [entry for entry in results["correlations"] if entry["outcome"] == "best_score"]
    if not any("mean" in entry for entry in entries):
        raise ValueError("the results hold no rank correlations")
    sets = list(dict.fromkeys(entry["set"] for entry in entries))
    with styled():
        figure = new_figure(9.6, 0.44 * len(sets) + 1.6)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, partial, title in zip(panels, (False, True), ("plain", "given the other distance"), strict=True):
            for place, entry in enumerate(results["correlations"]):
                if entry["outcome"] != "best_score" or (entry["given"] is not None) != partial:
                    continue
                height = sets.index(entry["set"]) + (-0.14 if entry["distance"] == "mse" else 0.14)
                style = arm_style("mse" if entry["distance"] == "mse" else "ce")
                if "mean" in entry:
                    mark(axes, entry, height, style, f"correlation-{place}")
                elif entry["distance"] == "mse":
                    axes.text(0, sets.index(entry["set"]), "not defined", fontsize=7.5, color="#888888", va="center")
            axes.axvline(0, color=INK, linewidth=1)
            axes.set(
                xlim=(-1.05, 1.05),
                xticks=(-1, -0.5, 0, 0.5, 1),
                title=title,
                xlabel="Spearman with the student's accuracy",
            )
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(sets)), [name.replace("_", " ") for name in sets], fontsize=8.5)
        panels[0].set_ylim(len(sets) - 0.4, -0.6)
        handles = [
            panels[0].plot([], [], linestyle="none", label=name, **arm_style(arm))[0]
            for arm, name in (("mse", "MSE to p*"), ("ce", "KL to p*"))
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


def teacher_figure(results: Row) -> Figure:
    """Real teachers: distance to p* by epoch, by the probability of the training label, and differences at the minimum.

    Args:
        results: of kind ``figure1``, with ``teachers``.
    Raises:
        ValueError: no teachers.
    """
    teachers = [row for row in results["teachers"] if row["world"] == "toy"]
    if not teachers:
        raise ValueError("the results hold no teachers of the separating experiment")
    with styled():
        figure = new_figure(11.8, 4.3)
        by_epoch, by_length, differences = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
        for arm, style in TEACHER_STYLES.items():
            own = [row for row in teachers if row["arm"] == arm]
            if not own:
                continue
            gid = element_id([row["id"] for row in own], "teachers")
            paths = [[as_float(value) for value in row["fresh_mse"]] for row in own]
            mse = band(by_epoch, list(zip(*paths, strict=True)), color=style["color"], label=family_name(arm))
            by_epoch.get_lines()[-1].set_gid(gid)
            lengths = [[as_float(value) for value in row["label_probability"]] for row in own]
            length = [sum(values) / len(values) for values in zip(*lengths, strict=True)]
            look = {"color": style["color"], "markevery": [-1], "marker": style["marker"]}
            by_length.plot(length, mse, markersize=7, mec="w", gid=gid, **look)
        by_epoch.set(xlabel="epoch", ylabel="MSE to p*, fresh points", title="by epoch")
        by_length.set(xlabel="mean probability of the training label", title="by effective length")
        _difference_panel(differences, results.get("comparisons", ()))
        handles, labels = by_epoch.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8.5)
    return figure


COMPARED: Mapping[tuple[str, str, str, str], str] = {
    ("toy", "mlp", "path minimum", "best score"): "toy, perceptron:\npath minimum",
    ("contaminated", "linear", "path minimum", "best score"): "contaminated, linear\nsoftmax: path minimum",
    ("contaminated", "mlp", "path minimum", "best score"): "contaminated, perceptron:\npath min. (not registered)",
    ("toy", "mlp", "last", "best score"): "toy, last epoch,\nrates of the best score",
    ("toy", "mlp", "last", "last epoch"): "toy, last epoch,\nrates tuned for it",
}
"""World, network, checkpoint and what tuned the rates: its line in the panel of differences."""


def _difference_panel(axes: Axes, comparisons: Sequence[Row]) -> None:
    """MSE teacher minus CE teacher in MSE to p*, draw by draw."""
    for entry in comparisons:
        key = (entry["world"], entry["net"], entry["checkpoint"], entry["rates_tuned_by"])
        if key not in COMPARED or entry["distance"] != "mse" or entry["n"] < 2:
            continue
        favoured = "ce" if as_float(entry["low"]) > 0 else "mse" if as_float(entry["high"]) < 0 else ""
        style = arm_style(favoured) if favoured and not entry["lost"] else {"color": "#8a8a8a", "marker": "D"}
        height = list(COMPARED).index(key)
        mark(axes, entry, height, style, element_id(entry["ids"], "teachers"))
        say_lost(axes, entry, height)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(COMPARED)), list(COMPARED.values()), fontsize=8)
    axes.set_ylim(len(COMPARED) - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="MSE to p*, MSE minus CE teacher", title="paired differences")
