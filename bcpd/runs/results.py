"""Stored results: one JSON file an experiment, written whole, refused when it is something else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bcpd.files import read_json, write_json

__all__ = ["KINDS", "read_results", "write_results"]

KINDS = ("verify", "quickstart", "real", "figure1", "when-mse-wins", "ladder", "tables", "teachers")


def write_results(path: Path | str, results: Mapping[str, Any]) -> None:
    """Write one experiment's results. Non-finite numbers become the strings ``nan``, ``inf``, ``-inf``.

    Raises:
        ValueError: a ``kind`` that is not one of :data:`KINDS`.
    """
    _check_kind(results, str(path))
    write_json(path, dict(results))


def read_results(path: Path | str) -> list[dict[str, Any]]:
    """The results in a file, or in all files with a known kind below a folder, in the order of their paths.

    Files are JSON, plain (``*.json``) or compressed (``*.json.gz``).

    Raises:
        FileNotFoundError: no such file or folder, or a folder without results.
        ValueError: a file that is not JSON, or not of a known kind.
    """
    path = Path(path)
    if path.is_dir():
        found = []
        for file in sorted([*path.rglob("*.json"), *path.rglob("*.json.gz")]):
            content = read_json(file)
            if isinstance(content, dict) and content.get("kind") in KINDS:
                found.append(content)
        if not found:
            raise FileNotFoundError(f"no stored results (*.json, *.json.gz of kind {', '.join(KINDS)}) below {path}")
        return found
    if not path.exists():
        raise FileNotFoundError(f"no results at {path}: neither a file nor a folder")
    content = read_json(path)
    _check_kind(content, str(path))
    return [content]


def _check_kind(content: Any, where: str) -> None:
    kind = content.get("kind") if isinstance(content, Mapping) else None
    if kind not in KINDS:
        raise ValueError(f"results must have a kind among {KINDS}, received {kind!r} for {where}")
