r"""A training step as a CUDA graph: captured once, replayed as one launch.

Small networks at 64 images a step wait for the host: ResNet-20 has some two hundred kernels a step, each of which takes
less time than its launch. A captured step holds them all: the gathering of the batch (from the epoch's order and views,
which lie on the device, at a cursor that the step itself moves on), augmentation, teacher, student, loss, their
gradients, the optimizer and the sums of the terms. What changes between steps lies in tensors that the graph reads: the
cursor, the order, the views, the learning rate.

* A graph belongs to one size of a batch: the smaller last batch of an epoch has one of its own.
* The first :data:`WARM` steps of every size run operation by operation. They are steps of the training like any other;
  libraries choose their algorithms and the optimizer makes its buffers in them.
* What a method keeps in plain attributes (a warm-up factor that :meth:`bcpd.distill.Method.progress` sets) is a
  constant of the graph. Where one has changed, the step is captured anew as soon as it stays the same for two steps.
* What a method draws or computes for a batch in :meth:`bcpd.distill.Method.prepare` is done on every step before the
  graph, which then begins with the prepared batch.

A loss that asks the device for a value, or copies one to it, cannot be captured, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bcpd.data import Batch, InMemory
from bcpd.data.augment import view_numbers
from bcpd.distill import Method

__all__ = ["WARM", "CapturedSteps", "Graph", "check_capture", "plain_settings"]

WARM = 2
"""Steps of a size before it is captured."""

Prepare = Callable[[Batch], Batch]
Learn = Callable[[Batch], Mapping[str, Tensor]]


class Graph:
    """What is done by a function, captured without being done; :meth:`replay` does it.

    Raises:
        RuntimeError: work that cannot be captured.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
            work()

    def replay(self) -> None:
        """Hand the work to the current stream."""
        self._graph.replay()


@dataclass
class _Size:
    """What is known of the steps of one size.

    Attributes:
        seen: steps done.
        settings: the method's at the last of them.
        terms: their names, in the last step that was done operation by operation.
        graph: captured for these settings.
        prepared: where a method prepares its batches, the tensors that the graph reads.
    """

    seen: int = 0
    settings: tuple[tuple[str, str, str], ...] | None = None
    terms: tuple[str, ...] = ()
    graph: Graph | None = None
    prepared: Batch | None = None


class CapturedSteps:
    """The steps of a phase on one device.

    Args:
        source: what batches are gathered from, on the device.
        method: whose plain attributes are constants of a graph.
        seed: of the augmentation.
        graph: what captures, :class:`Graph`; another one in tests.
    """

    def __init__(
        self, source: InMemory, method: Method, seed: int | Sequence[int], graph: Callable[..., Graph] = Graph
    ) -> None:
        self.source, self.method, self.seed, self._capture = source, method, seed, graph
        self._sizes: dict[int, _Size] = {}
        self._sums: dict[str, Tensor] = {}
        self._named: dict[str, None] = {}
        self._total = 0
        self._order: Tensor | None = None
        self._views: Tensor | None = None
        self._cursor = torch.zeros((), dtype=torch.int64, device=source.device)
        self._offsets = torch.zeros(0, dtype=torch.int64, device=source.device)

    @property
    def sums(self) -> dict[str, Tensor]:
        """Of every term of this epoch's steps, weighted by their sizes."""
        return {name: self._sums[name] for name in self._named}

    def begin(self, order: Tensor, epoch: int, start: int, sums: Mapping[str, Tensor]) -> None:
        """An epoch, or the rest of one.

        Args:
            order: int64 ``(n,)``, examples in the order of the epoch; n is the same for every epoch.
            epoch: 0-based.
            start: examples that are done already.
            sums: of the terms until then.
        """
        if self._order is None:
            self._order, self._total = order.clone(), len(order)
            self._offsets = torch.arange(self._total, device=order.device)
        self._order.copy_(order)
        if self.source.augment is not None:
            views = view_numbers(self.seed, epoch, self._order, self.source.num_views)
            self._views = views if self._views is None else self._views.copy_(views)
        self._cursor.fill_(start)
        self._named = dict.fromkeys(sums)
        for value in self._sums.values():
            value.zero_()
        for name, value in sums.items():
            self._sum(name, value).copy_(value)

    def step(self, size: int, prepare: Prepare | None, learn: Learn) -> None:
        """One step of the next ``size`` examples.

        Args:
            prepare: makes of a batch what the method wants, on every step; None: nothing.
            learn: sets gradients and takes the optimizer's step; called where no graph is replayed.
        """
        known = self._sizes.setdefault(size, _Size())
        prepared = None if prepare is None else prepare(self._gathered(size))
        settings = plain_settings(self.method)
        if settings != known.settings:
            known.graph = None
        if known.seen < WARM or settings != known.settings:
            known.terms = self._work(size, learn, prepared)
        else:
            if prepared is not None:
                known.prepared = _filled(known.prepared, prepared)
            if known.graph is None:
                known.graph = self._captured(size, learn, known.prepared)
            self._named |= dict.fromkeys(known.terms)
            known.graph.replay()
        known.seen, known.settings = known.seen + 1, settings

    def _gathered(self, size: int) -> Batch:
        """The examples at the cursor, which moves on."""
        assert self._order is not None
        place = self._cursor + self._offsets[:size]
        index = self._order.index_select(0, place)
        self._cursor += size
        return self.source.batch(index, views=None if self._views is None else self._views.index_select(0, place))

    def _work(self, size: int, learn: Learn, prepared: Batch | None) -> tuple[str, ...]:
        """All that a graph holds; the names of the terms."""
        terms = learn(self._gathered(size) if prepared is None else prepared)
        for name, value in terms.items():
            self._sum(name, value).add_(value.reshape(-1) * (size / self._total))
        self._named |= dict.fromkeys(terms)
        return tuple(terms)

    def _sum(self, name: str, like: Tensor) -> Tensor:
        if name not in self._sums:
            self._sums[name] = torch.zeros_like(like.detach().reshape(-1))
        return self._sums[name]

    def _captured(self, size: int, learn: Learn, prepared: Batch | None) -> Graph:
        try:
            return self._capture(lambda: self._work(size, learn, prepared))
        except RuntimeError as error:
            raise RuntimeError(
                f"a step of {type(self.method).__name__} cannot be captured as a CUDA graph "
                f"({str(error).splitlines()[0]}); train it with Execution(graphs=False)"
            ) from error


