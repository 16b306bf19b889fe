"""VGG with batch norm and one linear layer, for 32 x 32 images (Simonyan & Zisserman 2015; RepDistiller's form)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from bcpd.nets.conv import ConvNet, named
from bcpd.nets.views import Net

__all__ = ["VGG", "VGGS"]

_LAYERS = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_WIDTHS = (64, 128, 256, 512, 512)


class Layer(nn.Module):
    """Perhaps the maximum over 2 x 2, then a 3 x 3 convolution with bias and batch norm, **without** the ReLU."""

    def __init__(self, inputs: int, outputs: int, halves: bool) -> None:
        super().__init__()
        self._halves = halves
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self._halves:
            x = functional.max_pool2d(x, 2)
        return cast(Tensor, self.norm(self.conv(x)))


class VGG(ConvNet):
    """VGG of depth 8 (one layer a block; not in the paper) to 19: the first block is the stem, the others are stages.

    The first four blocks end in a 2 x 2 maximum, which here opens the next stage: ``stages`` are before it. Images
    below 64 x 64 spare the fourth, so 32 x 32 ones leave 16, 8, 4 and 4 pixels a side, 64 x 64 ones 32, 16, 8 and 4.
    ``preacts`` are the normed convolutions, ``stages`` their ReLU.

    Args:
        name: its key in ``NETS``.
        layers: convolutions of the five blocks.
        num_classes: K >= 2.
        input_shape: (C, H, W) of one image, at least 8 x 8.
        seed: of the initialisation.
    Raises:
        ValueError: as :class:`ConvNet`.
    """

    least_size = 8

    def __init__(
        self,
        *,
        name: str,
        layers: tuple[int, int, int, int, int],
        num_classes: int,
        input_shape: tuple[int, ...],
        seed: int | Sequence[int] = 0,
    ) -> None:
        fourth = 2 if min(input_shape[1:], default=0) >= 64 else 1
        super().__init__(name, num_classes, input_shape, seed, widths=_WIDTHS[1:], strides=(2, 2, 2, fourth))
        self._layers = layers
        with self._drawing():
            self.stem = self._convolutions(self.input_shape[0], _WIDTHS[0], layers[0], halves=False)
            self.blocks = self._stages(_WIDTHS[0])
            self.head = nn.Linear(_WIDTHS[-1], num_classes)

    @staticmethod
    def _convolutions(inputs: int, width: int, count: int, halves: bool) -> nn.ModuleList:
        return nn.ModuleList([Layer(inputs, width, halves), *(Layer(width, width, False) for _ in range(count - 1))])

    def _stage(self, level: int, inputs: int, stride: int) -> nn.ModuleList:
        return self._convolutions(inputs, self._widths[level], self._layers[level + 1], halves=stride == 2)

    @staticmethod
    def _size(size: int, stride: int) -> int:
        return size // stride

    def _enter(self, x: Tensor) -> Tensor:
        return self._walk(self.stem, x)[0]


VGGS: dict[str, Callable[..., Net]] = {name: named(VGG, name, layers=layers) for name, layers in _LAYERS.items()}
