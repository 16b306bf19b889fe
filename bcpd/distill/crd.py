"""Contrastive representation distillation (Tian, Krishnan & Isola, ICLR 2020)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.combined import Combined
from bcpd.distill.pairing import check_single, pointwise
from bcpd.nets import Views

__all__ = ["CRD"]


class CRD(Combined):
    r"""CE plus :math:`\frac{w}{B} \sum_i \left(L(u^s_i; m^t) + L(u^t_i; m^s)\right)`, and KD where wanted (CRD+KD).

    :math:`L(u; m)` is :func:`bcpd.distill.functional.contrastive` of the scores :math:`\langle u, m_j \rangle / \tau`
    of one positive and N negatives. The anchors u are linear embeddings of the pooled features, divided by their norm;
    both embeddings are trained, no gradient enters the teacher. What an anchor meets are rows of a memory of the
    *other* network's embeddings, one row an example. The memories start as random unit vectors, follow after each batch
    by :func:`bcpd.distill.functional.remembered` and give no gradient. Z, one for either side, is set from the first
    batch (:func:`bcpd.distill.functional.log_normaliser`) and kept. In eval mode nothing is remembered.

    Negatives are examples of other classes, drawn for every batch: :func:`bcpd.distill.functional.draw_negatives`. The
    labels are used for that also where the label term has no weight. **An example that is not labelled** is a class of
    its own: it feeds this term, its negatives are all other examples, and it may be a negative of a labelled example
    whose class it shares.

    **Batch size:** a mean over examples; but Z is that of the first batch, and in an epoch each row of a memory changes
    once whatever B is. There is no value that belongs to student = teacher: the term falls towards 0 as the positives
    part from the negatives, and is about :math:`2 (1 + \log N)` where they cannot be told apart.

    Args:
        labels: int64 ``(n,)``, of every example of the source: a batch's ``index`` points into them. An example must
            keep its place and its label, which those of :class:`bcpd.data.FreshSamples` do not.
        labelled: bool ``(n,)``, the source's; None: all are.
        train_index: int64 ``(m,)``, the examples that are trained on (see ``bcpd.train.split``), where others are held
            back for validation: rows of those stay as random as they began, and would be drawn too. None: all.
        negatives: N >= 1.
        positive: ``"exact"``, the example itself, or ``"relax"``, any of its class.
        critic_temperature: :math:`\tau > 0`.
        momentum: of the memories, in [0, 1).
        dimension: of the embeddings, >= 1.
        weight: w, 0.8 in the benchmarks.
        label_weight, kd_weight, temperature: of :class:`bcpd.distill.combined.Combined`; CRD+KD has ``kd_weight=1``.
    Raises:
        ValueError: a value out of range, or labels of one class.
    """

    term = "crd"
    views = frozenset({"teacher.pooled", "student.pooled"})
    couples = True

    groups: Tensor
    order: Tensor
    starts: Tensor
    student_memory: Tensor
    teacher_memory: Tensor
    student_constant: Tensor
    teacher_constant: Tensor

    def __init__(
        self,
        labels: Tensor,
        labelled: Tensor | None = None,
        *,
        train_index: Tensor | None = None,
        negatives: int = 16384,
        positive: Literal["exact", "relax"] = "exact",
        critic_temperature: float = 0.07,
        momentum: float = 0.5,
        dimension: int = 128,
        weight: float = 0.8,
        label_weight: float = 1.0,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, label_weight, kd_weight, temperature)
        if negatives < 1 or dimension < 1:
            raise ValueError(f"negatives and dimension must be >= 1, received {negatives} and {dimension}")
        if positive not in ("exact", "relax"):
            raise ValueError(f"positive must be 'exact' or 'relax', received {positive!r}")
        if not critic_temperature > 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"critic_temperature must be > 0 and momentum in [0, 1), received {critic_temperature} and {momentum}"
            )
        self.negatives, self.positive, self.dimension = negatives, positive, dimension
        self.critic_temperature, self.momentum = float(critic_temperature), float(momentum)
        self._constants_are_set = False
        # saved with the rest of the state, for they tell runs apart
        sorted_by_class = functional.class_groups(labels, labelled, train_index)
        for name, value in zip(("groups", "order", "starts"), sorted_by_class, strict=True):
            self.register_buffer(name, value)

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """The embeddings and the memories.

        Raises:
            ValueError: replicas.
        """
        check_single("CRD", student)
        f_s, f_t = student.pooled, self.given(teacher).pooled
        self.embed_student = pointwise(f_s.shape[-1], self.dimension, f_s, bias=True)
        self.embed_teacher = pointwise(f_t.shape[-1], self.dimension, f_t, bias=True)
        wide = torch.promote_types(f_s.dtype, torch.float32)
        self._constants_are_set = False
        for side in ("student", "teacher"):
            rows = torch.randn(len(self.groups), self.dimension, dtype=wide)
            self.register_buffer(f"{side}_memory", functional.unit(rows))
            self.register_buffer(f"{side}_constant", torch.full((), torch.nan, dtype=wide))

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with ``extra["positive"]``, ``(B,)``, and ``extra["negatives"]``, ``(B, N)``: rows of the memories.

        Raises:
            ValueError: an example, or a label, that the labels given do not have (looked for on the CPU only: an
                accelerator would have to wait).
        """
        index = batch.index
        if index.device.type == "cpu":
            self._check_known(batch)
        drawn = functional.draw_negatives(self.groups, self.order, self.starts, index, self.negatives, generator)
        positive = index
        if self.positive == "relax":
            positive = functional.draw_positives(self.groups, self.order, self.starts, index, generator)
        return replace(batch, extra={**batch.extra, "positive": positive, "negatives": drawn})

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        met = torch.cat([batch.extra["positive"][:, None], batch.extra["negatives"]], 1)
        u_s = _anchors(self.embed_student, s.pooled)
        u_t = _anchors(self.embed_teacher, t.pooled.detach())
        # the memories change below, before the graph of these products is walked back
        scores_s = functional.memory_scores(u_s, self.teacher_memory.clone(), met, self.critic_temperature)
        scores_t = functional.memory_scores(u_t, self.student_memory.clone(), met, self.critic_temperature)
        examples = len(self.groups)
        if not self._constants_are_set:
            self._set_constants(
                functional.log_normaliser(scores_s, examples), functional.log_normaliser(scores_t, examples)
            )
        values = functional.contrastive(scores_s, self.student_constant, examples)
        values = values + functional.contrastive(scores_t, self.teacher_constant, examples)
        if self.training:
            for memory, anchors in ((self.student_memory, u_s), (self.teacher_memory, u_t)):
                rows = functional.remembered(memory[batch.index], anchors, self.momentum)
                memory.index_copy_(0, batch.index, rows.to(memory.dtype))
        return values.mean()

    def _set_constants(self, student: Tensor, teacher: Tensor) -> None:
        """log Z of both sides, where a resumed run does not bring them; without waiting for the device."""
        for constant, value in ((self.student_constant, student), (self.teacher_constant, teacher)):
            constant.copy_(torch.where(constant.isnan(), value, constant))
        self._constants_are_set = True

    def _check_known(self, batch: Batch) -> None:
        index = batch.index
        if int(index.max()) >= len(self.groups):
            raise ValueError(
                f"CRD was given {len(self.groups)} labels, but the batch has example {int(index.max())}; "
                f"give it the labels of all examples of the source"
            )
        wrong = self.groups[index] != batch.y
        if batch.labelled is not None:
            wrong = wrong & batch.labelled
        if bool(wrong.any()):
            raise ValueError(
                f"CRD was given another label for example {int(index[wrong][0])} than the batch has: the labels must "
                f"be the source's, and an example must keep its own"
            )


def _anchors(embed: nn.Module, features: Tensor) -> Tensor:
    """Embeddings of unit norm, float32 at least."""
    embedded: Tensor = embed(features)
    return functional.unit(embedded.to(torch.promote_types(embedded.dtype, torch.float32)))
