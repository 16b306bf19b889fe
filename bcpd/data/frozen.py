"""Training and fresh sets whose labels a frozen network draws: real images, exact p*, every image once."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpd.data.images import Normalisation
from bcpd.data.source import InMemory
from bcpd.mixtures.frozen import FrozenNature
from bcpd.seeds import generator

__all__ = ["relabelled", "train_and_fresh"]


def relabelled(
    nature: FrozenNature, seed: int, index: Tensor | None = None, *, normalise: Normalisation | None = None
) -> InMemory:
    """The images at ``index``, each with a label drawn from p*, and its exact log p*.

    Images stay as they are stored (uint8 is not converted before a batch is gathered); p* belongs to the image before
    ``normalise``. No augmentation: a crop or a mirror image is another x, which this nature does not know.

    Args:
        nature: images and their p*.
        seed: of the labels. An image's label is the same in every subset.
        index: int64 ``(m,)``; all images by default.
        normalise: moments by channel, as the network is to see the images.
    """
    rows = slice(None) if index is None else index
    return InMemory(
        nature.images[rows],
        nature.labels(seed)[rows],
        num_classes=nature.num_classes,
        log_bayes=nature.log_rows[rows],
        normalise=normalise,
        symmetries=nature.symmetries,
    )


def train_and_fresh(
    nature: FrozenNature, count: int, seed: int, *, normalise: Normalisation | None = None
) -> tuple[InMemory, InMemory]:
    r"""``count`` images drawn without replacement to train on, and all the others.

    Given the split, both are finite populations: a distance over the fresh set is exact for a uniform draw among the
    images that were **not** trained on, and the distance over the whole law of :class:`FrozenNature` is
    :math:`\frac{m}{n}` times that on the m training images plus :math:`1 - \frac mn` times that on the others.

    Args:
        nature: n images and their p*.
        count: m, in ``1 .. n - 1``.
        seed: of the draw and of the labels.
        normalise: see :func:`relabelled`.
    Returns:
        ``(train, fresh)``.
    Raises:
        ValueError: a count out of range.
    """
    total = len(nature.images)
    if not 0 < count < total:
        raise ValueError(f"count must lie in 1..{total - 1}, received {count!r}")
    order = torch.randperm(total, generator=generator(seed, "nature split"))
    train, fresh = order[:count], order[count:]
    return relabelled(nature, seed, train, normalise=normalise), relabelled(nature, seed, fresh, normalise=normalise)
