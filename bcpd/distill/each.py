"""Different methods for the replicas of one training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcpd.data import Batch
from bcpd.distill.method import Method
from bcpd.nets import Views

__all__ = ["Each"]


class Each(Method):
    """Replica r is trained with ``methods[r]``: its own loss, target or temperature, side by side with the others.

    Replicas whose methods describe themselves alike are computed together; where they stand next to each other no
    tensor is copied. A term that a replica's method does not have is 0 for it.

    Args:
        methods: one a replica, R >= 1.
    Raises:
        ValueError: no method; a method with learned parts, phases or a ``prepare`` of its own (those belong to a
            whole batch, not to a replica).
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        super().__init__()
        if not methods:
            raise ValueError("methods must be one a replica, received none")
        for method in methods:
            if type(method).prepare is not Method.prepare or type(method).phases is not Method.phases:
                raise ValueError(
                    f"a replica's own method must not prepare batches or have phases, received {type(method).__name__}"
                )
        distinct: dict[str, int] = {}
        self.kinds = [distinct.setdefault(json.dumps(m.describe(), sort_keys=True), len(distinct)) for m in methods]
        self.methods = nn.ModuleList(methods[self.kinds.index(kind)] for kind in range(len(distinct)))
        self.needs = frozenset().union(*(method.needs for method in methods))
        self._scores = [method.score for method in methods]
        self._rows = [[r for r, of in enumerate(self.kinds) if of == kind] for kind in range(len(distinct))]

    def adapt(self, student: Views, teacher: Views | None) -> None:
        """Every method sees its own replicas.

        Raises:
            ValueError: another number of replicas than methods; a method that builds learned parts.
        """
        if student.logits.ndim != 3 or len(student.logits) != len(self.kinds):
            raise ValueError(
                f"Each has {len(self.kinds)} methods, one a replica; "
                f"the network gives logits of shape {tuple(student.logits.shape)}"
            )
        for method, rows in zip(self._methods(), self._rows, strict=True):
            method.adapt(_views(student, rows), None if teacher is None else _views(teacher, rows))
            if next(method.parameters(), None) is not None or next(method.buffers(), None) is not None:
                raise ValueError(f"a replica's own method must have no learned parts, received {type(method).__name__}")

    def progress(self, epoch: int, step: int) -> None:
        """Told to every method."""
        for method in self._methods():
            method.progress(epoch, step)

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        """The terms of all methods, ``(R,)`` each."""
        if len(self._rows) == 1:
            return self._methods()[0].loss(batch, s, t)
        parts: dict[str, list[tuple[list[int], Tensor]]] = {}
        for method, rows in zip(self._methods(), self._rows, strict=True):
            terms = method.loss(_batch(batch, rows), _views(s, rows), None if t is None else _views(t, rows))
            for name, term in terms.items():
                parts.setdefault(name, []).append((rows, term))
        return {name: _joined(found, len(self.kinds)) for name, found in parts.items()}

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Every replica by the read-out of its own method."""
        if len(self._rows) == 1:
            return self._methods()[0].log_probabilities(logits)
        return _joined(
            [
                (rows, method.log_probabilities(_take(logits, rows)))
                for method, rows in zip(self._methods(), self._rows, strict=True)
            ],
            len(self.kinds),
        )

    def scores(self, replicas: int | None) -> list[str]:
        """Those of the methods."""
        return list(self._scores)

    def describe(self) -> dict[str, Any]:
        """The distinct methods, and which replica has which."""
        return {"method": "Each", "methods": [m.describe() for m in self._methods()], "of": self.kinds}

    def _methods(self) -> list[Method]:
        return [method for method in self.methods if isinstance(method, Method)]


def _take(tensor: Tensor, rows: list[int]) -> Tensor:
    """The replicas ``rows`` of ``(R, ...)``: a view where they are consecutive."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return tensor.narrow(0, rows[0], len(rows))
    return tensor[rows]


def _joined(parts: list[tuple[list[int], Tensor]], replicas: int) -> Tensor:
    """The replicas' values in their order, 0 where no part has them."""
    first = parts[0][1]
    missing = sorted(set(range(replicas)) - {r for rows, _ in parts for r in rows})
    if missing:
        parts = [*parts, (missing, first.new_zeros(len(missing), *first.shape[1:]))]
    order = [r for rows, _ in parts for r in rows]
    stacked = torch.cat([values for _, values in parts])
    if order == list(range(replicas)):
        return stacked
    place = sorted(range(replicas), key=order.__getitem__)
    return stacked[place]


def _views(views: Views, rows: list[int]) -> Views:
    return Views(
        _take(views.logits, rows),
        _take(views.pooled, rows),
        tuple(_take(stage, rows) for stage in views.stages),
        tuple(_take(preact, rows) for preact in views.preacts),
    )


def _batch(batch: Batch, rows: list[int]) -> Batch:
    def take(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else _take(tensor, rows)

    return Batch(
        x=_take(batch.x, rows),
        y=_take(batch.y, rows),
        index=_take(batch.index, rows),
        log_bayes=take(batch.log_bayes),
        labelled=take(batch.labelled),
        targets=take(batch.targets),
        extra={name: _take(value, rows) for name, value in batch.extra.items()},
    )
