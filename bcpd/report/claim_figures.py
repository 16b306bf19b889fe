"""Figures of claims: curves, surfaces and panels of the data that a claim gives, and the margins of its checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bcpd.report.margins import is_harmless, used
from bcpd.report.numbers import as_float, power_of_ten, round_number
from bcpd.report.quantities import arm_name
from bcpd.report.style import ARM_STYLES, FAINT, INK, ArmStyle, arm_style, new_figure, styled
from bcpd.report.tables import check_keys
from bcpd.theory import Check

__all__ = ["claim_figure", "margin_figure"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

COLOURS: Mapping[str, ArmStyle] = {
    **ARM_STYLES,
    "control": {"color": "#777777", "marker": "x"},
    "a": {"color": "#cc79a7", "marker": "D"},
    "b": {"color": "#e69f00", "marker": "^"},
    "c": {"color": "#56b4e9", "marker": "v"},
    "d": {"color": "#555555", "marker": "P"},
    "e": {"color": "#7a5195", "marker": "h"},
    "f": {"color": "#8c6d31", "marker": "X"},
}
"""The names of colours that a claim's picture may use, with the markers that go with them."""

STYLES: Mapping[str, Mapping[str, Any]] = {
    "line": {"marker": "", "linestyle": "-"},
    "dashed": {"marker": "", "linestyle": "--"},
    "points": {"linestyle": ""},
    "line+points": {"linestyle": "-"},
}
KINDS = ("curves", "surface", "panels")
_PALE = LinearSegmentedColormap.from_list("pale", ["#ffffff", "#c9d3dc", "#8fa0b0"])  # colours stand out on it
DASHES = ((4, 2), (1, 1.5), (6, 2, 1, 2))
MANY_POINTS = 30
_LEVELS = 14
_EDGES = (1e-8, 1e12)  # shares of a bound beyond these are drawn at them


def claim_figure(picture: Mapping[str, Any]) -> Figure:
    """The figure of a claim's own picture.

    Args:
        picture: ``{"kind": "curves" | "surface" | "panels", ...}`` as :class:`bcpd.theory.Claim` gives it: ``curves``
            with ``series`` of ``x``, ``y`` and perhaps a band from ``low`` to ``high``, and horizontal ``lines``;
            ``surface`` with ``z[row][column]``, rows along ``y``, and perhaps ``points`` and ``paths`` on it;
            ``panels`` of two or three of these.
    Raises:
        ValueError: an unknown kind, colour or style, or a part that is missing.
    """
    kind = picture.get("kind")
    panels = picture.get("panels") if kind == "panels" else [picture]
    if kind not in KINDS or not panels or any(panel.get("kind") not in KINDS[:2] for panel in panels):
        raise ValueError(f"a picture must be one of {KINDS}, panels of the other two, received {kind!r}")
    width = {1: 7.2, 2: 9.6}.get(len(panels), 11.0)
    with styled():
        figure = new_figure(width, 3.9 if len(panels) < 3 else 3.7)
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            (_curves if panel["kind"] == "curves" else _surface)(axes, panel)
            if len(panels) > 1:
                axes.set_title(fill(str(panel.get("title", "")), 40 if len(panels) == 2 else 30))
        _legends(figure)
    return figure


def _curves(axes: Axes, data: Mapping[str, Any]) -> None:
    check_keys(data, ("series", "x_label", "y_label"), "a picture of curves")
    logarithmic = {axis: bool(data.get(f"{axis}_log")) for axis in ("x", "y")}
    for series in data["series"]:
        check_keys(series, ("name", "x", "y"), "a series")
        style = {**_colour(series), **_line(series)}
        x, y = _numbers(series["x"], logarithmic["x"]), _numbers(series["y"], logarithmic["y"])
        size = 5.0 if len(x) <= MANY_POINTS else 3.5
        axes.plot(x, y, label=series["name"], markersize=size, **style)
        if "low" in series and "high" in series:
            low, high = (_numbers(series[side], logarithmic["y"]) for side in ("low", "high"))
            if style["linestyle"]:
                axes.fill_between(x, low, high, color=style["color"], alpha=0.16, linewidth=0)
            else:
                axes.vlines(x, low, high, color=style["color"], linewidth=1.2)
    for number, line in enumerate(data.get("lines") or []):
        check_keys(line, ("y",), "a line")
        colour = _colour(line)["color"] if "colour" in line else FAINT
        dashes = (0, DASHES[number % len(DASHES)])
        axes.axhline(
            as_float(line["y"]), color=colour, linewidth=1.2, linestyle=dashes, zorder=1, label=line.get("name", "_")
        )
    axes.set(xlabel=data["x_label"], ylabel=data["y_label"])
    for axis in [axis for axis, is_log in logarithmic.items() if is_log]:
        axes.set(**{f"{axis}scale": "log"})
        _log_ticks(axes.xaxis if axis == "x" else axes.yaxis)


