"""Whether fit does the baseline's work, seen before it is timed.

The images that :func:`bcpd.fit` shows, in its order and views, are made with Pillow and trained on by the baseline's
own loop, in float32; fit must end where that does, up to rounding. What rounding does depends on the network: a ReLU
whose input changes its sign is a jump of the gradient, and a freshly initialised network of 56 layers multiplies such
jumps until, in bfloat16, nothing of its gradient is left. So the networks that are compared are settled first: batch
norm's shifts are 2, where few inputs of a ReLU are near 0, and their last layer is small, so that no softmax saturates.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from statistics import median

import torch
from torch import Tensor, nn

from bcpd.bench.launches import CAPTURED_IN
from bcpd.bench.real_work import Cell, Variant, Work
from bcpd.bench.repdistiller_loop import Collated, Pictures, train_epoch
from bcpd.data import view_numbers
from bcpd.data.augment import PADDING
from bcpd.seeds import derive, generator
from bcpd.train import Progress, TeacherTable
from bcpd.train.execution import EAGER, Precision
from bcpd.train.split import order_of_epoch

__all__ = ["TOLERANCE", "Checks", "gap"]

RATE = 1e-3
"""Learning rate of the trainings that are compared: at the recipe's, rounding errors grow faster from step to step."""

SHIFT, HEAD = 2.0, 0.02
"""Of a settled network: batch norm's biases, and the factor of the last layer's weights."""

TOLERANCE: Mapping[Precision, float] = {"float32": 1e-4, "tf32": 0.01, "bfloat16": 0.05}
"""Of :func:`gap`; another order and other views of the same images give 0.1 to 1."""


