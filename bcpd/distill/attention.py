"""Attention transfer (Zagoruyko & Komodakis, ICLR 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.combined import Combined
from bcpd.distill.pairing import stage_pairs
from bcpd.nets import Views

__all__ = ["AT"]


class AT(Combined):
    """CE plus the sum over stages of :func:`bcpd.distill.functional.attention_transfer`, a batch mean.

    Every stage after its activation is paired with the teacher's of the same number; the stem and the pooled features
    are left out. The value does not depend on B, but scales as 1/(HW) with the size of the maps.

    Args:
        weight: 1000 in the CIFAR benchmarks.
        exponent: p >= 1 of the attention.
        label_weight, kd_weight, temperature: of :class:`bcpd.distill.combined.Combined`.
    Raises:
        ValueError: a value out of range.
    """

    term = "at"
    views = frozenset({"teacher.stages", "student.stages"})
    couples = False

    def __init__(
        self,
        weight: float = 1000.0,
        exponent: float = 2.0,
        label_weight: float = 1.0,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, label_weight, kd_weight, temperature)
        if not exponent >= 1:
            raise ValueError(f"exponent must be >= 1, received {exponent}")
        self.exponent = float(exponent)

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """Nothing to build.

        Raises:
            ValueError: different numbers of stages; vectors, or a stage whose maps are 1 x 1.
        """
        for number, (f_s, f_t) in enumerate(stage_pairs("AT", student, self.given(teacher)), 1):
            if f_s.ndim != 4 or f_t.ndim != 4:
                raise ValueError(
                    f"AT compares where maps (B, C, H, W) are bright, and vectors have no where; at stage {number} "
                    f"received {tuple(f_s.shape)} and {tuple(f_t.shape)}"
                )
            if all(min(sizes) == 1 for sizes in zip(f_s.shape[2:], f_t.shape[2:], strict=True)):
                raise ValueError(
                    f"AT compares where maps are bright, and on 1 x 1 maps its attention is 1 whatever the network "
                    f"does; at stage {number} received {tuple(f_s.shape)} and {tuple(f_t.shape)}: use larger images"
                )

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        pairs = stage_pairs("AT", s, t)
        return torch.stack([functional.attention_transfer(f_s, f_t, self.exponent).mean() for f_s, f_t in pairs]).sum()