def check_capture(net: nn.Module, source: InMemory, ranks: int) -> None:
    """Refuse what has no steps that can be captured.

    Raises:
        ValueError: replicas, several processes, or a source that makes its batches on the host.
    """
    replicas: int | None = getattr(net, "replicas", None)
    if replicas is not None or ranks > 1:
        found = f"{replicas} replicas" if replicas is not None else f"{ranks} processes"
        raise ValueError(f"graphs capture the steps of one network in one process, received {found}")
    if type(source).batch is not InMemory.batch or type(source).batches is not InMemory.batches:
        raise ValueError(
            f"graphs gather their batches from tensors on the device (bcpd.data.InMemory), "
            f"received {type(source).__name__}"
        )


def plain_settings(method: nn.Module) -> tuple[tuple[str, str, str], ...]:
    """The plain attributes of a method and its parts (numbers, strings, and what holds only those): what a graph of its
    loss holds as constants. Those of torch's own layers never change."""
    return tuple(
        (name, key, repr(value))
        for name, module in method.named_modules()
        if not type(module).__module__.startswith("torch.")
        for key, value in vars(module).items()
        if key not in _OF_EVERY_MODULE and _is_plain(value)
    )


_OF_EVERY_MODULE = vars(nn.Module()).keys() - {"training"}


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list | set | frozenset):
        return all(_is_plain(entry) for entry in value)
    if isinstance(value, Mapping):
        return all(_is_plain(entry) for entry in value.values())
    return value is None or isinstance(value, bool | int | float | str)


def _filled(kept: Batch | None, batch: Batch) -> Batch:
    """The values of a batch in tensors that stay where they are."""
    if kept is None:
        return _mapped(batch, lambda _, tensor: tensor.clone())
    return _mapped(batch, lambda old, tensor: old.copy_(tensor), kept)


def _mapped(batch: Batch, change: Callable[[Any, Tensor], Tensor], kept: Batch | None = None) -> Batch:
    fields = ("x", "y", "index", "log_bayes", "labelled", "targets")
    new: dict[str, Any] = {}
    for name in fields:
        value = getattr(batch, name)
        new[name] = None if value is None else change(getattr(kept, name, None), value)
    extra = {name: change(None if kept is None else kept.extra[name], value) for name, value in batch.extra.items()}
    return replace(batch, **new, extra=extra)
