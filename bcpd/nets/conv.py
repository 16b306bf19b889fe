"""What the convolutional networks share: stages, declared taps, seeded initialisation, auxiliary branches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcpd.nets.views import Net, TapShapes, Views
from bcpd.seeds import derive

__all__ = ["Branch", "ConvNet", "convolution", "named"]

Walk = Callable[[Iterable[nn.Module], Tensor], tuple[Tensor, Tensor]]
"""(the blocks of a stage, its input) -> (its output, the same before the activation)."""


class ConvNet(Net):
    r"""A convolutional classifier: stem, stages of blocks, sometimes a last convolution, mean over space, read-out.

    Convolutions start from :math:`N(0, 2 / (k^2 C_{out} / g))` with g groups (He et al. 2015, fan-out) and without bias
    or with bias 0, batch norm from the identity, the read-out as :class:`torch.nn.Linear` does: a function of the
    arguments alone. Weights are held channels last, so all maps are: the values are the same up to rounding, and a CPU
    trains 1.2 to 1.35 times faster.

    A subclass builds its modules within :meth:`_drawing` and has ``_repeats`` and ``_block`` or its own :meth:`_stage`.

    Args:
        name: its key in ``NETS``.
        num_classes: K >= 2.
        input_shape: (C, H, W) of one image.
        seed: of the initialisation, one int: convolutional networks train one model each.
        widths: channels of every stage.
        strides: of every stage.
        stem_stride: of all that comes before the first stage.
    Raises:
        ValueError: an ``input_shape`` that is no image or a smaller one than the network can shrink, several seeds.
    """

    least_size: ClassVar[int] = 4
    """Height and width below which a stride would meet a single pixel (but see the class)."""

    _repeats: tuple[int, ...]
    """How many blocks each stage has, where all are of one kind."""

    _block: Callable[[int, int, int], nn.Module]
    """(inputs, outputs, stride) -> a fresh block of that kind."""

    blocks: nn.ModuleList
    head: nn.Linear

    def __init__(
        self,
        name: str,
        num_classes: int,
        input_shape: tuple[int, ...],
        seed: int | Sequence[int],
        *,
        widths: Sequence[int],
        strides: Sequence[int],
        stem_stride: int = 1,
    ) -> None:
        super().__init__(name, num_classes, input_shape)
        if isinstance(seed, Sequence):
            raise ValueError(f"{name} is one model and takes one int as its seed (mlp has replicas), received {seed!r}")
        if len(self.input_shape) != 3:
            raise ValueError(f"{name} needs images, input_shape (C, H, W), received {input_shape}")
        if min(self.input_shape[1:]) < self.least_size:
            least = f"{self.least_size} x {self.least_size}"
            raise ValueError(f"{name} needs images of at least {least}, received input_shape {input_shape}")
        self._seed = seed
        self._widths = tuple(widths)
        self._strides = tuple(strides)
        self._stem_stride = stem_stride

    def _stage(self, level: int, inputs: int, stride: int) -> nn.ModuleList:
        """Fresh blocks of the stage ``level`` that start from ``inputs`` channels, the first with the stride.

        Here ``_repeats[level]`` of ``_block``; networks of another build have their own.
        """
        width = self._widths[level]
        first = self._block(inputs, width, stride)
        return nn.ModuleList([first, *(self._block(width, width, 1) for _ in range(self._repeats[level] - 1))])

    def _neck(self) -> nn.Module:
        """A fresh copy of what lies between the last stage and the mean over space."""
        return nn.Identity()

    @staticmethod
    def _walk(blocks: Iterable[nn.Module], features: Tensor) -> tuple[Tensor, Tensor]:
        """Through the blocks of a stage, which end before their ReLU: (output, preact)."""
        preact = features
        for block in blocks:
            preact = block(features)
            features = functional.relu(preact)
        return features, preact

    @staticmethod
    def _size(size: int, stride: int) -> int:
        """What a stride leaves of a height or width."""
        return -(-size // stride)

    def _enter(self, x: Tensor) -> Tensor:
        return cast(Tensor, cast(nn.Module, self.stem)(x))

    def _leave(self, features: Tensor) -> Tensor:
        return features

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Modules made inside draw from the seed's own stream, in the order in which they are made."""
        with _drawn(derive(self._seed, "init")):
            yield
            _start(self)

    def _stages(self, inputs: int) -> nn.ModuleList:
        stages = nn.ModuleList()
        for level, (width, stride) in enumerate(zip(self._widths, self._strides, strict=True)):
            stages.append(self._stage(level, inputs, stride))
            inputs = width
        return stages

    @property
    def tap_shapes(self) -> TapShapes:
        """Channels and sizes of the stages, and the widths of what the read-out reads and gives."""
        stages = []
        height, width = (self._size(size, self._stem_stride) for size in self.input_shape[1:])
        for channels, stride in zip(self._widths, self._strides, strict=True):
            height, width = self._size(height, stride), self._size(width, stride)
            stages.append((channels, height, width))
        maps = tuple(stages)
        return {"logits": (self.num_classes,), "pooled": (self.head.in_features,), "stages": maps, "preacts": maps}

    def forward(self, x: Tensor) -> Views:
        """:class:`Views` of images ``(B, C, H, W)``, in any memory format."""
        if x.shape[1:] != self.input_shape:
            accepted = ", ".join(str(size) for size in self.input_shape)
            raise ValueError(f"x must have shape (B, {accepted}), received {tuple(x.shape)}")
        features = self._enter(x)
        stages: list[Tensor] = []
        preacts: list[Tensor] = []
        for blocks in self.blocks:
            features, preact = self._walk(cast(nn.ModuleList, blocks), features)
            stages.append(features)
            preacts.append(preact)
        pooled = self._leave(features).mean((2, 3))
        return Views(self.head(pooled), pooled, tuple(stages), tuple(preacts))

    def branch(self, stage: int, outputs: int, seed: int) -> Branch:
        """An auxiliary classifier ``stages[stage] -> (B, outputs)``, which shares nothing with the network.

        Fresh copies of the stages that remain, then pooling and a linear layer as here. After the last stage nothing
        remains: its branch repeats that stage once at stride 1, with as many channels in as out (Yang et al. 2021,
        HSAKD, whose ResNets have the sizes that this gives; its wide ResNets have a norm more a branch, which starts
        from the sum before the stage's norm, and its VGG has a head on the stem).

        Args:
            stage: 0-based, of ``stages``.
            outputs: number of logits, >= 1.
            seed: of its initialisation; the stage is part of the stream, so one seed serves all branches.
        Raises:
            ValueError: no such stage, or no outputs.
        """
        last = len(self._widths) - 1
        if not 0 <= stage <= last:
            raise ValueError(f"stage must be in 0 .. {last}, the stages of {self.name}, received {stage}")
        if outputs < 1:
            raise ValueError(f"outputs must be at least 1, received {outputs}")
        levels = [(level, self._strides[level]) for level in range(stage + 1, last + 1)] or [(last, 1)]
        with _drawn(derive(seed, "branch", stage)):
            blocks = nn.ModuleList()
            channels = self._widths[stage]
            for level, stride in levels:
                blocks.append(self._stage(level, channels, stride))
                channels = self._widths[level]
            branch = Branch(blocks, self._neck(), nn.Linear(self.head.in_features, outputs), self._walk)
            _start(branch)
        return branch


