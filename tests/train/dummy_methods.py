"""One method of each kind the contract must carry: learned parts, memory, rotations with a phase, warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcpd.data import Batch
from bcpd.distill import Method, Phase
from bcpd.nets import Views


def label_term(batch: Batch, s: Views) -> Tensor:
    return functional.cross_entropy(s.logits, batch.y)


class Adapter(Method):
    """Maps the student's pooled features onto the teacher's by a learned linear map."""

    needs = frozenset({"student.pooled", "teacher.pooled"})

    def adapt(self, student: Views, teacher: Views | None) -> None:
        assert teacher is not None
        if student.pooled.shape[-1] > teacher.pooled.shape[-1]:
            raise ValueError(
                f"Adapter needs a teacher at least as wide as the student, received {teacher.pooled.shape[-1]} "
                f"and {student.pooled.shape[-1]} features"
            )
        self.map = nn.Linear(student.pooled.shape[-1], teacher.pooled.shape[-1], dtype=student.pooled.dtype)

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        assert t is not None
        return {"label": label_term(batch, s), "features": (self.map(s.pooled) - t.pooled).square().mean()}


class Bank(Method):
    """Remembers a feature for every example, and pulls the example towards what is remembered."""

    needs = frozenset({"student.pooled", "labels"})

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def adapt(self, student: Views, teacher: Views | None) -> None:
        self.register_buffer("bank", torch.zeros(self.size, student.pooled.shape[-1], dtype=student.pooled.dtype))

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        remembered = self.bank[batch.index].clone()
        self.bank[batch.index] = 0.5 * remembered + 0.5 * s.pooled.detach()
        return {"label": label_term(batch, s), "memory": 0.1 * (s.pooled - remembered).square().mean()}


class Rotated(Method):
    """Joint classification of class and rotation, by heads of which the teacher's is trained first, in a phase."""

    needs = frozenset({"student.pooled", "teacher.pooled", "labels"})

    def __init__(self, phase_epochs: int = 2) -> None:
        super().__init__()
        self.phase_epochs = phase_epochs

    def adapt(self, student: Views, teacher: Views | None) -> None:
        assert teacher is not None
        joint, dtype = 4 * student.logits.shape[-1], student.logits.dtype
        self.student_head = nn.Linear(student.pooled.shape[-1], joint, dtype=dtype)
        self.teacher_head = nn.Linear(teacher.pooled.shape[-1], joint, dtype=dtype)

    def phases(self) -> Sequence[Phase]:
        return [Phase("teacher head", self.phase_epochs, list(self.teacher_head.parameters()), self.head_loss)]

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        turns = [torch.rot90(batch.x, turn, (-2, -1)) for turn in range(4)]
        joint = torch.cat([batch.y * 4 + turn for turn in range(4)])
        return replace(
            batch, x=torch.cat(turns), y=batch.y.repeat(4), index=batch.index.repeat(4), extra={"joint": joint}
        )

    def head_loss(self, batch: Batch, t: Views) -> Mapping[str, Tensor]:
        return {"joint": functional.cross_entropy(self.teacher_head(t.pooled), batch.extra["joint"])}

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        assert t is not None
        with torch.no_grad():
            target = self.teacher_head(t.pooled).softmax(-1)
        joint = functional.cross_entropy(self.student_head(s.pooled), target)
        upright = len(batch.y) // 4
        return {"label": functional.cross_entropy(s.logits[:upright], batch.y[:upright]), "joint": joint}


class WarmUp(Method):
    """A pull towards the teacher whose weight rises linearly over the first epochs."""

    needs = frozenset({"teacher.logits", "student.logits", "labels"})

    def __init__(self, steps_per_epoch: int, epochs: int) -> None:
        super().__init__()
        self.steps_per_epoch, self.epochs = steps_per_epoch, epochs
        self._moment = (0, 0)
        self._told: list[tuple[int, int]] = []
        self._weights: list[float] = []

    def progress(self, epoch: int, step: int) -> None:
        self._moment = (epoch, step)
        self._told.append((epoch, step))

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        assert t is not None
        done = self._moment[0] * self.steps_per_epoch + self._moment[1]
        weight = min(1.0, done / (self.epochs * self.steps_per_epoch))
        self._weights.append(weight)
        return {"label": label_term(batch, s), "pull": weight * (s.logits - t.logits).square().mean()}


class Everything(Method):
    """All kinds at once, on vectors: noise on the inputs, a phase, a map, a memory and a warm-up."""

    needs = frozenset({"teacher.logits", "student.pooled", "labels"})

    def __init__(self, size: int, phase_epochs: int = 2) -> None:
        super().__init__()
        self.size, self.phase_epochs = size, phase_epochs
        self._weight = 0.0

    def adapt(self, student: Views, teacher: Views | None) -> None:
        assert teacher is not None
        dtype, count = student.logits.dtype, student.logits.shape[-1]
        self.map = nn.Linear(student.pooled.shape[-1], teacher.pooled.shape[-1], dtype=dtype)
        self.teacher_head = nn.Linear(teacher.pooled.shape[-1], count, dtype=dtype)
        self.register_buffer("bank", torch.zeros(self.size, student.pooled.shape[-1], dtype=dtype))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def phases(self) -> Sequence[Phase]:
        return [Phase("head", self.phase_epochs, list(self.teacher_head.parameters()), self.head_loss)]

    def head_loss(self, batch: Batch, t: Views) -> Mapping[str, Tensor]:
        return {"head": functional.cross_entropy(self.teacher_head(t.pooled), batch.y)}

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        return replace(batch, x=batch.x + 0.1 * torch.randn(batch.x.shape, generator=generator, dtype=batch.x.dtype))

    def progress(self, epoch: int, step: int) -> None:
        self._weight = math.tanh(epoch + step / 10)

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        assert t is not None
        self.steps += 1
        remembered = self.bank[batch.index].clone()
        self.bank[batch.index] = 0.7 * remembered + 0.3 * s.pooled.detach()
        with torch.no_grad():
            target = self.teacher_head(t.pooled).softmax(-1)
        return {
            "label": label_term(batch, s),
            "head": functional.cross_entropy(s.logits, target),
            "features": self._weight * (self.map(s.pooled) - t.pooled).square().mean(),
            "memory": 0.1 * (s.pooled - remembered).square().mean(),
        }
