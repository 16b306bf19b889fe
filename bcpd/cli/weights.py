"""``bcpd import-weights``: a network that somebody else trained, as a file that bcpd reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bcpd.cli.console import out

__all__ = ["add_import_weights"]

_EPILOG = """examples:
  bcpd import-weights resnet34.pth --net imagenet_resnet34 --out resnet34.safetensors
  bcpd import-weights resnet32x4_vanilla/ckpt_epoch_240.pth --net resnet32x4 --out resnet32x4.safetensors

In Python, bcpd.nets.load_weights("resnet32x4.safetensors") is the network."""


def add_import_weights(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "import-weights",
        help="read torchvision's or RepDistiller's weights",
        description="Read a state dict of torchvision (ImageNet ResNets) or RepDistiller (CIFAR networks), all tensors "
        "by name and shape, and keep it as safetensors. Only tensors are read: nothing in the file can run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="a file of torch.save")
    parser.add_argument("--net", required=True, metavar="NAME", help="e.g. resnet56, wrn_40_2, imagenet_resnet34")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument("--num-classes", type=int, metavar="K", help="default: that of the file")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from bcpd.nets import import_weights

    net = import_weights(arguments.source, arguments.net, arguments.out, arguments.num_classes)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    out.print(
        f"{net.name}, {net.num_classes} classes, {parameters:,} parameters: {arguments.out}",
        markup=False,
        highlight=False,
    )
    return 0
