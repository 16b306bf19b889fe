"""The loss of a batch and the gradient it leaves in network and method, alone or shared between ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bcpd.data import Batch, InMemory
from bcpd.distill import Method, Phase
from bcpd.nets import HandNet, Views
from bcpd.seeds import derive, generator
from bcpd.train.execution import EAGER, Execution, compiled
from bcpd.train.parts import has_gradient_by_hand
from bcpd.train.ranks import Ranks
from bcpd.train.teacher_table import TeacherTable

__all__ = ["Gradient", "StepOf", "global_seed"]


class StepOf(NamedTuple):
    """What happens in a step, in this order.

    Attributes:
        progress: (epoch, step): the method is told.
        prepare: (this rank's rows of a batch, the batch's size, epoch, step) -> what the loss sees of it.
        learn: (what that gave, size, epoch, step) -> the named terms; the gradients are set.
    """

    progress: Callable[[int, int], None]
    prepare: Callable[[Batch, int, int, int], Batch]
    learn: Callable[[Batch, int, int, int], Mapping[str, Tensor]]


class Gradient:
    """What one step of a training does before its optimizer.

    Args:
        net, method, teacher: the parts; the teacher is frozen.
        source: what the batches come from.
        seeds: one a replica.
        ranks: who shares a batch.
        execution: in what precision, compiled or not.
        by_hand: whether the network's own :meth:`bcpd.nets.HandNet.backward` may be taken.
    """

    def __init__(
        self,
        net: nn.Module,
        method: Method,
        teacher: nn.Module | None,
        source: InMemory,
        seeds: Sequence[int],
        ranks: Ranks,
        execution: Execution,
        device: torch.device,
        by_hand: bool,
    ) -> None:
        self.net, self.method, self.teacher, self.seeds, self.ranks = net, method, teacher, list(seeds), ranks
        self.replicas: int | None = getattr(net, "replicas", None)
        self.execution, self.device = execution, device
        self.by_hand = by_hand and ranks.count == 1 and execution == EAGER and has_gradient_by_hand(net, method)
        # no generator is made for a method that draws nothing
        self.prepares = type(method).prepare is not Method.prepare
        self.looks_at_teacher = any(need.startswith("teacher") for need in method.needs)
        # a mean over the labelled examples is of the whole batch's, and a rank does not know how many the others have
        masked = source.labelled is not None and "labels" in method.needs
        self.gathers = ranks.count > 1 and (method.couples or masked)
        self.student: Callable[[Tensor], Views] = net
        self.taught: Callable[[Tensor], Views] | None = teacher
        if execution.compile:
            self.student = compiled(net, self._shown("student"))
            if teacher is not None and not isinstance(teacher, TeacherTable):
                self.taught = compiled(teacher, self._shown("teacher"))

    def of_student(self) -> StepOf:
        """Steps of the main training."""

        def prepare(batch: Batch, size: int, epoch: int, step: int) -> Batch:
            return self._prepared(batch, size, "method", epoch, step)

        return StepOf(self.method.progress, prepare, self._student_learns)

    def _student_learns(self, batch: Batch, size: int, epoch: int, step: int) -> Mapping[str, Tensor]:
        x = self._own(batch)
        with self.execution.autocast(self.device):
            t = self._taught(batch, x) if self.looks_at_teacher else None
            if self.by_hand:
                return self._by_hand(batch, t)
            self._draw("network", "main", epoch, step)
            s = self.student(x)
            if self.gathers:
                s = self.ranks.gather_views(s, len(batch.x), self._shown("student"))
                t = None if t is None else self.ranks.gather_views(t, len(batch.x), self._shown("teacher"))
                self._draw("loss", "main", epoch, step)
            named = self.method.loss(batch, s, t)
        return self._backward(named, size)

    def of_phase(self, phase: Phase, number: int) -> StepOf:
        """Steps of the ``number``-th auxiliary phase, which trains on the teacher's views.

        Raises:
            ValueError: no teacher.
        """
        if self.taught is None:
            raise ValueError(f"{type(self.method).__name__} has a phase that trains on a teacher, but none was given")

        def progress(epoch: int, step: int) -> None:
            """A phase's loss is told nothing."""

        def prepare(batch: Batch, size: int, epoch: int, step: int) -> Batch:
            return self._prepared(batch, size, "phase", number, epoch, step)

        def learn(batch: Batch, size: int, epoch: int, step: int) -> Mapping[str, Tensor]:
            with self.execution.autocast(self.device):
                t = self._taught(batch, self._own(batch))
                assert t is not None
                if self.gathers:
                    t = self.ranks.gather_views(t, len(batch.x), self._shown("teacher"))
                self._draw("loss", phase.name, epoch, step)
                named = phase.loss(batch, t)
            return self._backward(named, size)

        return StepOf(progress, prepare, learn)

    @torch.no_grad()
    def _taught(self, batch: Batch, x: Tensor) -> Views | None:
        """The teacher's views of a batch, or of this rank's rows of it."""
        if isinstance(self.teacher, TeacherTable):
            rows = self.ranks.rows(len(batch.x)) if self.gathers else slice(None)
            view = batch.extra.get("view")
            return self.teacher.at(batch.index[rows], None if view is None else view[rows])
        return None if self.taught is None else self.taught(x)

    def over_ranks(self, named: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> Mapping[str, Tensor]:
        """Add up the gradients and the terms of all ranks, so that they are those of the whole batch."""
        ranks = self.ranks
        if ranks.count == 1:
            return named
        if self.gathers:
            # every rank has the whole batch's loss: its terms, and the gradient of what the method itself has learned,
            # are there once for each of them
            named = {name: value / ranks.count for name, value in named.items()}
            for parameter in self.method.parameters():
                if parameter.grad is not None:
                    parameter.grad /= ranks.count
        ranks.add_gradients(parameters)
        return ranks.add_terms(named)

    def _prepared(self, batch: Batch, size: int, purpose: str, *coordinates: int) -> Batch:
        """The batch that the loss sees: all of it where it is gathered, else this rank's rows."""
        if self.gathers:
            batch = self.ranks.gather_batch(batch, size)
        elif self.ranks.count > 1:
            coordinates = (*coordinates, self.ranks.rank)
        if not self.prepares:
            return batch
        prepared = self.method.prepare(batch, generator(self.seeds[0], purpose, *coordinates))
        if isinstance(self.teacher, TeacherTable) and prepared.x is not batch.x:
            raise ValueError(
                f"{type(self.method).__name__} changes the inputs of a batch, of which a table of the teacher knows "
                f"nothing; give it the teacher itself"
            )
        return prepared

    def _own(self, batch: Batch) -> Tensor:
        """The inputs that this rank's networks see."""
        return batch.x[self.ranks.rows(len(batch.x))] if self.gathers else batch.x

    def _shown(self, who: str) -> list[str]:
        """The views that the method asked for: no others travel between the ranks."""
        if who in self.method.needs:
            return ["pooled", "stages", "preacts"]
        return [need.partition(".")[2] for need in self.method.needs if need.startswith(f"{who}.")]

    def _draw(self, purpose: str, phase: str, epoch: int, step: int) -> None:
        """Before what draws from the global generator: of a network on every rank apart, of a gathered loss alike."""
        if self.ranks.count > 1:
            own = () if purpose == "loss" and self.gathers else (self.ranks.rank,)
            torch.manual_seed(derive(self.seeds[0], purpose, phase, epoch, step, *own))

    def _by_hand(self, batch: Batch, t: Views | None) -> Mapping[str, Tensor]:
        net = self.net
        assert isinstance(net, HandNet)
        with torch.no_grad():
            views: Views = net(batch.x)
        shown = _leaves(views)
        named = self._backward(self.method.loss(batch, shown, t), batch.y.shape[-1])
        if any(view.grad is not None for view in (shown.pooled, *shown.stages, *shown.preacts)):
            raise ValueError(
                f"{type(self.method).__name__} learns from a student's view other than its logits; "
                f"declare it in needs (student.pooled, student.stages or student.preacts)"
            )
        if shown.logits.grad is not None:
            with torch.no_grad():
                net.backward(batch.x, views, shown.logits.grad)
        return named

    def _backward(self, named: Mapping[str, Tensor], size: int) -> Mapping[str, Tensor]:
        """Back-propagate the sum of the terms; replicas share no parameter, so each gets the gradient of its own.

        The loss of one rank's rows weighs what they are of the ``size`` of the whole batch.
        """
        # a term of another shape would be summed over examples, or over replicas, without a word
        expected = () if self.replicas is None else (self.replicas,)
        wrong = [f"{name}: {tuple(value.shape)}" for name, value in named.items() if value.shape != expected]
        if "loss" in named:
            raise ValueError(f"a term of {type(self.method).__name__} must not be named 'loss', which is their sum")
        if wrong or not named:
            raise ValueError(
                f"a loss of {type(self.method).__name__} must return terms of shape {expected}, one number a replica, "
                f"received {', '.join(wrong) or 'no term'}"
            )
        if self.ranks.count > 1 and not self.gathers:
            named = {name: self.ranks.share(size) * value for name, value in named.items()}
        learned = [term for term in named.values() if term.requires_grad]
        if not learned:
            raise ValueError(f"no term of {type(self.method).__name__} depends on what is trained")
        total = learned[0] if len(learned) == 1 else torch.stack(learned).sum(0)
        total.sum().backward()  # type: ignore[no-untyped-call]
        return named


def _leaves(views: Views) -> Views:
    """The same values, each the start of a graph."""

    def leaf(view: Tensor) -> Tensor:
        return view.detach().requires_grad_()

    return Views(
        leaf(views.logits),
        leaf(views.pooled),
        tuple(leaf(stage) for stage in views.stages),
        tuple(leaf(preact) for preact in views.preacts),
    )


@contextlib.contextmanager
def global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Layers that draw from the global generator (dropout) get a stream of their own; the caller's is left alone."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
