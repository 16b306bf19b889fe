"""A figure with its words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

__all__ = ["Illustration", "illustration"]


@dataclass(frozen=True)
class Illustration:
    """A figure with its words.

    Attributes:
        name: of its file, without suffix.
        title: what it shows; caption: what to look at.
        figure: the figure, or ``None`` where the results hold no data for it; then ``missing`` says so.
        claim: the id of the claim that it belongs to, empty where it belongs to none.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None
    missing: str = ""
    claim: str = ""


def illustration(name: str, title: str, caption: str, make: Callable[[], Figure], claim: str = "") -> Illustration:
    """Make a figure, or say what kept it from being made."""
    try:
        return Illustration(name, title, caption, make(), claim=claim)
    except KeyError as error:
        return Illustration(name, title, caption, None, f"the results hold no {error.args[0]}", claim)
    except ValueError as error:
        return Illustration(name, title, caption, None, str(error), claim)
