"""A finite X: everything is an exact sum, and points are found by their bits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bcpd.mixtures import FiniteMixture, GaussianMixture, LabelNoise, PriorShift, Superclasses
from bcpd.testing import finite_mixtures

WEIGHTS = [0.5, 0.2, 0.3]
ROWS = [[0.7, 0.3, 0.0], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]


@settings(max_examples=60)
@given(finite_mixtures(zeros=True))
def test_a_table_is_returned_as_given(world: FiniteMixture) -> None:
    mixture = FiniteMixture(world.weights, world.rows)
    points, given_weights = mixture.support()
    assert torch.equal(given_weights, world.weights)
    torch.testing.assert_close(mixture.posterior(points), world.rows, rtol=1e-12, atol=0)
    torch.testing.assert_close(mixture.priors, world.weights @ world.rows, rtol=1e-14, atol=1e-16)
    error = mixture.bayes_error()
    assert error.method == "exact"
    assert error.value == pytest.approx(float((world.weights * (1 - world.rows.amax(1))).sum()), abs=1e-12)


def test_default_points_are_indices_in_a_column() -> None:
    mixture = FiniteMixture(WEIGHTS, ROWS)
    assert mixture.shape == (1,)
    assert mixture.support()[0].tolist() == [[0.0], [1.0], [2.0]]
    torch.testing.assert_close(mixture.posterior([[2], [0]]), torch.tensor(ROWS, dtype=torch.float64)[[2, 0]])


def test_an_impossible_class_has_probability_zero_and_never_comes() -> None:
    mixture = FiniteMixture(WEIGHTS, ROWS)
    assert mixture.log_posterior([[0.0]])[0, 2] == -math.inf
    x, y = mixture.sample(20_000, seed=0)
    assert not bool(((x[:, 0] == 0) & (y == 2)).any())
    assert bool(((x[:, 0] == 0) & (y == 1)).any())


def test_samples_follow_the_joint_table() -> None:
    """Nine cells, each within 5 standard errors."""
    x, y = FiniteMixture(WEIGHTS, ROWS).sample(100_000, seed=0)
    counts = (x[:, 0].long() * 3 + y).bincount(minlength=9) / len(y)
    joint = (torch.tensor(WEIGHTS)[:, None] * torch.tensor(ROWS)).flatten()
    assert bool(((counts - joint).abs() <= 5 * (joint * (1 - joint) / len(y)).sqrt()).all())


def test_points_may_have_any_shape_and_are_found_among_many() -> None:
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=12))).reshape(-1, 3, 4)
    rows = torch.rand(len(corners), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = rows / rows.sum(1, keepdim=True)
    mixture = FiniteMixture(torch.full((len(corners),), 1 / len(corners)), rows, corners)
    assert mixture.shape == (3, 4)
    order = torch.randperm(len(corners), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixture.posterior(corners[order]), rows[order], rtol=1e-14, atol=0)
    x, _ = mixture.sample(5000, seed=0)
    assert mixture.posterior(x).shape == (5000, 2)


def test_negative_zero_is_zero() -> None:
    mixture = FiniteMixture([0.5, 0.5], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]])
    assert mixture.posterior([[-0.0, 1.0]]).tolist() == [[1.0, 0.0]]


def test_expectations_are_exact_sums() -> None:
    mixture = FiniteMixture(WEIGHTS, ROWS)
    assert float(mixture.expectation([1.0, 2.0, 4.0])) == pytest.approx(0.5 + 0.4 + 1.2, abs=1e-15)
    torch.testing.assert_close(mixture.expectation(ROWS), mixture.priors, rtol=0, atol=1e-15)
    assert mixture.expectation(torch.ones(3, 2, 5)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"values must have shape \(3, \.\.\.\), received \(4,\)"):
        mixture.expectation([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match="GaussianMixture has a continuous one"):
        GaussianMixture([[0.0], [1.0]], 1.0).expectation([1.0])


@settings(max_examples=40)
@given(finite_mixtures(zeros=True), st.integers(0, 2**32 - 1))
def test_wrappers_stay_exact(base: FiniteMixture, seed: int) -> None:
    """Every wrapped p* and every wrapped weight from the joint table, by hand."""
    weights, rows = base.weights, base.rows
    classes = rows.shape[1]
    assume(bool((rows[rows > 0] > 1e-300).all()))  # the table by hand divides by them
    draw = torch.Generator().manual_seed(seed)
    transition = torch.rand(classes, 3, dtype=torch.float64, generator=draw)
    transition = transition / transition.sum(1, keepdim=True)
    possible = (base.priors > 0).to(torch.float64)
    shifted_priors = torch.rand(classes, dtype=torch.float64, generator=draw) * possible
    shifted_priors = shifted_priors / shifted_priors.sum()
    groups = [0] + [1] * (classes - 1)

    ratio = torch.where(base.priors > 0, shifted_priors / base.priors, 0.0)
    joint = weights[:, None] * rows * ratio
    mixture = LabelNoise(Superclasses(PriorShift(base, shifted_priors), groups), transition[:2])
    support = mixture.support()
    assert support is not None
    occurring = joint.sum(1) > 0
    merged = torch.stack([joint[:, 0], joint[:, 1:].sum(1)], 1)
    expected = (merged @ transition[:2])[occurring]
    torch.testing.assert_close(support[1], joint.sum(1), rtol=1e-12, atol=1e-15)
    got = mixture.posterior(support[0][occurring]) * support[1][occurring, None]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)
    assert mixture.bayes_error().method == "exact"
    assert mixture.bayes_error().value == pytest.approx(1 - float(expected.amax(1).sum()), abs=1e-12)
    assert float(mixture.expectation(torch.ones(len(weights)))) == pytest.approx(1, abs=1e-12)


def test_priors_of_points_without_weight_do_not_disturb() -> None:
    """A class seen only at a point of weight zero does not occur; that point's p* under other priors is nobody's."""
    base = FiniteMixture([1.0, 0.0], [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    shifted = PriorShift(base, [0.2, 0.8, 0.0])
    torch.testing.assert_close(shifted.posterior([[0.0]]), torch.tensor([[0.2, 0.8, 0.0]], dtype=torch.float64))
    assert shifted.bayes_error().value == pytest.approx(0.2, abs=1e-14)
    assert float(shifted.expectation([3.0, 100.0])) == pytest.approx(3.0)
    assert shifted.posterior([[1.0]]).tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize("target", [0.001, 0.3, 0.6])
def test_tuned_is_exact_over_the_whole_range(target: float) -> None:
    tuned = FiniteMixture(WEIGHTS, [[0.7, 0.2, 0.1], *ROWS[1:]]).tuned(target)
    # 0.2, 0.2, 0.6 ties nowhere at the top, so the error falls to 0
    assert tuned.bayes_error().value == pytest.approx(target, abs=1e-6)


def test_zeros_bound_what_tuning_can_reach() -> None:
    """Two possible classes at every point: even at its hardest the error is 1/2; ties keep it above 1/6."""
    mixture = FiniteMixture([2 / 3, 1 / 3], [[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
    with pytest.raises(ValueError, match=r"strictly between 0\.166667 and 0\.5"):
        mixture.tuned(0.51)
    with pytest.raises(ValueError, match=r"strictly between 0\.166667 and 0\.5"):
        mixture.tuned(0.16)
    assert mixture.tuned(0.4).bayes_error().value == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": [0.5, 0.5]}, r"weights must have shape \(n,\) and posterior \(n, K\)"),
        ({"weights": [0.5, 0.2, 0.2]}, "weights must be rows of probabilities"),
        ({"posterior": [[0.7, 0.2], [0.5, 0.5], [1.0, 0.0]]}, "posterior must be rows of probabilities.*row 0"),
        ({"points": [[0.0], [1.0]]}, r"points must be finite, of shape \(3, \.\.\.\), received \(2, 1\)"),
        ({"points": [[0.0], [1.0], [0.0]]}, "points must all be different"),
        ({"points": [[0.0], [1.0], [float("nan")]]}, "points must be finite"),
    ],
)
def test_impossible_tables_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FiniteMixture(**{"weights": WEIGHTS, "posterior": ROWS, **arguments})  # type: ignore[arg-type]


def test_a_point_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x must be among the 3 points of this mixture, received \[0\.5\]"):
        FiniteMixture(WEIGHTS, ROWS).posterior([[0.0], [0.5]])
