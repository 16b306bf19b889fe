"""``bcpd run table1 ...`` and ``bcpd plan table1 ...``: the paper's tables, and what they would cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from bcpd.cli.console import out
from bcpd.cli.studies import finish, print_plan
from bcpd.progress import Meter

if TYPE_CHECKING:
    from experiments.tables import Tables

__all__ = ["add_plan", "add_tables"]

_EPILOG = """examples:
  bcpd run table1                                              built-in digits, about a minute
  bcpd plan table1 --scale reduced --data DIR                  runs, hours and memory, from a few timed steps
  bcpd run table1 --scale reduced --data DIR --method kd,at    real CIFAR-100 on 2 cores
  bcpd run table1 --scale reduced --so-far                     the table of what has landed, also while that runs
  bcpd run table2 --scale full --pair vgg13-mobilenetv2 --data DIR --go

DIR holds cifar-10-batches-bin/ and cifar-100-binary/ as their site publishes them; for table3, train/ and val/ of
ImageNet."""


def add_tables(experiments: Any) -> None:
    """Add the experiments to ``bcpd run``."""
    from experiments.tables import EXPERIMENTS

    for name, entry in EXPERIMENTS.items():
        parser = experiments.add_parser(
            name, help=entry.title, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        _add_options(parser)
        parser.add_argument("--plan", action="store_true", help="print what it would cost, and stop")
        parser.add_argument("--go", action="store_true", help="start a full run, after its plan")
        parser.add_argument("--so-far", action="store_true", help="results of what has landed; nothing is trained")
        parser.set_defaults(run=_run, table=name)


def add_plan(verbs: Any) -> None:
    """Add ``bcpd plan``."""
    from experiments.tables import EXPERIMENTS

    parser = verbs.add_parser("plan", help="runs, hours and memory of a table, from a few timed steps on this machine")
    parser.add_argument("table", choices=list(EXPERIMENTS), metavar="TABLE", help=", ".join(EXPERIMENTS))
    _add_options(parser)
    parser.set_defaults(run=_plan, so_far=False)


def _add_options(parser: argparse.ArgumentParser) -> None:
    from experiments.tables import SCALES
    from experiments.tables.spec import ARMS, METHODS

    parser.add_argument("--scale", choices=SCALES, default="smoke", help="default: %(default)s")
    parser.add_argument(
        "--pair", action="append", metavar="TEACHER-STUDENT", help="nets; repeatable; default: those of the scale"
    )
    parser.add_argument("--method", action="append", metavar="NAME[,NAME...]", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--teacher", metavar="ARM[,ARM...]", help=f"of {', '.join(ARMS)}; default: ce,mse")
    for name, meaning in (
        ("seeds", ""),
        ("epochs", "of teachers and students"),
        ("tuning-epochs", "of the trainings that choose a teacher's rate and decay"),
        ("train", "images a seed, 0 for all"),
    ):
        help_text = f"{meaning}; default: that of the scale" if meaning else "default: that of the scale"
        parser.add_argument(f"--{name}", type=int, metavar="N", help=help_text)
    parser.add_argument(
        "--teacher-sees", choices=("all", "share"), help="figure2, fewshot: what the teacher learns from; default: all"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the official files")
    parser.add_argument("--device", help="cpu or cuda; default: that of the scale")
    parser.add_argument("--processes", type=int, metavar="N", help="at once, one thread each; default: the cores")
    parser.add_argument("--seed", type=int, default=0, help="root seed; default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/TABLE-SCALE; a stopped run goes on")
    parser.add_argument(
        "--teachers", type=Path, metavar="DIR", help="where tables share their teachers; default: runs/teachers"
    )


def _specified(arguments: argparse.Namespace) -> Tables:
    from experiments.tables import specification

    if arguments.processes is not None and arguments.processes < 1:
        raise ValueError(f"--processes must be at least 1, received {arguments.processes}")
    changes: dict[str, Any] = {"seed": arguments.seed}
    for name in ("seeds", "epochs", "tuning_epochs", "train", "device", "teacher_sees"):
        if getattr(arguments, name) is not None:
            changes[name] = getattr(arguments, name)
    if arguments.pair:
        changes["pairs"] = tuple(_pair(text) for text in arguments.pair)
    if arguments.method:
        changes["methods"] = tuple(name for item in arguments.method for name in item.split(","))
    if arguments.teacher:
        changes["teachers"] = tuple(arguments.teacher.split(","))
    spec = specification(arguments.table, arguments.scale, **changes)
    if spec.protocol.device.startswith("cuda") and not arguments.so_far:
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"device {spec.protocol.device}: torch sees no CUDA device; use --device cpu")
    return spec


def _pair(text: str) -> tuple[str, str]:
    from bcpd.nets import NETS

    teacher, dash, student = text.partition("-")
    for net in (teacher, student):
        if not dash or net not in NETS:
            raise ValueError(f"--pair must be TEACHER-STUDENT with two of {', '.join(NETS)}; received {text!r}")
    return teacher, student


def _folder(arguments: argparse.Namespace) -> Path:
    chosen: Path = arguments.out or Path(f"runs/{arguments.table}-{arguments.scale}")
    return chosen


def _processes(spec: Tables, arguments: argparse.Namespace) -> int | None:
    """One process drives a GPU."""
    given: int | None = arguments.processes
    return given or (None if spec.protocol.device == "cpu" else 1)


def _plan(arguments: argparse.Namespace) -> int:
    from experiments.tables import plan
    from experiments.tables.spec import DATASETS

    spec = _specified(arguments)
    found = plan(spec, _folder(arguments) / "rows", _processes(spec, arguments) or 2)
    print_plan(found, f"{arguments.table} --scale {arguments.scale}")
    if DATASETS[spec.protocol.dataset].images == "imagenet":
        out.print("Measured on images in memory: the time to read and decode files is not in it.", markup=False)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from experiments.tables import collect, run

    spec, folder = _specified(arguments), _folder(arguments)
    if arguments.so_far:
        return _finished(collect(spec, folder / "rows"), folder)
    if arguments.plan or (arguments.scale == "full" and not arguments.go):
        _plan(arguments)
        if not arguments.plan:
            out.print("Nothing was started; add --go to start it.", markup=False)
        return 0
    teachers = arguments.teachers or Path("runs/teachers")
    with Meter(arguments.table) as meter:
        results = run(spec, folder / "rows", arguments.data, meter.stage, _processes(spec, arguments), teachers)
    return _finished(results, folder)


def _finished(results: dict[str, Any], folder: Path) -> int:
    from bcpd.report.method_tables import method_tables

    for shown in method_tables(results):
        if shown.default:
            table = Table(*shown.columns, title=shown.title)
            for row in shown.rows:
                table.add_row(*map(escape, row))
            out.print(table)
            for note in shown.notes:
                out.print(note, markup=False, highlight=False)
    return finish(results, folder)
