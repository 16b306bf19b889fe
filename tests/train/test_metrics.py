"""What measures a network is the caller's to choose; what identifies a run, and what marks a lost replica."""

import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import furthest, mlp, same, world
from torch import nn

import bcpd
from bcpd.distill import Supervised
from bcpd.train import MeasuredSets, Recipe

RECIPE = Recipe(epochs=4, learning_rate=0.1, batch_size=8, validation=0.25)
SEEDS = [3, 0, 7]


class Norms:
    """The norm of every replica's weights, times a constant; notes the mode that the network is in."""

    modes: list[bool] = []  # noqa: RUF012

    def __init__(self, sets: MeasuredSets, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, net: nn.Module) -> dict[str, list[float]]:
        Norms.modes.append(net.training or torch.is_grad_enabled())
        squares = [p.flatten(1).square().sum(1) for p in net.parameters()]
        return {"norm": (self.scale * torch.stack(squares).sum(0).sqrt()).tolist()}


def fitted(metrics: Any = Norms, folder: Path | None = None, **options: Any) -> bcpd.train.Fitted:
    settings: dict[str, Any] = {"seed": SEEDS, "metrics": metrics, "folder": folder, **options}
    return bcpd.fit(mlp(SEEDS), world(32, [1, 2, 3]), Supervised("ce"), RECIPE, **settings)


def test_metrics_see_the_network_in_eval_mode_without_gradient() -> None:
    Norms.modes.clear()
    result = fitted()
    assert Norms.modes == [False] * RECIPE.epochs
    last = [p.flatten(1).square().sum(1) for p in result.states["last"].values()]
    assert result.path("norm")[-1].tolist() == pytest.approx(torch.stack(last).sum(0).sqrt().tolist())
    assert set(result.states) == {"last"}  # nothing was measured that a state could be chosen by


class Clashing(Norms):
    name = "train_loss"

    def __call__(self, net: nn.Module) -> dict[str, list[float]]:
        return {self.name: [0.0, 0.0, 0.0]}


class ClashingEpoch(Clashing):
    name = "epoch"


class OfAnotherLength(Norms):
    def __call__(self, net: nn.Module) -> dict[str, list[float]]:
        return {"m": [1.0]}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (Clashing, "metrics must not be named 'train_loss'"),
        (ClashingEpoch, "metrics must not be named 'epoch'"),
        (OfAnotherLength, r"metrics must be lists of 3 floats, one a replica; m is \[1.0\]"),
    ],
)
def test_metrics_that_cannot_be_kept_are_refused(metrics: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(metrics)


def test_a_run_is_told_from_one_with_other_metrics_gradients_or_frozen_layers(tmp_path: Path) -> None:
    identities = {
        fitted(Norms).identity,
        fitted(partial(Norms, scale=2.0)).identity,
        fitted(partial(Norms, scale=3.0)).identity,
        fitted(Norms, gradients="autograd").identity,
        fitted(bcpd.train.PathMetrics).identity,
    }
    assert len(identities) == 5
    frozen = mlp(SEEDS)
    frozen.get_submodule("head").requires_grad_(False)
    first = fitted(folder=tmp_path)
    with pytest.raises(ValueError, match="another"):
        bcpd.fit(frozen, world(32, [1, 2, 3]), Supervised("ce"), RECIPE, seed=SEEDS, metrics=Norms, folder=tmp_path)
    assert same(fitted(folder=tmp_path).states["last"], first.states["last"])
    with pytest.raises(ValueError, match="metrics must be a named class or function"):
        fitted(lambda sets: Norms(sets), tmp_path / "other")


SCRIPT = """
import os, sys, torch
sys.path.insert(0, sys.argv[2])
torch.set_num_threads(1)
from pathlib import Path
from test_metrics import Norms, fitted

def stop(state):
    if state.epoch == 2:
        os._exit(9)

fitted(folder=Path(sys.argv[1]), gradients="autograd", save_seconds=0.0, progress=stop)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_metrics_and_gradients(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode == 9
    resumed = fitted(folder=tmp_path, gradients="autograd")
    whole = fitted(gradients="autograd")
    assert same(resumed.states["last"], whole.states["last"])
    assert resumed.history == whole.history


def test_a_replica_lost_in_its_very_last_step_is_marked() -> None:
    recipe = Recipe(epochs=1, learning_rate=(0.1, 1e300, 0.1), batch_size=64, validation=0.0)
    source = world(32, [1, 2, 3], bayes=False)
    lost = bcpd.fit(mlp(SEEDS), source, Supervised("ce"), recipe, seed=SEEDS)
    assert math.isfinite(lost.history[0]["train_loss"][1])
    # weights of 1e300 are finite, but their network is not
    assert lost.diverged == [None, 1, None]


class AlwaysNan(Norms):
    def __call__(self, net: nn.Module) -> dict[str, list[float]]:
        return {"m": [math.nan] * 3}


def test_a_metric_that_is_not_defined_marks_nobody() -> None:
    assert fitted(AlwaysNan).diverged == [None, None, None]


def test_held_out_points_of_another_type_are_refused_before_the_first_step() -> None:
    net = mlp(SEEDS)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"held_out gives torch.float32, the source torch.float64"):
        bcpd.fit(
            net,
            world(32, [1, 2, 3]),
            Supervised("ce"),
            RECIPE,
            seed=SEEDS,
            held_out=world(20, [1, 2, 3], dtype=torch.float32),
        )
    assert furthest(before, net.state_dict()) == 0


@pytest.mark.parametrize("seeds", [SEEDS, 3], ids=["replicas", "single"])
def test_a_network_that_is_frozen_whole_is_refused(seeds: Any) -> None:
    net = mlp(seeds).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing is trained: every parameter of the network is frozen"):
        bcpd.fit(net, world(32, 1), Supervised("ce"), RECIPE, seed=seeds)