class Checks:
    """Trainings of a few steps.

    Args:
        work: whose images, device and batches they have.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self._states: dict[tuple[str, int, int], list[dict[str, Tensor]]] = {}
        self._teachers: dict[str, nn.Module] = {}

    def check(self, cell: Cell, variant: Variant) -> float:
        """See that a variant ends where the baseline's steps do; the largest :func:`gap` of its first and last run.

        Raises:
            ValueError: a gap of more than :data:`TOLERANCE`.
        """
        work, ends = self.work, dict[int, dict[str, Tensor]]()
        count = 2 * work.batch + work.batch // 4
        epochs = CAPTURED_IN if variant.execution.graphs else 1
        nets = work.nets(cell, variant)
        for net in nets:
            _settle(net)

        def progress(run: int, reported: Progress) -> None:
            if reported.epoch == epochs:
                ends[run] = _copied(nets[run])

        source, teacher = work.source(count), self._teacher(cell, torch.channels_last)
        if teacher is not None and variant.table:
            teacher = TeacherTable(teacher, source)
            if variant.execution.graphs:
                teacher.fill()
        work.train(cell, variant, nets, source, teacher, epochs, progress, rate=RATE)
        learned = [name for name, _ in nets[0].named_parameters()]
        return max(self._compare(cell, variant, ends[run], count, epochs, run, learned) for run in {0, len(nets) - 1})

    def _compare(
        self,
        cell: Cell,
        variant: Variant,
        state: Mapping[str, Tensor],
        count: int,
        epochs: int,
        run: int,
        learned: Sequence[str],
    ) -> float:
        reference = self._reference(cell, count, epochs, run)
        found, precision = gap(state, reference[epochs], reference[0], learned), variant.execution.precision
        if not found <= TOLERANCE[precision]:
            raise ValueError(
                f"the weights of {cell.name} ({variant.name}, seed {run}, {self.work.device}) differ after {epochs} "
                f"epoch(s) from those of the baseline's steps by {found:.2g} of their way, more than "
                f"{TOLERANCE[precision]:g}: it does other work, and no time is taken of it"
            )
        return found

    def _reference(self, cell: Cell, count: int, epochs: int, seed: int) -> list[dict[str, Tensor]]:
        """The initial state and those after each epoch of the baseline's steps, at least ``epochs`` of them."""
        key = (cell.name, count, seed)
        if len(self._states.get(key, ())) <= epochs:
            self._states[key] = self._baseline_states(cell, count, epochs, seed)
        return self._states[key]

    def _teacher(self, cell: Cell, layout: torch.memory_format = torch.contiguous_format) -> nn.Module | None:
        """The cell's teacher, its moments those of some images: at the initial ones its logits are thousands."""
        if cell.teacher is None:
            return None
        if cell.teacher not in self._teachers:
            here = Work(self.work.images, "cpu", self.work.batch, self.work.threads)
            net = here.network(cell.teacher, seed=1)
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0
            with torch.no_grad():
                net(here.source(self.work.batch).inputs(torch.arange(self.work.batch)))
            self._teachers[cell.teacher] = net.eval().requires_grad_(False)
        net = copy.deepcopy(self._teachers[cell.teacher])
        return net.to(device=self.work.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def _baseline_states(self, cell: Cell, count: int, epochs: int, seed: int) -> list[dict[str, Tensor]]:
        work = self.work
        torch.set_num_threads(work.threads)
        net, pictures = work.network(cell.student), work.pictures(count)
        teacher, optimizer = self._teacher(cell), work.optimizer(cell, net, RATE)
        _settle(net)
        # the order in which fit holds its examples before it shuffles them
        index = torch.randperm(count, generator=generator(seed, "split"))
        states = [_copied(net)]
        for epoch in range(epochs):
            order = order_of_epoch(index, [seed], "main", epoch)
            views = view_numbers(derive(seed, "augment"), epoch, order)
            parts = zip(torch.split(order, work.batch), torch.split(views, work.batch), strict=True)
            with EAGER.products(torch.device(work.device)):
                train_epoch(net, teacher, optimizer, [_collated(pictures, *part) for part in parts])
            states.append(_copied(net))
        return states


@torch.no_grad()
def _settle(net: nn.Module) -> None:
    """Bring a network where rounding stays small; see the module."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.fill_(SHIFT)
        elif isinstance(module, nn.Linear):
            module.weight.mul_(HEAD)


def _collated(pictures: Pictures, index: Tensor, views: Tensor) -> Collated:
    """The pictures at an index as the views of :mod:`bcpd.data.augment` show them."""
    offsets = 2 * PADDING + 1
    shown = [
        pictures.shown(place, view // 2 // offsets, view // 2 % offsets, view % 2 == 1)
        for place, view in zip(index.tolist(), views.tolist(), strict=True)
    ]
    return torch.stack(shown), torch.tensor([pictures.labels[place] for place in index.tolist()]), index


def _copied(net: nn.Module) -> dict[str, Tensor]:
    """Its state on the CPU: what is kept there is in no measurement of a device's memory."""
    return {name: value.detach().to("cpu", copy=True) for name, value in net.state_dict().items()}


def gap(
    state: Mapping[str, Tensor], reference: Mapping[str, Tensor], initial: Mapping[str, Tensor], learned: Sequence[str]
) -> float:
    r"""How far a state is from the reference, relative to how far that has moved.

    :math:`\|w - w'\| / \|w' - w_0\|`: the median over the parameters (``learned``), or the value over all parameters
    together or over all running moments together, if that is larger; ``nan`` where a weight is.
    """

    def ratio(names: Sequence[str]) -> float:
        apart, moved = (
            sum(float((a[name] - b[name]).double().square().sum()) for name in names)
            for a, b in ((state, reference), (reference, initial))
        )
        return (apart / moved) ** 0.5 if moved else float(apart > 0)

    moments = [name for name in reference if name not in learned and reference[name].is_floating_point()]
    gaps = [median(ratio([name]) for name in learned), ratio(learned), ratio(moments)]
    return float(torch.tensor(gaps, dtype=torch.float64).amax())
