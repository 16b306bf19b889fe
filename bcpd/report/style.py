"""How every figure looks, and how it is written: the same bytes for the same data, on any machine's settings."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bcpd.files import write_bytes

__all__ = [
    "ARM_STYLES",
    "INK",
    "ArmStyle",
    "arm_style",
    "beside_names",
    "draw_interval",
    "log_ticks",
    "new_figure",
    "png_bytes",
    "save_figure",
    "styled",
    "svg_bytes",
]

INK = "#222222"
FAINT = "#9a9a9a"

ArmStyle = Mapping[str, Any]
"""Colour and marker: a reader without colours has the markers."""

# Okabe and Ito's palette, safe for colour-blind readers: CE is always blue, MSE always vermilion
ARM_STYLES: Mapping[str, ArmStyle] = {
    "ce": {"color": "#0072b2", "marker": "o"},
    "mse": {"color": "#d55e00", "marker": "s"},
    "bayes": {"color": "#009e73", "marker": "*"},
}
_OTHER_STYLES: Sequence[ArmStyle] = (
    {"color": "#cc79a7", "marker": "D"},
    {"color": "#e69f00", "marker": "^"},
    {"color": "#56b4e9", "marker": "v"},
    {"color": "#555555", "marker": "P"},
)

_RC: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 160.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "bcpd",
    "svg.id": None,
}
_LEFT_ALONE = ("backend", "backend_fallback", "interactive", "timezone", "toolbar")


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's own defaults with this package's on top, whatever the user's settings; restored afterwards."""
    with mpl.rc_context():
        settings: dict[Any, Any] = {key: value for key, value in mpl.rcParamsDefault.items() if key not in _LEFT_ALONE}
        # "svg.id" is newer than the oldest matplotlib this runs with
        settings.update((key, value) for key, value in _RC.items() if key in mpl.rcParams)
        mpl.rcParams.update(settings)
        yield


def arm_style(arm: str, others: Sequence[str] = ()) -> ArmStyle:
    """Colour and marker of an arm; arms without a fixed style take one by their place among ``others``."""
    if arm in ARM_STYLES:
        return ARM_STYLES[arm]
    unknown = [name for name in others if name not in ARM_STYLES]
    return _OTHER_STYLES[unknown.index(arm) % len(_OTHER_STYLES) if arm in unknown else -1]


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, laid out without overlaps; call inside :func:`styled`."""
    return Figure(figsize=(width, height), layout="constrained")


def bare(axes: Axes) -> None:
    """No ticks, grid or frame: for pictures without coordinates."""
    axes.set_axis_off()
    axes.grid(False)


def beside_names(axes: Axes) -> None:
    """A black line at zero and vertical grid lines: for differences, each at the height of its name on the left."""
    axes.axvline(0, color=INK, linewidth=1)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def draw_interval(axes: Axes, low: float, high: float, height: float, colour: Any, width: float = 1.6) -> None:
    """A horizontal line; nothing where an end is not finite."""
    if math.isfinite(low) and math.isfinite(high):
        axes.plot([low, high], [height, height], color=colour, linewidth=width, solid_capstyle="butt")


def log_ticks(axes: Axes, at: Sequence[float], text: str) -> None:
    """A logarithmic horizontal axis with ticks at these values alone, written in the format ``text``."""
    axes.set_xscale("log")
    axes.set_xticks(at, [format(value, text) for value in at])
    axes.minorticks_off()


def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG with text as outlines and without a date: the same bytes every time."""
    with _laid_out(figure) as copy:
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": None}
        FigureCanvasSVG(copy).print_svg(buffer, metadata=metadata)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG at 160 dots an inch, the same bytes every time."""
    with _laid_out(figure) as copy:
        buffer = io.BytesIO()
        FigureCanvasAgg(copy).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


@contextmanager
def _laid_out(figure: Figure) -> Iterator[Figure]:
    """A copy to draw, as drawing changes a figure.

    Axes stand where the layout puts them, to five decimals: its solver is not the same in every last bit.
    """
    with styled():
        copy: Figure = pickle.loads(pickle.dumps(figure))  # figures cannot be copied otherwise
        layout = copy.get_layout_engine()
        if layout is not None:
            layout.execute(copy)
        copy.set_layout_engine("none")
        for axes in copy.axes:
            left, bottom, width, height = (round(float(edge), 5) for edge in axes.get_position(original=True).bounds)
            axes.set_position((left, bottom, width, height))
        copy.set_dpi(mpl.rcParams["savefig.dpi"])
        yield copy


def save_figure(figure: Figure, path: Path | str) -> tuple[Path, Path]:
    """Write ``path`` with the suffixes ``.svg`` and ``.png``, each whole or not at all; returns both paths.

    Raises:
        OSError: the folder cannot be written.
    """
    stem = Path(path)
    if stem.suffix in (".svg", ".png"):
        stem = stem.with_suffix("")
    svg, png = stem.with_name(stem.name + ".svg"), stem.with_name(stem.name + ".png")
    write_bytes(svg, svg_bytes(figure))
    write_bytes(png, png_bytes(figure))
    return svg, png
