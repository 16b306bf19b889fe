"""The gradient that :func:`bcpd.fit` follows, read off one step of it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.losses import Loss
from bcpd.nets import Net
from bcpd.train.fit import fit
from bcpd.train.recipe import Recipe

__all__ = ["followed_gradient"]


def followed_gradient(net: Net, x: Tensor, y: Tensor, loss: Loss) -> Sequence[Tensor]:
    """Parameters before minus after one full-batch SGD step of rate 1, without momentum, decay or validation.

    This is the gradient of the mean label loss by the trainer's own code, reduction included.
    """
    before = [parameter.detach().clone() for parameter in net.parameters()]
    recipe = Recipe(epochs=1, learning_rate=1.0, batch_size=len(y), momentum=0.0, validation=0.0)
    source = InMemory(x, y, num_classes=net.num_classes, dtype=x.dtype)
    fit(net, source, Supervised(loss), recipe, seed=0)
    return [old - new.detach() for old, new in zip(before, net.parameters(), strict=True)]
