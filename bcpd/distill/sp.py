"""Similarity-preserving distillation (Tung & Mori, ICCV 2019)."""

from __future__ import annotations

from torch import Tensor

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.relational import BatchScaled
from bcpd.nets import Views

__all__ = ["SP"]


class SP(BatchScaled):
    """CE plus :func:`bcpd.distill.functional.similarity_preserving` of the last stage, flattened before any pooling.

    Args:
        weight: 3000 in the CIFAR benchmarks, at B = 64.
        batch_normalised: whether the value, which scales as 1/B, is multiplied by B/64.
        label_weight, kd_weight, temperature: of :class:`bcpd.distill.combined.Combined`.
    Raises:
        ValueError: a value out of range.
    """

    term = "sp"
    views = frozenset({"teacher.stages", "student.stages"})

    def __init__(
        self,
        weight: float = 3000.0,
        batch_normalised: bool = False,
        label_weight: float = 1.0,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, batch_normalised, label_weight, kd_weight, temperature)

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        # replicas of vectors may be taught by one network of images: what is flattened is what follows the batch axis
        f_s, f_t = (views.stages[-1].flatten(views.logits.ndim - 1) for views in (s, t))
        return self.factor(batch) * functional.similarity_preserving(f_s, f_t)
