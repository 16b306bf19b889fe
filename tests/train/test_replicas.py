"""Replica r of a batched run is the single run with the same seed, rate and decay."""

import math
from typing import Any

import pytest
import torch
from small_world import furthest, mlp, replica, same, world
from torch import nn

import bcpd
from bcpd.distill import KD, Supervised
from bcpd.train import Constant, Cosine, Fitted, Recipe, Schedule, Step
from bcpd.train.optim import ReplicaAdam, ReplicaOptimizer, ReplicaSGD, build_optimizer, set_rates

SEEDS = [3, 0, 7]
RATES = (0.05, 0.2, 0.01)
DECAYS = (0.0, 0.01, 0.1)
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.0},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "adam": {"optimizer": "adam"},
}


def recipe(rates: Any = RATES, decays: Any = DECAYS, schedule: Schedule = Constant(), **options: Any) -> Recipe:  # noqa: B008
    settings = {"epochs": 4, "batch_size": 8, "validation": 0.25, **options}
    return Recipe(learning_rate=rates, weight_decay=decays, schedule=schedule, **settings)


def check_replicas(batched: Fitted, singles: list[Fitted], tolerance: float = 1e-12) -> None:
    assert set(batched.states) == {"last", "best_accuracy", "best_score", "path_minimum_mse", "path_minimum_kl"}
    for number, single in enumerate(singles):
        for checkpoint, state in batched.states.items():
            assert batched.epochs[checkpoint][number] == single.epochs[checkpoint][0]
            assert furthest(replica(state, number), single.states[checkpoint]) < tolerance
        for row, expected in zip(batched.history, single.history, strict=True):
            assert row.keys() == expected.keys()
            for name in row:
                if name != "epoch":
                    assert row[name][number] == pytest.approx(expected[name][0], abs=1e-11)