def _log_ticks(axis: Axis) -> None:
    """Powers of ten alone over a wide range, more of each over a narrow one; never so many that they touch."""
    low, high = axis.get_view_interval()
    wide = high / low > 150
    narrow = (1.0, 2.0, 5.0) if high / low > 12 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else narrow, numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_power if wide else _plain))


def _power(value: float, position: int | None) -> str:
    return power_of_ten(round(math.log10(value)))


def _plain(value: float, position: int | None) -> str:
    return round_number(float(f"{value:.6g}"))


def _surface(axes: Axes, data: Mapping[str, Any]) -> None:
    check_keys(data, ("x", "y", "z", "x_label", "y_label"), "a picture of a surface")
    x, y = _numbers(data["x"]), _numbers(data["y"])
    z = np.ma.masked_invalid(np.array([_numbers(row) for row in data["z"]]))
    if z.shape != (len(y), len(x)):
        raise ValueError(f"a surface must have {len(y)} rows of {len(x)} values, received {z.shape}")
    axes.grid(False)
    levels = _levels(z)
    filled = axes.contourf(x, y, z, levels=levels, cmap=_PALE, extend="max" if z.max() > levels[-1] else "neither")
    axes.contour(x, y, z, levels=levels, colors="#6f7f8e", linewidths=0.4)
    if axes.figure is not None:
        bar = axes.figure.colorbar(filled, ax=axes, pad=0.02, aspect=28)
        bar.set_label(str(data.get("z_label", "")))
        bar.outline.set_visible(False)
        bar.ax.grid(False)
    for path in data.get("paths") or []:
        check_keys(path, ("name", "x", "y"), "a path")
        colour = _colour(path)["color"]
        axes.plot(_numbers(path["x"]), _numbers(path["y"]), color=colour, linewidth=1.6, label=path["name"])
    for point in data.get("points") or []:
        check_keys(point, ("name", "x", "y"), "a point")
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.9, "markersize": 8.5, "linestyle": "", "zorder": 4}
        axes.plot(as_float(point["x"]), as_float(point["y"]), label=point["name"], **{**_colour(point), **edge})
    axes.set(xlabel=data["x_label"], ylabel=data["y_label"], xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))


def _levels(z: Any) -> Array:
    """Contours over the lower nine tenths of the surface: where it climbs steeply there is nothing to be read off."""
    values = z.compressed()
    if not values.size:
        raise ValueError("a surface must have a finite value, received none")
    low, high = float(values.min()), float(np.quantile(values, 0.9))
    if not low < high:
        low, high = low - 0.5, low + 0.5
    return np.asarray(MaxNLocator(_LEVELS).tick_values(low, high), dtype=np.float64)


def _legends(figure: Figure) -> None:
    """One legend below all panels where one of them shows all that the others show, else one below each."""
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    entries = [dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)) for axes in panels]
    largest = max(entries, key=len)
    if all(set(entry) <= set(largest) for entry in entries):
        if largest:
            columns = _columns(largest, 100 if len(panels) > 1 else 72)
            figure.legend(largest.values(), largest.keys(), loc="outside lower center", ncols=columns)
        return
    room = 46 if len(panels) == 2 else 34
    for axes, entry in zip(panels, entries, strict=True):
        if entry:
            axes.legend(
                entry.values(),
                entry.keys(),
                loc="upper center",
                bbox_to_anchor=(0.5, -0.16),
                ncols=_columns(entry, room),
                fontsize=8.5,
                columnspacing=1.2,
                handletextpad=0.5,
            )


