"""Every convolutional network has the size, the work and the feature shapes of the published one."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bcpd.nets import NETS, ConvNet, build

# Millions of parameters, and of forward multiply-accumulates in convolutions and linear layers, as printed of
# RepDistiller's networks at 32 x 32 and 100 classes. By hand: resnet8x0.5, which that has not; resnet34, and the work
# of resnet18, from torchvision's parameters less its wider stem and read-out.
CIFAR = {
    "resnet8": ("0.084", "12.5"),
    "resnet14": ("0.181", "26.7"),
    "resnet20": ("0.278", "40.8"),
    "resnet32": ("0.473", "69.1"),
    "resnet44": ("0.667", "97.4"),
    "resnet56": ("0.862", "125.8"),
    "resnet110": ("1.737", "253.2"),
    "resnet8x0.5": ("0.023", "3.2"),
    "resnet8x4": ("1.234", "177.1"),
    "resnet32x4": ("7.434", "1083.0"),
    "wrn_16_1": ("0.181", "26.7"),
    "wrn_16_2": ("0.703", "101.1"),
    "wrn_40_1": ("0.570", "83.3"),
    "wrn_40_2": ("2.255", "327.6"),
    "vgg8": ("3.965", "96.2"),
    "vgg11": ("9.277", "209"),
    "vgg13": ("9.462", "284.9"),
    "vgg16": ("14.774", "398"),
    "vgg19": ("20.087", "511"),
    "resnet18": ("11.220", "555.5"),
    "resnet34": ("21.328", "1159.4"),
    "resnet50": ("23.705", "1298.0"),
    "mobilenetv2": ("0.813", "6.5"),
    "shufflenetv1": ("0.949", "38.7"),
    "shufflenetv2": ("1.356", "44.5"),
}
# at 224 x 224 and 1000 classes; multiply-accumulates in thousands of millions
IMAGENET = {
    "imagenet_resnet18": ("11.69", "1.81"),
    "imagenet_resnet34": ("21.80", "3.66"),
    "imagenet_resnet50": ("25.56", "4.09"),
    "imagenet_mobilenetv1": ("4.23", "0.57"),
}
# channels @ height (= width) of the stages, and the width of what the read-out reads
SHAPES = {
    "resnet20": ("16@32 32@16 64@8", 64),
    "resnet8x4": ("64@32 128@16 256@8", 256),
    "resnet32x4": ("64@32 128@16 256@8", 256),
    "wrn_16_1": ("16@32 32@16 64@8", 64),
    "wrn_40_2": ("32@32 64@16 128@8", 128),
    "vgg8": ("128@16 256@8 512@4 512@4", 512),
    "vgg19": ("128@16 256@8 512@4 512@4", 512),
    "resnet18": ("64@32 128@16 256@8 512@4", 512),
    "resnet50": ("256@32 512@16 1024@8 2048@4", 2048),
    "mobilenetv2": ("12@16 16@8 48@4 160@2", 1280),
    "shufflenetv1": ("240@16 480@8 960@4", 960),
    "shufflenetv2": ("116@16 232@8 464@4", 1024),
    "imagenet_resnet34": ("64@56 128@28 256@14 512@7", 512),
    "imagenet_resnet50": ("256@56 512@28 1024@14 2048@7", 2048),
    "imagenet_mobilenetv1": ("128@56 256@28 512@14 1024@7", 1024),
}
# height and width below which a stride meets a single pixel, and 8 for mobilenetv2, which shrinks 16-fold
LEAST = (
    dict.fromkeys(CIFAR, 8)
    | dict.fromkeys([name for name in CIFAR if name.startswith(("resnet", "wrn"))], 4)
    | dict.fromkeys(["resnet18", "resnet34", "resnet50"], 8)
    | dict.fromkeys(IMAGENET, 32)
)
# total parameters and multiply-accumulates with a head of 400 outputs on every stage (HSAKD's teachers, 100 classes)
WITH_HEADS = {
    "resnet20": ("1.04 M", "94 M"),
    "resnet56": ("3.07 M", "293 M"),
    "wrn_40_2": ("8.02 M", "768 M"),
    "resnet32x4": ("26.3 M", "2.54 G"),
    "resnet50": ("100.7 M", "3.60 G"),
}

# as others, with more of the same layers
DEEP = {
    *("resnet14", "resnet32", "resnet44", "resnet56", "resnet110", "wrn_40_1", "wrn_40_2"),
    *("vgg11", "vgg16", "vgg19", "resnet34", "imagenet_resnet34", "imagenet_resnet50"),
}


def each(names: Iterable[str], also: str = "") -> list[Any]:
    """The names, the deep ones slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in {*DEEP, also} else name for name in names]


def without_memory(name: str, input_shape: tuple[int, ...], num_classes: int = 100) -> ConvNet:
    with torch.device("meta"):
        net = build(name, num_classes=num_classes, input_shape=input_shape)
    assert isinstance(net, ConvNet)
    return net.eval()


def image_of(name: str) -> tuple[int, int, int]:
    return (3, 224, 224) if name in IMAGENET else (3, 32, 32)


