"""MobileNetV1 for 224 x 224 images (Howard et al. 2017) and a halved MobileNetV2 for 32 x 32 (Sandler et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from bcpd.nets.conv import ConvNet, convolution, named
from bcpd.nets.views import Net

__all__ = ["IMAGENET_MOBILENETS", "MOBILENETS", "MobileNetV1", "MobileNetV2"]

GROUPS = (
    ((1, 8, 1), (6, 12, 2)),
    ((6, 16, 3),),
    ((6, 32, 4), (6, 48, 3)),
    ((6, 80, 3), (6, 160, 1)),
)
"""MobileNetV2's bottlenecks by stage: expansion t, channels c at width 1/2, repeats n (the paper's table 2)."""


class InvertedResidual(nn.Module):
    """Expand by t with 1 x 1, filter each channel with 3 x 3, project with 1 x 1; plus the input where shapes agree.

    Batch norm after each, ReLU after the first two; the projection is linear, and so is what leaves the block.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self._residual = stride == 1 and inputs == outputs
        self.expand = convolution(inputs, inner, 1)
        self.depthwise = convolution(inner, inner, 3, stride, groups=inner)
        self.project = convolution(inner, outputs, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, self.project(self.depthwise(self.expand(x))))
        return x + y if self._residual else y


class MobileNetV2(ConvNet):
    """MobileNetV2 at width 1/2 with 1280 last channels, as RepDistiller has it for 32 x 32 images.

    Other than in the paper the second group of bottlenecks has stride 1, the activation is ReLU instead of ReLU6, and
    the first bottleneck (t = 1) has its 1 x 1 expansion too. The stem has stride 2 (HSAKD's network has 1: four times
    the work, and another table of accuracies). For 32 x 32 images the stages have sizes 16, 8, 4 and 2.

    A convolution of g groups starts from the fan-out normal law of one group; RepDistiller's does not divide by g, and
    its depthwise ones start that much smaller.

    A stage ends in a linear bottleneck, whose activation is the identity: ``stages[l]`` and ``preacts[l]`` are the same
    tensor, of either sign. ``pooled`` is the mean over space of the last 1 x 1 convolution after its ReLU.

    Args:
        name: its key in ``NETS``.
        num_classes: K >= 2.
        input_shape: (C, H, W) of one image, at least 8 x 8 (there, and up to 15, the last strides see one pixel).
        seed: of the initialisation.
    Raises:
        ValueError: as :class:`ConvNet`.
    """

    least_size = 8

    def __init__(
        self, *, name: str, num_classes: int, input_shape: tuple[int, ...], seed: int | Sequence[int] = 0
    ) -> None:
        widths = [groups[-1][1] for groups in GROUPS]
        super().__init__(name, num_classes, input_shape, seed, widths=widths, strides=(1, 2, 2, 2), stem_stride=2)
        with self._drawing():
            self.stem = convolution(self.input_shape[0], 16, 3, 2)
            self.blocks = self._stages(16)
            self.neck = self._neck()
            self.head = nn.Linear(1280, num_classes)

    def _stage(self, level: int, inputs: int, stride: int) -> nn.ModuleList:
        blocks = nn.ModuleList()
        for expansion, width, repeats in GROUPS[level]:
            for _ in range(repeats):
                blocks.append(InvertedResidual(inputs, width, stride, expansion))
                inputs, stride = width, 1
        return blocks

    def _neck(self) -> nn.Module:
        return convolution(self._widths[-1], 1280, 1)

    @staticmethod
    def _walk(blocks: Iterable[nn.Module], features: Tensor) -> tuple[Tensor, Tensor]:
        for block in blocks:
            features = block(features)
        return features, features

    def _leave(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.neck(features))


class Separable(nn.Module):
    """3 x 3 on each channel, norm, ReLU, then 1 x 1 and norm, **without** the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = convolution(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = convolution(inputs, outputs, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.pointwise(self.depthwise(x)))


class MobileNetV1(ConvNet):
    """MobileNetV1 at width 1 (table 1 of the paper), for images from 32 x 32.

    The first convolution and the first separable one are the stem; a stage begins at every further stride, so for
    224 x 224 images the stages have sizes 56, 28, 14 and 7. ``preacts`` are the normed 1 x 1 convolutions that end
    them, ``stages`` their ReLU.

    Args:
        name: its key in ``NETS``.
        num_classes: K >= 2.
        input_shape: (C, H, W) of one image, at least 32 x 32.
        seed: of the initialisation.
    Raises:
        ValueError: as :class:`ConvNet`.
    """

    least_size = 32
    _repeats = (2, 2, 6, 2)

    def __init__(
        self, *, name: str, num_classes: int, input_shape: tuple[int, ...], seed: int | Sequence[int] = 0
    ) -> None:
        widths = (128, 256, 512, 1024)
        super().__init__(name, num_classes, input_shape, seed, widths=widths, strides=(2, 2, 2, 2), stem_stride=2)
        with self._drawing():
            self.stem = nn.Sequential(
                convolution(self.input_shape[0], 32, 3, 2), convolution(32, 32, 3, groups=32), convolution(32, 64, 1)
            )
            self.blocks = self._stages(64)
            self.head = nn.Linear(1024, num_classes)

    def _block(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        return Separable(inputs, outputs, stride)


MOBILENETS: dict[str, Callable[..., Net]] = {"mobilenetv2": named(MobileNetV2, "mobilenetv2")}
IMAGENET_MOBILENETS: dict[str, Callable[..., Net]] = {
    "imagenet_mobilenetv1": named(MobileNetV1, "imagenet_mobilenetv1"),
}
