"""Target families: rows of probabilities, p* at level 0, their moments in closed form, and levels that match a goal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcpd import simplex
from bcpd.seeds import generator
from bcpd.targets import TARGETS, bias_and_variance, level_for, permuted, reachable
from bcpd.testing import row_tables

checked = settings(derandomize=True, deadline=None, max_examples=40)
families = st.sampled_from(list(TARGETS.values()))
seeds = st.integers(0, 2**32 - 1)
CLOSED = [family for family in TARGETS.values() if family.moments is not None]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """log p* ``(6, K)`` and labels drawn from it."""
    log_p = draw(row_tables(6, draw(st.integers(2, 5)))).log()
    return log_p, labels_of(log_p, draw(seeds))


def labels_of(log_p: Tensor, seed: int) -> Tensor:
    return torch.multinomial(log_p.exp(), 1, generator=generator(seed, "test labels"))[:, 0]


def table(n: int, k: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    log_p = (1.5 * torch.randn(n, k, generator=generator(seed, "test table"), dtype=torch.float64)).log_softmax(-1)
    return log_p, labels_of(log_p, seed)


@checked
@given(worlds(), families, st.floats(0, 1), seeds)
def test_targets_are_rows_of_probabilities(world: tuple[Tensor, Tensor], family: Any, share: float, seed: int) -> None:
    log_p, y = world
    rows = family(log_p, y, share * family.highest, seed)
    assert rows.shape == log_p.shape
    assert not rows.isnan().any()
    assert float((rows.exp().sum(-1) - 1).abs().max()) < 1e-9


@checked
@given(worlds(), families, seeds)
def test_level_zero_is_p_star_and_a_small_level_is_near_it(
    world: tuple[Tensor, Tensor], family: Any, seed: int
) -> None:
    log_p, y = world
    assert torch.equal(family(log_p, y, 0.0, seed), log_p)
    if family.name != "swap":  # that one is all or nothing for a row
        near = family(log_p, y, 1e-7, seed).exp()
        assert float(simplex.squared_distance(near, log_p.exp()).max()) < 1e-6


@checked
@given(worlds(), families.filter(lambda family: family.keeps_argmax), st.floats(0, 1), seeds)
def test_families_said_to_keep_the_argmax_keep_it(
    world: tuple[Tensor, Tensor], family: Any, share: float, seed: int
) -> None:
    log_p, y = world
    rows = family(log_p, y, share * family.highest, seed)
    chosen = rows.gather(-1, log_p.argmax(-1, keepdim=True))[:, 0]
    assert float((rows.amax(-1) - chosen).max()) <= 1e-12


def test_the_others_move_the_argmax_somewhere() -> None:
    log_p, y = table(400)
    for family in TARGETS.values():
        rows = family(log_p, y, family.highest)
        assert bool((rows.argmax(-1) == log_p.argmax(-1)).all()) == family.keeps_argmax, family.name


# -------------------------------------------------------------------------------------------------------------- moments


def redrawn(name: str, log_p: Tensor, level: float, redraws: int = 4000) -> tuple[Tensor, Tensor]:
    """Mean of t - p* over redraws of labels and noise, ``(N, K)``, and its standard errors."""
    rows = log_p.repeat(redraws, 1)
    gap = TARGETS[name](rows, labels_of(rows, 1), level, 2).exp() - rows.exp()
    gap = gap.reshape(redraws, *log_p.shape)
    return gap.mean(0), gap.std(0) / math.sqrt(redraws)


@pytest.mark.parametrize("name", [family.name for family in TARGETS.values() if family.unbiased])
@pytest.mark.parametrize("level", [0.2, 0.7])
def test_unbiased_families_are_p_star_on_average(name: str, level: float) -> None:
    """5 standard errors on 3 x 4 cells, six cases: a false alarm in 25,000 runs; the seed is kept."""
    log_p, _ = table(3)
    mean, stderr = redrawn(name, log_p, level)
    assert bool((mean.abs() <= 5 * stderr + 1e-12).all())


@pytest.mark.parametrize("name", [family.name for family in TARGETS.values() if not family.unbiased])
def test_biased_families_are_not(name: str) -> None:
    log_p, _ = table(3)
    mean, stderr = redrawn(name, log_p, 0.3 * TARGETS[name].highest)
    assert bool((mean.abs() > 8 * stderr + 1e-6).any())


@pytest.mark.parametrize("family", CLOSED, ids=[family.name for family in CLOSED])
@pytest.mark.parametrize("level", [0.15, 0.6])
def test_closed_moments_are_those_of_many_redraws(family: Any, level: float) -> None:
    """Mean and variance row by row, 5 standard errors of 4000 redraws; twice the variance is rejected."""
    log_p, _ = table(3)
    mean, stderr = redrawn(family.name, log_p, level)
    moments = family.moments(log_p.exp(), level)
    assert bool(((moments.mean - log_p.exp() - mean).abs() <= 5 * stderr + 1e-12).all())
    rows = log_p.repeat(4000, 1)
    t = family(rows, labels_of(rows, 1), level, 2).exp().reshape(4000, *log_p.shape)
    squares = simplex.squared_distance(t, moments.mean)
    error = 5 * squares.std(0) / math.sqrt(4000) + 1e-12
    assert bool(((squares.mean(0) - moments.variance).abs() <= error).all())
    if float(moments.variance.max()) > 0:
        assert bool(((squares.mean(0) - 2 * moments.variance).abs() > error).any())


@checked
@given(worlds(), st.floats(0.01, 0.99))
def test_mixture_and_dirichlet_share_their_expected_mse(world: tuple[Tensor, Tensor], level: float) -> None:
    r""":math:`u^2 E[1 - \|p\|^2]` and :math:`E[1 - \|p\|^2] / (\alpha + 1)` at :math:`u^2 = 1 / (\alpha + 1)`."""
    log_p, _ = world
    irreducible = float((1 - log_p.exp().square().sum(-1)).mean())
    alpha = 1 / level**2 - 1
    for name in ("label_mixture", "dirichlet"):
        found = TARGETS[name].expected_mse(log_p, level)
        assert found == pytest.approx(level**2 * irreducible, rel=1e-12)
        assert found == pytest.approx(irreducible / (alpha + 1), rel=1e-9)


@checked
@given(worlds(), st.floats(0, 0.99))
def test_mse_of_functions_of_p_star_is_all_bias(world: tuple[Tensor, Tensor], level: float) -> None:
    log_p, y = world
    for name in ("smoothing", "flatten", "sharpen", "leak"):
        realised = simplex.squared_distance(TARGETS[name](log_p, y, level).exp(), log_p.exp()).mean()
        squared_bias, variance = bias_and_variance(TARGETS[name], log_p, level)
        assert variance == 0
        assert squared_bias == pytest.approx(float(realised), rel=1e-9, abs=1e-15)
        assert TARGETS[name].expected_mse(log_p, level) == squared_bias
    centre = 1 / log_p.shape[-1]
    expected = level**2 * float((log_p.exp() - centre).square().sum(-1).mean())
    assert TARGETS["smoothing"].expected_mse(log_p, level) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", ["label_mixture", "swap", "smoothing"])
def test_bias_and_variance_by_redraws_agree_with_the_closed_form(name: str) -> None:
    """Without the correction by s^2 / M the bias comes out too large by a twentieth of the variance."""
    log_p, _ = table(6000)
    exact = bias_and_variance(TARGETS[name], log_p, 0.5)
    sampled = bias_and_variance(replace(TARGETS[name], moments=None), log_p, 0.5, redraws=20, seed=3)
    assert sampled == pytest.approx(exact, abs=2e-3)
    if exact[1] > 0.1:
        assert abs(sampled[0] + sampled[1] / 20 - exact[0]) > 3e-3


# --------------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("family", TARGETS.values(), ids=list(TARGETS))
@pytest.mark.parametrize(("distance", "goal"), [("mse", 0.03), ("kl", 0.08)])
def test_a_level_meets_its_goal_on_the_very_rows(family: Any, distance: Any, goal: float) -> None:
    log_p, y = table(500)
    level = level_for(family, distance, goal, log_p, y, seed=5)
    rows = family(log_p, y, level, 5)
    mse = float(simplex.squared_distance(rows.exp(), log_p.exp()).mean())
    kl = float(simplex.kl_from_log(log_p, rows).mean())
    found, other = (mse, kl) if distance == "mse" else (kl, mse)
    step = 2 / 500 if family.name == "swap" else 1e-6 * goal  # a whole row at a time
    assert found == pytest.approx(goal, abs=step)
    assert other != pytest.approx(goal, rel=0.02)  # the other distance is another number


@pytest.mark.parametrize("family", TARGETS.values(), ids=list(TARGETS))
def test_distances_grow_with_the_level(family: Any) -> None:
    log_p, y = table(300)
    levels = [share * family.highest for share in (0.05, 0.2, 0.4, 0.6, 0.8)]
    kls = [float(simplex.kl_from_log(log_p, family(log_p, y, level)).mean()) for level in levels]
    assert kls == sorted(kls)
    assert kls[0] < kls[-1]


def test_a_goal_out_of_reach_is_refused_with_what_is_in_reach() -> None:
    log_p, y = table(200)
    family = TARGETS["top_two_noise"]
    most = reachable(family, "mse", log_p, y)
    assert most == pytest.approx(2 * float(log_p.exp().topk(2, -1).values[:, 1].square().mean()), rel=1e-6)
    with pytest.raises(ValueError, match=rf"top_two_noise reaches a mse of 0 to {most:.4g} .* received 0.9"):
        level_for(family, "mse", 0.9, log_p, y)


def test_random_numbers_depend_on_the_seed_and_not_on_the_level() -> None:
    log_p, y = table(50)
    for name in ("dirichlet", "top_two_noise", "clipped_gaussian", "logit_noise", "swap"):
        family = TARGETS[name]
        level = 0.3 * family.highest
        assert torch.equal(family(log_p, y, level, 1), family(log_p, y, level, 1))
        assert not torch.equal(family(log_p, y, level, 1), family(log_p, y, level, 2))
        gaps = [family(log_p, y, factor * level, 1).exp() - log_p.exp() for factor in (0.9, 1.0)]
        fresh = family(log_p, y, level, 2).exp() - log_p.exp()
        together = float(torch.corrcoef(torch.stack([gap.flatten() for gap in gaps]))[0, 1])
        apart = float(torch.corrcoef(torch.stack([gaps[1].flatten(), fresh.flatten()]))[0, 1])
        assert together > 0.8 > apart, name


def test_labels_enter_the_mixture_alone() -> None:
    log_p, y = table(50)
    other = (y + 1) % 4
    for name, family in TARGETS.items():
        level = 0.5 * family.highest
        assert torch.equal(family(log_p, y, level), family(log_p, other, level)) == (name != "label_mixture"), name


@checked
@given(worlds())
def test_a_full_mixture_is_the_label_and_a_full_leak_is_the_next_class(world: tuple[Tensor, Tensor]) -> None:
    log_p, y = world
    one_hot = torch.nn.functional.one_hot(y, log_p.shape[-1]).double()
    assert torch.equal(TARGETS["label_mixture"](log_p, y, 1.0).exp(), one_hot)
    assert torch.equal(TARGETS["leak"](log_p, y, 1.0), log_p.roll(1, -1))


@checked
@given(worlds(), seeds)
def test_permuted_rows_are_the_same_rows(world: tuple[Tensor, Tensor], seed: int) -> None:
    log_p, _ = world
    dealt = permuted(log_p, seed)
    assert sorted(map(tuple, dealt.tolist())) == sorted(map(tuple, log_p.tolist()))


def test_permuted_rows_have_left_their_x() -> None:
    log_p, _ = table(200)
    assert float((permuted(log_p).argmax(-1) == log_p.argmax(-1)).double().mean()) < 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, y: TARGETS["smoothing"](p, y, 1.5), r"level of smoothing must lie in \[0, 1\], received 1.5"),
        (lambda p, y: TARGETS["leak"](p, y, math.nan), "received nan"),
        (lambda p, y: TARGETS["leak"](p[0], y, 0.1), r"\(N, K\) with K >= 2, received \(4,\)"),
        (lambda p, y: TARGETS["leak"](p.exp(), y, 0.1), "log probabilities, received a row with log-sum-exp"),
        (lambda p, y: TARGETS["leak"](p, y[:2], 0.1), r"y must have shape \(5,\), received \(2,\)"),
        (lambda p, y: TARGETS["leak"](p, y + 9, 0.1), "must lie in 0..3"),
        (lambda p, y: level_for(TARGETS["leak"], "mse", 0.0, p, y), "goal must be a positive distance, received 0"),
        (lambda p, y: level_for(TARGETS["leak"], "ce", 0.1, p, y), "distance must be 'mse' or 'kl', received 'ce'"),
        (lambda p, y: bias_and_variance(TARGETS["leak"], p, 0.1, redraws=1), "at least 2, received 1"),
        (lambda p, y: TARGETS["logit_noise"].expected_mse(p, 0.1), "logit_noise has no closed form"),
    ],
)
def test_errors_say_what_was_received(call: Callable[[Tensor, Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*table(5))
