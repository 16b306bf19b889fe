"""``bcpd run table1 ...`` and ``bcpd plan table1 ...``: the paper's tables, and what they would cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcpd.cli.console import out
from bcpd.cli.options import (
    add_data,
    add_execution,
    add_folders,
    add_numbers,
    check_at_least_one,
    check_device,
    execution,
    given,
)
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
  bcpd run table1 --scale full --pair resnet56-resnet20 --method kd --data DIR --graphs --teacher-table --go

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
    add_numbers(
        parser,
        seeds="",
        epochs="of teachers and students",
        tuning_epochs="of the trainings that choose a teacher's rate and decay",
        train="images a seed, 0 for all",
    )
    parser.add_argument(
        "--teacher-sees", choices=("all", "share"), help="figure2, fewshot: what the teacher learns from; default: all"
    )
    add_data(parser)
    add_execution(parser)
    parser.add_argument(
        "--teacher-table",
        action="store_true",
        help="kd and dkd look up their teacher's logits, at all views of all images (CIFAR-100: 3 GB a teacher)",
    )
    add_folders(parser, "TABLE")


def _specified(arguments: argparse.Namespace) -> Tables:
    from experiments.tables import specification

    check_at_least_one(arguments, "processes", "together")
    changes = given(arguments, "seed", "seeds", "epochs", "tuning_epochs", "train", "device", "teacher_sees")
    changes |= {"execution": execution(arguments), "table": arguments.teacher_table}
    if arguments.pair:
        changes["pairs"] = tuple(_pair(text) for text in arguments.pair)
    if arguments.method:
        changes["methods"] = tuple(name for item in arguments.method for name in item.split(","))
    if arguments.teacher:
        changes["teachers"] = tuple(arguments.teacher.split(","))
    spec = specification(arguments.table, arguments.scale, **changes)
    if not arguments.so_far:
        check_device(spec.protocol)
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


def _plan(arguments: argparse.Namespace) -> int:
    from experiments.tables import plan
    from experiments.tables.places import number_together
    from experiments.tables.spec import DATASETS

    spec = _specified(arguments)
    together, processes = number_together(spec.protocol, arguments.together, arguments.processes)
    found = plan(spec, _folder(arguments) / "rows", processes or 2, together)
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
    processes, together = arguments.processes, arguments.together
    with Meter(arguments.table) as meter:
        results = run(spec, folder / "rows", arguments.data, meter.stage, processes, arguments.teachers, together)
    return _finished(results, folder)


def _finished(results: dict[str, Any], folder: Path) -> int:
    from bcpd.report.method_tables import method_tables

    return finish(results, folder, method_tables(results))
