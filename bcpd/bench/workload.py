"""What the toy benchmark trains: students of the synthetic mixture, for the sequential loops and for fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bcpd.bench.released import BATCH_SIZE, LEARNING_RATE, MOMENTUM, Order, Points
from bcpd.bench.released_metrics import ReleasedMetrics
from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.mixtures import paper_toy
from bcpd.nets import build
from bcpd.nets.mlp import MLP
from bcpd.seeds import derive, generator
from bcpd.train import Fitted, PathMetrics, Progress, Recipe, fit
from bcpd.train.split import order_of_epoch, split

__all__ = ["INCLUDES", "Includes", "Students", "Workload", "World", "known_bayes", "mixed_rows"]

Includes = Literal["train", "path", "released"]
INCLUDES: dict[Includes, str] = {
    "train": "the steps",
    "path": "the steps and, after each epoch, fit's own metrics at held-out points with known p*",
    "released": "the steps and, after each epoch, the released metrics at the training and the validation points, and "
    "a copy of the best model",
}
"""What a time includes; two times are compared only where it is the same."""


@dataclass(frozen=True)
class Workload:
    """Sizes of a training. The defaults are the released ones: of 5,000 training points 156 whole batches are seen.

    Attributes:
        num_classes, dimension, hidden: K, d, and the width H of both hidden layers.
        training: points that are trained on, whole batches of 32.
        validation, path: points of the released metrics, and held-out ones of fit's own.
    Raises:
        ValueError: training points that are no whole batches.
    """

    num_classes: int = 10
    dimension: int = 30
    hidden: int = 128
    training: int = 4992
    validation: int = 5000
    path: int = 3000

    def __post_init__(self) -> None:
        if self.training < BATCH_SIZE or self.training % BATCH_SIZE:
            raise ValueError(f"training must be whole batches of {BATCH_SIZE} points, received {self.training}")

    @property
    def forward_flops(self) -> int:
        """Of one point: two for each of the (d + H + K) H weights."""
        return 2 * self.hidden * (self.dimension + self.hidden + self.num_classes)

    def flops(self, includes: Includes = "train") -> int:
        """Of one model and epoch, in its matrix products; the first layer's input needs no gradient."""
        step = 3 * self.forward_flops - 2 * self.hidden * self.dimension
        evaluated = {"train": 0, "path": self.path, "released": self.training + self.validation}[includes]
        return self.training * step + evaluated * self.forward_flops


def known_bayes(source: InMemory) -> Tensor:
    """p* at the points of a source, ``(N, K)`` float64."""
    if source.log_bayes is None:
        raise ValueError("the points must have a known p*, received a source without")
    return source.log_bayes.exp()


def mixed_rows(source: InMemory, label_weight: float, bayes_weight: float) -> Tensor:
    """``a e_y + b p* + (1 - a - b) / K`` at the points of a source, ``(N, K)`` float64.

    One-hot labels are (1, 0), labels smoothed by 0.1 (0.9, 0), the ground truth (0, 1), a grey dot (u, 1 - u).
    """
    one_hot = functional.one_hot(source.y, source.num_classes)
    uniform = (1 - label_weight - bayes_weight) / source.num_classes
    return label_weight * one_hot + bayes_weight * known_bayes(source) + uniform


