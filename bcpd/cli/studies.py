"""``bcpd run figure1`` and ``bcpd run when-mse-wins``: sizes, plans, processes, and what is printed of the results."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from bcpd.cli.console import out
from bcpd.cli.options import check_at_least_one
from bcpd.progress import Meter

if TYPE_CHECKING:
    from bcpd.report.tables import Table as Cells

__all__ = ["add_draws", "add_studies", "finish", "print_plan", "starts"]

STUDIES: Mapping[str, tuple[str, str]] = {
    "figure1": ("experiments.figure1", "student accuracy against the teacher's distance: as released, and separating"),
    "when-mse-wins": ("experiments.when_mse_wins", "the map of when an MSE teacher is closer and its student better"),
}


def add_studies(experiments: Any) -> None:
    """Add both verbs to ``bcpd run``."""
    for name, (_, note) in STUDIES.items():
        parser = experiments.add_parser(name, help=note)
        parser.add_argument(
            "--scale",
            choices=("smoke", "laptop", "full"),
            default="smoke",
            help="smoke: under a minute; laptop: some 20 minutes on 2 cores; full: its plan only, unless --go; "
            "default: %(default)s",
        )
        parser.add_argument("--plan", action="store_true", help="print what would be trained, and stop")
        parser.add_argument("--go", action="store_true", help="start a full run, after its plan")
        parser.add_argument("--processes", type=int, metavar="N", help="at once, one thread each; default: the cores")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--out", type=Path, metavar="DIR", help=f"default: runs/{name}-SCALE; a killed run goes on")
        parser.set_defaults(run=_run, study=name)


def _module(name: str) -> ModuleType:
    from importlib import import_module

    return import_module(STUDIES[name][0])


def _run(arguments: argparse.Namespace) -> int:
    check_at_least_one(arguments, "processes")
    module = _module(arguments.study)
    spec = _seeded(module.SCALES[arguments.scale], arguments.seed)
    if not starts(arguments, lambda: _plan(module, spec, arguments.processes), arguments.study):
        return 0
    folder = arguments.out or Path(f"runs/{arguments.study}-{arguments.scale}")
    with Meter(arguments.study) as meter:
        results = module.run(spec, folder / "rows", meter.stage, arguments.processes)
    return finish(results, folder)


def starts(arguments: argparse.Namespace, plan: Callable[[], Any], name: str) -> bool:
    """Whether a run is to start; its plan is printed where that was asked for, and before all that is long."""
    if not arguments.plan and arguments.scale != "full":
        return True
    print_plan(plan(), f"{name} --scale {arguments.scale}")
    if not arguments.plan and not arguments.go:
        out.print("Nothing was started; add --go to start it.", markup=False)
    return arguments.go and not arguments.plan


def _plan(module: ModuleType, spec: Any, processes: int | None) -> Any:
    """With a time where the study can measure the machine's speed in about a second."""
    if hasattr(module, "calibrate"):
        return module.plan(spec, processes or 2, module.calibrate(spec))
    return module.plan(spec)


def _seeded(spec: Any, seed: int) -> Any:
    """The specification with another root seed."""
    if hasattr(spec, "protocol"):
        return replace(spec, protocol=replace(spec.protocol, seed=seed))
    return replace(spec, seed=seed)


