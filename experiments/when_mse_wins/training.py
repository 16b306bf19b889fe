"""Points of a draw, and trainings side by side: each job its own data, loss and rate, in groups that fill a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bcpd.data import InMemory
from bcpd.distill import Each, Method
from bcpd.measure.pointwise import POINTWISE, pointwise
from bcpd.mixtures import Mixture
from bcpd.nets import Net, build
from bcpd.seeds import derive
from bcpd.train import MeasuredSets, PathMetrics, Recipe, fit
from bcpd.train import plan as replica_plan
from bcpd.train.split import split
from experiments.when_mse_wins.spec import Cell, Protocol

__all__ = ["Draw", "Job", "State", "Trained", "distances", "draw_of", "network", "train"]

SETS = ("transfer", "validation", "fresh")


@dataclass(frozen=True)
class Draw:
    """One data draw of a cell: the unit of every interval.

    Attributes:
        train, validation: labelled points. transfer: the student's inputs, ``train`` and then the unlabelled ones.
        select: points that choose path minima. fresh: those that every number is reported on.
        root: seed of everything random in the draw.
    """

    train: InMemory
    validation: InMemory
    transfer: InMemory
    select: InMemory
    fresh: InMemory
    root: int


def draw_of(mixture: Mixture, protocol: Protocol, cell: Cell, purpose: str, number: int) -> Draw:
    """Draw ``number`` of ``purpose`` (``main`` or ``tuning``)."""
    root = derive(protocol.seed, "when-mse-wins", purpose, number)
    trained, held = protocol.sizes(cell)

    def points(name: str, count: int, dtype: torch.dtype = torch.float32) -> InMemory:
        return InMemory.from_mixture(mixture, count, derive(root, f"{name} points"), dtype=dtype)

    train = points("train", trained)
    transfer = _joined(train, points("unlabelled", cell.unlabelled)) if cell.unlabelled else train
    # fit halves what it is given: the first half chooses, the second stays unused here
    select = points("select", 2 * protocol.select)
    return Draw(train, points("validation", held), transfer, select, points("fresh", protocol.fresh), root)


def _joined(first: InMemory, second: InMemory) -> InMemory:
    assert first.log_bayes is not None
    assert second.log_bayes is not None
    return InMemory(
        torch.cat([first.x, second.x]),
        torch.cat([first.y, second.y]),
        num_classes=first.num_classes,
        log_bayes=torch.cat([first.log_bayes, second.log_bayes]),
        dtype=first.dtype,
    )


@dataclass(frozen=True)
class Job:
    """One model to train.

    Attributes:
        points: what it learns from, with targets where its method wants them.
        seed: of initialisation and batch order.
    """

    draw: Draw
    points: InMemory
    method: Method
    rate: float
    seed: int
    decay: float = 0.0


@dataclass(frozen=True)
class State:
    """A model at one checkpoint: log-probabilities ``(n, K)`` in float64 on sets of its draw; empty where not asked."""

    epoch: int | None
    transfer: Tensor
    validation: Tensor
    fresh: Tensor

    def at(self, temperature: float) -> State:
        """The same model, tempered."""
        cooled = ((rows / temperature).log_softmax(-1) for rows in (self.transfer, self.validation, self.fresh))
        return State(self.epoch, *cooled)


@dataclass
class Trained:
    """What is kept of a job: states by checkpoint, and validation metrics at them."""

    states: dict[str, State] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def network(protocol: Protocol, cell: Cell, seeds: Sequence[int]) -> Net:
    """A network of the cell for every seed."""
    return build(
        "mlp", num_classes=cell.labels, input_shape=(protocol.dimension,), hidden=cell.hidden, seed=list(seeds)
    )


def train(
    protocol: Protocol,
    cell: Cell,
    jobs: Sequence[Job],
    checkpoints: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    sets: Sequence[str] = SETS,
) -> list[Trained]:
    """Train every job, in groups.

    Args:
        checkpoints: states to keep log-probabilities of. Path minima are looked for if one of them is asked for.
        sets: of the draw, that log-probabilities are wanted on.
    """
    select = any(name.startswith("path_minimum") for name in checkpoints)
    examples = max((len(job.points) + len(job.draw.validation) for job in jobs), default=1)
    groups = replica_plan(network(protocol, cell, [0]), max(len(jobs), 1), examples).groups
    found: list[Trained] = []
    for group in groups:
        found.extend(_train_group(protocol, cell, [jobs[i] for i in group], checkpoints, select, dtype, sets))
    return found


def _train_group(
    protocol: Protocol,
    cell: Cell,
    jobs: Sequence[Job],
    checkpoints: Sequence[str],
    select: bool,
    dtype: torch.dtype,
    sets: Sequence[str],
) -> list[Trained]:
    seeds = [job.seed for job in jobs]
    source, share = _laid_out(jobs, dtype)
    held_out = _stacked([job.draw.select for job in jobs], dtype) if select else None
    recipe = Recipe(
        epochs=cell.epochs,
        learning_rate=tuple(job.rate for job in jobs),
        weight_decay=tuple(job.decay for job in jobs),
        batch_size=protocol.batch_size,
        validation=share,
    )
    fitted = fit(
        network(protocol, cell, seeds).to(dtype),
        source,
        Each([job.method for job in jobs]),
        recipe,
        seed=seeds,
        held_out=held_out,
        metrics=_without_fresh,
    )
    found = [Trained() for _ in jobs]
    for checkpoint in fitted.states:
        for kept, metrics in zip(found, fitted.at(checkpoint), strict=True):
            kept.metrics[checkpoint] = metrics
    for checkpoint in checkpoints:
        net = fitted.network(checkpoint)
        tables = {
            name: _log_probabilities(
                net, fitted.method, torch.stack([getattr(job.draw, name).x for job in jobs]).to(dtype)
            )
            for name in sets
        }
        for place, kept in enumerate(found):
            rows = {name: tables[name][place] if name in tables else torch.empty(0) for name in SETS}
            kept.states[checkpoint] = State(fitted.epochs[checkpoint][place], **rows)
    return found


def _without_fresh(sets: MeasuredSets) -> PathMetrics:
    """Along the path only what chooses epochs is measured; the rest afterwards, on points of its own."""
    return PathMetrics(sets._replace(fresh=None))


@torch.no_grad()
def _log_probabilities(net: torch.nn.Module, method: Method, x: Tensor) -> Tensor:
    rows = max(1, 2048 // len(x))
    return torch.cat([method.log_probabilities(net(part).logits.double()) for part in torch.split(x, rows, 1)], 1)


def _laid_out(jobs: Sequence[Job], dtype: torch.dtype) -> tuple[InMemory, float]:
    """A replica a job, laid out so that the split of ``fit`` gives training and validation points back."""
    first = jobs[0]
    trained, held = len(first.points), len(first.draw.validation)
    share = held / (trained + held)
    length = torch.zeros(trained + held, dtype=torch.int64)
    blank = InMemory(torch.zeros(trained + held, 1), length, num_classes=2)
    train_index, validation_index = split(blank, share, [job.seed for job in jobs], len(jobs))
    assert validation_index is not None
    x = torch.empty((len(jobs), trained + held, *first.points.shape), dtype=dtype)
    y = torch.empty((len(jobs), trained + held), dtype=torch.int64)
    targets = None
    if first.points.targets is not None:
        targets = torch.full((*y.shape, first.points.num_classes), 1 / first.points.num_classes, dtype=dtype)
    for replica, job in enumerate(jobs):
        for part, index in ((job.points, train_index[replica]), (job.draw.validation, validation_index[replica])):
            x[replica, index], y[replica, index] = part.x.to(dtype), part.y
            if targets is not None and part.targets is not None:
                targets[replica, index] = part.targets.to(dtype)
    return InMemory(x, y, num_classes=first.points.num_classes, targets=targets, dtype=dtype), share


def _stacked(parts: Sequence[InMemory], dtype: torch.dtype) -> InMemory:
    rows = [part.log_bayes for part in parts if part.log_bayes is not None]
    return InMemory(
        torch.stack([part.x for part in parts]),
        torch.stack([part.y for part in parts]),
        num_classes=parts[0].num_classes,
        log_bayes=torch.stack(rows),
        dtype=dtype,
    )


def distances(log_bayes: Tensor, log_q: Tensor) -> dict[str, float]:
    """Means of the pointwise distances to p*; nan where the network returned nan."""
    values = torch.where(log_q.isnan().any(-1, keepdim=True), torch.nan, pointwise(log_bayes, log_q)).mean(0)
    return dict(zip(POINTWISE, values.tolist(), strict=True))
