"""Which views of student and teacher can be compared, said before the first step."""

from __future__ import annotations

from torch import Tensor, nn

from bcpd.nets import Views

__all__ = ["check_like", "check_single", "pointwise", "stage_pairs"]


def stage_pairs(name: str, student: Views, teacher: Views) -> list[tuple[Tensor, Tensor]]:
    """The stages of both networks, first with first to last with last; the stem is not a stage.

    Raises:
        ValueError: different numbers of stages.
    """
    if len(student.stages) != len(teacher.stages):
        raise ValueError(
            f"{name} pairs the stages of student and teacher one to one, but the student has {len(student.stages)} "
            f"and the teacher {len(teacher.stages)}"
        )
    return list(zip(student.stages, teacher.stages, strict=True))


def check_single(name: str, student: Views) -> None:
    """Refuse replicas: a method's learned parts belong to one model.

    Raises:
        ValueError: a student of R replicas.
    """
    if student.logits.ndim != 2:
        raise ValueError(
            f"{name} learns a map of one student's features and trains a single model, received "
            f"{len(student.logits)} replicas; train them one by one"
        )


def check_like(name: str, number: int, f_s: Tensor, f_t: Tensor) -> None:
    """Refuse to map vectors onto maps or the other way round.

    Raises:
        ValueError: one network shows maps at this stage, the other vectors.
    """
    if f_s.ndim != f_t.ndim:
        raise ValueError(
            f"{name} maps the student's features onto the teacher's, both maps (B, C, H, W) or both vectors (B, F); at "
            f"stage {number} received {tuple(f_s.shape)} and {tuple(f_t.shape)}"
        )


def pointwise(inputs: int, outputs: int, like: Tensor, bias: bool) -> nn.Module:
    """A linear map of channels: a 1 x 1 convolution where ``like`` is a map, else a linear layer; of its dtype."""
    if like.ndim == 4:
        return nn.Conv2d(inputs, outputs, 1, bias=bias, dtype=like.dtype)
    return nn.Linear(inputs, outputs, bias=bias, dtype=like.dtype)
