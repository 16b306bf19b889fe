"""Residual networks for 32 x 32 images, resnet8 to resnet110, the four times wider resnet8x4 and resnet32x4, and half.

Depth 6n + 2: a 3 x 3 stem, three stages of n basic blocks at full, half and quarter resolution, global average
pooling and a linear read-out (He et al. 2016, section 4.2), with a projection where a block changes shape, as in the
CIFAR distillation literature (Tian et al. 2020, RepDistiller). Smaller or larger images are accepted too; for small
ones there is resnet8x0.5, resnet8 at half its width (a quarter of the work), which that literature does not have.

Weights are held channels last, so all maps are: the values are the same up to rounding, and a CPU trains 1.2 to 1.35
times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcpd.nets.views import Net, Views
from bcpd.seeds import derive

__all__ = ["CIFAR_RESNETS", "BasicBlock", "CifarResNet"]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut, **without** the last ReLU: the caller sees both sides of it.

    The shortcut is the identity, or a 1 x 1 convolution with batch norm where the block changes channels or size.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return cast(Tensor, self.norm2(self.conv2(inner)) + self.shortcut(x))


class CifarResNet(Net):
    r"""A CIFAR ResNet; for 32 x 32 input its ``stages`` have sizes 32, 16 and 8.

    ``preacts`` are the sums that leave the last block of each stage, ``stages`` their ReLU, ``pooled`` the spatial
    mean of the last stage; the stem is not a stage. Convolutions start from
    :math:`N(0, 2 / (k^2 C_{out}))` (He et al. 2015, fan-out), batch norm from the identity, the read-out as
    :class:`torch.nn.Linear` does.

    Args:
        name: its key in ``NETS``.
        depth: 6n + 2 layers.
        widths: channels of the stem and of the three stages.
        num_classes: K >= 2.
        input_shape: (C, H, W) of one image.
        seed: of the initialisation, one int: convolutional networks train one model each.
    Raises:
        ValueError: another depth, an ``input_shape`` that is no image, several seeds.
    """

    def __init__(
        self,
        *,
        name: str,
        depth: int,
        widths: tuple[int, int, int, int],
        num_classes: int,
        input_shape: tuple[int, ...],
        seed: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(name, num_classes, input_shape)
        if isinstance(seed, Sequence):
            raise ValueError(f"{name} is one model and takes one int as its seed (mlp has replicas), received {seed!r}")
        if len(self.input_shape) != 3:
            raise ValueError(f"{name} needs images, input_shape (C, H, W), received {input_shape}")
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2, e.g. 8, 14, 20, received {depth}")
        # Modules draw from the CPU's global generator as they are made; the fork gives it back untouched.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(seed, "init"))
            self.stem = nn.Conv2d(self.input_shape[0], widths[0], 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(widths[0])
            self.blocks = nn.ModuleList()
            channels = widths[0]
            for level, width in enumerate(widths[1:]):
                blocks = nn.ModuleList()
                for position in range((depth - 2) // 6):
                    stride = 2 if level > 0 and position == 0 else 1
                    blocks.append(BasicBlock(channels, width, stride))
                    channels = width
                self.blocks.append(blocks)
            self.head = nn.Linear(channels, num_classes)
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Views:
        """:class:`Views` of images ``(B, C, H, W)``, in any memory format."""
        if x.shape[1:] != self.input_shape:
            accepted = ", ".join(str(size) for size in self.input_shape)
            raise ValueError(f"x must have shape (B, {accepted}), received {tuple(x.shape)}")
        features = functional.relu(self.norm(self.stem(x)), inplace=True)
        preacts: list[Tensor] = []
        stages: list[Tensor] = []
        for blocks in self.blocks:
            preact = features
            for block in cast(nn.ModuleList, blocks):
                preact = block(features)
                features = functional.relu(preact)
            preacts.append(preact)
            stages.append(features)
        pooled = features.mean((2, 3))
        return Views(self.head(pooled), pooled, tuple(stages), tuple(preacts))


def _named(name: str, depth: int, widths: tuple[int, int, int, int]) -> Callable[..., Net]:
    def make(*, num_classes: int, input_shape: tuple[int, ...], seed: int | Sequence[int] = 0) -> CifarResNet:
        return CifarResNet(
            name=name, depth=depth, widths=widths, num_classes=num_classes, input_shape=input_shape, seed=seed
        )

    return make


_HALF = (8, 8, 16, 32)
_NARROW = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)

CIFAR_RESNETS: dict[str, Callable[..., Net]] = {
    "resnet8": _named("resnet8", 8, _NARROW),
    "resnet14": _named("resnet14", 14, _NARROW),
    "resnet20": _named("resnet20", 20, _NARROW),
    "resnet32": _named("resnet32", 32, _NARROW),
    "resnet44": _named("resnet44", 44, _NARROW),
    "resnet56": _named("resnet56", 56, _NARROW),
    "resnet110": _named("resnet110", 110, _NARROW),
    "resnet8x0.5": _named("resnet8x0.5", 8, _HALF),
    "resnet8x4": _named("resnet8x4", 8, _WIDE),
    "resnet32x4": _named("resnet32x4", 32, _WIDE),
}
