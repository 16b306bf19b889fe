"""ShuffleNet V1 with 3 groups (Zhang et al. 2018) and ShuffleNet V2 1x (Ma et al. 2018), for 32 x 32 images.

Both as RepDistiller has them: a 1 x 1 stem of 24 channels at full resolution and no pooling before the first stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bcpd.nets.conv import ConvNet, convolution, named
from bcpd.nets.views import Net

__all__ = ["SHUFFLENETS", "ShuffleNetV1", "ShuffleNetV2"]

_STEM = 24


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel ``i C/g + j`` of ``(B, C, H, W)`` goes to ``j g + i``: one of each of the g groups in turn."""
    b, c, h, w = x.shape
    # copied with the channels last, so that they stay so
    grouped = x.permute(0, 2, 3, 1).reshape(b, h, w, groups, c // groups)
    return grouped.transpose(3, 4).reshape(b, h, w, c).permute(0, 3, 1, 2)


class _ShuffleNet(ConvNet):
    least_size = 8
    _repeats = (4, 8, 4)

    def _enter(self, x: Tensor) -> Tensor:
        # of one channel and a 1 x 1 kernel the layout cannot be told
        return super()._enter(x).contiguous(memory_format=torch.channels_last)


class GroupedUnit(nn.Module):
    """1 x 1 in groups, shuffle, 3 x 3 on each channel, 1 x 1 in groups, **without** the last ReLU.

    At stride 1 the sum with the input; at stride 2 the input's 3 x 3 mean is appended, so the convolutions give the
    remaining channels. A quarter of what they give is the width inside. The first 1 x 1 after the stem is not grouped.
    Other than in the paper a ReLU follows the 3 x 3 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        given = outputs - inputs if stride == 2 else outputs
        inner = given // 4
        self._groups = 1 if inputs == _STEM else groups
        self.reduce = convolution(inputs, inner, 1, groups=self._groups)
        self.depthwise = convolution(inner, inner, 3, stride, groups=inner)
        self.expand = convolution(inner, given, 1, groups=groups, relu=False)
        self.shrink = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, self.expand(self.depthwise(shuffle(self.reduce(x), self._groups))))
        return x + y if self.shrink is None else torch.cat([y, self.shrink(x)], 1)


class ShuffleNetV1(_ShuffleNet):
    """ShuffleNet V1 1x, 3 groups: stages of 4, 8 and 4 units; for 32 x 32 images of sizes 16, 8 and 4.

    ``preacts`` are what leaves the last unit of a stage, ``stages`` its ReLU.

    Args:
        name: its key in ``NETS``.
        num_classes: K >= 2.
        input_shape: (C, H, W) of one image, at least 8 x 8.
        seed: of the initialisation.
    Raises:
        ValueError: as :class:`ConvNet`.
    """

    def __init__(
        self, *, name: str, num_classes: int, input_shape: tuple[int, ...], seed: int | Sequence[int] = 0
    ) -> None:
        super().__init__(name, num_classes, input_shape, seed, widths=(240, 480, 960), strides=(2, 2, 2))
        with self._drawing():
            self.stem = convolution(self.input_shape[0], _STEM, 1)
            self.blocks = self._stages(_STEM)
            self.head = nn.Linear(960, num_classes)

    def _block(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        return GroupedUnit(inputs, outputs, stride, groups=3)


class SplitUnit(nn.Module):
    """Half of the channels pass; the others go through 1 x 1, 3 x 3 on each channel and 1 x 1; both are shuffled.

    **Without** the last ReLU. The half that passes has been through one, so it may meet another.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.right = nn.Sequential(
            convolution(half, half, 1),
            convolution(half, half, 3, groups=half, relu=False),
            convolution(half, half, 1, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        passing, changing = x.chunk(2, 1)
        return shuffle(torch.cat([passing, self.right(changing)], 1), 2)


class DownUnit(nn.Module):
    """Two ways at stride 2, each giving half of the channels; both are shuffled, **without** the last ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(
            convolution(inputs, inputs, 3, 2, groups=inputs, relu=False), convolution(inputs, half, 1, relu=False)
        )
        self.right = nn.Sequential(
            convolution(inputs, half, 1),
            convolution(half, half, 3, 2, groups=half, relu=False),
            convolution(half, half, 1, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return shuffle(torch.cat([self.left(x), self.right(x)], 1), 2)


class ShuffleNetV2(_ShuffleNet):
    """ShuffleNet V2 1x: stages of 4, 8 and 4 units; for 32 x 32 images of sizes 16, 8 and 4.

    ``preacts`` are what leaves the last unit of a stage, in the channel order of ``stages``, which are its ReLU; the
    half that passes the unit is non-negative in both. ``pooled`` is the mean over space of the last 1 x 1 convolution
    after its ReLU.

    Args:
        name: its key in ``NETS``.
        num_classes: K >= 2.
        input_shape: (C, H, W) of one image, at least 8 x 8.
        seed: of the initialisation.
    Raises:
        ValueError: as :class:`ConvNet`.
    """

    def __init__(
        self, *, name: str, num_classes: int, input_shape: tuple[int, ...], seed: int | Sequence[int] = 0
    ) -> None:
        super().__init__(name, num_classes, input_shape, seed, widths=(116, 232, 464), strides=(2, 2, 2))
        with self._drawing():
            self.stem = convolution(self.input_shape[0], _STEM, 1)
            self.blocks = self._stages(_STEM)
            self.neck = self._neck()
            self.head = nn.Linear(1024, num_classes)

    def _block(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        return DownUnit(inputs, outputs) if stride == 2 else SplitUnit(outputs)

    def _neck(self) -> nn.Module:
        return convolution(self._widths[-1], 1024, 1)

    def _leave(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.neck(features))


SHUFFLENETS: dict[str, Callable[..., Net]] = {
    "shufflenetv1": named(ShuffleNetV1, "shufflenetv1"),
    "shufflenetv2": named(ShuffleNetV2, "shufflenetv2"),
}
