"""The published strategies: what they generate is valid, the special shapes come, and failures shrink to small ones."""

from __future__ import annotations

import doctest
import importlib
import sys

import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from torch import Tensor

import bcpd.testing
from bcpd.losses import LOSSES, Loss
from bcpd.mixtures import FiniteMixture, GaussianMixture, Mixture, from_spec
from bcpd.mixtures.families import KINDS
from bcpd.nets import Net
from bcpd.testing import (
    COMPONENT_FAMILIES,
    WRAPPERS,
    Distortion,
    distortions,
    finite_mixtures,
    losses,
    mixtures,
    mixtures_with_points,
    nets,
    pairs,
    row_tables,
    simplex_rows,
    simplex_rows_with_zeros,
    stochastic_matrices,
    warps,
)

searching = settings(max_examples=2000, derandomize=True, deadline=None, phases=[Phase.generate])
shrinking = settings(max_examples=2000, derandomize=True, deadline=None)


def is_row(p: Tensor) -> bool:
    return p.dtype == torch.float64 and bool((p >= 0).all()) and bool(((p.sum(-1) - 1).abs() < 1e-12).all())


# ------------------------------------------------------------------------------------------------ rows of probabilities


@given(st.data(), st.integers(1, 9), st.sampled_from([0.0, 1e-9, 1e-3, 0.1]))
def test_rows_are_positive_probabilities(data: st.DataObject, num_classes: int, floor: float) -> None:
    p = data.draw(simplex_rows(num_classes, floor))
    assert p.shape == (num_classes,)
    assert is_row(p)
    assert float(p.min()) >= floor * (1 - 1e-9)


@given(simplex_rows_with_zeros(), row_tables(3, 4, zeros=True), stochastic_matrices(3, 2))
def test_other_rows_are_probabilities(row: Tensor, table: Tensor, channel: Tensor) -> None:
    assert is_row(row)
    assert is_row(table)
    assert table.shape == (3, 4)
    assert is_row(channel)
    assert channel.shape == (3, 2)
    assert float(channel.min()) > 0


def top_two(p: Tensor) -> tuple[float, float]:
    first, second = p.topk(2).values.tolist()
    return first, second


@pytest.mark.parametrize(
    "shape",
    [
        lambda p: float(p.max()) > 1 - 1e-7,
        lambda p: float((p - 1 / len(p)).abs().max()) < 1e-15,
        lambda p: top_two(p)[0] == top_two(p)[1] > 1.5 / len(p),
        lambda p: len(p) == 6 and float(p.min()) < 1e-8,
    ],
    ids=["near a vertex", "uniform", "tied top two", "small entry among many"],
)
def test_rows_take_their_special_shapes(shape: object) -> None:
    find(simplex_rows(), shape, settings=searching)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shape",
    [
        lambda p: float(p.max()) == 1 and int((p > 0).sum()) == 1,
        lambda p: bool((p == 0).any()) and float(p.max()) < 0.7,
        lambda p: bool(((p > 0) & (p < 1e-300)).any()),
    ],
    ids=["vertex", "face", "subnormal"],
)
def test_zeros_come_in_their_strategy(shape: object) -> None:
    find(simplex_rows_with_zeros(), shape, settings=searching)  # type: ignore[arg-type]


def test_positive_rows_have_no_zeros() -> None:
    with pytest.raises(NoSuchExample):
        find(simplex_rows(), lambda p: bool((p == 0).any()), settings=settings(searching, max_examples=200))


