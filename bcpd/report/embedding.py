"""Figures inside the page: as small as they go without losing anything that can be seen."""

from __future__ import annotations

import re
from base64 import b64encode
from urllib.parse import quote

from markupsafe import Markup
from matplotlib.figure import Figure

from bcpd.report.style import png_bytes, svg_bytes

__all__ = ["data_uri"]

LARGEST_SVG = 300_000
DECIMALS = 2  # of a point, in outlines


def data_uri(figure: Figure) -> Markup:
    """The figure for the ``src`` of an image in double quotes: SVG, or PNG where that would be large."""
    drawing = compact(svg_bytes(figure).decode())
    if len(drawing) > LARGEST_SVG:
        return Markup("data:image/png;base64," + b64encode(png_bytes(figure)).decode())
    # quoting costs a twentieth, base64 a third
    return Markup("data:image/svg+xml," + quote(drawing.replace('"', "'"), safe=" !$'()*+,-./:;=?@_~"))


def compact(drawing: str) -> str:
    """An SVG without its prologue, comments, metadata and line breaks, its outlines to a hundredth of a point."""
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(?<= d=")[^"]*', lambda found: _rounded(found[0]), drawing)
    return re.sub(r">\s+<", "><", drawing)


def _rounded(outline: str) -> str:
    short = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.{DECIMALS}f}".rstrip("0").rstrip("."), outline)
    return re.sub(r"\s+", " ", short).strip()
