"""One self-contained page about stored results: no network, no scripts, opens from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bcpd.files import write_text
from bcpd.report.sections import REQUIRED, section

__all__ = ["build_report", "write_report"]

FOLDER = Path(__file__).parent


def build_report(results: Sequence[Mapping[str, Any]]) -> str:
    """The page as HTML, the same text for the same results.

    Args:
        results: stored results of any kind in :data:`bcpd.runs.results.KINDS`, any number of each.
    Raises:
        ValueError: no results, an unknown kind, or a result without a part that every one of its kind has.
    """
    if isinstance(results, Mapping) or not results:
        raise ValueError(f"a report needs a sequence of at least one result, received {type(results).__name__}")
    order = list(REQUIRED)
    sections = [section(entry) for entry in results]
    sections.sort(key=lambda entry: order.index(entry["kind"]))  # stable: several of a kind keep their order
    for number, part in enumerate(sections):
        again = sum(earlier["kind"] == part["kind"] for earlier in sections[:number])
        part["prefix"] = f"{part['kind']}-{again + 1}-" if again else ""  # ids stay unique, and short where they are
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = Markup((FOLDER / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(sections=sections, style=style)


def write_report(results: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Write the page of :func:`build_report`, whole or not at all.

    Raises:
        ValueError: as :func:`build_report`.
        OSError: the folder cannot be written.
    """
    write_text(path, build_report(results))
