"""Where the command line prints, and what several verbs share."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

__all__ = ["add_threads", "err", "out", "set_threads"]

out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, soft_wrap=True)


def add_threads(parser: argparse.ArgumentParser, default: int | None) -> None:
    """Small products do not gain from a second thread, and on a shared machine they lose much by it."""
    parser.add_argument(
        "--threads", type=int, default=default, metavar="N", help=f"CPU threads; default: {default or 'the cores'}"
    )


def set_threads(arguments: argparse.Namespace) -> None:
    import torch

    if arguments.threads is None:
        return
    if arguments.threads < 1:
        raise ValueError(f"--threads must be at least 1, received {arguments.threads}")
    torch.set_num_threads(arguments.threads)
