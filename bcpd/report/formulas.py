"""Formulas as drawings that need no fonts, no scripts and no colours of their own."""

from __future__ import annotations

import re

import numpy as np
from markupsafe import Markup, escape
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from bcpd.report.style import styled

__all__ = ["formula", "formula_svg"]

Outline = list[tuple[str, list[tuple[int, int]]]]

UNITS = 400  # to the em: a twentieth of a pixel where text is 20 pixels high
FONT = "cm"
ROOM = 12  # around the outlines, for what antialiasing spreads
_NESTING = {**dict.fromkeys(("{", "(", "[", r"\{"), 1), **dict.fromkeys(("}", ")", "]", r"\}"), -1)}
_FUNCTIONS = "log|ln|exp|max|min|sup|inf|arg|lim|det|Pr|cos|sin"
_LETTERS = {
    int(Path.MOVETO): "m",
    int(Path.LINETO): "l",
    int(Path.CURVE3): "q",
    int(Path.CURVE4): "c",
    int(Path.CLOSEPOLY): "z",
}


def formula(tex: str) -> Markup:
    r"""A formula as inline SVG, or its TeX in a ``<code>`` where it cannot be typeset.

    Where the formula has several parts, separated by ``\quad`` or ``\qquad`` outside braces, each is a drawing of its
    own, so that a narrow page can put them below each other; all are as high, so that they share a line of writing.
    """
    for parts in (_parts(tex), [tex]):
        try:
            outlines = [_outline(part) for part in parts]
        except ValueError:
            continue
        rows = [y for outline in outlines for _, points in outline for _, y in points]
        drawings = [_drawing(*pair, min(rows), max(rows)) for pair in zip(parts, outlines, strict=True)]
        return Markup("\n").join(map(Markup, drawings))
    return Markup("<code>{}</code>").format(tex)


def formula_svg(tex: str) -> str:
    r"""TeX, in the subset of matplotlib's mathtext, as an ``<svg>`` that is filled with the colour of the text.

    One path of outlines in whole units of 1/400 em, so that the page needs no font; the TeX is its label for those who
    cannot see it. The same text for the same TeX, whatever the user's settings.

    Args:
        tex: without dollars, e.g. ``\mathbb{E}\,\ell(y, q)``.
    Raises:
        ValueError: what mathtext cannot typeset, a dollar, or nothing to show.
    """
    outline = _outline(tex)
    rows = [y for _, points in outline for _, y in points]
    return _drawing(tex, outline, min(rows), max(rows))


def _outline(tex: str) -> Outline:
    """Commands of a path with the places they lead to, in whole units, y downwards from the line of writing."""
    if "$" in tex or not tex.strip():
        raise ValueError(f"a formula must be TeX without dollars, received {tex!r}")
    with styled():
        path = TextPath((0, 0), f"${_spelled(tex)}$", size=UNITS, prop=FontProperties(math_fontfamily=FONT))
    outline: Outline = []
    for vertices, code in path.iter_segments(simplify=False):
        values = [] if code == Path.CLOSEPOLY else np.asarray(vertices, dtype=np.float64).tolist()
        points = [(round(x), round(-y)) for x, y in zip(values[::2], values[1::2], strict=True)]
        outline.append((_LETTERS[int(code)], points))
    if not outline:
        raise ValueError(f"a formula must show something, received {tex!r}")
    return outline


def _drawing(tex: str, outline: Outline, top: int, bottom: int) -> str:
    """The SVG of an outline, so high."""
    across = [x for _, points in outline for x, _ in points]
    left, width = min(across) - ROOM, max(across) - min(across) + 2 * ROOM
    top, height = top - ROOM, bottom - top + 2 * ROOM
    size = f"--width: {width / UNITS:.3f}em; --ratio: {width} / {height}"
    return (
        f'<svg class="formula" role="img" aria-label="{escape(tex)}" style="{size}" '
        f'viewBox="{left} {top} {width} {height}"><path d="{_data(outline)}"/></svg>'
    )


def _data(outline: Outline) -> str:
    """Path data, relative. Rounding does not add up: it was done on the places."""
    data: list[str] = []
    at = start = (0, 0)
    for letter, points in outline:
        steps = " ".join(f"{x - at[0]} {y - at[1]}" for x, y in points)
        data.append(letter + steps.replace(" -", "-"))
        at = points[-1] if points else start
        start = at if letter == "m" else start
    return "".join(data)


def _spelled(tex: str) -> str:
    """What mathtext sets badly, spelled otherwise.

    A star as a bare exponent gets the room of a product; sums and fractions stand close to what follows them, and
    functions to what is before them; blackboard letters slant.
    """
    tex = _large_fractions(tex).replace("^*", r"^{\ast}")
    tex = re.sub(r"(\\mathbb\{\w\})", r"\\mathrm{\1}", tex)
    tex = re.sub(rf"(?<=[A-Za-z0-9)}}])(\\(?:{_FUNCTIONS})(?![A-Za-z]))", r"\\,\1", tex)
    return re.sub(r"(\\(?:sum|prod|int)(?![a-z])(?:[_^](?:\{[^{}]*\}|\w))*)(?!\s*(?:\\,|[_^]))", r"\1\\,", tex)


def _large_fractions(tex: str) -> str:
    """Fractions that stand free are as large as a display's, and keep a little room; mathtext sets all as in text."""
    spelled, depth, groups, before = "", 0, 0, ""
    for piece in _pieces(tex):
        if piece == r"\frac" and not depth:
            piece, groups = r"\dfrac", 2
        if before not in (r"\left", r"\right"):
            depth += _NESTING.get(piece, 0)
        spelled += piece
        if piece == "}" and not depth and groups:
            groups -= 1
            spelled += "" if groups else r"\,"
        before = piece
    return spelled


def _parts(tex: str) -> list[str]:
    r"""The parts between ``\quad`` or ``\qquad`` outside braces; the whole where there is none."""
    parts, depth = [""], 0
    for piece in _pieces(tex):
        depth += {"{": 1, "}": -1}.get(piece, 0)
        if piece in (r"\quad", r"\qquad") and not depth:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts if part.strip()] or [tex]


def _pieces(tex: str) -> list[str]:
    """Commands and single characters."""
    pieces: list[str] = []
    index = 0
    while index < len(tex):
        end = index + 1
        if tex[index] == "\\" and end < len(tex):
            end += 1
            while tex[end - 1].isalpha() and end < len(tex) and tex[end].isalpha():
                end += 1
        pieces.append(tex[index:end])
        index = end
    return pieces
