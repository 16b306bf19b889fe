"""Variational information distillation (Ahn, Hu, Damianou, Lawrence & Dai, CVPR 2019)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as nn_functional

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.combined import Combined
from bcpd.distill.pairing import check_like, check_single, pointwise, stage_pairs
from bcpd.nets import Views

__all__ = ["VID"]

_START = 5.0
_LEAST = 1e-5


class Gaussian(nn.Module):
    r"""The teacher's features given the student's: mean by three linear maps with ReLU, a variance for each channel.

    The maps go from the student's channels to the teacher's, then twice from those to themselves, without bias (1 x 1
    convolutions of maps). :math:`v = \log(1 + e^a) + 10^{-5}`, a starting where v = 5.
    """

    def __init__(self, f_s: Tensor, f_t: Tensor) -> None:
        super().__init__()
        channels = f_t.shape[1]
        self.mean = nn.Sequential(
            pointwise(f_s.shape[1], channels, f_s, bias=False),
            nn.ReLU(),
            pointwise(channels, channels, f_s, bias=False),
            nn.ReLU(),
            pointwise(channels, channels, f_s, bias=False),
        )
        start = math.log(math.expm1(_START - _LEAST))
        self.raw_variance = nn.Parameter(torch.full((channels,), start, dtype=f_s.dtype))

    @property
    def variance(self) -> Tensor:
        """v, ``(C,)``."""
        return nn_functional.softplus(self.raw_variance) + _LEAST

    def forward(self, f_s: Tensor, f_t: Tensor) -> Tensor:
        """The value of :func:`bcpd.distill.functional.variational_information`, ``(B,)``."""
        if f_s.ndim == 4:
            f_s, f_t = functional.same_size(f_s, f_t)
        return functional.variational_information(self.mean(f_s), f_t, self.variance)


class VID(Combined):
    """CE plus the sum over stages of :func:`bcpd.distill.functional.variational_information`, a batch mean.

    Every stage after its activation is paired with the teacher's of the same number, the larger map average-pooled to
    the smaller. Means and variances are learned with the student. The value does not depend on B.

    Args:
        weight: 1 in the CIFAR benchmarks.
        label_weight, kd_weight, temperature: of :class:`bcpd.distill.combined.Combined`.
    Raises:
        ValueError: a value out of range.
    """

    term = "vid"
    views = frozenset({"teacher.stages", "student.stages"})
    couples = False

    def __init__(
        self, weight: float = 1.0, label_weight: float = 1.0, kd_weight: float = 0.0, temperature: float = 4.0
    ) -> None:
        super().__init__(weight, label_weight, kd_weight, temperature)

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """A Gaussian for each stage.

        Raises:
            ValueError: replicas; different numbers of stages; maps on one side and vectors on the other.
        """
        check_single("VID", student)
        pairs = stage_pairs("VID", student, self.given(teacher))
        for number, (f_s, f_t) in enumerate(pairs, 1):
            check_like("VID", number, f_s, f_t)
        self.gaussians = nn.ModuleList(Gaussian(f_s, f_t) for f_s, f_t in pairs)

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        pairs = zip(self.gaussians, stage_pairs("VID", s, t), strict=True)
        return torch.stack([cast(Tensor, gaussian(f_s, f_t)).mean() for gaussian, (f_s, f_t) in pairs]).sum()