@pytest.mark.parametrize("schedule", [Constant(), Step((0.5,), 0.1), Cosine()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_replica_is_the_single_run_of_its_seed(optimizer: str, schedule: Schedule) -> None:
    options = OPTIMIZERS[optimizer]
    batched = bcpd.fit(
        mlp(SEEDS),
        world(32, [11, 12, 13]),
        Supervised("mse"),
        recipe(schedule=schedule, **options),
        seed=SEEDS,
        held_out=world(20, [21, 22, 23]),
    )
    singles = [
        bcpd.fit(
            mlp(seed),
            world(32, 11 + number),
            Supervised("mse"),
            recipe(RATES[number], DECAYS[number], schedule, **options),
            seed=seed,
            held_out=world(20, 21 + number),
        )
        for number, seed in enumerate(SEEDS)
    ]
    check_replicas(batched, singles)
    assert len({batched.history[-1]["train_loss"][number] for number in range(3)}) == 3


def test_replicas_that_share_their_points_are_single_runs_too() -> None:
    source, held_out = world(32, 1), world(20, 2)
    teachers = bcpd.fit(mlp(SEEDS), source, Supervised("ce"), recipe(), seed=SEEDS, held_out=held_out)
    batched = bcpd.fit(
        mlp([1, 2, 3]), source, KD(), recipe(), seed=SEEDS, teacher=teachers.teacher(), held_out=held_out
    )
    singles = []
    for number, seed in enumerate(SEEDS):
        single = bcpd.fit(
            mlp(seed), source, Supervised("ce"), recipe(RATES[number], DECAYS[number]), seed=seed, held_out=held_out
        )
        assert furthest(replica(teachers.states["last"], number), single.states["last"]) < 1e-12
        singles.append(
            bcpd.fit(
                mlp(number + 1),
                source,
                KD(),
                recipe(RATES[number], DECAYS[number]),
                seed=seed,
                teacher=single.teacher(),
                held_out=held_out,
            )
        )
    check_replicas(batched, singles)


def test_adding_a_replica_changes_no_other() -> None:
    source = world(32, 1)
    few = bcpd.fit(mlp(SEEDS[:2]), source, Supervised("ce"), recipe(RATES[:2], DECAYS[:2]), seed=SEEDS[:2])
    more = bcpd.fit(mlp(SEEDS), source, Supervised("ce"), recipe(), seed=SEEDS)
    for number in range(2):
        assert furthest(replica(few.states["last"], number), replica(more.states["last"], number)) < 1e-12


def test_one_seed_for_all_replicas_gives_them_one_order() -> None:
    fitted = bcpd.fit(mlp([1, 1]), world(32), Supervised("ce"), recipe(0.1, 0.0), seed=4)
    assert same(replica(fitted.states["last"], 0), replica(fitted.states["last"], 1))


@pytest.mark.parametrize("loss", ["ce", "logit_mse"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_diverged_replica_is_marked_and_leaves_the_others_bits_alone(optimizer: str, loss: str) -> None:
    source, held_out = world(32, [1, 2, 3]), world(20, 9)
    options = OPTIMIZERS[optimizer]
    sound, broken = (
        bcpd.fit(mlp(SEEDS), source, Supervised(loss), recipe(rates, **options), seed=SEEDS, held_out=held_out)
        for rates in ((0.05, 0.05, 0.01), (0.05, 1e200, 0.01))
    )
    assert sound.diverged == [None, None, None]
    assert broken.diverged[0] is None
    assert broken.diverged[1] in (1, 2)
    assert broken.diverged[2] is None
    assert any(bool(value[1].isnan().any()) for value in broken.states["last"].values())
    for number in (0, 2):
        for checkpoint in sound.states:
            assert same(replica(sound.states[checkpoint], number), replica(broken.states[checkpoint], number))
        assert sound.at()[number] == broken.at()[number]
    last = broken.history[-1]
    for metric in ("train_loss", "fresh_mse", "fresh_kl", "fresh_accuracy", "validation_accuracy", "validation_nll"):
        assert math.isnan(last[metric][1]), f"{metric} of a network that returns nan must be nan"


def test_a_network_that_returns_nan_never_becomes_the_best() -> None:
    """Its argmax is class 0 everywhere, which may well be the most accurate guess."""
    source = world(40)
    source.y[:] = 0
    fitted = bcpd.fit(mlp(), source, Supervised("ce"), recipe(1e200, 0.0), seed=0)
    assert fitted.diverged[0] is not None
    assert fitted.epochs["best_accuracy"] == [1]
    assert all(math.isnan(row["validation_accuracy"][0]) for row in fitted.history)


# ------------------------------------------------------------------------------------------------ the optimizers


@pytest.mark.parametrize("kind", ["sgd", "momentum", "nesterov", "adam"])
def test_a_replica_optimizer_is_torch_s_for_each_replica(kind: str) -> None:
    stream = torch.Generator().manual_seed(0)
    starts = [torch.randn(3, 4, 2, generator=stream, dtype=torch.float64), torch.randn(3, 5, generator=stream).double()]
    together = [nn.Parameter(value.clone()) for value in starts]
    apart = [[nn.Parameter(value[r].clone()) for value in starts] for r in range(3)]
    momentum = 0.0 if kind == "sgd" else 0.9
    ours: ReplicaOptimizer
    if kind == "adam":
        ours = ReplicaAdam(together, DECAYS)
        theirs: list[torch.optim.Optimizer] = [
            torch.optim.Adam(apart[r], lr=RATES[r], weight_decay=DECAYS[r]) for r in range(3)
        ]
    else:
        ours = ReplicaSGD(together, DECAYS, momentum, kind == "nesterov")
        theirs = [
            torch.optim.SGD(
                apart[r], lr=RATES[r], momentum=momentum, nesterov=kind == "nesterov", weight_decay=DECAYS[r]
            )
            for r in range(3)
        ]
    for step in range(12):
        factor = 1.0 if step < 6 else 0.1
        set_rates(ours, [rate * factor for rate in RATES])
        for r in range(3):
            set_rates(theirs[r], [RATES[r] * factor])
        for position, parameter in enumerate(together):
            absent = position == 1 and step in (0, 4)  # a parameter without a gradient is left alone
            gradient = torch.randn(parameter.shape, generator=stream, dtype=torch.float64)
            parameter.grad = None if absent else gradient.clone()
            for r in range(3):
                apart[r][position].grad = None if absent else gradient[r].clone()
        ours.step()
        for optimizer in theirs:
            optimizer.step()
        for position, parameter in enumerate(together):
            for r in range(3):
                torch.testing.assert_close(parameter[r], apart[r][position], rtol=1e-12, atol=1e-14)
    ours.zero_grad()
    assert all(parameter.grad is None for parameter in together)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_replica_optimizer_goes_on_from_its_saved_moments(kind: str) -> None:
    def fresh() -> tuple[nn.Parameter, ReplicaOptimizer]:
        parameter = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
        optimizer: ReplicaOptimizer = (
            ReplicaAdam([parameter], (0.0, 0.1)) if kind == "adam" else ReplicaSGD([parameter], (0.0, 0.1), 0.9)
        )
        set_rates(optimizer, [0.1, 0.2])
        return parameter, optimizer

    def advance(parameter: nn.Parameter, optimizer: ReplicaOptimizer, first: int, last: int) -> None:
        for step in range(first, last):
            parameter.grad = torch.full((2, 3), float(step + 1), dtype=torch.float64)
            optimizer.step()

    whole, optimizer = fresh()
    advance(whole, optimizer, 0, 6)
    half, first = fresh()
    advance(half, first, 0, 3)
    resumed, second = fresh()
    resumed.data.copy_(half.data)
    second.load_state_dict(first.state_dict())
    advance(resumed, second, 3, 6)
    assert torch.equal(whole, resumed)
    forgetful, third = fresh()
    forgetful.data.copy_(half.data)
    advance(forgetful, third, 3, 6)
    assert not torch.equal(whole, forgetful)


def test_a_parameter_without_the_replica_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 replicas on its leading axis, received shape \(2, 5\)"):
        build_optimizer(Recipe(epochs=1, learning_rate=0.1), [nn.Parameter(torch.zeros(2, 5))], 3)


def test_a_network_without_replicas_gets_torch_s_own_optimizer() -> None:
    parameters = list(mlp().parameters())
    assert type(build_optimizer(Recipe(epochs=1, learning_rate=0.1), parameters, None)) is torch.optim.SGD
    adam = build_optimizer(Recipe(epochs=1, learning_rate=0.1, optimizer="adam", weight_decay=0.2), parameters, None)
    assert type(adam) is torch.optim.Adam
    assert adam.defaults["weight_decay"] == 0.2
