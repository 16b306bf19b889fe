"""A small mixture in float64 on which the sequential loops and fit train the same network in the same order."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

import bcpd
from bcpd.bench import released
from bcpd.bench.released import Points, furthest, plain_mlp
from bcpd.bench.released_metrics import ReleasedMetrics
from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.mixtures import paper_toy
from bcpd.nets import build
from bcpd.nets.mlp import MLP
from bcpd.train import Recipe
from bcpd.train.split import order_of_epoch, split

K, D = 4, 6
TRAINING, VALIDATION = 96, 40  # three whole batches
SHARE = VALIDATION / (TRAINING + VALIDATION)


def made_points(share: float = 0.3) -> Points:
    """Points with p*, and targets between the label and p*."""
    source = InMemory.from_mixture(paper_toy(K, D, seed=1), TRAINING + VALIDATION, 5, dtype=torch.float64)
    assert source.log_bayes is not None
    bayes = source.log_bayes.exp()
    one_hot = torch.nn.functional.one_hot(source.y, K)
    return Points(source.x, source.y, share * one_hot + (1 - share) * bayes, bayes)


def built(seed: int, activation: str = "relu") -> MLP:
    net = build("mlp", num_classes=K, input_shape=(D,), seed=seed, hidden=(8, 7), activation=activation)
    assert isinstance(net, MLP)
    return net.double()


def check_equal_to_fit(loop: ModuleType, epochs: int) -> None:
    """Weights, the best weights and what is measured of a loop and of fit, after the same epochs."""
    points, seed = made_points(), 3
    source = InMemory(
        points.x, points.y, num_classes=K, log_bayes=points.bayes.log(), targets=points.target, dtype=torch.float64
    )
    training, validation = split(source, SHARE, [seed], None)
    assert validation is not None
    net = built(seed)
    plain = plain_mlp(net)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    assert furthest(plain, start) == 0
    recipe = Recipe(epochs, released.LEARNING_RATE, released.BATCH_SIZE, momentum=released.MOMENTUM, validation=SHARE)
    fitted = bcpd.fit(net, source, Supervised("ce", target="given"), recipe, seed=seed, metrics=ReleasedMetrics)

    def order(epoch: int) -> Tensor:
        return order_of_epoch(training, [seed], "main", epoch)

    best, history = loop.train(plain, points, training, validation, epochs=epochs, order=order)
    assert furthest(plain, start) > 1e-4  # it has moved
    assert furthest(plain, fitted.states["last"]) < 1e-10
    assert furthest(best, fitted.states["best_accuracy"]) < 1e-10
    entropy = float(torch.special.entr(points.target[training]).sum(-1).mean())
    for row, expected in zip(history, fitted.history, strict=True):
        assert row.pop("train_loss") + entropy == pytest.approx(expected["train_loss"][0], abs=1e-10)
        assert len(row) == 8
        assert row == pytest.approx({name: expected[name][0] for name in row}, abs=1e-10)
