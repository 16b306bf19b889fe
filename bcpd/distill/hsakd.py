"""Hierarchical self-supervised augmented knowledge distillation (Yang, An, Cai & Xu, IJCAI 2021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from bcpd.data import Batch
from bcpd.distill import functional
from bcpd.distill.combined import Combined
from bcpd.distill.functional import masked_mean
from bcpd.distill.method import Phase
from bcpd.distill.pairing import check_single
from bcpd.losses import LOSSES
from bcpd.nets import Views

__all__ = ["HSAKD", "BranchBuilder"]

BranchBuilder = Callable[[int, int, int], nn.Module]
"""``(stage, outputs, seed)`` -> a module from ``stages[stage]`` to ``(B, outputs)``, as networks' ``branch``."""


class HSAKD(Combined):
    r""":math:`w_l\, CE(y, s)` on upright images, and on all four rotations of each
    :math:`w_k\, T^2\, KL(t \| s) + w \sum_l T^2\, KL(q^t_l \| q^s_l)`, batch means (Yang et al. 2021, without weights).

    :math:`q_l` is the distribution over the 4 K **joint labels** (class, rotation) that an auxiliary classifier, the
    head of stage l, reads from that stage; its logits are softened by T as those of the networks are. Every stage of
    both networks has a head: fresh copies of the network's remaining stages, pooling and a linear layer. The student's
    train with it. The teacher's are trained first, in a phase of their own, by CE on the joint label of labelled
    examples, on a frozen backbone in eval mode; in the main training they are frozen too, their batch norms in eval
    mode.

    :meth:`prepare` turns a batch of B into one of 4 B. A rotation keeps the class, the index and whether there is a
    label, but **not p\***: the rows of ``log_bayes`` and ``targets`` belong to the upright images, and are nan for
    rotated ones. Unlabelled examples feed the terms of the teacher.

    Means over examples, 0 where student and teacher and all heads agree, whatever B is. The heads' batch norms use
    statistics of the batch, of each process's own rows where there are several, as those of the network do.

    Args:
        student, teacher: the two networks, which must have ``branch`` (a read-out around one is looked through), or
            what builds their branches. They are not kept as parts of the method.
        head_epochs: of the phase, >= 1, with a tenth of the rate after 30 %, 60 % and 90 % of them. Its batch size
            is the recipe's.
        head_rate: the phase's learning rate, whatever the student's is; None: the recipe's.
        temperature: T > 0.
        weight: w > 0, of the joint term.
        label_weight, kd_weight: w_l and w_k >= 0.
    Raises:
        ValueError: a value out of range; a network without branches, as those of vectors are.
    """

    term = "joint"
    views = frozenset({"teacher.stages", "student.stages", "labels"})
    couples = False

    def __init__(
        self,
        student: nn.Module | BranchBuilder,
        teacher: nn.Module | BranchBuilder,
        *,
        head_epochs: int = 100,
        head_rate: float | None = None,
        temperature: float = 3.0,
        weight: float = 1.0,
        label_weight: float = 1.0,
        kd_weight: float = 1.0,
    ) -> None:
        super().__init__(weight, label_weight, kd_weight, temperature)
        if head_epochs < 1:
            raise ValueError(f"head_epochs must be >= 1, received {head_epochs}")
        if head_rate is not None and not head_rate > 0:
            raise ValueError(f"head_rate must be > 0 or None, received {head_rate}")
        self.head_epochs = head_epochs
        self.head_rate = None if head_rate is None else float(head_rate)
        self._student_branch = _builder("student", student)
        self._teacher_branch = _builder("teacher", teacher)

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """A head for each stage of each network.

        Raises:
            ValueError: replicas; stages that are no maps of square images; other numbers of stages.
        """
        check_single("HSAKD", student)
        teacher = self.given(teacher)
        for who, views in (("student", student), ("teacher", teacher)):
            for stage in views.stages:
                if stage.ndim != 4 or stage.shape[-1] != stage.shape[-2]:
                    raise ValueError(
                        f"HSAKD turns square images by 90 degrees and needs stages of shape (B, C, H, H), but the "
                        f"{who} has one of shape {tuple(stage.shape)}"
                    )
        if len(student.stages) != len(teacher.stages):
            raise ValueError(
                f"HSAKD pairs the stages of student and teacher one to one, but the student has "
                f"{len(student.stages)} and the teacher {len(teacher.stages)}"
            )
        joint = functional.TURNS * student.logits.shape[-1]

        def heads(build: BranchBuilder, views: Views) -> nn.ModuleList:
            seed = int(torch.randint(2**62, ()))
            stages = range(len(views.stages))
            return nn.ModuleList(build(stage, joint, seed) for stage in stages).to(views.logits.dtype)

        self.student_heads = heads(self._student_branch, student)
        self.teacher_heads = heads(self._teacher_branch, teacher)

    def phases(self) -> Sequence[Phase]:
        """The training of the teacher's heads."""
        heads = list(self.teacher_heads.parameters())
        return [Phase("teacher heads", self.head_epochs, heads, self.head_loss, self.head_rate, (0.3, 0.6, 0.9))]

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Each example four times, turned by 0, 90, 180 and 270 degrees; ``extra["rotation"]`` is 0, 1, 2 or 3.

        Raises:
            ValueError: images that are not square.
        """
        turns = functional.TURNS
        rotation = torch.arange(turns, device=batch.y.device).repeat(len(batch.y))

        def repeated(tensor: Tensor) -> Tensor:
            return tensor.repeat_interleave(turns, 0)

        def upright(rows: Tensor | None) -> Tensor | None:
            if rows is None:
                return None
            return repeated(rows).masked_fill((rotation > 0)[:, None], torch.nan)

        return Batch(
            x=functional.rotated(batch.x),
            y=repeated(batch.y),
            index=repeated(batch.index),
            log_bayes=upright(batch.log_bayes),
            labelled=None if batch.labelled is None else repeated(batch.labelled),
            targets=upright(batch.targets),
            extra={**{name: repeated(value) for name, value in batch.extra.items()}, "rotation": rotation},
        )

    def head_loss(self, batch: Batch, t: Views) -> Mapping[str, Tensor]:
        """The phase's one term, ``joint``: the sum over the teacher's heads of CE on the joint label."""
        self.teacher_heads.train()
        joint = functional.joint_labels(batch.y, batch.extra["rotation"])
        values = [
            masked_mean(LOSSES["ce"].function(head(stage.detach()), joint), batch.labelled)
            for head, stage in zip(self.teacher_heads, t.stages, strict=True)
        ]
        return {"joint": torch.stack(values).sum()}

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        """Terms ``joint`` and, where they have a weight, ``label`` (of upright images) and ``kd`` (of all)."""
        upright = batch.extra["rotation"] == 0
        labelled = upright if batch.labelled is None else upright & batch.labelled
        return super().loss(replace(batch, labelled=labelled), s, t)

    def own(self, batch: Batch, s: Views, t: Views) -> Tensor:
        self.teacher_heads.eval()  # the trainer has put the whole method into train mode
        values = []
        for student_head, teacher_head, f_s, f_t in zip(
            self.student_heads, self.teacher_heads, s.stages, t.stages, strict=True
        ):
            with torch.no_grad():
                target = teacher_head(f_t)
            values.append(functional.kd(student_head(f_s), target, self.temperature).mean())
        return torch.stack(values).sum()


def _builder(who: str, network: nn.Module | BranchBuilder) -> BranchBuilder:
    """What builds the branches of a network, as a function: a copy of the method then copies no network."""
    if isinstance(network, nn.Module):
        inner = network
        while not hasattr(inner, "branch") and isinstance(getattr(inner, "net", None), nn.Module):
            inner = cast(nn.Module, inner.net)  # a read-out around a network
        if not hasattr(inner, "branch"):
            raise ValueError(
                f"HSAKD reads images at every stage by auxiliary classifiers, so its networks must be convolutional "
                f"and have branch(stage, outputs, seed); the {who}, {type(network).__name__}, has none"
            )
        build = cast(BranchBuilder, inner.branch)
    elif callable(network):
        build = network
    else:
        raise ValueError(
            f"the {who} must be a network or build branches from (stage, outputs, seed), received {network!r}"
        )
    return lambda stage, outputs, seed: build(stage, outputs, seed)
