"""Trainings that several ranks share, each as a function of nothing: what one process does, two must do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from dummy_methods import Adapter, Bank, Everything, Rotated, label_term
from small_world import K, mlp, world
from torch import Tensor, nn

import bcpd
from bcpd.data import Batch, InMemory
from bcpd.distill import CC, CRD, DKD, HSAKD, KD, PKT, RKD, SP, VID, FitNet, Method, Supervised
from bcpd.nets import Views
from bcpd.train import Fitted, Recipe

RECIPE = Recipe(epochs=2, learning_rate=0.1, batch_size=8, momentum=0.9, weight_decay=0.01, validation=0.25)
ADAM = Recipe(epochs=2, learning_rate=0.02, batch_size=8, optimizer="adam", validation=0.25)
SIZE = 39
"""29 of them are trained on: the last batch of an epoch has 5 examples, so that slices are uneven."""


class Conv(nn.Module):
    """Two convolutions, with or without batch normalisation between them."""

    def __init__(self, seed: int, norm: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3, stride=2, padding=1)
            self.head = nn.Linear(4, K)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.double()

    def forward(self, x: Tensor) -> Views:
        before = self.norm(self.first(x))
        after = self.second(before.relu())
        pooled = after.relu().mean((-2, -1))
        return Views(self.head(pooled), pooled, (before.relu(), after.relu()), (before, after))


class Dropping(nn.Module):
    """An mlp whose inputs are dropped out in training mode."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net, self.drop = mlp(seed), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Views:
        views: Views = self.net(self.drop(x))
        return views


class Relational(Method):
    """Pairwise squared distances of the pooled features, over their mean: one number a batch."""

    needs = frozenset({"student.pooled", "teacher.pooled", "labels"})

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        assert t is not None
        assert batch.x.shape[0] == s.pooled.shape[0] == t.pooled.shape[0]

        def relative(features: Tensor) -> Tensor:
            squared = (features[:, None] - features).square().sum(-1)
            return squared / squared.mean()

        return {"label": label_term(batch, s), "pairs": (relative(s.pooled) - relative(t.pooled)).square().mean()}


class Whole(Everything):
    """Says all that it looks at; noise on the inputs, a phase, a map, a memory and a warm-up."""

    needs = Everything.needs | {"teacher.pooled"}


class NormedAdapter(Adapter):
    """Its features are normalised over the batch."""

    def adapt(self, student: Views, teacher: Views | None) -> None:
        super().adapt(student, teacher)
        self.norm = nn.BatchNorm1d(student.pooled.shape[-1], dtype=student.pooled.dtype)

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        return super().loss(batch, s._replace(pooled=self.norm(s.pooled)), t)


def apart(method: Method) -> Method:
    """The same method, which says that no examples meet in its loss."""
    method.couples = False
    return method


def joined(method: Method) -> Method:
    """The same method, which says that they do."""
    method.couples = True
    return method


def images(**options: Any) -> InMemory:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, 1, 4, 4, generator=stream, dtype=torch.float64)
    return InMemory(x, torch.arange(SIZE) % K, num_classes=K, dtype=torch.float64, **options)


def partly() -> Tensor:
    """Labels on two thirds of the points, so that slices differ in how many they have."""
    return torch.arange(SIZE) % 3 > 0


def branch(stage: int, outputs: int, seed: int) -> nn.Module:
    """An auxiliary classifier of the networks above, without batch normalisation."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3 + stage, outputs))


def hsakd(**options: Any) -> Fitted:
    return run(HSAKD(branch, branch, head_epochs=2), Conv(1), images(**options), Conv(5))


def run(
    method: Method,
    net: nn.Module | None = None,
    source: InMemory | None = None,
    teacher: nn.Module | None = None,
    recipe: Recipe = RECIPE,
    **options: Any,
) -> Fitted:
    net = mlp(1) if net is None else net
    source = world(SIZE) if source is None else source
    return bcpd.fit(net, source, method, recipe, seed=3, teacher=teacher, **options)


RUNS: dict[str, Callable[[], Fitted]] = {
    "supervised": lambda: run(apart(Supervised("ce")), held_out=world(20, 3)),
    "supervised, gathered": lambda: run(joined(Supervised("mse")), recipe=ADAM),
    "partly labelled": lambda: run(apart(Supervised("ce")), source=world(SIZE, labelled=partly())),
    "kd, partly labelled": lambda: run(apart(KD(2.0)), source=world(SIZE, labelled=partly()), teacher=mlp(5)),
    "relational": lambda: run(Relational(), teacher=mlp(5)),
    "relational on images": lambda: run(Relational(), Conv(1), images(augment="flip"), Conv(5)),
    "memory": lambda: run(Bank(SIZE)),
    "adapter": lambda: run(apart(Adapter()), teacher=mlp(5, (9,))),
    "adapter, gathered": lambda: run(Adapter(), teacher=mlp(5, (9,)), recipe=ADAM),
    "normalised adapter": lambda: run(NormedAdapter(), teacher=mlp(5, (9,))),
    "rotations": lambda: run(Rotated(), Conv(1), images(), Conv(5)),
    "everything": lambda: run(Whole(SIZE), teacher=mlp(5, (9,))),
    "crd": lambda: run(CRD(world(SIZE).y, negatives=5, dimension=6), teacher=mlp(5, (9,))),
    "hsakd": hsakd,
}
"""Their results must not depend on how many ranks there are."""

MORE_RUNS: dict[str, Callable[[], Fitted]] = {
    "p* as the target": lambda: run(apart(Supervised("ce", target="bayes"))),
    "kd on images": lambda: run(apart(KD(2.0)), Conv(1), images(augment="flip"), Conv(5)),
    "hsakd, partly labelled": lambda: hsakd(labelled=partly()),
    "cc": lambda: run(CC(dimension=5), teacher=mlp(5, (9,))),
    "dkd": lambda: run(DKD(warm_up=1), source=world(SIZE, labelled=partly()), teacher=mlp(5)),
    "fitnet": lambda: run(FitNet(weight=1.0, layer=1), Conv(1), images(), Conv(5)),
    "pkt": lambda: run(PKT(weight=100.0), teacher=mlp(5, (9,))),
    "rkd": lambda: run(RKD(), teacher=mlp(5, (9,))),
    "sp": lambda: run(SP(weight=10.0), Conv(1), images(augment="flip"), Conv(5)),
    "vid": lambda: run(VID(), Conv(1), images(augment="flip"), Conv(5)),
}
"""Further ones, for the test that takes its time."""


def gap(left: Fitted, right: Fitted) -> float:
    """The largest difference between two results, in anything: weights, learned parts and memories, numbers."""
    pairs = [(left.states[name], right.states[name]) for name in left.states]
    pairs.append((left.method.state_dict(), right.method.state_dict()))
    assert left.states.keys() == right.states.keys()
    assert len(left.history) == len(right.history)
    found = [0.0 if left.epochs == right.epochs else math.inf]
    for one, other in pairs:
        assert one.keys() == other.keys()
        found += [float((one[key] - other[key]).abs().max()) for key in one]
    for row, expected in zip(left.history, right.history, strict=True):
        assert list(row) == list(expected)
        found += [abs(a - b) for key in row if key != "epoch" for a, b in zip(row[key], expected[key], strict=True)]
    return max(found)
