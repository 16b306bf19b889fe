"""The same networks under others' names: RepDistiller's for CIFAR, torchvision's for ImageNet.

A table pairs every module here with its counterpart there, built by walking the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from torch import nn

from bcpd.nets.cifar_resnet import CIFAR_RESNETS, CifarResNet
from bcpd.nets.conv import ConvNet
from bcpd.nets.mobilenet import GROUPS, MobileNetV2
from bcpd.nets.resnet import IMAGENET_RESNETS, RESNETS, ImageNetResNet, ResNet
from bcpd.nets.shufflenet import SHUFFLENETS, DownUnit, ShuffleNetV1, ShuffleNetV2
from bcpd.nets.vgg import VGG, VGGS
from bcpd.nets.wide_resnet import WIDE_RESNETS, PreactivationBlock, WideResNet

__all__ = ["SOURCES", "foreign_names"]

Pairs = Iterator[tuple[str, str]]
"""(path of a module here, path of the module there) for every module that has parameters."""

SOURCES: dict[str, str] = {
    **dict.fromkeys([name for name in CIFAR_RESNETS if name != "resnet8x0.5"], "RepDistiller"),
    **dict.fromkeys([*WIDE_RESNETS, *VGGS, *RESNETS, "mobilenetv2", *SHUFFLENETS], "RepDistiller"),
    **dict.fromkeys(IMAGENET_RESNETS, "torchvision"),
}
"""Whose names a network's weights are read in."""


def foreign_names(net: ConvNet) -> dict[str, str]:
    """Our key of every parameter and buffer -> its name in the state dict that ``SOURCES`` names."""
    table: dict[str, str] = {}
    for ours, theirs in _PAIRS[type(net)](net):
        for key in net.get_submodule(ours).state_dict():
            table[f"{ours}.{key}"] = f"{theirs}.{key}"
    return table


def _blocks(net: ConvNet) -> Iterator[tuple[int, int, nn.Module, str]]:
    """(stage, position, block, its path here), all 0-based."""
    for level, stage in enumerate(net.blocks):
        for position, block in enumerate(cast(nn.ModuleList, stage)):
            yield level, position, block, f"blocks.{level}.{position}"


def _ends(here: str, there: str, conv: str | int, norm: str | int) -> Pairs:
    """The two parts of :func:`bcpd.nets.conv.convolution`."""
    yield f"{here}.0", f"{there}{conv}"
    yield f"{here}.1", f"{there}{norm}"


def _residual(net: ConvNet, projection: str) -> Pairs:
    for level, position, block, ours in _blocks(net):
        theirs = f"layer{level + 1}.{position}"
        for number in (1, 2, 3):
            if hasattr(block, f"conv{number}"):
                yield f"{ours}.conv{number}", f"{theirs}.conv{number}"
                yield f"{ours}.norm{number}", f"{theirs}.bn{number}"
        if isinstance(block.shortcut, nn.Sequential):
            yield from _ends(f"{ours}.shortcut", f"{theirs}.{projection}.", 0, 1)


def _cifar_resnet(net: ConvNet) -> Pairs:
    yield from (("stem", "conv1"), ("norm", "bn1"))
    yield from _residual(net, "downsample")
    yield "head", "fc"


def _resnet(net: ConvNet) -> Pairs:
    yield from _ends("stem", "", "conv1", "bn1")
    yield from _residual(net, "shortcut")
    yield "head", "linear"


def _imagenet_resnet(net: ConvNet) -> Pairs:
    yield from _ends("stem", "", "conv1", "bn1")
    yield from _residual(net, "downsample")
    yield "head", "fc"


def _wide_resnet(net: ConvNet) -> Pairs:
    yield "stem", "conv1"
    last = len(net.blocks) - 1
    for level, position, block, ours in _blocks(net):
        if not isinstance(block, PreactivationBlock):
            # the norm that ends a stage here begins the next one there
            yield ours, "bn1" if level == last else f"block{level + 2}.layer.0.bn1"
            continue
        theirs = f"block{level + 1}.layer.{position}"
        if isinstance(block.norm1, nn.BatchNorm2d):
            yield f"{ours}.norm1", f"{theirs}.bn1"
        yield f"{ours}.conv1", f"{theirs}.conv1"
        yield f"{ours}.norm2", f"{theirs}.bn2"
        yield f"{ours}.conv2", f"{theirs}.conv2"
        if isinstance(block.shortcut, nn.Conv2d):
            yield f"{ours}.shortcut", f"{theirs}.convShortcut"
    yield "head", "fc"


def _vgg(net: ConvNet) -> Pairs:
    layers = [(f"stem.{position}", 0, position) for position in range(len(cast(nn.ModuleList, net.stem)))]
    layers += [(ours, level + 1, position) for level, position, _, ours in _blocks(net)]
    for ours, block, position in layers:
        # convolution, norm and ReLU are three entries there
        yield f"{ours}.conv", f"block{block}.{3 * position}"
        yield f"{ours}.norm", f"block{block}.{3 * position + 1}"
    yield "head", "classifier"


def _mobilenet_v2(net: ConvNet) -> Pairs:
    yield from _ends("stem", "conv1.", 0, 1)
    # a stage here is one group of bottlenecks or two
    places = [
        [(group, repeat) for group, (_, _, repeats) in enumerate(groups) for repeat in range(repeats)]
        for groups in GROUPS
    ]
    before = [sum(len(groups) for groups in GROUPS[:level]) for level in range(len(GROUPS))]
    for level, position, _, ours in _blocks(net):
        group, repeat = places[level][position]
        theirs = f"blocks.{before[level] + group}.{repeat}.conv."
        yield from _ends(f"{ours}.expand", theirs, 0, 1)
        yield from _ends(f"{ours}.depthwise", theirs, 3, 4)
        yield from _ends(f"{ours}.project", theirs, 6, 7)
    yield from _ends("neck", "conv2.", 0, 1)
    yield "head", "classifier.0"


def _shufflenet_v1(net: ConvNet) -> Pairs:
    yield from _ends("stem", "", "conv1", "bn1")
    for level, position, _, ours in _blocks(net):
        for number, part in enumerate(("reduce", "depthwise", "expand"), 1):
            yield from _ends(f"{ours}.{part}", f"layer{level + 1}.{position}.", f"conv{number}", f"bn{number}")
    yield "head", "linear"


def _shufflenet_v2(net: ConvNet) -> Pairs:
    yield from _ends("stem", "", "conv1", "bn1")
    for level, position, block, ours in _blocks(net):
        right = ["right.0", "right.1", "right.2"]
        parts = ["left.0", "left.1", *right] if isinstance(block, DownUnit) else right
        for number, part in enumerate(parts, 1):
            yield from _ends(f"{ours}.{part}", f"layer{level + 1}.{position}.", f"conv{number}", f"bn{number}")
    yield from _ends("neck", "", "conv2", "bn2")
    yield "head", "linear"


_PAIRS: dict[type[ConvNet], Callable[[ConvNet], Pairs]] = {
    CifarResNet: _cifar_resnet,
    WideResNet: _wide_resnet,
    VGG: _vgg,
    ResNet: _resnet,
    ImageNetResNet: _imagenet_resnet,
    MobileNetV2: _mobilenet_v2,
    ShuffleNetV1: _shufflenet_v1,
    ShuffleNetV2: _shufflenet_v2,
}
