"""Knowledge distillation from logits (Hinton, Vinyals & Dean 2015)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.functional import masked_mean
from bcpd.distill.method import Method
from bcpd.losses import LOSSES
from bcpd.nets import Views

__all__ = ["KD"]


class KD(Method):
    r""":math:`w_l\, CE(y, s) + w_t\, T^2\, KL(\mathrm{softmax}(z_t/T) \,\|\, \mathrm{softmax}(z_s/T))`, batch means.

    The defaults are the CIFAR-100 settings of RepDistiller: T = 4, label weight 0.1, teacher weight 0.9.
    ``KD.pure()`` is the toy experiment of the paper's release: T = 1, no label term.

    Unlabelled examples of a batch feed the teacher term only. Both terms are means over examples: free of B.

    Args:
        temperature: T > 0.
        label_weight: w_l >= 0.
        teacher_weight: w_t > 0.
    Raises:
        ValueError: a temperature or weight out of range.
    """

    needs = frozenset({"teacher.logits", "student.logits"})
    couples = False

    def __init__(self, temperature: float = 4.0, label_weight: float = 0.1, teacher_weight: float = 0.9) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, received {temperature}")
        if not label_weight >= 0 or not teacher_weight > 0:
            raise ValueError(
                f"label_weight must be >= 0 and teacher_weight > 0, received {label_weight} and {teacher_weight}"
            )
        self.temperature = float(temperature)
        self.label_weight = float(label_weight)
        self.teacher_weight = float(teacher_weight)
        if label_weight:
            self.needs = self.needs | {"labels"}

    @classmethod
    def pure(cls, temperature: float = 1.0) -> KD:
        """The teacher alone: no label term, weight 1."""
        return cls(temperature=temperature, label_weight=0.0, teacher_weight=1.0)

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        """Terms ``teacher`` and, with a label weight, ``label``."""
        if t is None:
            raise ValueError("KD needs a teacher's views, received None")
        terms = {"teacher": self.teacher_weight * functional.kd(s.logits, t.logits, self.temperature).mean(-1)}
        if self.label_weight:
            terms["label"] = self.label_weight * masked_mean(LOSSES["ce"].function(s.logits, batch.y), batch.labelled)
        return terms
