"""How much a verdict hangs on the learning rate: the distance to p* of every rate that was tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from bcpd.report.numbers import as_float
from bcpd.report.quantities import arm_name, checkpoint_name
from bcpd.report.style import arm_style, new_figure, styled

__all__ = ["rate_figure"]


def rate_figure(results: Mapping[str, Any]) -> Figure:
    """Teachers' distance to p* on fresh points against the learning rate, at the best score and at the last epoch.

    One faint point a tuning draw, a line through their means; the ring marks the rate that was chosen.

    Args:
        results: of kind ``quickstart``, with ``sensitivity`` and ``tuning``.
    Raises:
        ValueError: no teacher among the tuning rows.
    """
    rows = [row for row in results["sensitivity"] if row["role"] == "teacher"]
    if not rows:
        raise ValueError("the tuning rows hold no teacher")
    chosen = {trial["arm"]: as_float(trial["learning_rate"]) for trial in results["tuning"] if trial["chosen"]}
    checkpoints = list(dict.fromkeys(row["checkpoint"] for row in rows))
    with styled():
        figure = new_figure(9.0, 3.8)
        panels = figure.subplots(1, len(checkpoints), sharey=True, squeeze=False)[0]
        for axes, checkpoint in zip(panels, checkpoints, strict=True):
            for arm in dict.fromkeys(row["arm"] for row in rows):
                style = arm_style(arm)
                line = sorted(
                    (as_float(row["learning_rate"]), [as_float(value) for value in row["fresh_mse"]])
                    for row in rows
                    if row["arm"] == arm and row["checkpoint"] == checkpoint
                )
                means = [sum(values) / len(values) for _, values in line]
                axes.plot([rate for rate, _ in line], means, color=style["color"], label=arm_name(arm))
                for (rate, values), mean in zip(line, means, strict=True):
                    axes.plot([rate] * len(values), values, ".", color=style["color"], alpha=0.45, markersize=4)
                    if rate == chosen.get(arm):
                        axes.plot([rate], [mean], "o", color=style["color"], markerfacecolor="none", markersize=10)
            axes.set(xscale="log", yscale="log", xlabel="learning rate", title=checkpoint_name(checkpoint))
        panels[0].set_ylabel("MSE to p*, fresh points")
        panels[0].legend()
    return figure
