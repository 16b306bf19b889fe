"""Imports inside bcpd point one way: formulas, then data and networks, losses, training, runs, reports, the CLI."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bcpd"

BASE = {"estimate", "files", "provenance", "seeds", "simplex", "tensors"}
FORMULAS = {"estimate", "seeds", "simplex", "tensors"}
WORLD = BASE | {"data", "mixtures", "nets"}
TRAINING = WORLD | {"distill", "losses"}
EXPERIMENT = TRAINING | {"measure", "power", "stats", "targets", "theory", "train"}

ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(BASE, BASE),
    "mixtures": BASE,
    "nets": BASE,
    "data": BASE | {"mixtures"},
    "losses": WORLD,
    "testing": WORLD | {"losses"},
    "distill": WORLD | {"losses"},
    "train": TRAINING,
    "measure": FORMULAS | {"stats"},
    "stats": FORMULAS,
    "power": FORMULAS,
    "targets": FORMULAS,
    "theory": TRAINING | {"measure", "stats"},
    "runs": EXPERIMENT,
    "report": EXPERIMENT | {"runs"},
    "bench": EXPERIMENT | {"runs"},
    "progress": set(),
    "__main__": {"cli"},
    "cli": EXPERIMENT | {"bench", "progress", "report", "runs"},
}
"""What the modules of each part may import, beside the part itself."""


def imported(source: str, module: str) -> Iterator[str]:
    """Absolute names of everything a module's source imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def violations(source: str, module: str, parts: set[str]) -> list[str]:
    """The imports of ``module`` (``bcpd.part.name``) that its part may not have."""
    part = module.split(".")[1]
    wrong = []
    for name in imported(source, module):
        top, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if top == "experiments":
            bad = part != "cli"
        else:
            bad = top == "bcpd" and target in parts and target != part and target not in ALLOWED[part]
        if bad:
            wrong.append(f"{module} imports {name}")
    return wrong


def test_no_module_imports_against_the_direction() -> None:
    files = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE) != Path("__init__.py"))
    modules = {path: "bcpd." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in files}
    parts = {module.split(".")[1] for module in modules.values()}
    assert {"losses", "train", "distill", "data"} <= parts
    assert parts <= set(ALLOWED), "a new part of bcpd needs its place in the direction of imports"
    wrong = [text for path, module in modules.items() for text in violations(path.read_text(), module, parts)]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bcpd.losses", "from bcpd.train import fit"),
        ("bcpd.losses", "import bcpd.train.fit"),
        ("bcpd.simplex", "def f():\n    from bcpd import losses"),
        ("bcpd.measure.metrics", "from bcpd.mixtures import Mixture"),
        ("bcpd.measure.metrics", "from bcpd import nets"),
        ("bcpd.stats", "from bcpd.measure import distance"),
        ("bcpd.theory.scores.identities", "from bcpd.train import fit"),
        ("bcpd.train.fit", "from ..runs import store"),
        ("bcpd.runs.sweep", "from experiments import toy"),
        ("bcpd.report.page", "from bcpd.cli import main"),
    ],
)
def test_an_import_against_the_direction_is_found(module: str, line: str) -> None:
    assert len(violations(line, module, set(ALLOWED))) == 1


def test_imports_along_the_direction_are_no_violation() -> None:
    assert violations("from bcpd.mixtures import Mixture\nimport torch", "bcpd.data.source", set(ALLOWED)) == []
    assert violations("from experiments import toy\nfrom bcpd import fit", "bcpd.cli", set(ALLOWED)) == []
