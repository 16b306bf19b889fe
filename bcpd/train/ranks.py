r"""One training in several processes, each with a slice of every batch.

A program that trains, started as ``torchrun --nproc-per-node 2 program.py``::

    with bcpd.train.from_environment() as device:
        fitted = bcpd.fit(net, source, method, recipe, seed=0, folder="run", device=device)

does in two processes (ranks) what ``python program.py`` does in one: the network, the data, the method and the seeds
are made alike in each, :func:`bcpd.fit` notices the process group and checks that they are, and ``recipe.batch_size``
remains the size of the **global** batch. What is equal, and how:

* The order of an epoch is a function of the seed; of every batch, also of the smaller last one, rank r takes its rows
  (:meth:`Ranks.rows`), whose crops and flips are functions of (seed, epoch, index).
* The gradient is that of the global batch's loss :math:`L`. Where examples meet in the loss
  (:attr:`bcpd.distill.Method.couples`), the batch and the views are gathered, every rank computes :math:`L` and
  back-propagates :math:`\partial L / \partial` (its own rows of the views); a memory is so written alike everywhere.
  Else :math:`L = \sum_r \frac{B_r}{B} L_r` is the weighted sum of the losses of the slices (their plain mean would
  weigh the examples of a smaller slice more). A term of labels on a partly labelled source is a mean over the labelled
  examples, :math:`\sum_r n_r L_r / \sum_r n_r` with :math:`n_r` of them in slice r, which no rank knows before it
  meets the others: such a method is gathered.
* Then the gradients are added up over the ranks, one all-reduce for all parameters, and every rank takes the same step.
  :class:`torch.nn.parallel.DistributedDataParallel` would hide a part of that exchange behind the backward pass, but it
  averages over the ranks (uneven slices come out wrong), wraps the network (whose views and names the methods see) and
  does not know the parameters of the methods.

A network without batch normalisation is trained to the weights of one process up to rounding. **Batch normalisation**
takes its statistics over the rows of one rank, as everybody's does, which is another training: a network's running
averages are those of rank 0. ``batch_statistics="synchronised"`` takes them over the global batch
(:class:`torch.nn.SyncBatchNorm`; CUDA only). Dropout draws for every rank apart.

Rank 0 measures (while the others wait: :class:`bcpd.train.PathMetrics` need not look at every set), keeps the folder
and reports progress; all ranks return the same :class:`bcpd.train.Fitted`. A run goes on with the number of ranks that
it was begun with; a rank that fails is for ``torchrun`` to notice, which ends the others. Refused: replicas, and a last
batch with fewer examples than ranks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bcpd.data import Batch
from bcpd.nets import Views

__all__ = ["Ranks", "from_environment", "synchronised"]

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long ranks wait for each other: rank 0 measures and writes alone."""


