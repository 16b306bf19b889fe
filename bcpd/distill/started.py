"""Training with one loss for some epochs, and with another after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bcpd.data import Batch
from bcpd.distill.method import Method
from bcpd.nets import Views

__all__ = ["Started"]


class Started(Method):
    """``first`` for so many epochs of the main training, ``then`` for the rest: one training, one optimizer.

    The network is that of ``then``: its read-out, its validation score, throughout. What is needed is what either
    needs. The rate is the recipe's for both: where ``first`` wants another one, scale its loss (for SGD a scale is a
    rate).

    Args:
        first, then: without phases and a ``prepare`` of their own.
        epochs: of ``first``, >= 1.
    Raises:
        ValueError: no epoch; a method with phases (they belong to a whole training), or one that prepares batches (a
            captured step would then have to prepare those of the other one as well).
    """

    def __init__(self, first: Method, epochs: int, then: Method) -> None:
        super().__init__()
        if type(epochs) is not int or epochs < 1:
            raise ValueError(f"epochs must be an int >= 1, received {epochs!r}")
        for method in (first, then):
            if type(method).phases is not Method.phases:
                raise ValueError(f"a part of a training must not have phases, received {type(method).__name__}")
            if type(method).prepare is not Method.prepare:
                raise ValueError(f"a part of a training must not prepare batches, received {type(method).__name__}")
        self.first, self.then, self.epochs = first, then, epochs
        self.needs = first.needs | then.needs
        self.score = then.score
        self.couples = first.couples or then.couples
        self.under_way = False

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """Both see the views; their learned parts are there from the beginning."""
        self.first.adapt(student, teacher)
        self.then.adapt(student, teacher)

    def progress(self, epoch: int, step: int) -> None:
        """``then`` counts its own epochs, from 0."""
        self.under_way = epoch >= self.epochs
        self._now.progress(epoch - self.epochs if self.under_way else epoch, step)

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        """The terms of the present method."""
        return self._now.loss(batch, s, t)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Those of ``then``."""
        return self.then.log_probabilities(logits)

    def replicas_in_need(self, need: str) -> list[int] | None:
        """The replicas of which either method has the need."""
        rows: set[int] = set()
        for method in (self.first, self.then):
            if need in method.needs:
                own = method.replicas_in_need(need)
                if own is None:
                    return None
                rows |= set(own)
        return sorted(rows)

    def scores(self, replicas: int | None) -> list[str]:
        """Those of ``then``."""
        return self.then.scores(replicas)

    def describe(self) -> dict[str, Any]:
        """Both methods, and when the one follows the other."""
        return {
            "method": type(self).__name__,
            "first": self.first.describe(),
            "epochs": self.epochs,
            "then": self.then.describe(),
        }

    @property
    def _now(self) -> Method:
        return self.then if self.under_way else self.first
