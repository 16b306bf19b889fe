"""Probabilistic knowledge transfer (Passalis & Tefas, ECCV 2018)."""

from __future__ import annotations

from torch import Tensor

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.relational import BatchScaled
from bcpd.nets import Views

__all__ = ["PKT"]


class PKT(BatchScaled):
    """CE plus :func:`bcpd.distill.functional.probabilistic_knowledge_transfer` of the pooled features.

    Args:
        weight: 30000 in the CIFAR benchmarks, at B = 64.
        batch_normalised: whether the value, which scales as 1/B, is multiplied by B/64.
        label_weight, kd_weight, temperature: of :class:`bcpd.distill.combined.Combined`.
    Raises:
        ValueError: a value out of range.
    """

    term = "pkt"
    views = frozenset({"teacher.pooled", "student.pooled"})

    def __init__(
        self,
        weight: float = 30000.0,
        batch_normalised: bool = False,
        label_weight: float = 1.0,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, batch_normalised, label_weight, kd_weight, temperature)

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        return self.factor(batch) * functional.probabilistic_knowledge_transfer(s.pooled, t.pooled)
