"""The contract between a training loss and the trainer: what a method needs, learns, prepares and returns.

The trainer calls, in this order, and knows nothing else about a method:

1. ``needs`` is checked against the data, the student and the teacher, before step 0.
2. ``adapt(student_views, teacher_views)`` builds the learned parts once, from views of two training inputs. They train
   with the student, at its learning rate, and are not exported with it.
3. ``phases()``: auxiliary trainings that come before the main one (say a teacher's extra heads).
4. every step: ``progress(epoch, step)``, ``prepare(batch, generator)``, ``loss(batch, s, t)``.

A method is an :class:`torch.nn.Module`, so its learned parts are its parameters and its state (memory banks, running
constants) its buffers: both are saved and resumed with the run, also in the middle of an epoch. A buffer has its final
shape from ``adapt`` on; what is no buffer must follow from ``progress``, for a resumed run does not know it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bcpd.data import Batch, InMemory
from bcpd.nets import Views
from bcpd.tensors import log_softmax

__all__ = ["Method", "Phase", "check_needs"]

VIEW_NAMES = ("logits", "pooled", "stages", "preacts")
NEEDS = frozenset(
    {
        "bayes",
        "labels",
        "targets",
        "teacher",
        *(f"{who}.{view}" for who in ("teacher", "student") for view in VIEW_NAMES),
    }
)


@dataclass(frozen=True)
class Phase:
    """A training that runs before the main one, by the same loop, on a frozen teacher.

    Attributes:
        name: appears in progress reports; not ``"main"``, which is the main training's.
        epochs: its length, >= 1; the optimizer and the batch size are the recipe's.
        parameters: what it trains (a subset of the method's parameters).
        loss: ``(batch, teacher_views) -> named terms``, as in :meth:`Method.loss`.
        learning_rate: > 0, or None: the recipe's.
        milestones: fractions of the phase, increasing in (0, 1), at each of which the rate falls to a tenth; or None:
            the recipe's schedule.
    Raises:
        ValueError: the name ``"main"``, no epoch, nothing to train, or a rate that is not positive.
    """

    name: str
    epochs: int
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch, Views], Mapping[str, Tensor]]
    learning_rate: float | None = None
    milestones: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.name == "main" or self.epochs < 1 or not list(self.parameters):
            raise ValueError(
                f"a phase needs a name other than 'main', epochs >= 1 and parameters to train, "
                f"received {self.name!r}, {self.epochs} and {len(list(self.parameters))}"
            )
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"a phase's learning_rate must be > 0 or None, received {self.learning_rate}")


class Method(nn.Module, ABC):
    """What a network is trained with. Subclass it, set ``needs`` and write :meth:`loss`.

    Attributes:
        needs: subset of ``bayes`` (the source knows p*), ``labels`` (some example is labelled), ``targets`` (the
            source was given rows to learn from), ``teacher``, and ``teacher.X`` / ``student.X`` for a view X in
            ``logits``, ``pooled``, ``stages``, ``preacts``; a student's views other than its logits, and p*, are there
            only where they were asked for. Sample indices are in every batch.
        score: the validation score by which ``best_score`` is chosen, ``nll`` or ``brier``.
        couples: False where every term is a mean over the examples of the batch (a term of labels: over those that are
            labelled) of what depends on one example alone, and :meth:`prepare` draws nothing: a training in several
            processes (:mod:`bcpd.train.ranks`) then takes the loss of each process's rows and adds them up. True, the
            safe default: examples meet in the loss (pairs, a memory, batch statistics of a learned part), which then
            sees the whole batch in every process.
    """

    needs: frozenset[str] = frozenset()
    score: Literal["nll", "brier"] = "nll"
    couples: bool = True

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """Build learned parts from example views (batch of 2, no gradient); refuse here what cannot work.

        Raises:
            ValueError: a method that degenerates on this network or number of classes says so in a sentence.
        """

    def phases(self) -> Sequence[Phase]:
        """Trainings to run before the main one; none by default."""
        return ()

    def progress(self, epoch: int, step: int) -> None:
        """Told before every step of the main training: 0-based epoch, and step within it. For warm-ups."""

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch that the networks see: rotations, negatives, .... The generator is keyed by (seed, epoch, step)."""
        return batch

    @abstractmethod
    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        """Named terms, already weighted; the trainer minimises their sum.

        Args:
            batch: what :meth:`prepare` returned.
            s, t: the student's views of ``batch.x``, and the teacher's (``None`` without a teacher), the latter
                without gradient and from a network in eval mode.
        Returns:
            each term a scalar ``()``, or ``(R,)`` for R replicas.
        """

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the trained network, by which it is measured and distilled; log-softmax by default."""
        return log_softmax(logits)

    def replicas_in_need(self, need: str) -> list[int] | None:
        """Which replicas have one of the ``needs``; None: all."""
        return None

    def scores(self, replicas: int | None) -> list[str]:
        """The validation score of each replica (of one in all, without replicas)."""
        return [self.score] * (1 if replicas is None else replicas)

    def describe(self) -> dict[str, Any]:
        """JSON-able settings; part of the run's identity. Default: the class name and its plain attributes."""
        plain = {
            name: value
            for name, value in sorted(vars(self).items())
            if isinstance(value, bool | int | float | str) and not name.startswith("_") and name != "training"
        }
        return {"method": type(self).__name__, **plain}


def check_needs(method: Method, source: InMemory, student: Views, teacher: Views | None) -> None:
    """Refuse, before step 0, a method whose needs the data or the networks do not meet.

    Raises:
        ValueError: naming the method, the need and what is there instead.
    """
    name = type(method).__name__
    unknown = sorted(method.needs - NEEDS)
    if unknown:
        raise ValueError(f"{name}.needs must be among {sorted(NEEDS)}, received {unknown}")
    for need in sorted(method.needs):
        if need == "bayes":
            if source.log_bayes is None:
                raise ValueError(f"{name} needs p*(x) for every training input, but the source does not know it")
            continue
        if need == "targets":
            if source.targets is None:
                raise ValueError(f"{name} learns from given rows, but the source has no targets")
            continue
        if need == "labels":
            labelled = None if source.labelled is None else source.labelled.any(-1)
            rows = method.replicas_in_need(need)
            if labelled is not None and not bool(
                (labelled if rows is None or not labelled.ndim else labelled[rows]).all()
            ):
                raise ValueError(f"{name} needs labels, but the source marks no example as labelled")
            continue
        who, _, view = need.partition(".")
        views = student if who == "student" else teacher
        if views is None:
            raise ValueError(f"{name} needs a teacher, but none was given")
        if not view:
            continue
        there = getattr(views, view)
        if not (there.numel() if isinstance(there, Tensor) else there):
            raise ValueError(f"{name} needs {need}, but the {who} network offers no {view}")
    if teacher is not None and "teacher.logits" in method.needs and student.logits.shape != teacher.logits.shape:
        raise ValueError(
            f"{name} compares logits: student and teacher must have the same replicas and classes, "
            f"received logits of shape {tuple(student.logits.shape)} and {tuple(teacher.logits.shape)}"
        )