class World:
    """One draw of a workload: training and validation points, held-out ones, and a test set.

    Args:
        workload: the sizes.
        test: points of the test set, at least 1.
        dtype, device: of the points.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        test: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        mixture = paper_toy(workload.num_classes, workload.dimension)
        counts = {"train": workload.training + workload.validation, "path": workload.path, "test": test}
        self.workload = workload
        self.dtype, self.device = dtype, torch.device(device)
        self.source, self.held_out, self.test = (
            InMemory.from_mixture(mixture, count, derive(0, "bench", part), dtype=dtype).to(self.device)
            for part, count in counts.items()
        )
        self.validation_share = workload.validation / len(self.source)

    def points(self, rows: Tensor) -> Points:
        """What a sequential loop reads, with targets ``rows`` ``(N, K)``."""
        source = self.source
        return Points(source.x, source.y, rows.to(self.dtype), known_bayes(source).to(self.dtype))

    def test_points(self) -> Points:
        """The test set for a sequential loop; p* stands for the targets too."""
        bayes = known_bayes(self.test).to(self.dtype)
        return Points(self.test.x, self.test.y, bayes, bayes)


class Students:
    r"""R students in one world; the seed of a student is that of its network, its split and its batch orders.

    Args:
        world: the points.
        seeds: one a student.
        rows: targets ``(R, N, K)``; by default student r learns a grey dot, :math:`u_r e_y + (1 - u_r) p^*` with
            :math:`u_r` uniform on (0, 1), drawn from its seed.
    """

    def __init__(self, world: World, seeds: Sequence[int], rows: Tensor | None = None) -> None:
        self.world, self.seeds = world, list(seeds)
        if rows is None:
            shares = [float(torch.rand((), generator=generator(seed, "bench share"))) for seed in self.seeds]
            rows = torch.stack([mixed_rows(world.source, share, 1 - share) for share in shares])
        self.rows = rows

    def network(self) -> MLP:
        """All of them, freshly initialised."""
        w = self.world.workload
        net = build(
            "mlp", num_classes=w.num_classes, input_shape=(w.dimension,), seed=self.seeds, hidden=(w.hidden, w.hidden)
        )
        if not isinstance(net, MLP):
            raise ValueError(f"the benchmark trains an MLP, received {type(net).__name__}")
        return net.to(self.world.device, self.world.dtype)

    def points(self, student: int) -> Points:
        """What a sequential loop reads to train a student."""
        return self.world.points(self.rows[student])

    def parts(self, student: int) -> tuple[Tensor, Tensor]:
        """Indices of the training and the validation points of a student."""
        training, validation = split(self.world.source, self.world.validation_share, [self.seeds[student]], None)
        if validation is None:
            raise ValueError("the benchmark needs validation points, received a workload without")
        return training, validation

    def order(self, student: int, includes: Includes) -> Order:
        """The batch orders that :meth:`fit` gives a student, as indices of :meth:`points`."""
        training, _ = self.parts(student)
        seeds = [self.seeds[student]]
        if includes == "released":
            return lambda epoch: order_of_epoch(training, seeds, "main", epoch)
        walk, _ = split(self._bare, 0.0, seeds, None)
        return lambda epoch: training[order_of_epoch(walk, seeds, "main", epoch)]

    def fit(
        self,
        includes: Includes,
        epochs: int,
        *,
        gradients: Literal["auto", "autograd"] = "auto",
        progress: Callable[[Progress], None] | None = None,
    ) -> Fitted:
        """Train all of them from the start by :func:`bcpd.fit`, by CE against their rows."""
        measured = includes == "released"
        recipe = Recipe(
            epochs,
            LEARNING_RATE,
            BATCH_SIZE,
            momentum=MOMENTUM,
            validation=self.world.validation_share if measured else 0.0,
        )
        return fit(
            self.network(),
            self._source if measured else self._bare,
            Supervised("ce", target="given"),
            recipe,
            seed=self.seeds,
            held_out=self.world.held_out if includes == "path" else None,
            device=self.world.device,
            progress=progress,
            gradients=gradients,
            metrics=ReleasedMetrics if measured else PathMetrics,
        )

    @cached_property
    def _source(self) -> InMemory:
        """All points, with the rows of every student."""
        return self.world.source.with_targets(self.rows)

    @cached_property
    def _bare(self) -> InMemory:
        """The training points of every student, p* forgotten: nothing can be measured on them."""
        index = torch.stack([self.parts(student)[0] for student in range(len(self.seeds))])
        return self._source.subset(index).without_bayes()
