"""ResNet-18, -34 and -50 (He et al. 2016, table 1), with the stem of 224 x 224 images or one for 32 x 32.

The stride of a bottleneck is in its 3 x 3 convolution, as in torchvision and in all published teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from bcpd.nets.cifar_resnet import BasicBlock
from bcpd.nets.conv import ConvNet, convolution, named
from bcpd.nets.views import Net

__all__ = ["IMAGENET_RESNETS", "RESNETS", "Bottleneck", "ImageNetResNet", "ResNet"]


class Bottleneck(nn.Module):
    """Convolutions 1 x 1, 3 x 3, 1 x 1 around a shortcut, **without** the last ReLU; a quarter of the width inside.

    The shortcut is the identity, or a 1 x 1 convolution with batch norm where the block changes channels or size.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        inner = functional.relu(self.norm2(self.conv2(inner)), inplace=True)
        return cast(Tensor, self.norm3(self.conv3(inner)) + self.shortcut(x))


class ResNet(ConvNet):
    """Four stages of 64, 128, 256, 512 channels (four times as many with bottlenecks) after a 3 x 3 stem at stride 1.

    ``preacts`` are the sums that leave the last block of each stage, ``stages`` their ReLU, ``pooled`` the spatial
    mean of the last stage. For 32 x 32 images the stages have sizes 32, 16, 8 and 4.

    Args:
        name: its key in ``NETS``.
        repeats: blocks of the four stages.
        bottleneck: whether blocks are :class:`Bottleneck` rather than :class:`BasicBlock`.
        num_classes: K >= 2.
        input_shape: (C, H, W) of one image, at least 8 x 8.
        seed: of the initialisation.
    Raises:
        ValueError: as :class:`ConvNet`.
    """

    least_size = 8
    _first_stride = 1

    def __init__(
        self,
        *,
        name: str,
        repeats: tuple[int, int, int, int],
        bottleneck: bool = False,
        num_classes: int,
        input_shape: tuple[int, ...],
        seed: int | Sequence[int] = 0,
    ) -> None:
        widths = [width * (4 if bottleneck else 1) for width in (64, 128, 256, 512)]
        super().__init__(
            name,
            num_classes,
            input_shape,
            seed,
            widths=widths,
            strides=(1, 2, 2, 2),
            stem_stride=self._first_stride,
        )
        self._repeats = repeats
        self._kind: type[BasicBlock] | type[Bottleneck] = Bottleneck if bottleneck else BasicBlock
        with self._drawing():
            self.stem = self._entrance()
            self.blocks = self._stages(64)
            self.head = nn.Linear(widths[-1], num_classes)

    def _entrance(self) -> nn.Sequential:
        return convolution(self.input_shape[0], 64, 3)

    def _block(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        return self._kind(inputs, outputs, stride)


class ImageNetResNet(ResNet):
    """:class:`ResNet` after a 7 x 7 stem at stride 2 and a 3 x 3 maximum at stride 2, for images from 32 x 32.

    For 224 x 224 images the stages have sizes 56, 28, 14 and 7.
    """

    least_size = 32
    _first_stride = 4

    def _entrance(self) -> nn.Sequential:
        return convolution(self.input_shape[0], 64, 7, 2).append(nn.MaxPool2d(3, 2, padding=1))


_REPEATS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}

RESNETS: dict[str, Callable[..., Net]] = {
    f"resnet{depth}": named(ResNet, f"resnet{depth}", repeats=repeats, bottleneck=depth == 50)
    for depth, repeats in _REPEATS.items()
}
IMAGENET_RESNETS: dict[str, Callable[..., Net]] = {
    f"imagenet_resnet{depth}": named(ImageNetResNet, f"imagenet_resnet{depth}", repeats=repeats, bottleneck=depth == 50)
    for depth, repeats in _REPEATS.items()
}
