"""Hints of FitNets (Romero, Ballas, Kahou, Chassang, Gatta & Bengio, ICLR 2015)."""

from __future__ import annotations

from torch import Tensor

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.combined import Combined
from bcpd.distill.pairing import check_like, check_single, pointwise, stage_pairs
from bcpd.nets import Views

__all__ = ["FitNet"]


class FitNet(Combined):
    """CE plus :func:`bcpd.distill.functional.hint` of one stage, the student's mapped linearly onto the teacher's.

    The map is a 1 x 1 convolution with bias (a linear layer on vectors), learned with the student; the larger feature
    map is average-pooled to the smaller. RepDistiller's regressor, to which the weight of 100 belongs, adds batch norm
    and a ReLU and changes sizes by strided convolutions; without them the value is a plain mean over examples, and 0
    can be reached. The paper trains the student's lower half on the hint first and then distils; as in the benchmarks,
    both are one training here. The value does not depend on B.

    Args:
        weight: 100 in the CIFAR benchmarks.
        layer: the number of the stage, 1 for the first after the stem (2 in the CIFAR benchmarks).
        label_weight, kd_weight, temperature: of :class:`bcpd.distill.combined.Combined`.
    Raises:
        ValueError: a value out of range.
    """

    term = "hint"
    views = frozenset({"teacher.stages", "student.stages"})
    couples = False

    def __init__(
        self,
        weight: float = 100.0,
        layer: int = 2,
        label_weight: float = 1.0,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, label_weight, kd_weight, temperature)
        if layer < 1:
            raise ValueError(f"layer must be a stage's number >= 1, received {layer}")
        self.layer = layer

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """The map.

        Raises:
            ValueError: replicas; different numbers of stages, or too few; a map on one side and vectors on the other.
        """
        check_single("FitNet", student)
        pairs = stage_pairs("FitNet", student, self.given(teacher))
        if self.layer > len(pairs):
            raise ValueError(f"layer must be one of the {len(pairs)} stages of the networks, received {self.layer}")
        f_s, f_t = pairs[self.layer - 1]
        check_like("FitNet", self.layer, f_s, f_t)
        self.map = pointwise(f_s.shape[1], f_t.shape[1], f_s, bias=True)

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        f_s, f_t = s.stages[self.layer - 1], t.stages[self.layer - 1]
        if f_s.ndim == 4:
            f_s, f_t = functional.same_size(f_s, f_t)
        return functional.hint(self.map(f_s), f_t).mean()