@pytest.mark.slow
def test_a_failing_row_shrinks_to_few_classes_and_round_logits() -> None:
    smallest = find(simplex_rows(), lambda p: float(p.max()) > 0.6, settings=shrinking)
    assert len(smallest) == 2
    plain = find(simplex_rows(), lambda p: True, settings=shrinking)
    assert torch.equal(plain, torch.full((2,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simplex_rows(4, 0.3), r"floor must lie in \[0, 1 / K\] with K = 4, received 0\.3"),
        (lambda: simplex_rows(floor=-1e-9), "floor must lie in"),
        (lambda: simplex_rows(0), "an int >= 1, received 0"),
        (lambda: row_tables(True, 3), "an int >= 1, received True"),
        (lambda: losses("strict"), "which must be 'all', 'proper' or 'improper', received 'strict'"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_generated_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------------------- teachers


@given(simplex_rows(), distortions())
def test_distortions_keep_rows_and_say_what_they_keep(p: Tensor, distort: Distortion) -> None:
    q = distort(p)
    assert is_row(q)
    assert torch.allclose(distort(torch.stack([p, p]))[1], q, rtol=0, atol=1e-15)
    if distort.keeps_argmax:
        assert float(q[p.argmax()]) == float(q.max())
    if distort.name == "smoothing":
        assert torch.allclose(q, p + distort.amount * (1 / len(p) - p), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["smoothing", "temperature", "hardening", "leak", "swap"])
def test_every_distortion_comes_and_changes_something(name: str) -> None:
    p, distort = find(
        st.tuples(simplex_rows(3), distortions()),
        lambda pair: pair[1].name == name and float((pair[1](pair[0]) - pair[0]).abs().max()) > 0.01,
        settings=searching,
    )
    assert repr(distort).startswith(f"Distortion({name}, ")
    assert is_row(distort(p))


@pytest.mark.parametrize("name", ["leak", "swap"])
def test_those_that_may_move_the_argmax_do(name: str) -> None:
    def moves(pair: tuple[Tensor, Distortion]) -> bool:
        p, distort = pair
        return distort.name == name and float(distort(p)[p.argmax()]) < float(distort(p).max())

    find(st.tuples(simplex_rows(3), distortions()), moves, settings=searching)


@given(pairs())
def test_pairs_have_one_shape(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    assert p.shape == q.shape
    assert is_row(p)
    assert is_row(q)
    assert float(q.min()) > 0


@pytest.mark.parametrize(
    "shape",
    [
        lambda pair: torch.equal(*pair),
        lambda pair: 0 < float((pair[0] - pair[1]).abs().max()) < 1e-2,
        lambda pair: float((pair[0] - pair[1]).abs().max()) > 0.99,
    ],
    ids=["equal", "close", "far apart"],
)
def test_pairs_are_equal_close_and_far_apart(shape: object) -> None:
    find(pairs(), shape, settings=searching)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- mixtures


@given(finite_mixtures(max_points=5, num_classes=3))
def test_worlds_are_small_and_finite(world: FiniteMixture) -> None:
    points, weights = world.support()
    assert 1 <= len(points) <= 5
    assert world.num_classes == 3
    assert is_row(weights)
    assert float(world.posterior(points).min()) > 0


def test_worlds_with_zeros_have_them() -> None:
    find(
        finite_mixtures(zeros=True), lambda w: bool((w.rows == 0).any() and (w.weights == 0).any()), settings=searching
    )
    smallest = find(finite_mixtures(), lambda w: w.bayes_error().value > 0.1, settings=shrinking)
    assert len(smallest.weights) == 1
    assert smallest.num_classes == 2


@settings(max_examples=60)
@given(mixtures_with_points(count=5))
def test_mixtures_have_a_posterior_and_a_spec(drawn: tuple[Mixture, Tensor]) -> None:
    mixture, x = drawn
    assert x.shape == (5, *mixture.shape)
    p = mixture.posterior(x)
    assert is_row(p)
    assert torch.equal(from_spec(mixture.spec()).posterior(x), p)


@pytest.mark.slow
def test_every_kind_of_mixture_comes() -> None:
    assert {*COMPONENT_FAMILIES, *WRAPPERS} == set(KINDS)
    for kind in KINDS:
        found = find(mixtures(), lambda m, kind=kind: m.kind == kind, settings=searching)
        assert isinstance(found, KINDS[kind])  # type: ignore[arg-type]


def test_wrappers_nest_and_can_be_left_out() -> None:
    nested = find(mixtures(), lambda m: "mixture" in m.spec().get("mixture", {}), settings=searching)
    assert nested.spec()["mixture"]["mixture"]["kind"] in COMPONENT_FAMILIES
    with pytest.raises(NoSuchExample):
        find(mixtures(max_depth=0), lambda m: m.kind in WRAPPERS, settings=settings(searching, max_examples=100))


@pytest.mark.slow
def test_mixtures_shrink_to_a_small_gaussian() -> None:
    smallest = find(mixtures(), lambda m: True, settings=shrinking)
    assert isinstance(smallest, GaussianMixture)
    assert (smallest.num_classes, smallest.shape, smallest.weights.shape[1]) == (2, (1,), 1)


@given(mixtures(kinds=["laplace", "student"], max_depth=0, max_dimension=2))
def test_kinds_and_dimensions_can_be_chosen(mixture: Mixture) -> None:
    assert mixture.kind in ("laplace", "student")
    assert mixture.shape[0] <= 2


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kinds must be among .*'gaussian'.*received \['cauchy'\]"):
        find(mixtures(kinds=["cauchy"]), lambda m: True)
    with pytest.raises(ValueError, match=r"kinds must be among .*'mlp1'.*received \['cnn'\]"):
        find(nets(2, (3,), kinds=["cnn"]), lambda net: True)


@given(st.data(), st.integers(1, 5))
def test_warps_are_undone_by_their_inverse(data: st.DataObject, dimension: int) -> None:
    warp = data.draw(warps(dimension))
    z = torch.linspace(-2, 2, 3 * dimension, dtype=torch.float64).reshape(3, dimension)
    torch.testing.assert_close(warp.inverse(warp.forward(z)), z, rtol=1e-9, atol=1e-9)


# -------------------------------------------------------------------------------------------------- networks and losses


@settings(max_examples=30)
@given(nets(3, (2, 2)))
def test_networks_take_float64(net: Net) -> None:
    logits = net(torch.zeros(4, 2, 2, dtype=torch.float64)).logits
    assert logits.shape == (4, 3)
    assert logits.dtype == torch.float64


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_networks_of_every_depth_come(depth: int) -> None:
    kind = ("linear", "mlp1", "mlp2")[depth]
    for strategy in (nets(2, (3,)), nets(2, (3,), kinds=[kind])):
        find(strategy, lambda net: len(list(net.hidden)) == depth, settings=searching)  # type: ignore[arg-type]


def test_all_losses_come_where_they_belong() -> None:
    for loss in LOSSES.values():
        kind = "proper" if loss.proper else "improper"
        for strategy in (losses(), losses(kind)):  # type: ignore[arg-type]
            find(strategy, lambda found, name=loss.name: found.name == name, settings=searching)


@given(losses("proper"), losses("improper"))
def test_losses_are_what_they_are_asked_to_be(proper: Loss, improper: Loss) -> None:
    assert proper.proper
    assert not improper.proper


# ------------------------------------------------------------------------------------------------------------- the part


@pytest.mark.parametrize("module", ["", ".rows", ".worlds", ".models"])
def test_examples_in_docstrings_run(module: str) -> None:
    done = doctest.testmod(importlib.import_module("bcpd.testing" + module))
    assert done.attempted > 0
    assert done.failed == 0


def test_without_hypothesis_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match=r"needs Hypothesis.*pip install bcpd\[testing\]"):
        importlib.reload(bcpd.testing)
