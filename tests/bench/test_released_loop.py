"""The baseline does the work that it is compared by: an epoch of it is an epoch of fit, its metrics are the batched."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_world import D, K, built, check_equal_to_fit, made_points
from torch import Tensor

import bcpd
from bcpd.bench import released
from bcpd.bench.released import (
    BINS,
    ece_by_loop,
    furthest,
    plain_mlp,
)
from bcpd.bench.released_metrics import ReleasedMetrics, metrics_of_sums, released_metrics, released_sums
from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.nets import build
from bcpd.nets.mlp import MLP
from bcpd.testing import row_tables
from bcpd.train import Recipe

N = 7


@pytest.mark.parametrize("epochs", [1, 3])
def test_an_epoch_of_the_released_loop_is_an_epoch_of_fit(epochs: int) -> None:
    check_equal_to_fit(released, epochs)


def test_an_order_of_its_own_visits_every_point_once_and_another_order_ends_elsewhere() -> None:
    points = made_points()
    training, validation = torch.arange(96), torch.arange(96, 136)
    nets = [plain_mlp(built(0)) for _ in range(3)]
    orders = [lambda epoch: training, lambda epoch: training.flip(0), None]
    for net, order in zip(nets, orders, strict=True):
        torch.manual_seed(0)
        released.train(net, points, training, validation, epochs=1, order=order, measured=False)
    weights = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]
    gaps = [float((a - b).abs().max()) for a, b in ((weights[0], weights[1]), (weights[0], weights[2]))]
    assert min(gaps) > 1e-7
    assert max(gaps) < 1e-2


def test_the_last_partial_batch_is_dropped() -> None:
    points = made_points()
    nets = [plain_mlp(built(0)) for _ in range(2)]
    for net, count in zip(nets, (64, 75), strict=True):
        index = torch.arange(count)
        released.train(net, points, index, index, epochs=1, order=lambda epoch, index=index: index, measured=False)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_without_measuring_only_the_loss_is_known() -> None:
    points, index = made_points(), torch.arange(96)
    net = plain_mlp(built(0))
    best, history = released.train(net, points, index, index, epochs=2, measured=False)
    assert best is net
    assert [set(row) for row in history] == [{"train_loss"}] * 2
    assert history[1]["train_loss"] < history[0]["train_loss"]


@pytest.mark.parametrize("replica", [0, 2])
def test_a_plain_network_is_a_replica(replica: int) -> None:
    net = build("mlp", num_classes=K, input_shape=(D,), seed=[4, 5, 6], hidden=(8,)).double()
    assert isinstance(net, MLP)
    x = torch.randn(9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = plain_mlp(net, replica)
    torch.testing.assert_close(plain(x), net(x).logits[replica], rtol=0, atol=1e-14)
    assert furthest(plain, net.state_dict(), replica) == 0
    assert furthest(plain, net.state_dict(), 1) > 1e-2


def test_another_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="relu activations, received 'tanh'"):
        plain_mlp(built(0, "tanh"))


@settings(max_examples=40)
@given(row_tables(N, K), st.lists(st.integers(0, K - 1), min_size=N, max_size=N), row_tables(N, K), row_tables(N, K))
def test_the_batched_metrics_are_those_of_the_loop(q: Tensor, y: list[int], bayes: Tensor, target: Tensor) -> None:
    log_q, labels = q.log(), torch.tensor(y)
    q = log_q.exp()
    expected = {
        "accuracy": sum(int(row.argmax()) == label for row, label in zip(q, y, strict=True)) / N,
        "distance_to_bayes": float(torch.dist(q, bayes)),
        "distance_to_target": float(torch.dist(q, target)),
        "ece": ece_by_loop(q, labels),
    }
    single = released_metrics(log_q, labels, bayes, target)
    assert {name: float(value) for name, value in single.items()} == pytest.approx(expected, abs=1e-12)
    # a replica with points, labels and targets of its own beside another, in either layout of the memory
    both = (
        torch.stack([log_q, log_q.flip(-2)]),
        torch.stack([labels, labels.roll(1)]),
        torch.stack([bayes, target]),
        torch.stack([target, bayes]),
    )
    for found in (
        released_metrics(*both),
        released_metrics(both[0].mT.contiguous().mT, *both[1:]),
    ):
        assert all(value.shape == (2,) for value in found.values())
        assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(expected, abs=1e-12)
    parts = [released_sums(log_q[part], labels[part], bayes[part], target[part]) for part in (slice(3), slice(3, N))]
    summed = metrics_of_sums({name: parts[0][name] + parts[1][name] for name in parts[0]})
    assert {name: float(value) for name, value in summed.items()} == pytest.approx(expected, abs=1e-12)
    second = released_metrics(log_q.flip(-2), labels.roll(1), target, bayes)
    assert {name: float(value[1]) for name, value in released_metrics(*both).items()} == pytest.approx(
        {name: float(value) for name, value in second.items()}, abs=1e-12
    )


def test_the_calibration_error_of_known_cases() -> None:
    q = torch.tensor([[0.7, 0.3]] * 10, dtype=torch.float64)
    right = torch.tensor([0] * 7 + [1] * 3)
    assert ece_by_loop(q, right) == pytest.approx(0, abs=1e-12)
    assert ece_by_loop(q, right.flip(0)) == pytest.approx(0, abs=1e-12)
    assert ece_by_loop(q, 1 - right) == pytest.approx(0.4)
    # two bins: |1 - 0.9| on the first half, |0 - 0.6| on the second
    q = torch.tensor([[0.9, 0.1], [0.6, 0.4]], dtype=torch.float64)
    assert ece_by_loop(q, torch.tensor([0, 1])) == pytest.approx(0.35)
    # one bin: the errors of opposite sign cancel
    q = torch.tensor([[0.95, 0.05], [1 - 0.5 / BINS, 0.5 / BINS]], dtype=torch.float64)
    assert ece_by_loop(q, torch.tensor([0, 1])) == pytest.approx(abs(1 - 0.95 - 1 + 0.5 / BINS) / 2)


@pytest.mark.parametrize("missing", ["validation points", "targets"])
def test_released_metrics_need_what_they_compare_with(missing: str) -> None:
    points = made_points()
    targets = None if missing == "targets" else points.target
    source = InMemory(
        points.x, points.y, num_classes=K, log_bayes=points.bayes.log(), targets=targets, dtype=torch.float64
    )
    recipe = Recipe(1, 0.1, validation=0.25 if missing == "targets" else 0.0)
    with pytest.raises(ValueError, match=missing):
        bcpd.fit(built(0), source, Supervised("ce"), recipe, seed=0, metrics=ReleasedMetrics)


def test_a_network_that_returns_nan_gets_nan_and_its_neighbour_does_not() -> None:
    log_q = torch.tensor([[[0.2, 0.8], [0.7, 0.3]]] * 2, dtype=torch.float64).log()
    log_q[1, 0, 0] = torch.nan
    rows = torch.tensor([[0.5, 0.5]] * 2, dtype=torch.float64)
    metrics = released_metrics(log_q, torch.tensor([1, 0]), rows, rows)
    assert all(math.isfinite(value[0]) and math.isnan(value[1]) for value in metrics.values())
