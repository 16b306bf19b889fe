"""Wide residual networks wrn_d_w for 32 x 32 images (Zagoruyko & Komodakis 2016, table 1, no dropout)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from bcpd.nets.conv import ConvNet, named
from bcpd.nets.views import Net

__all__ = ["WIDE_RESNETS", "PreactivationBlock", "WideResNet"]


class PreactivationBlock(nn.Module):
    """Norm, ReLU and a 3 x 3 convolution, twice, around a shortcut; nothing after the sum (He et al. 2016b).

    Where the block changes channels or size the shortcut is a 1 x 1 convolution of what the first ReLU gives.

    Args:
        inputs, outputs, stride: of the block.
        activated: its input has passed norm and ReLU already, and the block has neither of its own.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activated: bool) -> None:
        super().__init__()
        self._activated = activated
        self.norm1: nn.Module = nn.Identity() if activated else nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self._projects = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if self._projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        entered = x if self._activated else functional.relu(self.norm1(x), inplace=True)
        inner = functional.relu(self.norm2(self.conv1(entered)), inplace=True)
        return cast(Tensor, self.conv2(inner) + self.shortcut(entered if self._projects else x))


class WideResNet(ConvNet):
    """wrn_d_w: a 3 x 3 stem of 16 channels and three stages of (d - 4) / 6 blocks with 16w, 32w and 64w channels.

    The sum that leaves a stage meets norm and ReLU before anything else reads it (the first block of the next stage,
    its shortcut included, or the pooling). Those belong to the stage here: ``preacts`` are the normed sums, ``stages``
    their ReLU. RepDistiller shows the same preacts, but as stages the sums before that norm.

    Args:
        name: its key in ``NETS``.
        depth: 6n + 4 layers.
        width: w, the factor of the paper.
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
        width: int,
        num_classes: int,
        input_shape: tuple[int, ...],
        seed: int | Sequence[int] = 0,
    ) -> None:
        widths = (16 * width, 32 * width, 64 * width)
        super().__init__(name, num_classes, input_shape, seed, widths=widths, strides=(1, 2, 2))
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n + 4, e.g. 10, 16, 40, received {depth}")
        self._repeats = ((depth - 4) // 6,) * 3
        with self._drawing():
            self.stem = nn.Conv2d(self.input_shape[0], 16, 3, padding=1, bias=False)
            self.blocks = self._stages(16)
            self.head = nn.Linear(widths[-1], num_classes)

    def _stage(self, level: int, inputs: int, stride: int) -> nn.ModuleList:
        width = self._widths[level]
        blocks: list[nn.Module] = [PreactivationBlock(inputs, width, stride, activated=level > 0)]
        blocks += [PreactivationBlock(width, width, 1, activated=False) for _ in range(self._repeats[level] - 1)]
        return nn.ModuleList([*blocks, nn.BatchNorm2d(width)])

    @staticmethod
    def _walk(blocks: Iterable[nn.Module], features: Tensor) -> tuple[Tensor, Tensor]:
        for block in blocks:
            features = block(features)
        return functional.relu(features), features


WIDE_RESNETS: dict[str, Callable[..., Net]] = {
    f"wrn_{depth}_{width}": named(WideResNet, f"wrn_{depth}_{width}", depth=depth, width=width)
    for depth, width in ((16, 1), (16, 2), (40, 1), (40, 2))
}