class Branch(nn.Module):
    """From a stage's output to logits ``(B, outputs)``; see :meth:`ConvNet.branch`."""

    def __init__(self, blocks: nn.ModuleList, neck: nn.Module, head: nn.Linear, walk: Walk) -> None:
        super().__init__()
        self.blocks = blocks
        self.neck = neck
        self.head = head
        self._walk = walk

    def forward(self, features: Tensor) -> Tensor:
        for blocks in self.blocks:
            features, _ = self._walk(cast(nn.ModuleList, blocks), features)
        return cast(Tensor, self.head(self.neck(features).mean((2, 3))))


@contextmanager
def _drawn(seed: int) -> Iterator[None]:
    # Modules draw from the CPU's global generator as they are made; the fork gives it back untouched.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _start(module: nn.Module) -> None:
    """Draw every convolution from its fan-out law, in order, and lay the weights out channels last."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d) and not part.weight.is_meta:
                fan_out = part.weight[:, 0].numel() // part.groups
                part.weight.normal_(0, sqrt(2.0) / sqrt(fan_out))
                if part.bias is not None:
                    part.bias.zero_()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution without bias, padded to keep the size, then batch norm and, unless told otherwise, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def named(kind: Callable[..., ConvNet], name: str, **settings: Any) -> Callable[..., Net]:
    """The maker of one entry of ``NETS``: what remains to be said are classes, image and seed."""

    def make(*, num_classes: int, input_shape: tuple[int, ...], seed: int | Sequence[int] = 0) -> Net:
        return kind(name=name, num_classes=num_classes, input_shape=input_shape, seed=seed, **settings)

    return make
