"""What a network shows of itself, and what every network here has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, TypedDict

from torch import Tensor, nn

__all__ = ["HandNet", "Net", "TapShapes", "Views"]


class Views(NamedTuple):
    """One forward pass: the logits and what distillation methods look at on the way there.

    Leading axes are ``(B,)``, or ``(R, B)`` for a network of R replicas.

    Attributes:
        logits: ``(..., K)``.
        pooled: ``(..., F)``, the features that the last linear layer reads.
        stages: the output of each stage after its activation, first to last; maps ``(B, C_l, H_l, W_l)`` of a
            convolutional network, hidden layers ``(..., F_l)`` of a vector network. The stem is not a stage.
        preacts: the same before the activation, shape by shape: ``stages[l]`` is the activation of ``preacts[l]``,
            element by element. Every network has them. Where a stage ends linearly (MobileNetV2's bottleneck) its
            activation is the identity, and both are one tensor.
    """

    logits: Tensor
    pooled: Tensor
    stages: tuple[Tensor, ...]
    preacts: tuple[Tensor, ...]


class TapShapes(TypedDict):
    """Shapes of the :class:`Views` of one x, by name: those that :meth:`Net.forward` gives, without leading axes."""

    logits: tuple[int]
    pooled: tuple[int]
    stages: tuple[tuple[int, ...], ...]
    preacts: tuple[tuple[int, ...], ...]


class Net(nn.Module, ABC):
    """A classifier from ``(B, *input_shape)`` to :class:`Views`.

    Attributes:
        name: its key in ``NETS``.
        num_classes: K >= 2.
        input_shape: of one x.
        replicas: R where R independent models with a leading axis are one network, else None.
    Raises:
        ValueError: ``num_classes`` or ``input_shape`` that no network can have.
    """

    def __init__(self, name: str, num_classes: int, input_shape: tuple[int, ...], replicas: int | None = None) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be an int >= 2, received {num_classes!r}")
        if not input_shape or min(input_shape) < 1:
            raise ValueError(f"input_shape must be positive ints, e.g. (30,) or (3, 32, 32), received {input_shape!r}")
        self.name = name
        self.num_classes = num_classes
        self.input_shape = tuple(input_shape)
        self.replicas = replicas

    @property
    @abstractmethod
    def tap_shapes(self) -> TapShapes:
        """Shapes of the views of one x, from the architecture alone: nothing is run."""

    @abstractmethod
    def forward(self, x: Tensor) -> Views:
        """Views of ``x``."""

    def logits(self, x: Tensor) -> Tensor:
        """The logits of :meth:`forward` alone; a network may spare what it then need not keep."""
        return self.forward(x).logits


class HandNet(Net):
    """A network that knows the gradient of its parameters from that of its logits, without a graph."""

    @property
    @abstractmethod
    def by_hand(self) -> bool:
        """Whether :meth:`backward` is this very network's gradient; else autograd has to find it."""

    @abstractmethod
    def backward(self, x: Tensor, views: Views, gradient: Tensor) -> None:
        """Add to the ``grad`` of every parameter, given what the network saw, showed, and the logits' gradient."""
