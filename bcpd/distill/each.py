"""Different methods for the replicas of one training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from bcpd.data import Batch
from bcpd.distill.method import Method
from bcpd.nets import Views

__all__ = ["Each"]


class Each(Method):
    """Replica r is trained with ``methods[r]``: its own loss, target or temperature, side by side with the others.

    Replicas with equal methods (one object, or one type with equal settings) are computed together; where they stand
    next to each other no tensor is copied. A term that a replica's method does not have is 0 for it. Of the student's
    and the teacher's views, only those that the methods ask for in ``needs`` are handed on beside the logits.

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
        distinct: list[Method] = []
        self.kinds: list[int] = []
        for method in methods:
            kind = next((number for number, other in enumerate(distinct) if _alike(method, other)), len(distinct))
            if kind == len(distinct):
                distinct.append(method)
            self.kinds.append(kind)
        self.methods = nn.ModuleList(distinct)
        self.needs = frozenset().union(*(method.needs for method in methods))
        self._scores = [method.score for method in methods]
        self._rows = [[r for r, of in enumerate(self.kinds) if of == kind] for kind in range(len(distinct))]
        self._shown = tuple(view for view in ("pooled", "stages", "preacts") if self._asks(view))

    def _asks(self, view: str) -> bool:
        return bool({f"student.{view}", f"teacher.{view}"} & self.needs)

    def replicas_in_need(self, need: str) -> list[int] | None:
        """The replicas whose own method has the need."""
        return [r for r, kind in enumerate(self.kinds) if need in self._methods()[kind].needs]

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
            method.adapt(self._views(student, rows), None if teacher is None else self._views(teacher, rows))
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
            own = None if t is None else self._views(t, rows)
            terms = method.loss(_batch(batch, rows), self._views(s, rows), own)
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

    def _views(self, views: Views, rows: list[int]) -> Views:
        def several(name: str, those: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(_take(one, rows) for one in those) if name in self._shown else ()

        pooled = _take(views.pooled, rows) if "pooled" in self._shown else views.logits.new_empty(0)
        shown = several("stages", views.stages), several("preacts", views.preacts)
        return Views(_take(views.logits, rows), pooled, *shown)

    def _methods(self) -> list[Method]:
        return [method for method in self.methods if isinstance(method, Method)]


def _alike(method: Method, other: Method) -> bool:
    """Whether two methods are one: the same object, or the same type with equal settings (functions by identity)."""
    if method is other:
        return True
    if type(method) is not type(other) or method.describe() != other.describe():
        return False
    mine, theirs = vars(method), vars(other)
    return mine.keys() == theirs.keys() and all(_equal(mine[name], theirs[name]) for name in mine)


def _equal(value: object, other: object) -> bool:
    if value is other:
        return True
    try:
        return type(value) is type(other) and bool(value == other)
    except RuntimeError:  # tensors have no single answer
        return False


def _take(tensor: Tensor, rows: list[int]) -> Tensor:
    """The replicas ``rows`` of ``(R, ...)``: a view where they are consecutive."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return tensor.narrow(0, rows[0], len(rows))
    return tensor.index_select(0, _place(tuple(rows), tensor.device))


@lru_cache(maxsize=256)
def _place(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """On the device once: a step must not wait for a copy."""
    return torch.tensor(rows, device=device)


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
    return stacked.index_select(0, _place(tuple(sorted(range(replicas), key=order.__getitem__)), stacked.device))


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
