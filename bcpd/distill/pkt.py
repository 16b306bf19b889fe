"""Probabilistic knowledge transfer (Passalis & Tefas, ECCV 2018)."""

from __future__ import annotations

from torch import Tensor

from bcpd.distill import functional
from bcpd.distill.relational import BatchScaled
from bcpd.nets import Views

__all__ = ["PKT"]


class PKT(BatchScaled):
    """CE plus :func:`bcpd.distill.functional.probabilistic_knowledge_transfer` of the pooled features.

    The default weight is 30000; arguments and errors are those of :class:`bcpd.distill.relational.BatchScaled`.
    """

    term = "pkt"
    views = frozenset({"teacher.pooled", "student.pooled"})
    published_weight = 30000.0

    def relation(self, s: Views, t: Views) -> Tensor:
        return functional.probabilistic_knowledge_transfer(s.pooled, t.pooled)
