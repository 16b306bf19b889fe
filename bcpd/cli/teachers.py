"""``bcpd run teachers``: the setting that each loss wants, its teachers, and which of them is closer to p*."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from experiments.teachers import Teachers

__all__ = ["add_teachers"]

_EPILOG = """examples:
  bcpd run teachers                                                built-in digits, under a minute
  bcpd run teachers --scale reduced --data DIR                     10,000 images of CIFAR-100, resnet20, on 2 cores
  bcpd run teachers --scale full --plan                            trainings and epochs of the whole study
  bcpd run teachers --scale full --net resnet56 --loss ce,mse --data DIR --precision bfloat16 --graphs
  bcpd run teachers --scale full --net resnet56 --so-far           what has landed, also while that runs

DIR holds cifar-100-binary/ as its site publishes it. A run that was stopped goes on where it was."""


def add_teachers(experiments: Any) -> None:
    """Add the experiment to ``bcpd run``."""
    from experiments.teachers import SCALES
    from experiments.teachers.spec import LOSSES

    parser = experiments.add_parser(
        "teachers",
        help="rate, decay and warm-up of CE and MSE teachers, and which is closer to p*",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scale", choices=SCALES, default="smoke", help="default: %(default)s")
    parser.add_argument("--net", metavar="NAME[,NAME...]", help="default: those of the scale")
    parser.add_argument("--loss", metavar="ARM[,ARM...]", help=f"of {', '.join(LOSSES)}; default: all but ls")
    add_numbers(
        parser,
        seeds="",
        epochs="of the teachers",
        search_epochs="of the trainings that choose",
        start_epochs="of cross-entropy, in mse-from-ce",
        train="images a seed, 0 for all",
    )
    add_data(parser)
    add_execution(parser)
    add_folders(parser, "teachers")
    parser.add_argument("--plan", action="store_true", help="print what would be trained, and stop")
    parser.add_argument("--so-far", action="store_true", help="results of what has landed; nothing is trained")
    parser.set_defaults(run=_run)


def _specified(arguments: argparse.Namespace) -> Teachers:
    from experiments.teachers import specification

    check_at_least_one(arguments, "processes", "together")
    changes = given(arguments, "seed", "seeds", "epochs", "search_epochs", "start_epochs", "train", "device")
    changes["execution"] = execution(arguments)
    for name, field in (("net", "nets"), ("loss", "losses")):
        if getattr(arguments, name):
            changes[field] = tuple(getattr(arguments, name).split(","))
    return specification(arguments.scale, **changes)


def _run(arguments: argparse.Namespace) -> int:
    from experiments.teachers import collect, plan, run

    spec = _specified(arguments)
    folder: Path = arguments.out or Path(f"runs/teachers-{arguments.scale}")
    if arguments.so_far:
        return _finished(collect(spec, folder / "rows"), folder)
    print_plan(plan(spec), f"teachers --scale {arguments.scale}")
    if arguments.plan:
        return 0
    check_device(spec.protocol)
    processes, together = arguments.processes, arguments.together
    with Meter("teachers") as meter:
        results = run(spec, folder / "rows", arguments.data, meter.stage, processes, arguments.teachers, together)
    return _finished(results, folder)


def _finished(results: dict[str, Any], folder: Path) -> int:
    from bcpd.report.teacher_search import teacher_tables

    return finish(results, folder, teacher_tables(results))
