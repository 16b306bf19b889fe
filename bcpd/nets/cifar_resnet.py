"""Residual networks for 32 x 32 images, resnet8 to resnet110, the four times wider resnet8x4 and resnet32x4, and half.

Depth 6n + 2: a 3 x 3 stem, three stages of n basic blocks at full, half and quarter resolution, global average
pooling and a linear read-out (He et al. 2016, section 4.2), with a projection where a block changes shape, as in the
CIFAR distillation literature (Tian et al. 2020, RepDistiller). Smaller or larger images are accepted too; for small
ones there is resnet8x0.5, resnet8 at half its width (a quarter of the work), which that literature does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from bcpd.nets.conv import ConvNet, named
from bcpd.nets.views import Net

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


class CifarResNet(ConvNet):
    r"""A CIFAR ResNet; for 32 x 32 input its ``stages`` have sizes 32, 16 and 8.

    ``preacts`` are the sums that leave the last block of each stage, ``stages`` their ReLU, ``pooled`` the spatial
    mean of the last stage. Convolutions start from :math:`N(0, 2 / (k^2 C_{out}))`.

    Args:
        name: its key in ``NETS``.
        depth: 6n + 2 layers.
        widths: channels of the stem and of the three stages.
        num_classes: K >= 2.
        input_shape: (C, H, W) of one image, at least 4 x 4.
        seed: of the initialisation.
    Raises:
        ValueError: another depth; as :class:`ConvNet`.
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
        super().__init__(name, num_classes, input_shape, seed, widths=widths[1:], strides=(1, 2, 2))
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2, e.g. 8, 14, 20, received {depth}")
        self._repeats = ((depth - 2) // 6,) * 3
        with self._drawing():
            self.stem = nn.Conv2d(self.input_shape[0], widths[0], 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(widths[0])
            self.blocks = self._stages(widths[0])
            self.head = nn.Linear(widths[-1], num_classes)

    def _block(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        return BasicBlock(inputs, outputs, stride)

    def _enter(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.stem(x)), inplace=True)


_HALF = (8, 8, 16, 32)
_NARROW = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)

CIFAR_RESNETS: dict[str, Callable[..., Net]] = {
    **{f"resnet{d}": named(CifarResNet, f"resnet{d}", depth=d, widths=_NARROW) for d in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x0.5": named(CifarResNet, "resnet8x0.5", depth=8, widths=_HALF),
    "resnet8x4": named(CifarResNet, "resnet8x4", depth=8, widths=_WIDE),
    "resnet32x4": named(CifarResNet, "resnet32x4", depth=32, widths=_WIDE),
}