def _columns(names: Mapping[str, Any], room: int) -> int:
    """As many columns as so many letters allow."""
    return max(1, min(len(names), room // (6 + max(len(name) for name in names)))) if names else 1


def _colour(entry: Mapping[str, Any]) -> ArmStyle:
    name = entry.get("colour", "d")
    if name not in COLOURS:
        raise ValueError(f"colour must be one of {', '.join(COLOURS)}, received {name!r}")
    return COLOURS[name]


def _line(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    name = entry.get("style", "line")
    if name not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, received {name!r}")
    return STYLES[name]


def _numbers(values: Sequence[Any], logarithmic: bool = False) -> Array:
    """Stored numbers; what is not finite, or has no logarithm, is left out of the drawing."""
    real = np.array([as_float(value) for value in values], dtype=np.float64)
    real[~np.isfinite(real)] = np.nan
    if logarithmic:
        real[real <= 0] = np.nan
    return real


def margin_figure(checks: Sequence[Check]) -> Figure:
    """Value over bound of all checks of one claim: the claim left of 1, its wrong versions right of 1.

    One row for the claim and one for each wrong version, a point a check, coloured by loss. Where the bound is negative
    (a signed gap must lie below it) it is bound over value, and a gap of the wrong sign stands at the right edge; an
    error of zero, or an inequality with slack, stands at the left edge. Hollow points: wrong versions without bearing,
    which must stay left of 1.

    Args:
        checks: of one claim.
    Raises:
        ValueError: no checks with a value.
    """
    shown = [check for check in checks if not math.isnan(used(check))]
    if not shown:
        raise ValueError("a picture of margins needs a check with a value, received none")
    rows = list(dict.fromkeys([None, *(check.control for check in shown)]))
    losses = list(dict.fromkeys(check.loss for check in shown))
    inside = [used(check) for check in shown if 0 < used(check) < math.inf]
    low = max(_EDGES[0], min(1e-2, *inside, 1.0) / 4)
    high = min(_EDGES[1], max(1e2, *inside, 1.0) * 4)
    with styled():
        figure = new_figure(7.2, 1.0 + max(0.36, 0.13 * len(losses) + 0.1) * len(rows) + 0.25 * (len(losses) > 1))
        axes = figure.subplots()
        axes.axvspan(low, 1, color="#eef6f1", linewidth=0, zorder=0)
        axes.axvline(1, color=INK, linewidth=1.2, zorder=1)
        for number, loss in enumerate(losses):
            offset = 0.0 if len(losses) == 1 else 0.56 * (number / (len(losses) - 1) - 0.5)
            name = arm_name(loss) if loss != "-" else "_"
            for kind in ("claim", "control", "harmless"):
                members = [check for check in shown if check.loss == loss and _part(check) == kind]
                if not members:
                    continue
                (drawn,) = axes.plot(
                    [min(max(used(check), low), high) for check in members],
                    [rows.index(check.control) + offset for check in members],
                    linestyle="",
                    markersize=5.5,
                    alpha=0.85,
                    clip_on=False,
                    label=name,
                    **_point(loss, losses, kind),
                )
                drawn.set_in_layout(False)
                name = "_"
        names = ["the claim", *(fill(str(control).replace("_", " "), 30) for control in rows[1:])]
        axes.set(xscale="log", xlim=(low, high), ylim=(len(rows) - 0.4, -0.6))
        axes.set_yticks(range(len(rows)), names)
        _log_ticks(axes.xaxis)
        axes.tick_params(axis="y", length=0, pad=9)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("value / bound: holds up to 1, fails beyond")
        if len([loss for loss in losses if loss != "-"]) > 1:
            figure.legend(loc="outside lower center", ncols=min(len(losses), 5), handletextpad=0.2)
    return figure


def _part(check: Check) -> str:
    return "harmless" if is_harmless(check) else check.role


def _point(loss: str, losses: Sequence[str], kind: str) -> dict[str, Any]:
    style = {"color": INK, "marker": "o"} if loss == "-" else dict(arm_style(loss, losses))
    if kind == "control":
        return {**style, "marker": "x", "markeredgewidth": 1.5}
    if kind == "harmless":
        return {**style, "markerfacecolor": "none"}
    return {**style, "markeredgewidth": 0}
