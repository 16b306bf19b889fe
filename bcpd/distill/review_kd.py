"""Distillation by knowledge review (Chen, Liu, Zhao & Jia, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.combined import Combined
from bcpd.distill.pairing import check_single
from bcpd.nets import Views

__all__ = ["AttentionFusion", "ReviewKD"]

_WIDEST = 512


class AttentionFusion(nn.Module):
    r"""One level of the review: the student's map, what came from the deeper level, and the teacher's channels.

    :math:`x = BN(W_1 f)` (1 x 1 convolution to ``middle`` channels); with a deeper level's r, brought to x's height and
    width by nearest neighbours, :math:`x \leftarrow a_1 x + a_2 r`, :math:`(a_1, a_2) = \sigma(W_a [x, r] + b)` one
    number each a position (1 x 1 convolution to two channels); x brought to the teacher's height and width, again by
    nearest neighbours, is what the next level receives, and :math:`BN(W_3 x)` (3 x 3 convolution) what is compared.

    Args:
        inputs, middle, outputs: channels of the student's map, within, and of the teacher's.
        fuses: whether there is a deeper level.
        dtype: of the parameters.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, fuses: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, middle, 1, bias=False, dtype=dtype)
        self.enter_norm = nn.BatchNorm2d(middle, dtype=dtype)
        self.attention = nn.Conv2d(2 * middle, 2, 1, dtype=dtype) if fuses else None
        self.leave = nn.Conv2d(middle, outputs, 3, padding=1, bias=False, dtype=dtype)
        self.leave_norm = nn.BatchNorm2d(outputs, dtype=dtype)
        for convolution in (self.enter, self.leave):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, features: Tensor, deeper: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What is compared with the teacher's map of height and width ``size``, and what the next level receives."""
        x: Tensor = self.enter_norm(self.enter(features))
        if self.attention is not None and deeper is not None:
            deeper = _at(deeper, x.shape[2:])
            shares = self.attention(torch.cat([x, deeper], 1)).sigmoid()
            x = x * shares[:, :1] + deeper * shares[:, 1:]
        x = _at(x, size)
        return self.leave_norm(self.leave(x)), x


