"""``bcpd compare``: the ladder from toy to real."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from bcpd.cli.options import check_at_least_one
from bcpd.cli.studies import finish, starts
from bcpd.progress import Meter

__all__ = ["add_compare"]

_EPILOG = """examples:
  bcpd compare                                      built-in digits and mixtures, about a minute
  bcpd compare --scale laptop --data DIR            CIFAR-10 with CIFAR-10H, and CIFAR-100, on 2 cores
  bcpd compare --scale laptop --data DIR --plan     what that would train
  bcpd compare --scale full --data DIR --go         ResNet-56 to ResNet-20 on a GPU

DIR holds cifar-10-batches-bin/, cifar-100-binary/ and cifar-10h/, as their sites publish them."""


def add_compare(verbs: Any) -> None:
    """Add the verb to the parser."""
    from experiments.ladder.spec import GROUNDS

    parser = verbs.add_parser(
        "compare",
        help="CE and MSE teachers on every rung: p* exact, people's, unknown",
        description="The paper's claim by one specification on images whose p* is exact, given by people, or unknown.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scale", choices=("smoke", "laptop", "full"), default="smoke", help="default: %(default)s")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the official binary files")
    parser.add_argument(
        "--ground", action="append", choices=list(GROUNDS), metavar="NAME", help=f"only these: {', '.join(GROUNDS)}"
    )
    parser.add_argument("--plan", action="store_true", help="print what would be trained, and stop")
    parser.add_argument("--go", action="store_true", help="start a full run, after its plan")
    parser.add_argument("--processes", type=int, metavar="N", help="at once, one thread each; default: the cores")
    parser.add_argument("--device", help="cpu or cuda; default: that of the scale")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/ladder-SCALE; a killed run goes on")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from experiments.ladder import SCALES, plan, run

    check_at_least_one(arguments, "processes")
    spec = replace(SCALES[arguments.scale], seed=arguments.seed)
    if arguments.ground:
        spec = replace(spec, grounds=tuple(dict.fromkeys(arguments.ground)))
    if arguments.device:
        spec = replace(spec, device=arguments.device)
    if not starts(arguments, lambda: plan(spec), "compare"):
        return 0
    folder = arguments.out or Path(f"runs/ladder-{arguments.scale}")
    # one process drives a GPU
    processes = arguments.processes or (None if spec.device == "cpu" else 1)
    with Meter("compare") as meter:
        results = run(spec, folder / "rows", arguments.data, meter.stage, processes)
    return finish(results, folder)
