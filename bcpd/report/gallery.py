"""Pictures with their p* beside them: people look before they read."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bcpd.report.style import INK, new_figure, styled

__all__ = ["gallery_entry", "gallery_figure", "packed"]

BAR = "#009e73"
OTHER_BAR = "#0072b2"
MOST = 6
"""Pictures of a row."""


def packed(image: Any) -> dict[str, Any]:
    """A picture ``(channels, h, w)``, uint8, as JSON: its shape and its bytes in base64.

    Raises:
        ValueError: another type or shape.
    """
    pixels = np.ascontiguousarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ValueError(
            f"a picture must be uint8 of shape (1 or 3, h, w), received {pixels.dtype} of shape {pixels.shape}"
        )
    return {"shape": list(pixels.shape), "pixels": base64.b64encode(pixels.tobytes()).decode("ascii")}


def _unpacked(entry: Mapping[str, Any]) -> Any:
    pixels = np.frombuffer(base64.b64decode(entry["pixels"]), dtype=np.uint8)
    return pixels.reshape(entry["shape"]).transpose(1, 2, 0)


def gallery_entry(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    class_names: Sequence[str],
    legend: Sequence[str] = ("p*",),
) -> dict[str, Any]:
    """A gallery as JSON.

    Args:
        rows: (what its pictures have in common, pictures); a picture has ``image`` (from :func:`packed`), perhaps a
            ``title``, and perhaps ``p``, a row of probabilities, and ``q``, another one.
        class_names: of the bars. legend: what p, and q, are.
    """
    plain = [{"label": label, "pictures": [dict(picture) for picture in pictures]} for label, pictures in rows]
    about = {"name": name, "title": title, "caption": caption, "legend": list(legend)}
    return {**about, "class_names": list(class_names), "rows": plain}


def gallery_figure(entry: Mapping[str, Any]) -> Figure:
    """A row of pictures for each row of the gallery, under each picture its probabilities.

    Args:
        entry: from :func:`gallery_entry`.
    Raises:
        ValueError: no pictures.
    """
    rows = [row for row in entry["rows"] if row["pictures"]]
    if not rows:
        raise ValueError("a gallery needs pictures, received none")
    columns = max(len(row["pictures"]) for row in rows)
    with styled():
        heights = [2.75 if "p" in row["pictures"][0] else 1.7 for row in rows]
        figure = new_figure(1.75 * columns, sum(heights) + 0.3)
        parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, row in zip(parts, rows, strict=True):
            part.suptitle(row["label"], x=0.01, ha="left", fontsize=10, weight="bold")
            barred = "p" in row["pictures"][0]
            grid = part.subplots(1 + barred, columns, height_ratios=(1.5, 1)[: 1 + barred], squeeze=False)
            for axes in grid[:, len(row["pictures"]) :].flat:
                axes.set_axis_off()
            for place, picture in enumerate(row["pictures"]):
                _picture(grid[0, place], picture)
                if barred:
                    _bars(grid[1, place], picture, entry["class_names"], first=place == 0)
        if len(entry["legend"]) > 1:
            pairs = zip((BAR, OTHER_BAR), entry["legend"], strict=True)
            handles = [parts[0].axes[-1].bar([0], [0], color=colour, label=text) for colour, text in pairs]
            figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _picture(axes: Axes, picture: Mapping[str, Any]) -> None:
    pixels = _unpacked(picture["image"])
    grey = pixels.shape[-1] == 1
    axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if picture.get("title"):
        axes.set_title(picture["title"], fontsize=8.5, weight="normal", loc="center")


def _bars(axes: Axes, picture: Mapping[str, Any], class_names: Sequence[str], first: bool) -> None:
    rows = [picture["p"], *([picture["q"]] if "q" in picture else [])]
    places = np.arange(len(class_names))
    width = 0.8 / len(rows)
    for number, (row, colour) in enumerate(zip(rows, (BAR, OTHER_BAR), strict=False)):
        axes.bar(places + width * (number - (len(rows) - 1) / 2), row, width, color=colour)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"] if first else ["", "", ""], fontsize=7.5)
    named = max(map(len, class_names)) > 2
    axes.set_xticks(places, class_names, fontsize=6.5 if named else 7.5, rotation=90 if named else 0, color=INK)
    axes.tick_params(length=0)
    axes.grid(axis="x", visible=False)
