"""The options that experiments on real images have in common, and what is made of those that were given."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from bcpd.train import Execution
    from experiments.tables.spec import Protocol

__all__ = [
    "add_data",
    "add_execution",
    "add_folders",
    "add_numbers",
    "check_at_least_one",
    "check_device",
    "execution",
    "given",
]


def add_numbers(parser: argparse.ArgumentParser, **meanings: str) -> None:
    """Whole numbers that every scale has, each by its name, with what it counts (or nothing)."""
    for name, meaning in meanings.items():
        help_text = f"{meaning}; default: that of the scale" if meaning else "default: that of the scale"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=help_text)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Where the images are, and where to train."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the official files")
    parser.add_argument("--device", help="cpu or cuda; default: that of the scale")


def add_execution(parser: argparse.ArgumentParser) -> None:
    """How steps are computed, and how many trainings at once."""
    from bcpd.train.execution import Precision
    from experiments.tables.places import CAPTURED_TOGETHER

    parser.add_argument(
        "--together",
        type=int,
        metavar="N",
        help=f"trainings side by side in one process; default: 1, or {CAPTURED_TOGETHER} with --graphs",
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="at once, one thread each; default: the cores, or one for several trainings together",
    )
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="default: %(default)s")
    parser.add_argument("--compile", action="store_true", help="compile the networks")
    parser.add_argument("--graphs", action="store_true", help="a step is one CUDA graph")


def execution(arguments: argparse.Namespace) -> Execution:
    """What :func:`add_execution` was given."""
    from bcpd.train import Execution

    return Execution(arguments.precision, arguments.compile, arguments.graphs)


def add_folders(parser: argparse.ArgumentParser, name: str) -> None:
    """The root seed, and where runs and shared teachers are kept."""
    parser.add_argument("--seed", type=int, default=0, help="root seed; default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"default: runs/{name}-SCALE; a stopped run goes on")
    parser.add_argument(
        "--teachers",
        type=Path,
        metavar="DIR",
        default=Path("runs/teachers"),
        help="where tables share their teachers; default: runs/teachers",
    )


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that were given, by name."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def check_at_least_one(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse numbers below 1.

    Raises:
        ValueError: one of them was given and is.
    """
    for name, number in given(arguments, *names).items():
        if number < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, received {number}")


def check_device(protocol: Protocol) -> None:
    """Refuse a GPU that is not there, and what a CPU cannot do.

    Raises:
        ValueError: a CUDA device, where torch sees none; graphs or TF32 on a CPU.
    """
    import torch

    if protocol.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {protocol.device}: torch sees no CUDA device; use --device cpu")
    protocol.execution.check(torch.device(protocol.device))