@contextlib.contextmanager
def from_environment(device: Literal["cpu", "cuda"] | None = None) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, and leave them at the end; alone, where it did not start this one.

    Processes on CUDA have a device each and talk by NCCL, those on the CPU by gloo.

    Args:
        device: where to train; CUDA where there is one, by default.
    Yields:
        this process's device.
    Raises:
        ValueError: another device; more processes on a machine than it has CUDA devices; only a part of the variables
            that ``torchrun`` sets.
    """
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device must be 'cpu', 'cuda' or None, received {device!r}")
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in wanted if name not in os.environ]
    if {"RANK", "WORLD_SIZE"} <= set(missing):
        yield torch.device(kind)
        return
    if missing:
        raise ValueError(f"torchrun sets {', '.join(wanted)}; the environment lacks {', '.join(missing)}")
    own = torch.device(kind)
    if kind == "cuda":
        number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= there:
            raise ValueError(f"every process needs a CUDA device of its own: local rank {number} of {there} devices")
        own = torch.device("cuda", number)
        torch.cuda.set_device(own)
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo", timeout=PATIENCE, device_id=own if kind == "cuda" else None
    )
    try:
        yield own
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Ranks:
    """The processes that share a training; by default this one alone.

    Attributes:
        rank: of this process, in ``0 .. count - 1``.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Those of torch's process group, or this process alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the rank that measures, writes and reports."""
        return self.rank == 0

    def sizes(self, total: int) -> list[int]:
        """Rows of each rank: the first ``total % count`` have one more than the others."""
        each, more = divmod(total, self.count)
        return [each + (rank < more) for rank in range(self.count)]

    def rows(self, total: int) -> slice:
        """This rank's rows of ``total``."""
        sizes = self.sizes(total)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def share(self, total: int) -> float:
        """What this rank's rows are of ``total``."""
        return self.sizes(total)[self.rank] / total

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """The ranks' rows ``(total_r, ...)`` one after the other, ``(total, ...)``.

        A gradient flows into this rank's own rows, and stays here: where every rank computes the same loss of the
        result, each has the derivative by its rows, and nothing is counted twice.
        """
        if self.count == 1:
            return rows
        sizes = self.sizes(total)
        if len(rows) != sizes[self.rank]:
            raise ValueError(f"rank {self.rank} must have {sizes[self.rank]} of {total} rows, received {len(rows)}")
        sent = rows.detach()
        padded = sent.new_zeros((sizes[0], *sent.shape[1:]))  # what is exchanged has one size
        padded[: len(sent)] = sent
        parts = [part[:size] for part, size in zip(self._gathered(padded), sizes, strict=True)]
        parts[self.rank] = rows
        return torch.cat(parts)

    def gather_batch(self, batch: Batch, total: int) -> Batch:
        """The whole batch, of the ranks' rows of it."""

        def gathered(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else self.gather(tensor, total)

        return replace(
            batch,
            x=self.gather(batch.x, total),
            y=self.gather(batch.y, total),
            index=self.gather(batch.index, total),
            log_bayes=gathered(batch.log_bayes),
            labelled=gathered(batch.labelled),
            targets=gathered(batch.targets),
            extra={name: self.gather(batch.extra[name], total) for name in sorted(batch.extra)},
        )

    def gather_views(self, views: Views, total: int, shown: Sequence[str]) -> Views:
        """The views of the whole batch; of those other than the logits, only what is named in ``shown``."""

        def several(name: str) -> tuple[Tensor, ...]:
            return tuple(self.gather(view, total) for view in getattr(views, name)) if name in shown else ()

        pooled = self.gather(views.pooled, total) if "pooled" in shown else views.logits.new_empty(0)
        return Views(self.gather(views.logits, total), pooled, several("stages"), several("preacts"))

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up every parameter's gradient over the ranks; who has none on any rank is left without.

        One all-reduce for all parameters of a dtype. Which of them have a gradient is summed with them and read back,
        for an optimizer leaves those alone that have none.
        """
        if self.count == 1:
            return
        for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
            those = [parameter for parameter in parameters if parameter.dtype == dtype]
            there = those[0].new_tensor([float(parameter.grad is not None) for parameter in those])
            flat = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in those]
            bucket = torch.cat([*flat, there])
            self._add(bucket)
            *sums, there = torch.split(bucket, [*(p.numel() for p in those), len(those)])
            for parameter, gradient, ranks in zip(those, sums, there.tolist(), strict=True):
                parameter.grad = gradient.view_as(parameter) if ranks else None

    @torch.no_grad()
    def add_terms(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums of named numbers over the ranks, which have the same names in the same order."""
        if self.count == 1:
            return dict(terms)
        numbers = torch.stack([value.detach().double() for value in terms.values()])
        self._add(numbers)
        return {name: number.to(terms[name].dtype) for name, number in zip(terms, numbers, strict=True)}

    @torch.no_grad()
    def share_buffers(self, *modules: nn.Module) -> None:
        """Give all ranks the buffers that rank 0 has."""
        if self.count == 1:
            return
        for module in modules:
            for buffer in module.buffers():
                self._spread(buffer)

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` gives on rank 0, for all; called nowhere else.

        Raises:
            RuntimeError: on the other ranks, where it failed on rank 0 (which raises what it raised).
        """
        if self.count == 1:
            return make()
        if not self.first:
            failed, found = self._told(None)
            if failed:
                raise RuntimeError(f"rank 0 failed: {found}")
            result: T = found
            return result
        try:
            made = make()
        except Exception as error:
            self._told((True, f"{type(error).__name__}: {error}"))
            raise
        self._told((False, made))
        return made

    def check_alike(self, identity: str) -> None:
        """Refuse ranks that were given different parts.

        Raises:
            ValueError: on every rank, where one has another identity than rank 0.
        """
        if self.count == 1:
            return
        identities = self._all_told(identity)
        others = [rank for rank, other in enumerate(identities) if other != identities[0]]
        if others:
            raise ValueError(
                f"all ranks must be given the same network, data, method, recipe and seeds: "
                f"ranks {others} differ from rank 0"
            )

    # ------------------------------------------------------------------------- what the processes say to each other

    def _add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the ranks."""
        dist.all_reduce(tensor)

    def _gathered(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, of one shape."""
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(parts, tensor)
        return parts

    def _spread(self, tensor: Tensor) -> None:
        """Replace a tensor by that of rank 0."""
        dist.broadcast(tensor, 0)

    def _told(self, value: Any) -> Any:
        """What rank 0 says."""
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def _all_told(self, value: Any) -> list[Any]:
        """What every rank says."""
        box = [None] * self.count
        dist.all_gather_object(box, value)
        return box


@contextlib.contextmanager
def synchronised(*modules: nn.Module) -> Iterator[None]:
    """Batch normalisation over the rows of all ranks while it lasts; the layers are as they were afterwards.

    Parameters and running averages are shared with the layers that stand in for them, not copied.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for module in modules:
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                    replaced.append((parent, name, child))
                    setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for parent, name, child in replaced:
            child.train(getattr(parent, name).training)
            setattr(parent, name, child)
