"""Warps: inverses, what they do to the data, finite images, and misuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bcpd.mixtures import (
    FAMILIES,
    Affine,
    Bend,
    FiniteMixture,
    GaussianMixture,
    LabelNoise,
    SinhArcsinh,
    Superclasses,
    Warp,
    Warped,
    from_spec,
)
from bcpd.testing import finite_mixtures, mixtures_with_points, warps

BASE = GaussianMixture([[0.0, 0.0], [1.5, 0.5], [-0.5, 1.5]], 0.8, priors=[0.5, 0.3, 0.2])


@given(st.data(), st.integers(1, 5), st.floats(0, 3))
def test_inverses_undo_and_are_undone(data: st.DataObject, dimension: int, exponent: float) -> None:
    warp = data.draw(warps(dimension))
    x = 10**exponent * torch.linspace(-1, 1, 4 * dimension, dtype=torch.float64).reshape(4, dimension)
    torch.testing.assert_close(warp.inverse(warp.forward(x)), x, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(warp.forward(warp.inverse(x)), x, rtol=1e-9, atol=1e-8)


@settings(max_examples=40)
@given(st.data(), st.integers(1, 4))
def test_warps_are_smooth_with_the_jacobian_of_their_inverse(data: st.DataObject, dimension: int) -> None:
    """Finite differences of g and of its inverse are inverse matrices: g is what its inverse belongs to."""
    warp = data.draw(warps(dimension))
    z = torch.linspace(-0.9, 1.1, dimension, dtype=torch.float64)

    def jacobian(function: object, at: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
        steps = step * torch.eye(dimension, dtype=torch.float64)
        return ((function(at + steps) - function(at - steps)) / (2 * step)).T  # type: ignore[operator]

    product = jacobian(warp.forward, z) @ jacobian(warp.inverse, warp.forward(z[None])[0])
    torch.testing.assert_close(product, torch.eye(dimension, dtype=torch.float64), rtol=0, atol=1e-5)


@settings(max_examples=30)
@given(st.data(), mixtures_with_points(max_depth=1))
def test_warps_nest(data: st.DataObject, drawn: tuple[GaussianMixture, torch.Tensor]) -> None:
    mixture, z = drawn
    dimension = math.prod(mixture.shape)
    first, second = data.draw(warps(dimension)), data.draw(warps(dimension))
    nested = Warped(Warped(mixture, first), second)
    support = nested.support()
    x = second.forward(first.forward(z.flatten(1))).reshape(z.shape) if support is None else support[0]
    z = z if support is None else mixture.support()[0]  # type: ignore[index]
    torch.testing.assert_close(nested.posterior(x), mixture.posterior(z), rtol=0, atol=1e-8)
    assert from_spec(nested.spec()).spec() == nested.spec()


def test_an_affine_image_of_a_gaussian_is_the_gaussian_it_should_be() -> None:
    matrix, offset = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64), torch.tensor([3.0, -4.0]).double()
    warped = Warped(BASE, Affine(matrix, offset))
    direct = GaussianMixture(BASE.means[:, 0] @ matrix.T + offset, 0.8 * matrix @ matrix.T, priors=BASE.priors)
    x, _ = warped.sample(1000, 0)
    torch.testing.assert_close(warped.log_posterior(x), direct.log_posterior(x), rtol=1e-11, atol=1e-11)
    transposed = GaussianMixture(BASE.means[:, 0] @ matrix + offset, 0.8 * matrix.T @ matrix, priors=BASE.priors)
    assert not torch.allclose(warped.posterior(x), transposed.posterior(x), rtol=0, atol=1e-2)


def test_sinh_arcsinh_skews_and_changes_tails() -> None:
    """The law that Jones and Pewsey write down, by Kolmogorov's distance; skewness and tails as stated."""
    plain = GaussianMixture([[0.0]], 1.0)
    x, _ = Warped(plain, SinhArcsinh(0.5, 0.7)).sample(100_000, 0)

    def cdf(values: np.ndarray) -> np.ndarray:
        return stats.norm.cdf(np.sinh(0.7 * np.arcsinh(values) - 0.5))

    assert stats.kstest(x[:, 0].numpy(), cdf).statistic < 5 / math.sqrt(len(x))
    assert float(x.mean()) > float(x.median()) > 0
    heavy, light = (Warped(plain, SinhArcsinh(0.0, t)).sample(100_000, 0)[0] for t in (0.7, 1.4))
    assert stats.kurtosis(heavy.numpy())[0] > 1 > 0 > stats.kurtosis(light.numpy())[0]


def test_a_bend_makes_a_banana_of_a_gaussian() -> None:
    plain = GaussianMixture([[0.0, 0.0]], 1.0)
    x, _ = Warped(plain, Bend(2.0)).sample(100_000, 0)
    assert abs(float(torch.corrcoef(x.T)[0, 1])) < 0.05
    assert float(torch.corrcoef(torch.stack([x[:, 0] ** 2, x[:, 1]]))[0, 1]) > 0.9
    straight = x[:, 1] - 2 * (x[:, 0] ** 2 - 1)
    torch.testing.assert_close(straight, plain.sample(len(x), 0)[0][:, 1], rtol=0, atol=1e-12)


# -------------------------------------------------------------------------------------------------------- finite images


