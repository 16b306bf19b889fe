"""Similarity-preserving distillation (Tung & Mori, ICCV 2019)."""

from __future__ import annotations

from torch import Tensor

from bcpd.distill import functional
from bcpd.distill.relational import BatchScaled
from bcpd.nets import Views

__all__ = ["SP"]


class SP(BatchScaled):
    """CE plus :func:`bcpd.distill.functional.similarity_preserving` of the last stage, flattened before any pooling.

    The default weight is 3000; arguments and errors are those of :class:`bcpd.distill.relational.BatchScaled`.
    """

    term = "sp"
    views = frozenset({"teacher.stages", "student.stages"})
    published_weight = 3000.0

    def relation(self, s: Views, t: Views) -> Tensor:
        # replicas of vectors may be taught by one network of images: what is flattened is what follows the batch axis
        f_s, f_t = (views.stages[-1].flatten(views.logits.ndim - 1) for views in (s, t))
        return functional.similarity_preserving(f_s, f_t)
