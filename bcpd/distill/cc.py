"""Correlation congruence (Peng et al., ICCV 2019), in the linear form of the CIFAR benchmarks."""

from __future__ import annotations

from torch import Tensor

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.combined import Combined
from bcpd.distill.pairing import check_single, pointwise
from bcpd.nets import Views

__all__ = ["CC"]


class CC(Combined):
    """CE plus :func:`bcpd.distill.functional.correlation_congruence` of linear embeddings of the pooled features.

    Two linear layers, both trained, no normalisation: nothing but their start keeps the embeddings from meeting at 0.
    What the paper minimises is another loss (said with the function); this is RepDistiller's, whose numbers are quoted.

    Args:
        weight: 0.02 in the CIFAR benchmarks.
        dimension: of the embeddings, >= 1.
        label_weight, kd_weight, temperature: of :class:`bcpd.distill.combined.Combined`.
    Raises:
        ValueError: a value out of range.
    """

    term = "cc"
    views = frozenset({"teacher.pooled", "student.pooled"})

    def __init__(
        self,
        weight: float = 0.02,
        dimension: int = 128,
        label_weight: float = 1.0,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, label_weight, kd_weight, temperature)
        if dimension < 1:
            raise ValueError(f"dimension must be >= 1, received {dimension}")
        self.dimension = dimension

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """The two embeddings.

        Raises:
            ValueError: replicas.
        """
        check_single("CC", student)
        f_s, f_t = student.pooled, self.given(teacher).pooled
        self.embed_student = pointwise(f_s.shape[-1], self.dimension, f_s, bias=True)
        self.embed_teacher = pointwise(f_t.shape[-1], self.dimension, f_t, bias=True)

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        return functional.correlation_congruence(self.embed_student(s.pooled), self.embed_teacher(t.pooled.detach()))
