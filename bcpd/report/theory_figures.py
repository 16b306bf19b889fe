"""Figures of a verification, from the data of :func:`bcpd.theory.pictures.pictures`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bcpd.report.quantities import arm_name
from bcpd.report.style import FAINT, INK, arm_style, bare, new_figure, styled

__all__ = ["identity_figure", "minimiser_figure", "posterior_figure", "projection_figure"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

CLASS_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#999999")
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P")
_WRONG = {"dropped_constant": ("constant left out", "x"), "swapped_arguments": ("arguments swapped", "+")}
_LOSS_NAMES = {
    "ce": "CE",
    "mse": "MSE (Brier)",
    "spherical": "spherical",
    "label_smoothing": "label smoothing",
    "focal": "focal",
    "mae": "MAE",
    "logit_mse": "square loss on logits",
}


def posterior_figure(data: Mapping[str, Any]) -> Figure:
    """p* over a plane: the classes' colours mixed by p*(k | x), sampled points, and where the Bayes decision changes.

    Args:
        data: ``pictures()["posterior"]``.
    """
    bayes = np.array(data["bayes"], dtype=np.float64)
    classes = bayes.shape[-1]
    colours = np.array([to_rgb(CLASS_COLOURS[k % len(CLASS_COLOURS)]) for k in range(classes)])
    first = np.linspace(data["first"][0], data["first"][1], bayes.shape[1])
    second = np.linspace(data["second"][0], data["second"][1], bayes.shape[0])
    points, labels = np.array(data["points"]), np.array(data["labels"])
    with styled():
        figure = new_figure(6.4, 5.2)
        axes = figure.subplots()
        axes.grid(False)
        mixed = 0.35 + 0.65 * np.clip(bayes @ colours, 0, 1)  # paler than the points
        extent = (first[0], first[-1], second[0], second[-1])
        axes.imshow(mixed, origin="lower", extent=extent, aspect="auto", interpolation="bilinear")
        finer = _upsampled(bayes, 5)  # so that no kink shows where three classes meet
        fine_first, fine_second = (
            np.linspace(v[0], v[-1], finer.shape[1 - axis]) for axis, v in enumerate((first, second))
        )
        for k in range(classes):
            margin = finer[..., k] - np.delete(finer, k, axis=-1).max(-1)
            axes.contour(fine_first, fine_second, margin, levels=[0.0], colors=[INK], linewidths=1.3)
            rows = labels == k
            axes.scatter(
                points[rows, 0],
                points[rows, 1],
                s=26,
                marker=CLASS_MARKERS[k % len(CLASS_MARKERS)],
                color=colours[k] * 0.72,
                edgecolors="white",
                linewidths=0.7,
                label=f"class {k}",
            )
        axes.plot([], [], color=INK, linewidth=1.3, label="Bayes decision changes")
        axes.set(xlabel="x₁", ylabel="x₂", title=f"p*(class | x) of {data['mixture']}")
        axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.11), columnspacing=1.2, handletextpad=0.4)
    return figure


def _upsampled(values: Array, factor: int) -> Array:
    """Bilinear interpolation of ``(rows, columns, ...)`` to so many times the intervals."""
    for axis in (0, 1):
        size = values.shape[axis]
        at = np.linspace(0, size - 1, factor * (size - 1) + 1)
        below = np.minimum(at.astype(int), size - 2)
        moved = np.moveaxis(values, axis, 0)
        share = (at - below).reshape(-1, *([1] * (values.ndim - 1)))
        values = np.moveaxis((1 - share) * moved[below] + share * moved[below + 1], 0, axis)
    return values


def identity_figure(data: Mapping[str, Any]) -> Figure:
    """Theorem 1: for random networks, the label risk against constant + distance to p*, right and wrong.

    Args:
        data: ``pictures()["identity"]``.
    """
    with styled():
        figure = new_figure(9.6, 4.6)
        for axes, (loss, sides) in zip(figure.subplots(1, 2), data["losses"].items(), strict=True):
            risk = np.array(sides["risk"])
            low, high = float(risk.min()), float(risk.max())
            room = 0.04 * (high - low)
            axes.plot([low - room, high + room], [low - room, high + room], color=FAINT, linewidth=1, zorder=1)
            style = dict(arm_style(loss))
            axes.scatter(risk, sides["claimed"], s=30, zorder=3, label="constant + distance", linewidths=0, **style)
            for control, (name, marker) in _WRONG.items():
                axes.scatter(
                    risk, sides[control], s=30, marker=marker, color="#777777", linewidths=1.2, zorder=2, label=name
                )
            distance = "KL(p*‖q)" if loss == "ce" else "‖p* − q‖²"
            axes.set(
                xlabel="label risk  E ℓ(y, q)",
                ylabel=f"E H(p*) + E {distance}",
                title=f"{_LOSS_NAMES[loss]}",
            )
            axes.legend(loc="upper left", handletextpad=0.3)
    return figure


def projection_figure(data: Mapping[str, Any]) -> Figure:
    """A class that misses p*: the linear softmax reached by CE and by MSE, over the classes' densities.

    Args:
        data: ``pictures()["projection"]``.
    """
    x = np.array(data["x"])
    with styled():
        figure = new_figure(9.6, 5.0)
        columns = figure.add_gridspec(1, 2, width_ratios=(3.4, 1))
        stacked = columns[0].subgridspec(2, 1, height_ratios=(3.2, 1))
        beside = columns[1].subgridspec(2, 1)
        curves = figure.add_subplot(stacked[0])
        below = figure.add_subplot(stacked[1], sharex=curves)
        curves.tick_params(labelbottom=False)
        curves.plot(x, data["bayes"], color=INK, linewidth=2.4, label="p*(class 1 | x)")
        for loss, dashes in (("ce", "--"), ("mse", "-.")):
            style = {"color": arm_style(loss)["color"], "linestyle": dashes}
            curves.plot(x, data["fitted"][loss], label=f"{arm_name(loss)} minimiser", **style)
        curves.set(ylabel="P(class 1 | x)", ylim=(-0.03, 1.03), title="The best linear softmax")
        curves.legend(loc="lower right", fontsize=8.5)
        for k, density in enumerate(data["densities"]):
            colour = CLASS_COLOURS[(k * 2) % len(CLASS_COLOURS)]
            below.fill_between(x, density, color=colour, alpha=0.55, linewidth=0, label=f"class {k}")
        below.set(xlabel="x", ylabel="density", ylim=(0, None), xlim=(x[0], x[-1]))
        below.legend(loc="upper right", ncols=2, fontsize=8.5)
        for row, (metric, title) in enumerate((("mse", "MSE to p*"), ("kl", "KL to p*"))):
            bars = figure.add_subplot(beside[row])
            _metric_bars(bars, {loss: data["distances"][loss][metric] for loss in ("ce", "mse")}, title)
    return figure


def _metric_bars(axes: Axes, values: Mapping[str, float], title: str) -> None:
    axes.bar(
        [arm_name(loss) for loss in values],
        list(values.values()),
        color=[arm_style(loss)["color"] for loss in values],
        width=0.6,
    )
    winner = min(values, key=lambda loss: values[loss])
    for index, (loss, value) in enumerate(values.items()):
        weight = "bold" if loss == winner else "normal"
        axes.annotate(
            f"{value:.3f}", (index, value), (0, 2), textcoords="offset points", ha="center", weight=weight, size=9
        )
    axes.set(title=title, yticks=[], ylim=(0, 1.18 * max(values.values())))
    axes.grid(False)
    axes.spines["left"].set_visible(False)


def minimiser_figure(data: Mapping[str, Any]) -> Figure:
    """The simplex of three classes: where every loss ends for one p*, and the paths of smoothing and focusing.

    Args:
        data: ``pictures()["minimisers"]``.
    """
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    with styled():
        figure = new_figure(9.6, 4.0)
        axes = figure.subplots()
        bare(axes)
        axes.set_aspect("equal")
        outline = np.vstack([corners, corners[:1]])
        axes.plot(outline[:, 0], outline[:, 1], color="#666666", linewidth=1)
        for level in (0.25, 0.5, 0.75):
            for k in range(3):
                ends = [np.eye(3)[k] * level + np.eye(3)[j] * (1 - level) for j in range(3) if j != k]
                axes.plot(*(np.array(ends) @ corners).T, color="#e8e8e8", linewidth=0.7, zorder=0)
        axes.annotate("class 0", corners[0], (10, -14), textcoords="offset points", ha="center", size=9.5)
        axes.annotate("class 1 →", (0.74, 0), (0, -14), textcoords="offset points", ha="right", size=9.5)
        axes.annotate(
            "class 2 ↗", (0.22, 0.22 * math.sqrt(3)), (-10, -4), textcoords="offset points", ha="right", size=9.5
        )
        centre = np.full(3, 1 / 3) @ corners
        axes.scatter(centre[0], centre[1], marker="+", color=FAINT, s=60, linewidths=1.2)
        axes.annotate("uniform", centre, (7, 4), textcoords="offset points", size=8.5, color="#777777")
        for name, colour in (("label_smoothing", "#cc79a7"), ("focal", "#e69f00")):
            path = data["paths"][name]
            trail = np.array(path["minimisers"]) @ corners
            symbol, values = {"epsilon": "ε", "gamma": "γ"}[path["parameter"]], path["values"]
            label = f"{_LOSS_NAMES[name]}, {symbol} from {values[0]:g} to {values[-1]:g}"
            axes.plot(*trail.T, color=colour, linewidth=1.6, marker=".", markersize=4, zorder=2, label=label)
        _landing_points(axes, data["reached"], corners)
        target = np.array(data["bayes"]) @ corners
        axes.scatter(target[0], target[1], s=330, marker="o", facecolors="none", edgecolors=INK, linewidths=1.4)
        axes.annotate(
            "p* = (" + ", ".join(f"{value:g}" for value in data["bayes"]) + ")",
            target,
            (-6, -24),
            textcoords="offset points",
            ha="center",
            size=9.5,
            weight="bold",
        )
        figure.legend(loc="outside right upper", handletextpad=0.4, labelspacing=0.7)
        axes.set(xlim=(-0.04, 0.76), ylim=(-0.04, 0.4))  # the corner of the triangle where everything happens
    return figure


def _landing_points(axes: Axes, reached: Sequence[Mapping[str, Any]], corners: Array) -> None:
    """Losses that reach p* are drawn around each other there, the others on their own."""
    styles: dict[str, dict[str, Any]] = {
        "ce": {**arm_style("ce"), "s": 170},
        "mse": {**arm_style("mse"), "s": 70},
        "spherical": {"color": "#f0e442", "marker": "D", "s": 18},
        "label_smoothing": {"color": "#cc79a7", "marker": "D", "s": 55},
        "focal": {"color": "#e69f00", "marker": "^", "s": 75},
        "mae": {"color": INK, "marker": "v", "s": 75},
        "logit_mse projection": {"color": "#ffffff", "marker": "P", "s": 16},
        "logit_mse softmax": {"color": "#56b4e9", "marker": "P", "s": 85},
    }
    for entry in reached:
        name = _LOSS_NAMES.get(entry["loss"], entry["loss"])
        key = entry["loss"]
        if entry["loss"] == "logit_mse":
            key = f"{key} {entry['readout']}"
            name = f"{name}, {'projected' if entry['readout'] == 'projection' else 'softmax read-out'}"
        elif entry["parameters"]:
            name += " " + ", ".join(
                f"{ {'epsilon': 'ε', 'gamma': 'γ'}.get(parameter, parameter) } = {value:g}"
                for parameter, value in entry["parameters"].items()
            )
        style: dict[str, Any] = styles.get(key, {"color": FAINT, "marker": "o", "s": 40})
        place = np.array(entry["minimiser"]) @ corners
        axes.scatter(place[0], place[1], label=name, zorder=4, edgecolors=INK, linewidths=0.6, **style)