def print_plan(plan: Sequence[Mapping[str, Any]] | Mapping[str, Any], title: str) -> None:
    """The stages as a table; of a plan that says more, the rest below it."""
    whole: Mapping[str, Any] = plan if isinstance(plan, Mapping) else {"stages": plan}
    rows: Sequence[Mapping[str, Any]] = whole["stages"]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*(name.replace("_", " ") for name in columns), title=f"plan of {title}")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    out.print(table)
    for name, value in whole.items():
        if name not in ("stages", "scale") and value is not None:
            text = f"{len(value)}" if isinstance(value, list) else _cell(value)
            out.print(f"{name.replace('_', ' ')}: {text}", markup=False, highlight=False)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def finish(results: dict[str, Any], folder: Path, tables: Sequence[Cells] = ()) -> int:
    """Print those of the tables that are shown by default; store results, report and figures; print the findings.

    Pictures of the user's data (``own_gallery``) stay on the page and in ``own-figures``: neither the stored results
    nor ``figures``, which may be passed on, hold them.
    """
    from bcpd.report import save_figures, write_report
    from bcpd.report.studies import findings
    from bcpd.runs import write_results

    for cells in tables:
        if cells.default:
            _print_table(cells)
    public = {key: value for key, value in results.items() if key != "own_gallery"}
    write_results(folder / "results.json", public)
    write_report([results], folder / "report.html")
    passed = save_figures(public, folder / "figures")
    if results.get("own_gallery"):
        save_figures(results, folder / "own-figures", without={path.stem for path in passed})
    for heading, sentences in findings(results):
        out.print(heading, style="bold", markup=False, highlight=False)
        for sentence in sentences:
            out.print(f"- {sentence}", markup=False, highlight=False)
    out.print(
        f"{results['seconds']:.0f} s; {folder / 'results.json'}, {folder / 'report.html'}, {folder / 'figures'}",
        markup=False,
        highlight=False,
    )
    return 0


def _print_table(cells: Cells) -> None:
    table = Table(*cells.columns, title=cells.title)
    for row in cells.rows:
        table.add_row(*map(escape, row))
    out.print(table)
    for note in cells.notes:
        out.print(note, markup=False, highlight=False)


def add_draws(verbs: Any) -> None:
    """Add ``bcpd draws``: the planner."""
    parser = verbs.add_parser(
        "draws", help="how many data draws a paired comparison needs", description=_DRAWS, epilog=_DRAWS_EXAMPLE
    )
    parser.add_argument("--effect", type=float, required=True, help="mean paired difference to be seen")
    spread = parser.add_mutually_exclusive_group(required=True)
    spread.add_argument("--sd", type=float, help="standard deviation of the differences between draws")
    spread.add_argument("--results", type=Path, metavar="PATH", help="of `bcpd run when-mse-wins`: take the sd from it")
    parser.add_argument("--quantity", help="with --results: an id of its quantities; default: the first headline")
    parser.add_argument("--power", type=float, default=0.8, help="default: %(default)s")
    parser.add_argument("--level", type=float, default=0.05, help="default: %(default)s")
    parser.set_defaults(run=_draws)


_DRAWS = "Two-sided paired t-test: the least number of draws that sees a mean difference with the power asked for."
_DRAWS_EXAMPLE = "example: bcpd draws --effect 0.002 --sd 0.004"


def _draws(arguments: argparse.Namespace) -> int:
    from bcpd.power import draws_needed

    if arguments.sd is not None:
        spreads = {"": float(arguments.sd)}
    else:
        spreads = _spreads(arguments.results, arguments.quantity)
    table = Table(
        "cell", "sd of the differences", "draws", title=f"to see {arguments.effect:g} with power {arguments.power:g}"
    )
    for cell, sd in spreads.items():
        table.add_row(cell, f"{sd:.3g}", str(draws_needed(sd, arguments.effect, arguments.power, arguments.level)))
    out.print(table)
    return 0


def _spreads(path: Path, quantity: str | None) -> dict[str, float]:
    """The standard deviation of a quantity's paired differences, cell by cell."""
    from bcpd.runs import read_results

    (results,) = read_results(path)[:1]
    if results["kind"] != "when-mse-wins":
        raise ValueError(f"{path} must hold results of when-mse-wins, received kind {results['kind']!r}")
    known = [entry["id"] for entry in results["quantities"]]
    wanted = quantity or next(entry["id"] for entry in results["quantities"] if entry["headline"])
    if wanted not in known:
        raise ValueError(f"--quantity must be one of {', '.join(known)}; received {wanted!r}")
    return {row["cell"]: float(row["sd"]) for row in results["summary"] if row["quantity"] == wanted}