@settings(max_examples=30)
@given(finite_mixtures(), st.data())
def test_the_image_of_a_finite_x_is_listed_and_looked_up(world: FiniteMixture, data: st.DataObject) -> None:
    image = Warped(world, data.draw(warps(1)))
    points, weights = image.support()  # type: ignore[misc]
    assert torch.equal(weights, world.weights)
    torch.testing.assert_close(image.posterior(points), world.rows, rtol=1e-14, atol=0)
    assert image.bayes_error().method == "exact"
    assert image.bayes_error().value == pytest.approx(world.bayes_error().value, abs=1e-15)
    assert float(image.expectation(torch.ones(len(points)))) == pytest.approx(1)
    with pytest.raises(ValueError, match="x must be among the"):
        image.posterior(points + 0.123)


def test_sampled_points_of_a_finite_image_are_among_its_points() -> None:
    """By their bits, however many are mapped at once."""
    image = FAMILIES["warped-table"]()
    x, _ = image.sample(5000, 0)
    assert len(torch.unique(x, dim=0)) == 12
    assert image.posterior(x).shape == (5000, 4)
    deeper = LabelNoise.symmetric(Superclasses(image, [0, 0, 1, 1]), 0.1)
    assert deeper.bayes_error().method == "exact"


# ----------------------------------------------------------------------------------------------------------- difficulty


@pytest.mark.parametrize(
    "warp", [Bend(3.0), SinhArcsinh([1.0, -2.0], [0.4, 2.0]), Affine([[1.0, 5.0], [0.0, 0.1]], [9.0, 9.0])]
)
def test_the_bayes_error_is_that_of_the_base_by_any_method(warp: Warp) -> None:
    warped = Warped(BASE, warp)
    assert warped.bayes_error() == BASE.bayes_error()
    sampled = warped.bayes_error("monte_carlo", n=50_000, seed=4)
    assert abs(sampled.value - BASE.bayes_error().value) < 5 * sampled.stderr
    x, y = warped.sample(50_000, 5)
    mistakes = (warped.posterior(x).argmax(-1) != y).double()
    assert abs(float(mistakes.mean()) - BASE.bayes_error().value) < 5 * float(mistakes.std()) / math.sqrt(len(y))


def test_tuning_goes_through() -> None:
    tuned = Warped(BASE, Bend(1.0)).tuned(0.1)
    assert isinstance(tuned, Warped)
    assert tuned.bayes_error().value == pytest.approx(0.1, abs=1e-6)
    assert tuned.warp.spec() == {"kind": "bend", "curvature": 1.0}


def test_symmetries_do_not_go_through() -> None:
    base = GaussianMixture(BASE.means, BASE.covariance)
    base.symmetries = frozenset({"flip"})
    assert Warped(base, Bend(1.0)).symmetries == frozenset()


class Cube(Warp):
    """A warp of a user's own, without an entry in the table."""

    kind = "cube"

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z**3

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        return x.sign() * x.abs() ** (1 / 3)

    def check(self, dimension: int) -> None:
        pass

    def _arguments(self) -> dict[str, object]:
        return {}


def test_a_warp_of_ones_own() -> None:
    warped = Warped(BASE, Cube())
    x, _ = warped.sample(100, 0)
    torch.testing.assert_close(warped.posterior(x), BASE.posterior(BASE.sample(100, 0)[0]), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"kind among \['affine', 'bend', 'sinh_arcsinh'\], received .*cube"):
        from_spec(warped.spec())


# --------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine([[1.0, 0.0]], [0.0]), r"shapes \(d, d\) and \(d,\), received \(1, 2\) and \(1,\)"),
        (lambda: Affine([[1.0, 2.0], [2.0, 4.0]], [0.0, 0.0]), "condition number of at most 1e\\+06"),
        (lambda: Affine([[1.0, 0.0], [0.0, 1e-7]], [0.0, 0.0]), "received 1e\\+07"),
        (lambda: SinhArcsinh(0.0, 0.0), "tails must be positive, received a minimum of 0"),
        (lambda: SinhArcsinh([[0.0]], 1.0), r"must have shape \(\) or \(d,\), received \(1, 1\) and \(\)"),
        (lambda: Bend(math.inf), "curvature must be finite"),
        (lambda: Warped(BASE, SinhArcsinh([0.0, 0.0, 0.0], 1.0)), "each of the 2 coordinates, received 3"),
        (lambda: Warped(BASE, Affine([[1.0]], [0.0])), "offset must have one entry for each of the 2 coordinates"),
        (lambda: Warped(FAMILIES["gaussian-1d"](), Bend(1.0)), "at least 2 coordinates, received 1"),
        (lambda: Warped(BASE, "bend"), "warp must be a Warp, or a spec"),  # type: ignore[arg-type]
        (lambda: Warped(BASE, {"kind": "bend", "amount": 1.0}), r"a warp of kind 'bend' does not take \['amount'\]"),
        (lambda: Warped("gaussian-1d", Bend(1.0)), "mixture must be a Mixture, received str"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_warp_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_points_beyond_the_reach_of_the_inverse_are_refused() -> None:
    with pytest.raises(ValueError, match="inverse of the warp is finite"):
        Warped(BASE, SinhArcsinh(0.0, 2.0)).posterior([1e200, 0.0])
