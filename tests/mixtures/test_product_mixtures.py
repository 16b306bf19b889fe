"""Bernoulli and categorical products: brute force in rationals, images, values that do not exist, and misuse."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.naive_bayes import BernoulliNB
from torch import Tensor

from bcpd.mixtures import BernoulliMixture, CategoricalMixture, FiniteMixture, Mixture, Warped, from_spec
from bcpd.mixtures.warps import Affine
from bcpd.testing import mixtures_with_points, simplex_rows

THETA = [[0.9, 0.2, 0.4], [0.3, 0.6, 0.5]]


def brute_force(table: list[list[list[list[Fraction]]]], weights: list[list[Fraction]], priors: list[Fraction]) -> dict:
    """P(x, k) of every x, from probabilities ``[k][c][j][v]`` in rationals."""
    values = [range(len(row)) for row in table[0][0]]
    return {
        x: [
            prior
            * sum(
                weight * math.prod(component[j][v] for j, v in enumerate(x))
                for weight, component in zip(own, components, strict=True)
            )
            for prior, own, components in zip(priors, weights, table, strict=True)
        ]
        for x in itertools.product(*values)
    }


eighths = st.lists(st.integers(1, 7), min_size=3, max_size=3)


@settings(max_examples=40)
@given(st.lists(eighths, min_size=4, max_size=4), st.integers(1, 7), st.integers(1, 7))
def test_bernoulli_products_are_their_brute_force(counts: list[list[int]], prior: int, weight: int) -> None:
    """Two classes of two components over three coins, all probabilities eighths."""
    theta = [[[Fraction(c, 8) for c in counts[2 * k + c]] for c in range(2)] for k in range(2)]
    table = [[[[1 - t, t] for t in row] for row in components] for components in theta]
    weights = [[Fraction(weight, 8), Fraction(8 - weight, 8)], [Fraction(1, 4), Fraction(3, 4)]]
    priors = [Fraction(prior, 8), Fraction(8 - prior, 8)]
    joint = brute_force(table, weights, priors)
    as_floats = {
        "theta": [[[float(t) for t in row] for row in components] for components in theta],
        "weights": [[float(w) for w in row] for row in weights],
        "priors": [float(p) for p in priors],
    }
    mixture = BernoulliMixture(**as_floats)
    points, mass = mixture.support()  # type: ignore[misc]
    assert len(points) == 8
    for x, w, p in zip(points.tolist(), mass.tolist(), mixture.posterior(points).tolist(), strict=True):
        truth = joint[tuple(int(v) for v in x)]
        assert w == pytest.approx(float(sum(truth)), rel=1e-13)
        assert p == pytest.approx([float(t / sum(truth)) for t in truth], rel=1e-12)
    error = mixture.bayes_error()
    assert error.method == "exact"
    assert error.value == pytest.approx(float(1 - sum(max(row) for row in joint.values())), abs=1e-14)
    categorical = CategoricalMixture(
        [[[[float(v) for v in pair] for pair in row] for row in components] for components in table],
        as_floats["weights"],
        as_floats["priors"],
    )
    torch.testing.assert_close(categorical.posterior(points), mixture.posterior(points), rtol=1e-12, atol=0)
    torch.testing.assert_close(categorical.support()[1], mass, rtol=1e-13, atol=0)  # type: ignore[index]


@settings(max_examples=40)
@given(st.data(), st.integers(1, 3))
def test_categorical_products_are_their_brute_force(data: st.DataObject, dimension: int) -> None:
    rows = [[data.draw(simplex_rows(3, 1e-3)) for _ in range(dimension)] for _ in range(2)]
    priors = data.draw(simplex_rows(2, 1e-2))
    mixture = CategoricalMixture(torch.stack([torch.stack(own) for own in rows]), priors=priors)
    points, mass = mixture.support()  # type: ignore[misc]
    table = [[[[Fraction(v) for v in row.tolist()] for row in own]] for own in rows]
    joint = brute_force(table, [[Fraction(1)], [Fraction(1)]], [Fraction(p) for p in priors.tolist()])
    assert len(points) == len(joint) == 3**dimension
    for x, w, p in zip(points.tolist(), mass.tolist(), mixture.posterior(points).tolist(), strict=True):
        truth = joint[tuple(int(v) for v in x)]
        assert w == pytest.approx(float(sum(truth)), rel=1e-12)
        assert p == pytest.approx([float(t / sum(truth)) for t in truth], rel=1e-11)


@settings(max_examples=25)
@given(mixtures_with_points(kinds=["bernoulli", "categorical"], max_depth=0))
def test_a_listed_product_is_its_table(drawn: tuple[Mixture, Tensor]) -> None:
    mixture, x = drawn
    points, weights = mixture.support()  # type: ignore[misc]
    table = FiniteMixture(weights, mixture.posterior(points), points)
    torch.testing.assert_close(table.posterior(x), mixture.posterior(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(table.priors, mixture.priors, rtol=0, atol=1e-13)
    assert table.bayes_error().value == pytest.approx(mixture.bayes_error().value, abs=1e-14)


def test_one_component_a_class_is_naive_bayes() -> None:
    model = BernoulliNB()
    points = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    model.fit(points.numpy(), [0, 1] * 4)
    theta = torch.tensor(THETA, dtype=torch.float64)
    model.feature_log_prob_, model.class_log_prior_ = theta.log().numpy(), torch.tensor([0.25, 0.75]).log().numpy()
    expected = torch.as_tensor(model.predict_log_proba(points.numpy()))
    mixture = BernoulliMixture(THETA, priors=[0.25, 0.75])
    torch.testing.assert_close(mixture.log_posterior(points), expected, rtol=1e-6, atol=1e-6)


def test_log_odds_are_linear_in_x() -> None:
    """W = logit theta: the difference that one coordinate makes does not depend on the others."""
    mixture = BernoulliMixture(THETA)
    logs = mixture.log_posterior(torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))).reshape(2, 2, 2, 2)
    odds = logs[..., 0] - logs[..., 1]
    weights = torch.tensor(THETA, dtype=torch.float64).logit()
    for axis in range(3):
        steps = odds.select(axis, 1) - odds.select(axis, 0)
        torch.testing.assert_close(steps, (weights[0, axis] - weights[1, axis]).expand_as(steps), rtol=0, atol=1e-12)


def test_samples_follow_the_listed_probabilities() -> None:
    """Twelve cells of x and y, each within 5 standard errors."""
    table = torch.tensor([[[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]], [[0.7, 0.1, 0.2], [0.1, 0.9, 0.0]]], dtype=torch.float64)
    mixture = CategoricalMixture(table, priors=[0.3, 0.7])
    x, y = mixture.sample(100_000, 0)
    assert float(x[:, 1].max()) == 1  # the third value of the second coordinate does not exist
    cells = (x[:, 0] * 2 + x[:, 1]).long() * 2 + y
    points, weights = mixture.support()  # type: ignore[misc]
    assert points.tolist() == [[float(a), float(b)] for a in range(3) for b in range(2)]
    joint = (weights[:, None] * mixture.posterior(points)).flatten()
    frequencies = cells.bincount(minlength=12) / len(y)
    assert bool(((frequencies - joint).abs() <= 5 * (joint * (1 - joint) / len(y)).sqrt()).all())
    assert not bool(((frequencies - joint.flip(0)).abs() <= 5 * (joint * (1 - joint) / len(y)).sqrt()).all())


def test_the_majority_of_opposite_coins() -> None:
    for coins in (1, 5, 11):
        rows = torch.full((2, coins), 0.3, dtype=torch.float64)
        rows[1] = 0.7
        assert BernoulliMixture(rows).bayes_error().value == pytest.approx(binom.sf(coins // 2, coins, 0.3), rel=1e-12)


# --------------------------------------------------------------------------------------------------------------- images


def test_images_keep_their_shape_and_are_read_row_by_row() -> None:
    draw = torch.Generator().manual_seed(0)
    theta = torch.rand(3, 2, 4, dtype=torch.float64, generator=draw)
    image, flat = (
        BernoulliMixture(theta, priors=[0.5, 0.3, 0.2]),
        BernoulliMixture(theta.flatten(1), None, [0.5, 0.3, 0.2]),
    )
    x, _ = image.sample(500, 0)
    assert x.shape == (500, 2, 4)
    torch.testing.assert_close(image.posterior(x), flat.posterior(x.flatten(1)), rtol=0, atol=1e-14)
    assert torch.equal(flat.sample(500, 0)[0], x.flatten(1))
    assert image.support()[0].shape == (256, 2, 4)  # type: ignore[index]
    assert image.bayes_error().value == pytest.approx(flat.bayes_error().value, abs=1e-14)


def test_seventeen_coins_are_too_many_to_list_and_sixteen_are_not() -> None:
    draw = torch.Generator().manual_seed(1)
    theta = 0.5 + 0.2 * torch.randn(2, 17, dtype=torch.float64, generator=draw).tanh()
    many, few = BernoulliMixture(theta), BernoulliMixture(theta[:, :16])
    assert many.support() is None
    assert many.bayes_error(n=1000).method == "monte_carlo"
    assert few.bayes_error().method == "exact"
    sampled = few.bayes_error("monte_carlo", n=50_000, seed=0)
    assert abs(sampled.value - few.bayes_error().value) < 5 * sampled.stderr


# ---------------------------------------------------------------------------------------------- edges of the parameters


def test_certain_coins_are_clipped_so_that_logits_are_finite() -> None:
    mixture = BernoulliMixture([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]])
    assert mixture.theta[0].tolist() == [1e-6, 1 - 1e-6, 0.5]
    expected = 2 * math.log((1 - 1e-6) / 1e-6)
    odds = mixture.log_posterior([0.0, 1.0, 0.0])
    assert float(odds[0] - odds[1]) == pytest.approx(expected, rel=1e-9)
    again = from_spec(mixture.spec())
    assert isinstance(again, BernoulliMixture)
    assert torch.equal(again.theta, mixture.theta)


def test_small_probabilities_are_raised_at_the_expense_of_the_largest() -> None:
    mixture = CategoricalMixture([[[0.0, 0.3, 0.7, 0.0]], [[0.2, 0.3, 0.5, 0.0]]])
    assert mixture.probabilities[0, 0].tolist() == [1e-6, 0.3, 0.7 - 1e-6, 0.0]
    assert mixture.probabilities[1, 0].tolist() == [0.2, 0.3, 0.5, 0.0]
    again = from_spec(mixture.spec())
    assert isinstance(again, CategoricalMixture)
    assert torch.equal(again.probabilities, mixture.probabilities)
    assert mixture.support()[0].tolist() == [[0.0], [1.0], [2.0]]  # type: ignore[index]


@pytest.mark.parametrize("s", [0.0, 0.3, 1.0, 3.0, 4096.0])
def test_a_separation_moves_logits_about_their_centre_and_keeps_what_exists(s: float) -> None:
    mixture = CategoricalMixture([[[0.2, 0.3, 0.5, 0.0]], [[0.6, 0.3, 0.1, 0.0]]], priors=[0.4, 0.6])
    moved = mixture._separated(s)
    logs = mixture.probabilities[..., :3].log()
    centre = 0.4 * logs[0] + 0.6 * logs[1]
    expected = (centre + s * (logs - centre)).softmax(-1)
    torch.testing.assert_close(moved.probabilities[..., :3], expected, rtol=0, atol=2.1e-6)
    assert moved.support()[0].tolist() == [[0.0], [1.0], [2.0]]  # type: ignore[index]
    if s == 0:
        assert moved.bayes_error().value == pytest.approx(0.4, abs=1e-12)
    assert (moved.bayes_error().value < mixture.bayes_error().value) == (s > 1)


# --------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize("wrong", [0.5, 2.0, -1.0, 1e-3])
def test_values_that_do_not_exist_are_refused(wrong: float) -> None:
    x = torch.zeros(4, 3)
    x[2, 1] = wrong
    with pytest.raises(ValueError, match=rf"coordinate 1 of x must be one of \[0, 1\], received {wrong:g}"):
        BernoulliMixture(THETA).posterior(x)


def test_rounding_of_whole_numbers_is_forgiven() -> None:
    """A value that went through a warp and back."""
    mixture = BernoulliMixture(THETA)
    torch.testing.assert_close(mixture.posterior([1 + 1e-9, -1e-9, 1.0]), mixture.posterior([1.0, 0.0, 1.0]))
    draw = torch.Generator().manual_seed(0)
    large = BernoulliMixture(torch.rand(2, 20, dtype=torch.float64, generator=draw))
    turn = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64, generator=draw))[0]
    warped = Warped(large, Affine(turn, torch.arange(20)))
    x, _ = large.sample(100, 0)
    torch.testing.assert_close(warped.posterior(warped.warp.forward(x)), large.posterior(x), rtol=0, atol=1e-12)


def test_a_missing_value_is_refused_by_name() -> None:
    mixture = CategoricalMixture([[[0.2, 0.8, 0.0], [0.1, 0.2, 0.7]], [[0.5, 0.5, 0.0], [0.3, 0.3, 0.4]]])
    with pytest.raises(ValueError, match=r"coordinate 0 of x must be one of \[0, 1\], received 2"):
        mixture.posterior([[0, 2], [2, 2]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BernoulliMixture([0.5, 0.5]), r"theta must have shape \(K, \*shape\), received \(2,\)"),
        (lambda: BernoulliMixture([[0.5, 1.5]]), r"theta must lie in \[0, 1\], received 0\.5 \.\. 1\.5"),
        (lambda: BernoulliMixture([[0.5, math.nan]]), "theta must be finite"),
        (lambda: BernoulliMixture([[0.5]], [[1.0]]), r"theta must have shape \(K, C, \*shape\) with weights \(K, C\)"),
        (lambda: BernoulliMixture(THETA, priors=[1.0, 0.0]), "priors must be 2 positive numbers"),
        (lambda: BernoulliMixture([THETA], [[0.5, 0.6]]), "weights must be rows of probabilities"),
        (lambda: CategoricalMixture([[0.5, 0.5]]), r"probabilities must have shape \(K, \*shape, V\) with V >= 2"),
        (lambda: CategoricalMixture([[[1.0]], [[1.0]]]), r"with V >= 2, received \(2, 1, 1\)"),
        (lambda: CategoricalMixture([[[0.5, 0.6]]]), r"probabilities must be rows of probabilities.*sum 1\.1"),
        (lambda: CategoricalMixture([[[0.5, 0.5]]], [[1.0]]), r"\(K, C, \*shape, V\) with weights \(K, C\)"),
    ],
)
def test_impossible_parameters_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
