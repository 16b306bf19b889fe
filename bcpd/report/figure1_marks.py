"""What the panels of Figure 1 share: styles of targets and teachers, and how a mark with its interval is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from bcpd.report.numbers import as_float
from bcpd.report.style import ArmStyle, arm_style

__all__ = ["ACCURACY", "FAMILY_STYLES", "TEACHER_STYLES", "Row", "element_id", "mark", "say_lost"]

Row = Mapping[str, Any]

ACCURACY = "student_accuracy_best_score"

FAMILY_STYLES: Mapping[str, ArmStyle] = {
    "label_mixture": {"color": "#222222", "marker": "o"},
    "dirichlet": {"color": "#777777", "marker": "D"},
    "top_two_noise": {"color": "#aaaaaa", "marker": "^"},
    "clipped_gaussian": {"color": "#cc79a7", "marker": "P"},
    "logit_noise": {"color": "#8c4a9e", "marker": "X"},
    "swap": {"color": "#5b2a6e", "marker": "v"},
    "smoothing": {"color": "#e69f00", "marker": "<"},
    "flatten": {"color": "#b07800", "marker": ">"},
    "sharpen": {"color": "#f0c75e", "marker": "d"},
    "leak": {"color": "#8b2500", "marker": "h"},
}
"""Greys: unbiased; purples: noisy and biased; yellows: biased, but the argmax stays; brown: class leak."""

TEACHER_STYLES: Mapping[str, ArmStyle] = {
    "ce": arm_style("ce"),
    "mse": arm_style("mse"),
    "mse, rate of ce": {"color": "#e9a06a", "marker": "v"},
    "mse_mean": {"color": "#f3cdb0", "marker": "^"},
    "ce, rate for last": {"color": "#7fb8dc", "marker": "*"},
    "mse, rate for last": {"color": "#7a2e00", "marker": "p"},
    "mse, rate for last of ce": {"color": "#b5651d", "marker": "<"},
    "mse_mean, rate for last of ce": {"color": "#c9a98c", "marker": ">"},
}


def mark(axes: Axes, entry: Row, height: float, style: ArmStyle, gid: str, scale: float = 1.0) -> None:
    """An entry's mean with its interval, at a height; nothing where it is not finite."""
    mean, low, high = (scale * as_float(entry[name]) for name in ("mean", "low", "high"))
    if not math.isfinite(mean):
        return
    if math.isfinite(low) and math.isfinite(high):
        axes.plot([low, high], [height] * 2, color=style["color"], linewidth=1.6, solid_capstyle="butt")
    axes.plot([mean], [height], linestyle="none", markersize=6, mew=0.5, mec="white", gid=gid, **style)


def say_lost(axes: Axes, entry: Row, height: float) -> None:
    """How many draws a mark lost to divergence, at the right edge."""
    if entry.get("lost"):
        place = axes.get_yaxis_transform()
        text = f"{entry['lost']} lost"
        axes.text(0.99, height, text, fontsize=7.5, color="#888888", transform=place, ha="right", va="bottom")


def element_id(ids: Sequence[int], kind: str = "rows") -> str:
    """Of a mark in the SVG: the stored rows behind it."""
    return f"{kind}-" + "-".join(map(str, ids))