def images(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def written_as(value: float, text: str) -> str:
    """``value`` in the unit and with the decimals of ``text``."""
    number, _, unit = text.partition(" ")
    value /= {"": 1e6, "M": 1e6, "G": 1e9}[unit]
    return f"{value:.{len(number.partition('.')[2])}f}" + (f" {unit}" if unit else "")


def test_every_convolutional_network_is_here() -> None:
    assert {*CIFAR, *IMAGENET} == set(NETS) - {"mlp"}


@pytest.mark.parametrize("name", each([*CIFAR, *IMAGENET]))
def test_parameters_and_work_are_those_of_the_published_networks(name: str) -> None:
    parameters, macs = (CIFAR | IMAGENET)[name]
    net = without_memory(name, image_of(name), 1000 if name in IMAGENET else 100)
    assert written_as(sum(p.numel() for p in net.parameters()), parameters) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images(1, *net.input_shape))
    work = counter.get_total_flops() / 2
    assert (written_as(work, f"{macs} G").removesuffix(" G") if name in IMAGENET else written_as(work, macs)) == macs


@pytest.mark.parametrize("name", each(SHAPES))
def test_stages_have_the_published_shapes(name: str) -> None:
    text, pooled = SHAPES[name]
    stages = tuple((int(c), int(size), int(size)) for c, size in (stage.split("@") for stage in text.split()))
    shapes = without_memory(name, image_of(name)).tap_shapes
    assert shapes == {"logits": (100,), "pooled": (pooled,), "stages": stages, "preacts": stages}


def with_heads(net: ConvNet) -> tuple[int, float]:
    """Parameters and forward multiply-accumulates of a network and a branch of 400 outputs on every stage."""
    with torch.device("meta"):
        branches = [net.branch(stage, 400, seed=0) for stage in range(len(net.tap_shapes["stages"]))]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        views = net(images(1, *net.input_shape))
        for branch, features in zip(branches, views.stages, strict=True):
            assert branch(features).shape == (1, 400)
    return sum(p.numel() for part in (net, *branches) for p in part.parameters()), counter.get_total_flops() / 2


@pytest.mark.parametrize("name", each(WITH_HEADS, also="resnet50"))
def test_with_a_head_on_every_stage_the_total_is_that_of_hsakd(name: str) -> None:
    total = with_heads(without_memory(name, (3, 32, 32)))
    expected = WITH_HEADS[name]
    assert tuple(written_as(value, text) for value, text in zip(total, expected, strict=True)) == expected


def test_hsakd_counts_four_more_blocks_for_vgg() -> None:
    """46.5 M and 1.00 G is with the heads of the stem and of the stages 0, 1 and 3, the last one of two blocks.

    Here a head is on the stages 0 to 3, and the last repeats one block: all blocks after the stem once less.
    """
    net = without_memory("vgg13", (3, 32, 32))
    parameters, macs = with_heads(net)
    assert (written_as(parameters, "37.1 M"), written_as(macs, "758 M")) == ("37.1 M", "758 M")
    blocks = sum(p.numel() for p in net.blocks.parameters())
    work = 0
    for stage, (channels, height, width) in zip(net.blocks, net.tap_shapes["stages"], strict=True):
        inputs = stage[0].conv.in_channels
        work += 9 * channels * (inputs + channels) * height * width
    assert (written_as(parameters + blocks, "46.5 M"), written_as(macs + work, "1.00 G")) == ("46.5 M", "1.00 G")


@pytest.mark.parametrize("name", each(LEAST))
def test_images_too_small_to_shrink_are_refused_and_the_least_are_not(name: str) -> None:
    least = LEAST[name]
    assert min(without_memory(name, (1, least, least + 3)).tap_shapes["stages"][-1]) >= 1
    for shape in ((1, least, least - 1), (3, least - 1, least)):
        with pytest.raises(
            ValueError, match=rf"{name} needs images of at least {least} x {least}, received .*{shape[2]}"
        ):
            without_memory(name, shape)
    for shape in ((64,), (8, 8), (2, 3, 32, 32)):
        with pytest.raises(ValueError, match=rf"{name} needs images, input_shape \(C, H, W\), received"):
            without_memory(name, shape)
    with pytest.raises(ValueError, match=rf"{name} is one model and takes one int as its seed"):
        build(name, num_classes=10, input_shape=(3, 32, 32), seed=[0, 1])


def test_large_images_meet_the_fourth_maximum_of_vgg() -> None:
    for side, sizes in ((32, (16, 8, 4, 4)), (63, (31, 15, 7, 7)), (64, (32, 16, 8, 4)), (224, (112, 56, 28, 14))):
        net = without_memory("vgg8", (3, side, side))
        assert tuple(stage[1] for stage in net.tap_shapes["stages"]) == sizes
        assert tuple(stage.shape[2] for stage in net(images(1, 3, side, side)).stages) == sizes


def test_the_declared_parameters_are_whole_numbers_of_the_papers() -> None:
    """torchvision documents 11,689,512, 21,797,672 and 25,557,032 parameters for its three."""
    counts = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}
    for depth, count in counts.items():
        net = without_memory(f"imagenet_resnet{depth}", (3, 224, 224), 1000)
        assert sum(math.prod(p.shape) for p in net.parameters()) == count