class ReviewKD(Combined):
    r"""CE plus :math:`w\, r` times the sum over levels of :func:`bcpd.distill.functional.hierarchical_context`.

    The levels are the stages and, last, the pooled features as a 1 x 1 map. From the last to the first, an
    :class:`AttentionFusion` merges the student's map of a level (after its activation, unless said otherwise) with what
    the deeper ones gave and brings it to the teacher's shape there, whose map is the one before the activation: the
    student's early levels learn from what the teacher knows late. r rises linearly over the first epochs,
    :math:`r = \min((e + 1)/\mathrm{warm\_up}, 1)` in epoch e = 0, 1, ... (the authors' code has e for e + 1 and so
    leaves the fusions untrained in the first epoch).

    A batch mean that is 0 where all maps agree and does not depend on B; the fusions' batch norms use statistics of the
    batch, of each process's own rows where there are several, as those of the network do.

    Args:
        weight: w > 0; it differs by pair (:mod:`bcpd.distill.published`).
        warm_up: epochs >= 0.
        student_maps: ``stages``, after the activation, or ``preacts``, before it.
        width: channels within the fusions, >= 1; by default ``min(512, width of the student's pooled features)``.
        label_weight, kd_weight, temperature: of :class:`bcpd.distill.combined.Combined`.
    Raises:
        ValueError: a value out of range.
    """

    term = "review"
    views = frozenset({"teacher.preacts", "teacher.pooled", "student.stages", "student.pooled"})
    couples = False

    def __init__(
        self,
        weight: float = 1.0,
        warm_up: int = 20,
        student_maps: Literal["stages", "preacts"] = "stages",
        width: int | None = None,
        label_weight: float = 1.0,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, label_weight, kd_weight, temperature)
        if not warm_up >= 0:
            raise ValueError(f"warm_up must be epochs >= 0, received {warm_up}")
        if student_maps not in ("stages", "preacts"):
            raise ValueError(f"student_maps must be 'stages' or 'preacts', received {student_maps!r}")
        if width is not None and width < 1:
            raise ValueError(f"width must be channels >= 1 or None, received {width}")
        self.warm_up = warm_up
        self.needs = (self.needs - {"student.stages"}) | {f"student.{student_maps}"}
        self._student_maps, self._width = student_maps, width
        self._share = 1.0

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """A fusion for each level.

        Raises:
            ValueError: replicas; other numbers of stages; stages that are vectors or 1 x 1 maps; a student's map whose
                height or width is neither a multiple nor a divisor of the teacher's.
        """
        check_single("ReviewKD", student)
        teacher = self.given(teacher)
        maps = self._maps(student)
        _check_stages(maps, teacher.preacts)
        middle = min(_WIDEST, student.pooled.shape[-1]) if self._width is None else self._width
        levels = list(zip(_levels(maps, student.pooled), _levels(teacher.preacts, teacher.pooled), strict=True))
        self.fusions = nn.ModuleList(
            AttentionFusion(f_s.shape[1], middle, f_t.shape[1], number < len(levels), student.pooled.dtype)
            for number, (f_s, f_t) in enumerate(levels, 1)
        )

    def describe(self) -> dict[str, Any]:
        """Maps and width only where they are not the usual ones."""
        own: dict[str, Any] = {} if self._student_maps == "stages" else {"student_maps": self._student_maps}
        return {**super().describe(), **own, **({} if self._width is None else {"width": self._width})}

    def _maps(self, student: Views) -> Sequence[Tensor]:
        return student.stages if self._student_maps == "stages" else student.preacts

    def progress(self, epoch: int, step: int) -> None:
        """The warm-up, by epochs."""
        self._share = min(1.0, (epoch + 1) / self.warm_up) if self.warm_up else 1.0

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        if len(s.pooled) < 2:
            raise ValueError(
                "ReviewKD normalises the pooled features over the batch and needs 2 examples or more, received 1; "
                "choose a batch size that does not leave one over"
            )
        maps = zip(self.fusions, _levels(self._maps(s), s.pooled), _levels(t.preacts, t.pooled), strict=True)
        deeper: Tensor | None = None
        values = []
        for fusion, f_s, f_t in reversed(list(maps)):
            fused, deeper = cast(tuple[Tensor, Tensor], fusion(f_s, deeper, f_t.shape[2:]))
            values.append(functional.hierarchical_context(fused, f_t).mean())
        return self._share * torch.stack(values).sum()


def _levels(stages: Sequence[Tensor], pooled: Tensor) -> list[Tensor]:
    """The maps of all stages, and the pooled features as one of 1 x 1."""
    return [*stages, pooled[:, :, None, None]]


def _at(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps at another height and width by nearest neighbours."""
    return maps if list(maps.shape[2:]) == list(size) else interpolate(maps, list(size), mode="nearest")


def _check_stages(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    if len(student) != len(teacher):
        raise ValueError(
            f"ReviewKD pairs the stages of student and teacher one to one, but the student has {len(student)} and the "
            f"teacher {len(teacher)}"
        )
    for number, (f_s, f_t) in enumerate(zip(student, teacher, strict=True), 1):
        for who, shown in (("student", f_s), ("teacher", f_t)):
            if shown.ndim != 4 or min(shown.shape[2:]) < 2:
                raise ValueError(
                    f"ReviewKD compares maps (B, C, H, W) larger than 1 x 1 at several sizes; stage {number} of the "
                    f"{who} has shape {tuple(shown.shape)}"
                )
        if any(a % b and b % a for a, b in zip(f_s.shape[2:], f_t.shape[2:], strict=True)):
            raise ValueError(
                f"ReviewKD brings maps to the teacher's size by repeating or leaving out pixels, which needs sizes of "
                f"which one divides the other; at stage {number} received {tuple(f_s.shape[2:])} and "
                f"{tuple(f_t.shape[2:])}"
            )
