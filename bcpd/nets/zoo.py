"""Every network by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from bcpd.nets.cifar_resnet import CIFAR_RESNETS
from bcpd.nets.mlp import MLP
from bcpd.nets.mobilenet import IMAGENET_MOBILENETS, MOBILENETS
from bcpd.nets.resnet import IMAGENET_RESNETS, RESNETS
from bcpd.nets.shufflenet import SHUFFLENETS
from bcpd.nets.vgg import VGGS
from bcpd.nets.views import Net
from bcpd.nets.wide_resnet import WIDE_RESNETS

__all__ = ["NETS", "build"]

NETS: dict[str, Callable[..., Net]] = {
    "mlp": MLP,
    **CIFAR_RESNETS,
    **WIDE_RESNETS,
    **VGGS,
    **RESNETS,
    **MOBILENETS,
    **SHUFFLENETS,
    **IMAGENET_RESNETS,
    **IMAGENET_MOBILENETS,
}
"""Names beginning with ``imagenet_`` shrink an image 32-fold; all others are made for 32 x 32 images, or vectors."""


def build(
    name: str, *, num_classes: int, input_shape: Sequence[int], seed: int | Sequence[int] = 0, **options: Any
) -> Net:
    """A freshly initialised network, a function of its arguments alone; no global random state is read or changed.

    Args:
        name: a key of ``NETS``.
        num_classes: K >= 2.
        input_shape: of one x: ``(d,)`` or ``(C, H, W)``.
        seed: root seed of the initialisation; R of them build R replicas as one network (``mlp`` only).
        options: those of the network, e.g. ``hidden=(128, 128), activation="relu"`` for ``mlp``.
    Raises:
        ValueError: an unknown name or option (the known ones are listed), or a value that a network refuses.
    """
    if name not in NETS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(NETS)}")
    accepted = [
        key for key in inspect.signature(NETS[name]).parameters if key not in ("num_classes", "input_shape", "seed")
    ]
    unknown = [key for key in options if key not in accepted]
    if unknown:
        raise ValueError(f"{name} accepts the options {accepted or 'none'}, received {unknown}")
    return NETS[name](num_classes=num_classes, input_shape=tuple(input_shape), seed=seed, **options)
