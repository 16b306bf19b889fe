"""The lean loop does the work of the released one, and of fit."""

from __future__ import annotations

import pytest
import torch
from loop_world import built, check_equal_to_fit, made_points

from bcpd.bench import lean, released
from bcpd.bench.released import plain_mlp


@pytest.mark.parametrize("epochs", [1, 3])
def test_an_epoch_of_the_lean_loop_is_an_epoch_of_fit(epochs: int) -> None:
    check_equal_to_fit(lean, epochs)


@pytest.mark.parametrize("count", [96, 75])  # the last batch of 75 is dropped
def test_the_lean_loop_has_the_history_of_the_released_one(count: int) -> None:
    points = made_points()
    training, validation = torch.arange(count), torch.arange(96, 136)
    stream = torch.Generator().manual_seed(0)
    orders = [training[torch.randperm(count, generator=stream)] for _ in range(2)]
    runs = [
        loop.train(plain_mlp(built(1)), points, training, validation, epochs=2, order=orders.__getitem__)
        for loop in (lean, released)
    ]
    for row, expected in zip(runs[0].history, runs[1].history, strict=True):
        assert row == pytest.approx(expected, abs=1e-10)
    test = torch.arange(50, 136)
    assert lean.evaluate(runs[0].best, points, test) == pytest.approx(
        released.evaluate(runs[1].best, points, test), abs=1e-10
    )


def test_without_an_order_every_epoch_is_a_permutation_of_its_own() -> None:
    points, index = made_points(), torch.arange(96)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        _, history = lean.train(plain_mlp(built(0)), points, index, index, epochs=2, measured=False)
        losses.append([row["train_loss"] for row in history])
    assert losses[0] == losses[1]
    assert abs(losses[0][1] - losses[2][1]) > 1e-12
    assert losses[0][1] < losses[0][0]
