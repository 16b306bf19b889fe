"""Teachers at the recipe's length: the search, rate by rate, and which teacher is closer to p*."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bcpd.report.illustration import Illustration, illustration
from bcpd.report.numbers import as_float
from bcpd.report.rows import Row, find
from bcpd.report.style import FAINT, INK, arm_style, beside_names, draw_interval, log_ticks, new_figure, styled
from bcpd.report.teacher_search import TEACHER_ARMS, headline_pairs, pair_name

__all__ = ["closeness_figure", "search_figure", "teacher_illustrations"]

SCORES = {"nll": "validation NLL", "brier": "validation Brier score"}
WARM_UPS = ("^", "D", "v", "P")
"""Markers of warm-ups, the shortest first; none is a circle."""
PANELS = (("mse", "MSE to p*, first minus second"), ("kl", "KL to p* (nats), first minus second"))


def teacher_illustrations(results: Row) -> list[Illustration]:
    """The search, and the differences."""
    return [
        illustration(
            "teachers-search",
            "What rate each loss wants",
            "Validation score of every setting that was tried, each loss by its own, on a seed that is not reported; "
            "lower is better. A line a weight decay; triangles and diamonds have a warm-up, as the legend says. Filled "
            "marks had levelled off at the end of the training, open ones had not. The ring is the setting that was "
            "chosen; words below it say in what it lies on the edge of what was tried. Crosses at the top "
            "diverged.",
            partial(search_figure, results),
        ),
        illustration(
            "teachers-closeness",
            "Which teacher is closer to p* on real test images?",
            "Difference of the two teachers' distances to the unknown p*, from test labels that neither has seen: left "
            "of the black line the first teacher is closer. Intervals are 95 %, crossed over seeds and test images; "
            "faint dots are the seeds, open marks leave out test images that nearly repeat a training image. +T: with "
            "a temperature fitted on validation labels.",
            partial(closeness_figure, results),
        ),
    ]


# -------------------------------------------------------------------------------------------------------------- search


def search_figure(results: Row) -> Figure:
    """A panel a net and loss: the score of every setting against its rate.

    Args:
        results: of kind ``teachers``.
    Raises:
        ValueError: no trials.
    """
    trials = results["search"]
    if not trials:
        raise ValueError("the figure needs trials of the search, received none")
    nets = [net for net in results["spec"]["nets"] if any(row["net"] == net for row in trials)]
    losses = [loss for loss in results["spec"]["losses"] if any(row["loss"] == loss for row in trials)]
    decays = sorted({as_float(row["decay"]) for row in trials})
    warm_ups = sorted({as_float(row["warm_up"]) for row in trials} - {0.0})
    colours = mpl.colormaps["viridis"]
    palette = {decay: colours(0.85 * place / max(1, len(decays) - 1)) for place, decay in enumerate(decays)}
    markers = dict(zip(warm_ups, WARM_UPS, strict=False))
    with styled():
        figure = new_figure(1.6 + 3.0 * len(losses), 1.3 + 3.0 * len(nets))
        panels = figure.subplots(len(nets), len(losses), squeeze=False)
        for row_of, net in zip(panels, nets, strict=True):
            for axes, loss in zip(row_of, losses, strict=True):
                own = [row for row in trials if (row["net"], row["loss"]) == (net, loss)]
                _draw_search(axes, own, palette, markers)
                axes.set_title(f"{net}, {TEACHER_ARMS[loss]}", fontsize=9)
        for axes in panels[-1]:
            axes.set_xlabel("learning rate", fontsize=9)
        figure.legend(handles=_search_legend(palette, markers), loc="outside lower left", ncols=4, fontsize=8.5)
    return figure


def _draw_search(axes: Axes, trials: Sequence[Row], palette: Mapping[float, Any], markers: Mapping[float, str]) -> None:
    there = [row for row in trials if math.isfinite(as_float(row["score"]))]
    for decay, colour in palette.items():
        line = sorted(
            (as_float(row["rate"]), as_float(row["score"]))
            for row in there
            if row["decay"] == decay and not row["warm_up"]
        )
        axes.plot([rate for rate, _ in line], [score for _, score in line], color=colour, linewidth=1.3)
    for row in there:
        rate, score = _place(row, markers), as_float(row["score"])
        colour = palette[as_float(row["decay"])]
        style = {"marker": markers.get(as_float(row["warm_up"]), "o"), "color": colour, "linestyle": "none"}
        axes.plot([rate], [score], markersize=6, mfc="white" if row.get("under_trained") else colour, mew=1.3, **style)
        if row["chosen"]:
            axes.plot([rate], [score], "o", markersize=13, mfc="none", mec=INK, mew=1.4)
            if row["edge"]:
                text = f"edge in {', '.join(row['edge'])}"
                axes.annotate(text, (rate, score), (0, -17), textcoords="offset points", ha="center", fontsize=7.5)
    lost = [_place(row, markers) for row in trials if row not in there]
    axes.plot(lost, [0.97] * len(lost), "x", color="#b00020", markersize=7, transform=axes.get_xaxis_transform())
    log_ticks(axes, sorted({as_float(row["rate"]) for row in trials}), "g")
    axes.margins(x=0.14, y=0.25)
    if trials:
        axes.set_ylabel(SCORES[trials[0]["name"]], fontsize=9)


def _place(row: Row, markers: Mapping[float, str]) -> float:
    """Its rate; settings with a warm-up stand a little to the right, so that they can be seen."""
    return as_float(row["rate"]) * 1.09 ** (1 + list(markers).index(row["warm_up"]) if row["warm_up"] else 0)


def _search_legend(palette: Mapping[float, Any], markers: Mapping[float, str]) -> list[Line2D]:
    def mark(marker: str, label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, label=label, **{"color": INK, "markersize": 6, **style})

    found = [Line2D([], [], color=colour, marker="o", label=f"decay {decay:g}") for decay, colour in palette.items()]
    found += [mark(marker, f"warm-up, epochs: {epochs:g}") for epochs, marker in markers.items()]
    found.append(mark("o", "under-trained", mfc="white", mew=1.3))
    found.append(mark("o", "chosen", mfc="none", markersize=11, mew=1.4))
    return [*found, mark("x", "diverged", color="#b00020")]


# ----------------------------------------------------------------------------------------------------------- closeness


def closeness_figure(results: Row) -> Figure:
    """A line a net and pair of teachers, a panel a distance.

    Args:
        results: of kind ``teachers``.
    Raises:
        ValueError: no differences.
    """
    if not results["differences"]:
        raise ValueError("the figure needs differences of two teachers, received none")
    pairs = headline_pairs(results)
    arms = list(dict.fromkeys(arm for arm, _ in pairs))
    lines = [(net, *pair) for net in results["spec"]["nets"] for pair in pairs]
    lines = [(net, a, b) for net, a, b in lines if find(results["differences"], net=net, arm=a, against=b)]
    with styled():
        figure = new_figure(10.5, 1.3 + 0.42 * len(lines))
        panels = figure.subplots(1, len(PANELS), sharey=True, squeeze=False)[0]
        for axes, (quantity, label) in zip(panels, PANELS, strict=True):
            for height, (net, arm, against) in enumerate(lines):
                row = find(results["differences"], net=net, arm=arm, against=against, quantity=quantity)
                if row is not None:
                    _draw_difference(axes, row, height, dict(arm_style(arm, arms)))
            beside_names(axes)
            axes.set_xlabel(label, fontsize=9)
            axes.locator_params(axis="x", nbins=5)
            for height in range(1, len(lines)):
                if lines[height][0] != lines[height - 1][0]:
                    axes.axhline(height - 0.5, color="#bbbbbb", linewidth=0.8)
        names = [f"{net}: {pair_name(arm, against)}" for net, arm, against in lines]
        panels[0].set_yticks(range(len(lines)), names, fontsize=8.5)
        panels[0].set_ylim(len(lines) - 0.4, -0.6)
    return figure


def _draw_difference(axes: Axes, row: Row, height: float, style: Mapping[str, Any]) -> None:
    seeds = [as_float(one["value"]) for one in row["by_seed"]]
    seeds = [value for value in seeds if math.isfinite(value)]
    axes.plot(seeds, [height + 0.2] * len(seeds), ".", color=FAINT, markersize=4)
    shown = [(row, height, style["color"], 1.6)]
    if "without_near" in row:
        shown.append((row["without_near"], height - 0.2, "white", 0.8))
    for entry, level, face, width in shown:
        mean, low, high = (as_float(entry[name]) for name in ("mean", "low", "high"))
        draw_interval(axes, low, high, level, style["color"], width)
        if math.isfinite(mean):
            size = 5.5 if face != "white" else 4
            axes.plot([mean], [level], markersize=size, mew=1, linestyle="none", **{**style, "mfc": face})
