"""Hints of FitNets (Romero, Ballas, Kahou, Chassang, Gatta & Bengio, ICLR 2015)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.combined import Combined
from bcpd.distill.pairing import check_like, check_single, pointwise, stage_pairs
from bcpd.nets import Views

__all__ = ["FitNet"]


class FitNet(Combined):
    r"""CE plus :func:`bcpd.distill.functional.hint` of one stage, the student's mapped onto the teacher's.

    The map, a regressor r, is learned with the student; the larger feature map is average-pooled to the smaller
    (RepDistiller changes sizes by strided convolutions). The paper asks for a regressor with the same nonlinearity as
    the teacher's layer: by default :math:`r(F) = ReLU(BN(W F))`, W a 1 x 1 convolution (a linear layer on vectors). The
    weight of 100 belongs to this one: its output is normalised, and a step at the rates of the benchmarks is a small
    one. A ``linear`` regressor, :math:`r(F) = W F + b`, diverges with them within an epoch (resnet20 to resnet8 on
    CIFAR-100, rate 0.05); it wants a smaller weight. The paper trains the student's lower half on the hint first and
    then distils; as in the benchmarks, both are one training here.

    **Batch size:** a mean over examples, but the normalised regressor takes its statistics over the batch. The least
    value is 0, reached where r maps the student's features onto the teacher's.

    Args:
        weight: 100 in the CIFAR benchmarks.
        layer: the number of the stage, 1 for the first after the stem (2 in the CIFAR benchmarks).
        regressor: ``normalised`` or ``linear``.
        label_weight, kd_weight, temperature: of :class:`bcpd.distill.combined.Combined`.
    Raises:
        ValueError: a value out of range.
    """

    term = "hint"
    views = frozenset({"teacher.stages", "student.stages"})

    def __init__(
        self,
        weight: float = 100.0,
        layer: int = 2,
        regressor: Literal["normalised", "linear"] = "normalised",
        label_weight: float = 1.0,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, label_weight, kd_weight, temperature)
        if layer < 1:
            raise ValueError(f"layer must be a stage's number >= 1, received {layer}")
        if regressor not in ("normalised", "linear"):
            raise ValueError(f"regressor must be 'normalised' or 'linear', received {regressor!r}")
        self.layer, self.regressor = layer, regressor
        self.couples = regressor == "normalised"

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """The regressor.

        Raises:
            ValueError: replicas; different numbers of stages, or too few; a map on one side and vectors on the other.
        """
        check_single("FitNet", student)
        pairs = stage_pairs("FitNet", student, self.given(teacher))
        if self.layer > len(pairs):
            raise ValueError(f"layer must be one of the {len(pairs)} stages of the networks, received {self.layer}")
        f_s, f_t = pairs[self.layer - 1]
        check_like("FitNet", self.layer, f_s, f_t)
        channels = f_t.shape[1]
        self.map = pointwise(f_s.shape[1], channels, f_s, bias=self.regressor == "linear")
        if self.regressor == "normalised":
            norm = nn.BatchNorm2d if f_s.ndim == 4 else nn.BatchNorm1d
            self.map = nn.Sequential(self.map, norm(channels, dtype=f_s.dtype), nn.ReLU())

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        f_s, f_t = s.stages[self.layer - 1], t.stages[self.layer - 1]
        if f_s.ndim == 4:
            f_s, f_t = functional.same_size(f_s, f_t)
        return functional.hint(self.map(f_s), f_t).mean()
