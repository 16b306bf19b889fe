"""What most methods share: a label term, a KD term where wanted, and a term of their own."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.functional import masked_mean
from bcpd.distill.method import Method
from bcpd.losses import LOSSES
from bcpd.nets import Views

__all__ = ["Combined"]


class Combined(Method):
    r""":math:`w_l\, CE(y, s) + w_k\, T^2\, KL(\mathrm{softmax}(z_t/T) \,\|\, \mathrm{softmax}(z_s/T)) + w \cdot` own.

    Subclasses set ``term`` and ``views`` and write :meth:`own`. Batch means throughout; unlabelled examples feed the
    KD term and the own one, not the labels' term.

    Args:
        weight: w > 0, of the method's own term.
        label_weight: :math:`w_l \ge 0`.
        kd_weight: :math:`w_k \ge 0`; where it is 0, the teacher's logits are not looked at (unless the own term does).
        temperature: T > 0 of the KD term.
    Attributes:
        term: the name of the own term.
        views: what the own term needs, beside labels and logits of the other two.
    Raises:
        ValueError: a weight or temperature out of range.
    """

    term: str
    views: frozenset[str]

    def __init__(self, weight: float, label_weight: float, kd_weight: float, temperature: float) -> None:
        super().__init__()
        if not 0 < weight < math.inf:
            raise ValueError(f"weight must be > 0 and finite, received {weight}")
        if not (0 <= label_weight < math.inf and 0 <= kd_weight < math.inf):
            raise ValueError(
                f"label_weight and kd_weight must be >= 0 and finite, received {label_weight} and {kd_weight}"
            )
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be > 0 and finite, received {temperature}")
        self.weight = float(weight)
        self.label_weight = float(label_weight)
        self.kd_weight = float(kd_weight)
        self.temperature = float(temperature)
        self.needs = self.views
        if label_weight:
            self.needs |= {"labels"}
        if kd_weight:
            self.needs |= {"teacher.logits", "student.logits"}

    @abstractmethod
    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        """The method's own term before its weight, ``()`` or ``(R,)``."""

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        """The method's own term and, where they have a weight, ``label`` and ``kd``."""
        t = self.given(t)
        terms = {self.term: self.weight * self.own(batch, s, t)}
        if self.label_weight:
            terms["label"] = self.label_weight * masked_mean(LOSSES["ce"].function(s.logits, batch.y), batch.labelled)
        if self.kd_weight:
            terms["kd"] = self.kd_weight * functional.kd(s.logits, t.logits, self.temperature).mean(-1)
        return terms

    def given(self, t: Views | None) -> Views:
        """The teacher's views.

        Raises:
            ValueError: there are none.
        """
        if t is None:
            raise ValueError(f"{type(self).__name__} needs a teacher's views, received None")
        return t
