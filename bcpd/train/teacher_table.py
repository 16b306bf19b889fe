"""A frozen teacher's outputs at every view of every example, looked up instead of computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bcpd.data import InMemory
from bcpd.nets import Views
from bcpd.train.execution import EAGER, Execution
from bcpd.train.parts import first_look

__all__ = ["TeacherTable"]

TABULATED = ("logits", "pooled")
"""What a table can hold: one row a view. Maps of stages are hundreds of times as large."""

CHUNK = 1024
"""Inputs of one forward pass of a filling."""


class TeacherTable(nn.Module):
    r"""A teacher of which a student only sees rows: :math:`z_t(x_{i,v})` for example i and view v, in memory.

    An augmentation here has a finite number V of views (crop by 4 and flip: 162), and a frozen teacher in eval mode is
    a function of the view: its logits over a whole training are N V rows of K numbers (CIFAR-100: 3.2 GB in float32),
    and a student of E epochs asks for N E of them. Give the table to :func:`bcpd.fit` as its ``teacher``; students of
    the same source share it. What is looked up is what the teacher says of the very view that the student sees; it is
    computed in other batches than it would be, so the two agree up to rounding (with ``dtype=torch.float16`` to 11
    bits).

    Only what is tabulated is offered to a method: one that asks for the teacher's stages is refused. Methods that
    change a batch's inputs (:meth:`bcpd.distill.Method.prepare`) are refused as well.

    Args:
        teacher: on the source's device; it is put into eval mode and must not be changed afterwards.
        source: the training data of the students: its inputs, their order, augmentation and normalisation.
        views: ``logits``, and ``pooled`` where methods want it.
        dtype: of the rows in memory; by default the source's.
        execution: in what precision the teacher is asked.
    Raises:
        ValueError: a source with replicas or that makes its inputs anew (:class:`bcpd.data.FreshSamples`), another view
            or dtype.
    """

    def __init__(
        self,
        teacher: nn.Module,
        source: InMemory,
        *,
        views: Sequence[str] = ("logits",),
        dtype: torch.dtype | None = None,
        execution: Execution = EAGER,
    ) -> None:
        super().__init__()
        unknown = [name for name in views if name not in TABULATED]
        if unknown or "logits" not in views:
            raise ValueError(f"views must be 'logits' and perhaps 'pooled', received {tuple(views)}")
        dtype = dtype or source.dtype
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, received {dtype}")
        if source.replicas is not None or type(source).batch is not InMemory.batch:
            kind = type(source).__name__ if source.replicas is None else f"{source.replicas} replicas"
            raise ValueError(f"a table needs examples that stay the same (bcpd.data.InMemory), received {kind}")
        execution.check(source.device)
        self.teacher = teacher.eval()
        self._source, self._execution = source.without_bayes(), execution
        self._views = tuple(name for name in TABULATED if name in views)
        self._dtype = dtype
        shown = first_look(teacher, source.inputs(torch.arange(min(2, len(source)))))
        widths = {name: getattr(shown, name).shape[-1] for name in self._views}
        self._rows = {
            name: torch.zeros(len(source) * source.num_views, width, dtype=dtype, device=source.device)
            for name, width in widths.items()
        }
        self._filled = torch.zeros(len(source) * source.num_views, dtype=torch.bool, device=source.device)
        self._whole = False

    @property
    def nbytes(self) -> int:
        """Of all rows."""
        return sum(rows.nbytes for rows in self._rows.values())

    @property
    def full(self) -> bool:
        """Whether every row has been computed."""
        if not self._whole:
            self._whole = bool(self._filled.all())
        return self._whole

    def describe(self) -> dict[str, object]:
        """JSON-able: what makes the rows differ from the teacher's own answers in their last bits."""
        own = {} if self._execution == EAGER else {"execution": self._execution.describe()}
        return {"views": list(self._views), "dtype": str(self._dtype).removeprefix("torch."), **own}

    def forward(self, x: Tensor) -> Views:
        """The teacher itself at any inputs, but of its views only those that are tabulated."""
        return self._shown(self.teacher(x))

    @torch.no_grad()
    def fill(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compute every row that is missing, view by view.

        Args:
            progress: told ``(views done, views)``.
        """
        count = self._source.num_views
        for view in range(count):
            place = torch.arange(len(self._source), device=self._source.device) * count + view
            self._compute(place[~self._filled[place]])
            if progress is not None:
                progress(view + 1, count)
        self._whole = True

    @torch.no_grad()
    def at(self, index: Tensor, view: Tensor | None = None) -> Views:
        """The rows of examples of the source, at the views that they show.

        What is missing is computed first, which asks the device what it has: a captured step needs a table that is
        :attr:`full`.

        Args:
            index: int64 ``(B,)``.
            view: int64 ``(B,)``, as ``Batch.extra["view"]``; None where nothing is augmented.
        Raises:
            ValueError: no views for a source that is augmented.
        """
        count = self._source.num_views
        if count > 1 and view is None:
            raise ValueError("the table is by view, but the batch does not say which views it shows")
        place = index if view is None else index * count + view
        if not self._whole:
            missing = place[~self._filled[place]]
            if len(missing):
                self._compute(torch.unique(missing))
        found = {name: rows.index_select(0, place).to(self._source.dtype) for name, rows in self._rows.items()}
        return self._shown(Views(found["logits"], found.get("pooled", found["logits"]), (), ()))

    def check_source(self, source: InMemory) -> None:
        """Refuse students of other data.

        Raises:
            ValueError: a source whose inputs, augmentation or normalisation differ.
        """
        own = self._source
        same = source.x is own.x or (source.x.shape == own.x.shape and bool((source.x == own.x).all()))
        alike = (source.augment, source.normalise, source.dtype) == (own.augment, own.normalise, own.dtype)
        if not same or not alike:
            raise ValueError(
                f"the table was made for other inputs: {len(own)} of shape {own.shape} with augment={own.augment!r} "
                f"and {own.normalise}; received {len(source)} of shape {source.shape} with augment="
                f"{source.augment!r} and {source.normalise}"
            )

    def _compute(self, place: Tensor) -> None:
        source, count = self._source, self._source.num_views
        for part in torch.split(place, CHUNK):
            index = part // count
            x = source.batch(index, views=None if count == 1 else part % count).x
            with self._execution.products(source.device), self._execution.autocast(source.device):
                shown: Views = self.teacher(x)
            for name, rows in self._rows.items():
                rows[part] = getattr(shown, name).to(rows.dtype)
            self._filled[part] = True

    def _shown(self, views: Views) -> Views:
        pooled = views.pooled if "pooled" in self._views else views.logits.new_empty(0)
        return Views(views.logits, pooled, (), ())

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> TeacherTable:
        """Rows follow the teacher to another device; they keep their dtype."""
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        device = next(self.teacher.parameters()).device
        if device != self._filled.device:
            self._rows = {name: rows.to(device) for name, rows in self._rows.items()}
            self._filled = self._filled.to(device)
            self._source = self._source.to(device)
        return self
