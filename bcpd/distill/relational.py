"""Weights of relational methods: what to do where their value depends on the batch size."""

from __future__ import annotations

from bcpd.data import Batch
from bcpd.distill.combined import Combined

__all__ = ["PUBLISHED_BATCH", "BatchScaled"]

PUBLISHED_BATCH = 64
"""The batch size at which the weights of the CIFAR benchmarks were found."""


class BatchScaled(Combined):
    """A method whose own value scales as 1/B.

    ``batch_normalised`` multiplies it by B/64, so that a weight found at B = 64 means the same at every batch size, and
    in the last, smaller batch of an epoch; at B = 64 the two agree.
    """

    def __init__(
        self, weight: float, batch_normalised: bool, label_weight: float, kd_weight: float, temperature: float
    ) -> None:
        super().__init__(weight, label_weight, kd_weight, temperature)
        self.batch_normalised = batch_normalised

    def factor(self, batch: Batch) -> float:
        """B/64, or 1."""
        return batch.y.shape[-1] / PUBLISHED_BATCH if self.batch_normalised else 1.0
