"""Weights of relational methods: what to do where their value depends on the batch size."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from bcpd.data import Batch
from bcpd.distill.combined import Combined
from bcpd.nets import Views

__all__ = ["PUBLISHED_BATCH", "BatchScaled"]

PUBLISHED_BATCH = 64
"""The batch size at which the weights of the CIFAR benchmarks were found."""


class BatchScaled(Combined):
    """A method whose own value scales as 1/B.

    ``batch_normalised`` multiplies it by B/64, so that a weight found at B = 64 means the same at every batch size, and
    in the last, smaller batch of an epoch; at B = 64 the two agree.

    Args:
        weight: None: ``published_weight``, that of the CIFAR benchmarks, at B = 64.
        batch_normalised: whether the value, which scales as 1/B, is multiplied by B/64.
        label_weight, kd_weight, temperature: of :class:`bcpd.distill.combined.Combined`.
    Raises:
        ValueError: a value out of range.
    """

    published_weight: float

    def __init__(
        self,
        weight: float | None = None,
        batch_normalised: bool = False,
        label_weight: float = 1.0,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(self.published_weight if weight is None else weight, label_weight, kd_weight, temperature)
        self.batch_normalised = batch_normalised

    @abstractmethod
    def relation(self, s: Views, t: Views) -> Tensor:
        """The value that scales as 1/B, ``()`` or ``(R,)``."""

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        """The relation, times B/64 where it is normalised."""
        value = self.relation(s, t)
        return value * (batch.y.shape[-1] / PUBLISHED_BATCH) if self.batch_normalised else value
