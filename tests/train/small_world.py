"""Tiny data with known p* and tiny networks, in float64, for the tests of the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bcpd.data import Batch, InMemory
from bcpd.distill import Supervised
from bcpd.nets import Net, Views, build
from bcpd.seeds import generator

D, K = 4, 3


def points(n: int, seed: int = 0, dimension: int = D, classes: int = K) -> tuple[Tensor, Tensor, Tensor]:
    """x, labels drawn from p*, and log p* of a linear softmax truth."""
    stream = generator(seed, "small world")
    x = torch.randn(n, dimension, generator=stream, dtype=torch.float64)
    truth = torch.linspace(-1.5, 2.0, dimension * classes, dtype=torch.float64).reshape(dimension, classes).sin() * 2
    log_bayes = (x @ truth).log_softmax(-1)
    y = torch.multinomial(log_bayes.exp(), 1, generator=stream).squeeze(-1)
    return x, y, log_bayes


def world(
    n: int = 40, seeds: int | Sequence[int] = 0, *, bayes: bool = True, labelled: Tensor | None = None, **options: Any
) -> InMemory:
    """A source in float64; a sequence of seeds gives each replica points of its own."""
    options.setdefault("dtype", torch.float64)
    if isinstance(seeds, int):
        x, y, log_bayes = points(n, seeds)
    else:
        x, y, log_bayes = (torch.stack(parts) for parts in zip(*(points(n, seed) for seed in seeds), strict=True))
    known = log_bayes if bayes else None
    return InMemory(x, y, num_classes=K, log_bayes=known, labelled=labelled, **options)


def mlp(seed: int | Sequence[int] = 0, hidden: Sequence[int] = (6,), activation: str = "relu") -> Net:
    net = build("mlp", num_classes=K, input_shape=(D,), seed=seed, hidden=hidden, activation=activation)
    return net.double()


class Recorded(Supervised):
    """Supervised training that writes down the indices, inputs and labels it was shown."""

    def __init__(self, loss: str = "ce", **options: Any) -> None:
        super().__init__(loss, **options)
        self._seen: list[Batch] = []

    @property
    def seen(self) -> list[Batch]:
        return self._seen

    def indices(self) -> list[list[int]]:
        return [batch.index.tolist() for batch in self._seen]

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        self._seen.append(batch)
        return super().loss(batch, s, t)


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are equal to the bit (nan equals nan)."""
    return left.keys() == right.keys() and all(
        left[key].dtype == right[key].dtype and torch.equal(left[key].nan_to_num(7e77), right[key].nan_to_num(7e77))
        if left[key].is_floating_point()
        else torch.equal(left[key], right[key])
        for key in left
    )


def replica(state: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    return {key: value[number] for key, value in state.items()}


def furthest(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Largest absolute difference between two state dicts."""
    assert left.keys() == right.keys()
    return max(float((left[key] - right[key]).abs().max()) for key in left)
