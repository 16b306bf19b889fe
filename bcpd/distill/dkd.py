"""Decoupled knowledge distillation (Zhao, Cui, Song, Qiu & Liang, CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.combined import Combined
from bcpd.nets import Views

__all__ = ["DKD"]


class DKD(Combined):
    r"""CE plus :math:`r\, T^2 (\alpha\, KL(b^t \| b^s) + \beta\, KL(\hat p^t \| \hat p^s))`, see
    :func:`bcpd.distill.functional.dkd`.

    r rises linearly over the first epochs: :math:`r = \min((e + 1)/w, 1)` in epoch e = 0, 1, .... The defaults are the
    paper's for CIFAR-100; beta differs by pair (:mod:`bcpd.distill.published`).

    All terms are means over examples: free of B.

    An unlabelled example has no target class to set apart: it feeds the undecoupled
    :math:`r\, T^2\, KL(p^t \| p^s)`, which is what :math:`\alpha = 1, \beta = 1 - p^t_y` give for every y.

    Args:
        alpha, beta: weights of the target's term and of the other classes' term, >= 0 and not both 0.
        temperature: T > 0.
        warm_up: w, epochs >= 0.
        weight, label_weight, kd_weight: of :class:`bcpd.distill.combined.Combined`.
    Raises:
        ValueError: a value out of range.
    """

    term = "dkd"
    views = frozenset({"teacher.logits", "student.logits", "labels"})
    couples = False

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        warm_up: int = 20,
        weight: float = 1.0,
        label_weight: float = 1.0,
        kd_weight: float = 0.0,
    ) -> None:
        super().__init__(weight, label_weight, kd_weight, temperature)
        if not (alpha >= 0 and beta >= 0 and alpha + beta > 0):
            raise ValueError(f"alpha and beta must be >= 0 and not both 0, received {alpha} and {beta}")
        if not warm_up >= 0:
            raise ValueError(f"warm_up must be epochs >= 0, received {warm_up}")
        self.alpha, self.beta = float(alpha), float(beta)
        self.warm_up = warm_up
        self._share = 1.0

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """Nothing to build.

        Raises:
            ValueError: K = 2.
        """
        if student.logits.shape[-1] < 3:
            raise ValueError(
                "DKD sets the other classes apart from the target and needs K >= 3: with K = 2 there is one other "
                f"class, that term is exactly 0, and DKD becomes alpha = {self.alpha:g} times KD; use KD instead"
            )

    def progress(self, epoch: int, step: int) -> None:
        """The warm-up, by epochs."""
        self._share = min(1.0, (epoch + 1) / self.warm_up) if self.warm_up else 1.0

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        values = functional.dkd(s.logits, t.logits, batch.y, self.temperature, self.alpha, self.beta)
        if batch.labelled is not None:
            values = torch.where(batch.labelled, values, functional.kd(s.logits, t.logits, self.temperature))
        return self._share * values.mean(-1)
