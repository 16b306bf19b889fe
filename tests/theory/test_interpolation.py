"""SGD with a constant step: the world it runs in, one step by hand, and the claims."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trying import settings_at, tried

from bcpd import simplex
from bcpd.seeds import generator
from bcpd.theory.distilled.interpolation import CLAIMS, linear_world, sgd, stationary_error

INTERPOLATES, HOVERS = CLAIMS


@pytest.mark.slow
def test_claims_hold_and_controls_fail() -> None:
    tried(CLAIMS, settings_at(0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_claims_hold_at_other_seeds(seed: int) -> None:
    tried(CLAIMS, settings_at(seed))


def test_a_users_mixture_is_not_a_convex_student() -> None:
    assert not any(claim.trials(settings_at(0, "finite")) for claim in CLAIMS)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_optimum_of_the_world_is_one(seed: int, realisable: bool) -> None:
    """Zero gradient; and p* itself where the class contains it."""
    world = linear_world(seed, realisable=realisable)
    q = (world.features @ world.optimum).softmax(-1)
    assert float((world.features.T @ (q - world.bayes)).abs().max()) < 1e-6
    distance = float(simplex.squared_distance(q, world.bayes).mean())
    assert distance < 1e-25 if realisable else distance > 1e-3
    moments = world.features.T @ world.features / 5
    assert torch.allclose(moments, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert world.smoothness == pytest.approx(1.5)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_curvature_is_the_least_second_difference(seed: int) -> None:
    """Along random directions the risk bends at least as much as the smallest eigenvalue, which is not degenerate."""
    world = linear_world(seed)
    assert world.curvature > 0.1  # the relaxation time, and with it the length of the simulations, is bounded

    def risk(theta: torch.Tensor) -> float:
        return float(simplex.cross_entropy(world.bayes, (world.features @ theta).softmax(-1)).mean())

    direction = torch.randn(3, 3, generator=generator(seed, "direction"), dtype=torch.float64)
    direction -= direction.mean(1, keepdim=True)
    direction *= 1e-3 / float(direction.norm())
    bend = risk(world.optimum + direction) + risk(world.optimum - direction) - 2 * risk(world.optimum)
    assert world.curvature * 1e-6 * (1 - 1e-3) <= bend <= world.smoothness * 1e-6


def test_one_step_by_hand() -> None:
    """From zero, on p*: after one step the parameters are the step times a (p* - 1/K), for one of the five points."""
    world = linear_world(3)
    start = torch.zeros(3, 3, dtype=torch.float64)
    (errors,) = sgd(world, 0.0, 0.5, 40, 1, seed=0, start=start)
    moved = 0.5 * world.features[:, :, None] * (world.bayes - 1 / 3)[:, None, :]
    possible = (moved - world.optimum).square().sum((1, 2))
    nearest = (errors[:, None] - possible).abs().amin(1)
    assert float(nearest.max()) < 1e-12
    assert len(errors.unique()) > 2


def test_at_the_optimum_p_star_moves_nothing_and_labels_do() -> None:
    world = linear_world(0)
    for error in sgd(world, 0.0, 0.5, 10, 20, seed=0):
        assert float(error.max()) < 1e-25
    *_, last = sgd(world, 1.0, 0.5, 10, 20, seed=0)
    assert float(last.min()) > 0.01


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_dirichlet_targets_make_the_noise_of_mixtures_of_the_same_mse(share: float) -> None:
    """One step from the optimum moves by the step times the gradient; means within 5 standard errors of each other."""
    world, step, replicas = linear_world(2), 0.1, 40_000
    means, errors = [], []
    for family in ("mixture", "Dirichlet"):
        (moved,) = sgd(world, share, step, replicas, 1, seed=4, family=family)  # type: ignore[arg-type]
        means.append(float(moved.mean()))
        errors.append(float(moved.std()) / math.sqrt(replicas))
    assert abs(means[0] - means[1]) < 5 * math.hypot(*errors)
    norms = world.features.square().sum(1)
    exact = step**2 * share**2 * float((norms * (1 - world.bayes.square().sum(1))).mean())
    assert abs(means[1] - exact) < 5 * errors[1]
    assert abs(means[1] - exact / share) > 8 * errors[1]


def test_the_blocks_of_random_numbers_do_not_show() -> None:
    """A longer run begins with the shorter one, up to whole blocks."""
    world = linear_world(1)
    short = list(sgd(world, 1.0, 0.1, 5, 64, seed=2))
    long = list(sgd(world, 1.0, 0.1, 5, 130, seed=2))
    assert len(long) == 130
    assert torch.equal(torch.stack(short), torch.stack(long[:64]))


def test_a_noise_free_target_has_no_stationary_error() -> None:
    error = stationary_error(linear_world(0), 0.0, 0.5, 8, seed=0)
    assert error.mean < 1e-25
    assert math.isfinite(error.stderr)


def test_the_picture_tells_targets_and_steps_apart() -> None:
    series = {each["name"]: each["y"] for each in INTERPOLATES.picture(settings_at(0))["series"]}  # type: ignore[misc]
    assert series["p*, step 0.3"][-1] < 1e-10
    assert series["p*, step 0.3"][-1] < series["p*, step 0.15"][-1] < 1e-4
    hovering = [sum(series[f"labels, step {step}"][-10:]) / 10 for step in (0.3, 0.15)]
    assert hovering[0] / hovering[1] == pytest.approx(2, abs=0.6)
