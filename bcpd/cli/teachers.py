"""``bcpd run teachers``: the setting that each loss wants, its teachers, and which of them is closer to p*."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.table import Table

from bcpd.cli.console import out
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
    from bcpd.train.execution import Precision
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
    for name, meaning in (
        ("seeds", ""),
        ("epochs", "of the teachers"),
        ("search-epochs", "of the trainings that choose"),
        ("start-epochs", "of cross-entropy, in mse-from-ce"),
        ("train", "images a seed, 0 for all"),
    ):
        help_text = f"{meaning}; default: that of the scale" if meaning else "default: that of the scale"
        parser.add_argument(f"--{name}", type=int, metavar="N", help=help_text)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the official files")
    parser.add_argument("--device", help="cpu or cuda; default: that of the scale")
    parser.add_argument(
        "--together", type=int, metavar="N", help="trainings side by side in one process; default: 1, 4 on cuda"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="at once, one thread each; default: the cores")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="default: %(default)s")
    parser.add_argument("--compile", action="store_true", help="compile the networks")
    parser.add_argument("--graphs", action="store_true", help="a step is one CUDA graph")
    parser.add_argument("--seed", type=int, default=0, help="root seed; default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/teachers-SCALE; a stopped run goes on")
    parser.add_argument(
        "--teachers", type=Path, metavar="DIR", help="where tables share their teachers; default: runs/teachers"
    )
    parser.add_argument("--plan", action="store_true", help="print what would be trained, and stop")
    parser.add_argument("--so-far", action="store_true", help="results of what has landed; nothing is trained")
    parser.set_defaults(run=_run)


def _specified(arguments: argparse.Namespace) -> Teachers:
    from bcpd.train import Execution
    from experiments.teachers import specification

    for name in ("processes", "together"):
        given = getattr(arguments, name)
        if given is not None and given < 1:
            raise ValueError(f"--{name} must be at least 1, received {given}")
    changes: dict[str, Any] = {"seed": arguments.seed}
    changes["execution"] = Execution(arguments.precision, arguments.compile, arguments.graphs)
    for name in ("seeds", "epochs", "search_epochs", "start_epochs", "train", "device"):
        if getattr(arguments, name) is not None:
            changes[name] = getattr(arguments, name)
    for name, field in (("net", "nets"), ("loss", "losses")):
        if getattr(arguments, name):
            changes[field] = tuple(getattr(arguments, name).split(","))
    return specification(arguments.scale, **changes)


def _check_device(spec: Teachers) -> None:
    import torch

    device = torch.device(spec.protocol.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {spec.protocol.device}: torch sees no CUDA device; use --device cpu")
    spec.execution.check(device)


def _run(arguments: argparse.Namespace) -> int:
    from experiments.teachers import collect, plan, run

    spec = _specified(arguments)
    folder: Path = arguments.out or Path(f"runs/teachers-{arguments.scale}")
    if arguments.so_far:
        return _finished(collect(spec, folder / "rows"), folder)
    print_plan(plan(spec), f"teachers --scale {arguments.scale}")
    if arguments.plan:
        return 0
    _check_device(spec)
    teachers = arguments.teachers or Path("runs/teachers")
    with Meter("teachers") as meter:
        results = run(
            spec, folder / "rows", arguments.data, meter.stage, arguments.processes, teachers, arguments.together
        )
    return _finished(results, folder)


def _finished(results: dict[str, Any], folder: Path) -> int:
    from bcpd.report.teacher_search import teacher_tables

    for shown in teacher_tables(results):
        if shown.default:
            table = Table(*shown.columns, title=shown.title)
            for row in shown.rows:
                table.add_row(*row)
            out.print(table)
    return finish(results, folder)
