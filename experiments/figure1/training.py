"""Trainings of Figure 1 side by side: the points of a draw, students of given rows, teachers and their states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from bcpd import simplex
from bcpd.data import InMemory
from bcpd.distill import Each, Supervised
from bcpd.nets import Net, build
from bcpd.seeds import derive
from bcpd.tensors import log_softmax
from bcpd.train import Fitted, Progress, Recipe, fit
from bcpd.train.split import halves, split
from experiments.figure1.spec import Figure1, short

__all__ = [
    "Draw",
    "Teachers",
    "draw_of",
    "fresh_distances",
    "log_probabilities",
    "network",
    "outcomes_of",
    "source_of",
    "train_students",
    "train_teachers",
    "training_seed",
]

OUTCOMES = ("best_score", "best_accuracy", "last")


@dataclass(frozen=True)
class Draw:
    """Points of one data draw: what is trained on, what selects epochs, what outcomes are measured on."""

    train: InMemory
    validation: InMemory
    test: InMemory

    @property
    def log_bayes(self) -> Tensor:
        """log p* at the training points."""
        rows = self.train.log_bayes
        assert rows is not None
        return rows

    @cached_property
    def test_bayes(self) -> Tensor:
        """p* at the test points."""
        rows = self.test.log_bayes
        assert rows is not None
        return rows.exp()


@lru_cache(maxsize=4)
def draw_of(spec: Figure1, world: str, purpose: str, number: int) -> Draw:
    """The points of draw ``number``, by its own seed; ``purpose`` is ``released``, ``separating`` or ``tuning``."""
    root = derive(spec.seed, "figure1", "data", world, purpose, number)
    if purpose == "released":
        train = round(spec.share * spec.points)
        sizes = (train, train, spec.points - 2 * train)
    else:
        sizes = (spec.contaminated_train if world == "contaminated" else spec.train, spec.validation, spec.test)
    mixture = spec.world(world)
    return Draw(*(InMemory.from_mixture(mixture, n, derive(root, f"part {i}")) for i, n in enumerate(sizes)))


def training_seed(spec: Figure1, purpose: str, *coordinates: int | str) -> int:
    """Of initialisation and batch order; students of one draw and nested seed share it, whatever their targets."""
    return derive(spec.seed, "figure1", "training", purpose, *coordinates)


def source_of(draws: Sequence[Draw], seeds: Sequence[int], targets: Tensor | None = None) -> tuple[InMemory, float]:
    """A replica for every draw and seed, and the validation share: ``fit`` will split it into the draw's own parts.

    ``fit`` holds back an example by its place and the seed. Here the training and validation points of a draw are laid
    out so that this split gives them back: the points are the draw's, only initialisation and order are the seed's.

    Args:
        targets: ``(R, n, K)`` rows for the training points.
    """
    first = draws[0]
    held, trained = len(first.validation), len(first.train)
    share = held / (held + trained)
    train_index, validation_index = split(_joined(first), share, seeds, len(seeds))
    assert validation_index is not None
    x = first.train.x.new_empty((len(seeds), held + trained, *first.train.shape))
    y = first.train.y.new_empty((len(seeds), held + trained))
    rows = None if targets is None else targets.new_full((*y.shape, targets.shape[-1]), 1 / targets.shape[-1])
    for replica, draw in enumerate(draws):
        for part, index in ((draw.train, train_index[replica]), (draw.validation, validation_index[replica])):
            x[replica, index], y[replica, index] = part.x, part.y
        if rows is not None and targets is not None:
            rows[replica, train_index[replica]] = targets[replica]
    return InMemory(x, y, num_classes=first.train.num_classes, targets=rows), share


def _joined(draw: Draw) -> InMemory:
    parts = (draw.train, draw.validation)
    return InMemory(
        torch.cat([part.x for part in parts]),
        torch.cat([part.y for part in parts]),
        num_classes=draw.train.num_classes,
    )


def network(spec: Figure1, draw: Draw, seeds: Sequence[int], hidden: Sequence[int] | None = None) -> Net:
    """A perceptron a seed."""
    return build(
        "mlp",
        num_classes=draw.train.num_classes,
        input_shape=draw.train.shape,
        hidden=spec.hidden if hidden is None else hidden,
        seed=list(seeds),
    )


def train_students(
    spec: Figure1,
    draws: Sequence[Draw],
    log_targets: Tensor,
    seeds: Sequence[int],
    rate: float | Sequence[float],
    epochs: int,
    checkpoints: Sequence[str] = OUTCOMES,
) -> list[dict[str, Any]]:
    """Train a student on each table of rows ``(R, n, K)``, at one rate or each at its own; outcomes on test points."""
    source, share = source_of(draws, seeds, log_targets.exp().to(draws[0].train.dtype))
    rates = rate if isinstance(rate, float) else tuple(rate)
    recipe = Recipe(epochs=epochs, learning_rate=rates, batch_size=spec.batch_size, validation=share)
    fitted = fit(network(spec, draws[0], seeds), source, Supervised("ce", target="given"), recipe, seed=list(seeds))
    return outcomes_of(fitted, draws, checkpoints)


@torch.no_grad()
def log_probabilities(net: nn.Module, x: Tensor) -> Tensor:
    """Log-softmax ``(R, n, K)`` in float64 at points ``(R, n, d)``."""
    return log_softmax(torch.cat([net(part).logits for part in torch.split(x, 500, 1)], 1).double())


def fresh_distances(net: nn.Module, draws: Sequence[Draw]) -> list[dict[str, float]]:
    """Accuracy (mean p* at the prediction), MSE and KL to p* of every replica on the test points of its draw.

    A network that returns nan predicts nothing: its accuracy is nan too.
    """
    sums = torch.zeros(len(draws), 3, dtype=torch.float64)
    length = len(draws[0].test)
    for start in range(0, length, 2000):
        part = slice(start, start + 2000)
        log_q = log_probabilities(net, torch.stack([draw.test.x[part] for draw in draws]))
        p = torch.stack([draw.test_bayes[part] for draw in draws])
        chosen = p.gather(-1, log_q.argmax(-1, keepdim=True))[..., 0]
        kl = simplex.cross_entropy_from_log(p, log_q) - simplex.entropy(p)
        mse = simplex.squared_distance(log_q.exp(), p)
        sums += torch.stack([torch.where(mse.isnan(), torch.nan, chosen), mse, kl], -1).sum(1)
    names = ("accuracy", "mse", "kl")
    return [{name: short(value) for name, value in zip(names, row, strict=True)} for row in (sums / length).tolist()]


def outcomes_of(fitted: Fitted, draws: Sequence[Draw], checkpoints: Sequence[str] = OUTCOMES) -> list[dict[str, Any]]:
    """:func:`fresh_distances` of students at every checkpoint, with its epoch."""
    rows: list[dict[str, Any]] = [{} for _ in draws]
    for checkpoint in checkpoints:
        found = fresh_distances(fitted.network(checkpoint), draws)
        for row, distances, epoch in zip(rows, found, fitted.epochs[checkpoint], strict=True):
            row |= {f"student_{name}_{checkpoint}": value for name, value in distances.items()}
            row[f"epoch_{checkpoint}"] = epoch
    return rows


@dataclass(frozen=True)
class Teachers:
    """Teachers that were trained side by side.

    Attributes:
        fitted: the training.
        states: by epoch of ``spec.snapshots``, and at ``best_score``.
        label_probability: mean probability of the training labels, by epoch and replica; the first is epoch 0.
        initial: distances to p* of the initial networks on the fresh half of the held-out points.
    """

    fitted: Fitted
    states: dict[str, dict[str, Tensor]]
    label_probability: list[list[float]]
    initial: list[dict[str, float]]


def train_teachers(
    spec: Figure1,
    draws: Sequence[Draw],
    held_out: InMemory,
    seeds: Sequence[int],
    losses: Sequence[str],
    rates: Sequence[float],
    epochs: int,
    hidden: Sequence[int] | None = None,
) -> Teachers:
    """Teachers side by side: a draw, seed, loss and rate each."""
    source, share = source_of(draws, seeds)
    net = network(spec, draws[0], seeds, hidden)
    x = torch.stack([draw.train.x for draw in draws])
    y = torch.stack([draw.train.y for draw in draws]).unsqueeze(-1)
    states: dict[str, dict[str, Tensor]] = {}

    def label_probability() -> list[float]:
        return [float(value) for value in log_probabilities(net, x).exp().gather(-1, y).mean((1, 2))]

    def look(state: Progress) -> None:
        lengths.append(label_probability())
        if state.epoch in spec.snapshots:
            states[str(state.epoch)] = {key: value.detach().clone() for key, value in net.state_dict().items()}

    lengths = [label_probability()]
    initial = _fresh_half(net, held_out)
    fitted = fit(
        net,
        source,
        Each([Supervised(loss) for loss in losses]),
        Recipe(epochs, tuple(rates), batch_size=spec.batch_size, validation=share),
        seed=list(seeds),
        held_out=held_out,
        progress=look,
    )
    states["best_score"] = fitted.states["best_score"]
    return Teachers(fitted, states, lengths, initial)


def _fresh_half(net: nn.Module, held_out: InMemory) -> list[dict[str, float]]:
    """MSE and KL to p* on the half of the held-out points that ``fit`` reports ``fresh_*`` on."""
    index = halves(held_out)[1][0]
    assert held_out.log_bayes is not None
    log_p, log_q = held_out.log_bayes[:, index].double(), log_probabilities(net, held_out.x[:, index])
    mse = simplex.squared_distance(log_p.exp(), log_q.exp()).mean(-1)
    kl = simplex.kl_from_log(log_p, log_q).mean(-1)
    return [{"fresh_mse": short(a), "fresh_kl": short(b)} for a, b in zip(mse.tolist(), kl.tolist(), strict=True)]
